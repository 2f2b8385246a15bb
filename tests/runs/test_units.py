import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import jax
import pytest
import xarray as xr

from landscape.errors import (
    InputError,
    ResourceError,
    StoppedError,
    StorageError,
    UnitsFailedError,
)
from landscape.runs import StopFlag, Unit, open_run_folder, run_units, together, worker_pool
from landscape.runs.events import read_events
from landscape.runs.executors import DevicePool
from landscape.runs.folder import unit_stem

# Whole runs and processes of their own.
pytestmark = pytest.mark.slow


class Work:
    """Makes units that note when they are computed."""

    def __init__(self, result):
        self.result, self.computed = result, []

    def unit(self, name, action=lambda: None):
        def compute(checkpoints, should_stop):
            self.computed.append(name)
            action()
            return self.result(float(len(name)))

        return Unit(name, {"name": name}, compute)


@pytest.fixture
def work(result):
    return Work(result)


def raising(error):
    def action():
        raise error

    return action


def unit_names(folder):
    return sorted(path.name.split(".")[0] for path in (folder.path / "units").iterdir())


def test_units_are_done_in_order_and_so_are_the_results(folder, work, result):
    names = ["dddd", "a", "ccc", "bb"]
    found = run_units(folder, [work.unit(name) for name in names])
    assert work.computed == names
    for dataset, value in zip(found, (4.0, 1.0, 3.0, 2.0), strict=True):
        xr.testing.assert_identical(dataset, result(value))
    assert unit_names(folder) == sorted(names)


def test_only_what_is_missing_is_done(folder, work, result):
    units = [work.unit(name) for name in ("a", "bb", "ccc")]
    folder.write_unit("bb", {"name": "bb"}, result(9.0))
    reports = []
    found = run_units(folder, units, report=lambda *told: reports.append(told))
    assert work.computed == ["a", "ccc"]
    assert [float(dataset["loss"][0, 0]) for dataset in found] == [1.0, 9.0, 3.0]
    assert reports == [("a", 2, 3), ("ccc", 3, 3)]
    run_units(folder, units)
    assert work.computed == ["a", "ccc"]


def test_no_units_are_no_results(folder):
    assert run_units(folder, []) == []


def test_each_unit_has_a_checkpoint_folder_of_its_own(folder, result):
    given = []

    def compute(path, should_stop):
        given.append(path)
        return result(0.0)

    run_units(folder, [Unit("same name", {"seed": seed}, compute) for seed in (0, 1)])
    assert len(set(given)) == 2
    assert all(path.parent == folder.path / "checkpoints" for path in given)
    assert given == [folder.checkpoint_path("same name", {"seed": seed}) for seed in (0, 1)]


def test_failures_are_named_and_the_others_kept(folder, work):
    units = [
        work.unit("a"),
        work.unit("broken", raising(ZeroDivisionError("no\nsecond line"))),
        work.unit("refused", raising(InputError("too small"))),
        work.unit("d"),
    ]
    with pytest.raises(UnitsFailedError) as caught:
        run_units(folder, units)
    assert caught.value.exit_code == 3
    assert str(caught.value).splitlines() == [
        "2 of 4 units failed; the others are kept:",
        "  broken: ZeroDivisionError: no",
        "  refused: too small",
    ]
    assert unit_names(folder) == ["a", "d"]
    # Only the failed ones are tried again.
    work.computed.clear()
    run_units(folder, [units[0], work.unit("broken"), work.unit("refused"), units[3]])
    assert work.computed == ["broken", "refused"]


def test_a_stop_keeps_what_is_finished_and_can_be_continued(folder, work):
    flag = StopFlag()
    units = [work.unit("a"), work.unit("b", lambda: flag.set("SIGTERM")), work.unit("c")]
    with pytest.raises(StoppedError, match="with 2 of 3 units done; run again with") as caught:
        run_units(folder, units, should_stop=flag)
    assert caught.value.exit_code == 75
    assert unit_names(folder) == ["a", "b"]
    work.computed.clear()
    assert len(run_units(folder, units)) == 3
    assert work.computed == ["c"]


