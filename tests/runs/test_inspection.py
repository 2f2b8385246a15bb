"""Run folders seen from outside."""

import os
import time
from pathlib import Path

import pytest

from landscape.errors import InputError, UnitsFailedError
from landscape.runs import (
    Unit,
    collect_rubbish,
    find_runs,
    run_state,
    run_units,
    verify_run,
)
from landscape.runs.claims import STALE_SECONDS
from landscape.runs.events import EventLog, read_events
from landscape.runs.folder import unit_stem


def units(result, *names, failing=()):
    def compute(name):
        def work(place, should_stop):
            if name in failing:
                raise ValueError("no")
            return result(1.0)

        return work

    return [Unit(name, {"name": name}, compute(name)) for name in names]


def test_a_run_is_unfinished_then_done(folder, result):
    assert run_state(folder.path).word == "unfinished"
    with pytest.raises(UnitsFailedError):
        run_units(folder, units(result, "a", "b", failing=["b"]))
    state = run_state(folder.path)
    assert (state.word, len(state.finished), state.total) == ("failed", 1, 2)
    assert state.failed == {"b": "ValueError: no"}
    assert state.size > 0
    assert abs(state.last - time.time()) < 60
    run_units(folder, units(result, "a", "b"))
    state = run_state(folder.path)
    assert (state.word, len(state.finished), state.total) == ("done", 2, 2)
    assert state.failed == {}


def test_a_damaged_result_is_not_done_and_equal_units_are_one(folder, result):
    run_units(folder, units(result, "a", "b"))
    folder.events.add("planned", units=["a.0"] * 2, names=["c", "d"])
    path = folder.finished_units()[next(iter(folder.finished_units()))]
    path.write_bytes(path.read_bytes()[:-1])
    state = run_state(folder.path)
    assert state.damaged == (path,)
    assert (state.word, len(state.finished), state.total, state.names) == ("unfinished", 1, 3, 4)


def test_what_failed_was_removed_and_is_not_asked_for_is_forgotten(folder, result, tmp_path):
    good, bad = str(tmp_path / "good.npz"), str(tmp_path / "bad.npz")
    for path in (good, bad):
        Path(path).write_text("")
    with pytest.raises(UnitsFailedError) as caught:
        run_units(folder, units(result, good, bad, failing=[bad]))
    assert caught.value.names == (bad,)
    run_units(folder, units(result, good))
    # The file is still there.
    assert run_state(folder.path).word == "failed"
    os.unlink(bad)
    run_units(folder, units(result, good))
    state = run_state(folder.path)
    assert (state.word, state.total, state.failed) == ("done", 1, {})


def test_a_run_in_work_shows_who_works_on_what(folder, result):
    folder.events.add("planned", units=["a.0"], names=["a"])
    folder.claims.take("a.0")
    state = run_state(folder.path)
    assert state.word == "running"
    assert [claim.process for claim in state.claims] == [os.getpid()]


def test_runs_are_found_below_a_place(folder, tmp_path):
    (tmp_path / "no run").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    assert [run.path for run in find_runs(tmp_path)] == [folder.path]
    assert [run.path for run in find_runs(folder.path)] == [folder.path]
    with pytest.raises(InputError, match="no folder"):
        find_runs(tmp_path / "nowhere")


def test_verifying_names_what_is_damaged_foreign_or_twice(folder, result):
    run_units(folder, units(result, "a", "b"))
    folder.write_dataset("results-all.nc", result(0.0))
    assert verify_run(folder.path) == []
    a, _ = sorted((folder.path / "units").glob("*.nc"))
    content = bytearray(a.read_bytes())
    content[len(content) // 2] ^= 1
    a.write_bytes(bytes(content))
    (folder.path / "units" / "notes.txt").write_text("mine")
    _, b = sorted((folder.path / "units").glob("*.nc"))
    content = b.read_bytes()
    b.rename(b.with_suffix(".kept"))
    folder.write_unit("b", {"name": "b"}, result(2.0))
    b.write_bytes(content)
    b.with_suffix(".kept").unlink()
    results = folder.path / "results-all.nc"
    results.write_bytes(results.read_bytes()[:-3])
    wrong = "\n".join(verify_run(folder.path))
    assert f"{a}: damaged" in wrong
    assert "notes.txt: no result of this run" in wrong
    assert "a second result of the same unit" in wrong
    assert "results-all.nc" in wrong
    # Another run's, whole as it is.
    (folder.path / "units" / "notes.txt").unlink()
    foreign = folder.write_unit("c", {"name": "c"}, result(3.0))
    assert f"{foreign}: of no unit that was asked for here" in "\n".join(verify_run(folder.path))


def test_a_result_that_is_lost_is_missed_and_a_stray_file_harms_nobody(folder, result):
    run_units(folder, units(result, "a", "b"))
    (folder.path / "units" / "notes.nc").write_text("mine")
    assert len(folder.finished_units()) == 2
    (folder.path / "units" / "notes.nc").unlink()
    lost = min((folder.path / "units").glob("*.nc"))
    lost.unlink()
    assert "was finished, and is not there" in "\n".join(verify_run(folder.path))
    assert run_state(folder.path).word == "unfinished"
    run_units(folder, units(result, "a", "b"))
    assert verify_run(folder.path) == []


def test_rubbish_is_told_and_then_removed(folder, result):
    run_units(folder, units(result, "a"))
    done, open_ = unit_stem("a", {"name": "a"}), unit_stem("b", {"name": "b"})
    stray = folder.path / "units" / ".writing-elsewhere-1-x"
    stray.write_text("half")
    os.utime(stray, (0, 0))
    for stem in (done, open_):
        (folder.path / "checkpoints" / stem).mkdir()
        (folder.path / "checkpoints" / stem / "state.npz").write_text("state")
    folder.claims.take(done)
    folder.claims.take(open_)
    old = folder.path / "claims" / f"{open_}.0.json"
    os.utime(old, (time.time() - STALE_SECONDS - 10,) * 2)
    (folder.path / "set-aside").mkdir()
    (folder.path / "set-aside" / "a.nc").write_text("damaged")
    folder.events.add("planned", units=[open_], names=["b"])
    (folder.path / "checkpoints" / "old.0").mkdir()
    half = folder.path / "checkpoints" / open_ / ".writing-elsewhere-1-y"
    half.write_text("half")
    os.utime(half, (0, 0))
    (first,) = folder.finished_units().values()
    second = first.with_name(f"{done}.ffffffffffffffff.nc")
    second.write_bytes(first.read_bytes())
    why = {
        "second result of a unit",
        "checkpoint of a unit that is no longer asked for",
        "left by a killed process",
        "claim of a unit that is done",
        "stale claim",
        "checkpoint of a unit that is done",
        "set aside",
    }
    told = collect_rubbish(folder.path, remove=False)
    assert {one.why for one in told} == why
    assert stray.exists()
    assert half in [one.path for one in told]
    assert collect_rubbish(folder.path, remove=True) == told
    assert collect_rubbish(folder.path, remove=True) == []
    assert (folder.path / "checkpoints" / open_).exists()
    assert verify_run(folder.path) == []


def test_events_of_all_processes_come_in_order_and_cut_lines_are_left_out(tmp_path):
    first = EventLog(tmp_path)
    first.add("one", number=1)
    first.path.rename(tmp_path / "other-1.jsonl")
    second = EventLog(tmp_path)
    second.add("two")
    with second.path.open("a") as stream:
        stream.write('3\n{"event": "without a time"}\n{"time": 1, "eve')
    assert [event["event"] for event in read_events(tmp_path)] == ["one", "two"]