def test_a_unit_is_given_the_flag_and_may_stop_at_its_own_safe_points(folder, work):
    flag = StopFlag()

    def compute(checkpoints, should_stop):
        assert not should_stop()
        flag.set("SIGTERM")
        assert should_stop()
        raise StoppedError("after epoch 3")

    with pytest.raises(StoppedError, match="1 of 2 units done"):
        run_units(folder, [work.unit("a"), Unit("b", {}, compute)], should_stop=flag)
    assert unit_names(folder) == ["a"]


def test_lack_of_memory_is_a_units_failure_and_its_code_that_of_memory(folder, work):
    short = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")
    units = [work.unit("a", raising(MemoryError())), work.unit("b", raising(short)), work.unit("c")]
    with pytest.raises(ResourceError, match="2 of 3 units failed") as caught:
        run_units(folder, units)
    assert caught.value.exit_code == 5
    assert unit_names(folder) == ["c"]
    with pytest.raises(UnitsFailedError):
        run_units(folder, [units[0], work.unit("d", raising(ValueError("no")))])


def test_a_device_that_is_gone_ends_the_run(folder, work, monkeypatch):
    lost = jax.errors.JaxRuntimeError("INTERNAL: CUDA_ERROR_ILLEGAL_ADDRESS\nmore")

    def gone(*arguments):
        raise lost

    with pytest.raises(UnitsFailedError, match="ILLEGAL"):
        run_units(folder, [work.unit("a", raising(lost))])
    monkeypatch.setattr(jax, "block_until_ready", gone)
    with pytest.raises(ResourceError, match="the device is gone: INTERNAL") as caught:
        run_units(folder, [work.unit("a", raising(lost)), work.unit("b")])
    assert caught.value.exit_code == 5
    assert unit_names(folder) == []


def test_what_others_have_not_claimed_is_done_after_ones_own(folder, work, monkeypatch):
    units = [work.unit(name * (k + 1)) for k, name in enumerate("abcde")]
    folder.claims.folder.mkdir(exist_ok=True)
    other = open_run_folder(folder.path, folder.config, resume=True)
    assert other.claims.take(units[1].stem) == "claimed"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    failed = {"unit": units[3].name, "stem": units[3].stem, "error": "no"}
    folder.events.add("failed", **failed, job="7")
    found = run_units(folder, units, own=[2, 4])
    # Not what another one has, nor what has failed in this job; nor is either waited for.
    assert work.computed == ["ccc", "eeeee", "a"]
    assert [float(one["loss"][0, 0]) for one in found] == [3.0, 5.0]
    # Of a job that was submitted again it is tried again.
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "8")
    run_units(folder, units, own=[2, 4])
    assert work.computed == ["ccc", "eeeee", "a", "dddd"]


def test_more_units_are_given_out_when_workers_come(folder, work):
    class Growing(ThreadPoolExecutor):
        """One place at first, three when the first unit is done; none to begin with."""

        asked = 0

        @property
        def _max_workers(self):
            self.asked += 1
            return 0 if self.asked == 1 else 1 if not work.computed else 3

        @_max_workers.setter
        def _max_workers(self, value):
            pass

    together, most = [], []

    def slow(name):
        def compute(checkpoints, should_stop):
            together.append(name)
            most.append(len(together))
            time.sleep(0.3)
            together.remove(name)
            return inner(checkpoints, should_stop)

        unit = work.unit(name)
        inner = unit.compute
        return dataclasses.replace(unit, compute=compute)

    with Growing(3) as pool:
        run_units(folder, [slow(name * 2) for name in "abcdefg"], executor=pool)
    assert max(most) == 3
    assert len(work.computed) == 7


def test_a_stop_does_not_wait_for_workers_that_have_gone(folder, work):
    class Leaving(Executor):
        """One place, until something has been handed in; nothing is ever done."""

        handed = ()

        @property
        def _max_workers(self):
            return 0 if self.handed else 1

        def submit(self, *args):
            self.handed = (*self.handed, Future())
            return self.handed[-1]

    pool = Leaving()
    with pytest.raises(StoppedError, match="0 of 2 units done"):
        run_units(
            folder, [work.unit("a"), work.unit("b")], executor=pool,
            should_stop=lambda: bool(pool.handed),
        )  # fmt: skip
    assert pool.handed[0].cancelled()
    assert not folder.claims.latest()


def test_files_are_called_by_the_kind_and_units_may_be_renamed(folder, work, result):
    def named(name):
        unit = work.unit(name)
        return Unit(name, {"same": 1}, unit.compute, kind="kind", parts=(f"{name}-1", f"{name}-2"))

    run_units(folder, [named("a")])
    found = run_units(folder, [named("b")])
    assert work.computed == ["a"]
    assert unit_names(folder) == ["kind"]
    assert float(found[0]["loss"][0, 0]) == 1.0
    planned = [e for e in read_events(folder.path / "events") if e["event"] == "planned"]
    assert [event["parts"] for event in planned] == [{n: [f"{n}-1", f"{n}-2"]} for n in "ab"]


def test_a_storage_error_ends_the_run_at_once(folder, work):
    units = [work.unit("a"), work.unit("full", raising(StorageError("disk full"))), work.unit("c")]
    with pytest.raises(StorageError, match="disk full"):
        run_units(folder, units)
    assert work.computed == ["a", "full"]
    assert unit_names(folder) == ["a"]


def test_a_damaged_result_is_set_aside_and_made_anew(folder, work, result, caplog):
    units = [work.unit("a"), work.unit("bb")]
    run_units(folder, units)
    path = folder.unit_path("a", {"name": "a"})
    damaged = path.read_bytes()[:-1]
    path.write_bytes(damaged)
    work.computed.clear()
    found = run_units(folder, units)
    assert work.computed == ["a"]
    xr.testing.assert_identical(found[0], result(1.0))
    assert (folder.path / "set-aside" / path.name).read_bytes() == damaged
    assert str(path) in caplog.text
    assert [
        e["unit"] for e in read_events(folder.path / "events") if e["event"] == "set aside"
    ] == ["a"]


def test_what_another_process_has_claimed_is_waited_for(folder, work, result):
    """Another one holds a claim, writes the result while we wait, and gives the claim back."""
    other = open_run_folder(folder.path, folder.config, resume=True)
    unit = work.unit("theirs")
    stem = unit_stem(unit.name, unit.inputs)
    assert other.claims.take(stem) == "claimed"

    def finish():
        time.sleep(0.5)
        other.write_unit(unit.name, unit.inputs, result(7.0))
        other.claims.release(stem)

    thread = threading.Thread(target=finish)
    thread.start()
    found = run_units(folder, [work.unit("mine"), unit])
    thread.join()
    assert work.computed == ["mine"]
    assert float(found[1]["loss"][0, 0]) == 7.0
    assert not list((folder.path / "claims").glob("*.json"))


def test_a_unit_of_a_process_that_is_gone_is_taken_over(folder, work):
    unit = work.unit("left")
    stem = unit_stem(unit.name, unit.inputs)
    code = (
        "import sys; from pathlib import Path; from landscape.runs.claims import Claims;"
        "assert Claims(Path(sys.argv[1])).take(sys.argv[2]) == 'claimed'"
    )
    subprocess.run([sys.executable, "-c", code, folder.path / "claims", stem], check=True)
    run_units(folder, [unit])
    assert work.computed == ["left"]
    events = [event["event"] for event in read_events(folder.path / "events")]
    assert "taken over" in events
    assert not list((folder.path / "claims").glob("*.json"))


def test_what_a_process_left_that_was_killed_after_its_result_is_cleared(folder, work, result):
    units = [work.unit("a"), work.unit("bb")]
    folder.write_unit("a", {"name": "a"}, result(1.0))
    stem = unit_stem("a", {"name": "a"})
    folder.claims.take(stem)
    (folder.path / "checkpoints" / stem).mkdir()
    run_units(folder, units)
    assert work.computed == ["bb"]
    assert not list((folder.path / "claims").glob("*.json"))
    assert not list((folder.path / "checkpoints").iterdir())


def test_events_tell_what_was_planned_done_and_failed(folder, work):
    with pytest.raises(UnitsFailedError):
        run_units(folder, [work.unit("a"), work.unit("b", raising(ValueError("no")))])
    events = [e for e in read_events(folder.path / "events") if e["event"] != "opened"]
    assert [event["event"] for event in events] == [
        "planned", "claimed", "finished", "claimed", "failed",
    ]  # fmt: skip
    assert events[0]["names"] == ["a", "b"]
    assert events[-1]["error"] == "ValueError: no"


def test_one_worker_is_this_process():
    with worker_pool(1) as pool:
        assert pool is None


def test_one_worker_that_is_what_is_left_of_several_is_a_process_as_theirs():
    with worker_pool(1, apart=True) as pool:
        assert pool.submit(os.getpid).result() != os.getpid()
        assert pool.submit(os.getenv, "OPENBLAS_NUM_THREADS").result() is not None


# Workers import what they are given by name; a test module has none that they can import.
ELSEWHERE = """
    import dataclasses
    import os
    import time

    import xarray as xr
    from landscape.errors import StoppedError


    @dataclasses.dataclass(frozen=True)
    class Compute:
        action: str
        value: float = 0.0

        def __call__(self, checkpoints, should_stop):
            if self.action == "fail":
                raise ZeroDivisionError("no")
            if self.action == "die":
                os._exit(9)
            if self.action in ("wait", "deaf"):
                checkpoints.mkdir(parents=True)
                (checkpoints / "pid").write_text(str(os.getpid()))
                end = time.monotonic() + 60
                while time.monotonic() < end:
                    if should_stop() and self.action == "wait":
                        raise StoppedError("stopped at a safe point")
                    time.sleep(0.01)
            return xr.Dataset({"value": self.value, "pid": os.getpid()})
"""


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    (tmp_path / "landscape_test_units.py").write_text(textwrap.dedent(ELSEWHERE))
    monkeypatch.syspath_prepend(str(tmp_path))
    from importlib import import_module

    compute = import_module("landscape_test_units").Compute
    return lambda name, action="", value=0.0: Unit(name, {"name": name}, compute(action, value))


def test_processes_give_results_in_order_and_keep_what_does_not_fail(folder, elsewhere):
    flags = os.environ.get("XLA_FLAGS")
    units = [elsewhere("a", value=1.0), elsewhere("broken", "fail"), elsewhere("c", value=3.0)]
    with worker_pool(2) as pool:
        with pytest.raises(UnitsFailedError, match="1 of 3 units failed") as caught:
            run_units(folder, units, executor=pool)
        assert "broken: ZeroDivisionError: no" in str(caught.value)
        assert unit_names(folder) == ["a", "c"]
        found = run_units(folder, [units[0], elsewhere("b", value=2.0), units[2]], executor=pool)
    assert [float(dataset["value"]) for dataset in found] == [1.0, 2.0, 3.0]
    assert os.getpid() not in [int(dataset["pid"]) for dataset in found]
    assert os.environ.get("XLA_FLAGS") == flags


class StopOnceWaiting:
    """Asks for a stop once a unit waits in a worker, and does something to that worker."""

    def __init__(self, folder, action=lambda pid: None):
        self.folder, self.action, self.waiting = folder, action, False

    def __call__(self):
        for path in (self.folder.path / "checkpoints").glob("*/pid"):
            if not self.waiting and path.read_text():
                self.waiting = True
                self.action(int(path.read_text()))
        return self.waiting


def test_a_stop_reaches_the_processes(folder, elsewhere):
    units = [elsewhere("waits", "wait"), elsewhere("done", value=2.0)]
    start = time.monotonic()
    with (
        worker_pool(2) as pool,
        pytest.raises(StoppedError, match=r"stopped with [01] of 2 units done"),
    ):
        run_units(folder, units, executor=pool, should_stop=StopOnceWaiting(folder))
    assert time.monotonic() - start < 40


def test_a_signal_to_every_process_is_a_stop_and_no_failure(folder, elsewhere):
    """Batch systems and timeout(1) do not spare the workers."""
    stop = StopOnceWaiting(folder, lambda pid: os.kill(pid, signal.SIGTERM))
    units = [elsewhere("waits", "wait"), elsewhere("waits too", "wait")]
    with worker_pool(2) as pool, pytest.raises(StoppedError, match="0 of 2 units done"):
        run_units(folder, units, executor=pool, should_stop=stop)


def test_a_process_that_dies_is_a_resource_error(folder, elsewhere):
    with worker_pool(2) as pool, pytest.raises(ResourceError, match="a worker process died"):
        run_units(folder, [elsewhere("dies", "die")], executor=pool)
    assert unit_names(folder) == []


def test_a_second_interrupt_does_not_wait_for_safe_points(folder, elsewhere):
    start = time.monotonic()
    stop = StopOnceWaiting(folder)

    def interrupt():
        if stop():
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt), worker_pool(2) as pool:
        run_units(folder, [elsewhere("deaf", "deaf")], executor=pool, should_stop=interrupt)
    assert time.monotonic() - start < 40


def test_units_on_devices_run_each_on_one(folder, result):
    """Threads, one for each device; here all the same one."""
    import jax

    used = []

    def compute(place, should_stop):
        used.append((threading.get_ident(), jax.config.jax_default_device))
        time.sleep(0.05)
        return result(1.0)

    device = jax.devices()[0]
    with DevicePool([device, device]) as pool:
        units = [Unit(str(i), {"i": i}, compute) for i in range(6)]
        assert len(run_units(folder, units, executor=pool)) == 6
    assert len({thread for thread, _ in used}) == 2
    assert {where for _, where in used} == {device}


def test_units_on_devices_stop_at_their_safe_points(folder, result):
    flag = StopFlag()

    def compute(place, should_stop):
        flag.set("SIGTERM")
        end = time.monotonic() + 30
        while not should_stop() and time.monotonic() < end:
            time.sleep(0.01)
        raise StoppedError("stopped")

    import jax

    units = [Unit(str(i), {"i": i}, compute) for i in range(3)]
    pool = DevicePool([jax.devices()[0]] * 2)
    with pytest.raises(StoppedError, match="0 of 3 units done"):
        run_units(folder, units, executor=pool, should_stop=flag)
    pool.shutdown()


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("UNAVAILABLE: Connection closed by peer\nmore", ResourceError),
        ("RESOURCE_EXHAUSTED: Out of memory", jax.errors.JaxRuntimeError),
    ],
)
def test_a_host_that_is_lost_is_told_and_lack_of_memory_is_left_to_others(message, expected):
    with pytest.raises(expected) as caught, together._losses_are_told(3, 9):
        raise jax.errors.JaxRuntimeError(message)
    if expected is ResourceError:
        assert str(caught.value) == (
            "a host or a device was lost: UNAVAILABLE: Connection closed by peer. 3 of 9 units are "
            "done; start all hosts again to continue"
        )


def test_a_wrong_value_is_no_lost_host_but_a_failed_collective_is():
    with pytest.raises(InputError, match="eps"), together._losses_are_told(0, 1):
        raise InputError("eps must be positive")
    with pytest.raises(ResourceError, match="lost: UNKNOWN: Gloo"), together._losses_are_told(0, 1):
        raise ValueError("UNKNOWN: Gloo AllGather failed: Connection reset by peer")
