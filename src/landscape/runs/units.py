"""Units of work: independent, named by their inputs, done once, side by side.

On a CPU a small network leaves cores idle, so units run in processes of their own, one per core and
with one thread each. Processes, not threads: two threads that drive XLA's CPU client at once can
wait for each other for ever (seen with jax 0.10 on two cores and networks of width 128).
"""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import xarray as xr

from landscape._xla import computes_sums_wrongly
from landscape.errors import (
    LandscapeError,
    ResourceError,
    StoppedError,
    StorageError,
    UnitsFailedError,
)
from landscape.runs.folder import RunFolder

_logger = logging.getLogger("landscape")

# How often a run looks whether it was asked to stop while its workers are busy.
_POLL_SECONDS = 0.2
# How many looks a terminated worker stays after its last unit, so that the outcome is sent.
_IDLE_POLLS = 5


@dataclasses.dataclass(frozen=True)
class Unit:
    """Something to compute once.

    Attributes
    ----------
    name
        For people.
    inputs
        Everything the result depends on, as JSON values.
    compute
        ``(checkpoint folder, should_stop) -> dataset``. To run in another process it must be
        picklable: a module's function or a dataclass with ``__call__``, not a closure.
    """

    name: str
    inputs: Mapping[str, Any]
    compute: Callable[[Path, Callable[[], bool]], xr.Dataset]


Report = Callable[[str, int, int], None]


def run_units(
    folder: RunFolder,
    units: Sequence[Unit],
    *,
    executor: Executor | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    report: Report = lambda name, done, total: None,
) -> list[xr.Dataset]:
    """Do every unit that is not done, and return all results in the units' order.

    Parameters
    ----------
    folder
        Where results are, and go.
    units
        What is to be done.
    executor
        Where: ``worker_pool()``; None is this process, one unit after the other.
    should_stop
        Asked before each unit, and by units at their safe points.
    report
        Called with a unit's name, the number done and the total, as units finish.

    Raises
    ------
    StoppedError
        If a stop was asked for; what is finished is kept.
    UnitsFailedError
        If some units failed, after all others were done; each is named.
    StorageError
        If the folder cannot be written, or a result in it is damaged.
    ResourceError
        If a worker process died, as the operating system lets it when memory runs out.
    """
    results: list[xr.Dataset | None] = [None] * len(units)
    missing = []
    for index, unit in enumerate(units):
        path = folder.unit_path(unit.name, unit.inputs)
        if path is None:
            missing.append(index)
        else:
            results[index] = folder.read_unit(path)
    done = len(units) - len(missing)
    failures: dict[str, Exception] = {}
    stopped = False
    for index, outcome in _outcomes(folder, units, missing, executor, should_stop):
        name = units[index].name
        try:
            path = outcome()
        except StoppedError:
            stopped = True
        except (StorageError, ResourceError):
            # Nothing that follows could be kept, or done, either.
            raise
        except Exception as error:
            failures[name] = error
            _logger.debug("unit %s failed", name, exc_info=error)
        else:
            results[index] = folder.read_unit(path)
            done += 1
            report(name, done, len(units))
    failed = _failure_message(failures, len(units)) if failures else ""
    if stopped:
        raise StoppedError(
            f"stopped with {done} of {len(units)} units done; run again with --resume to continue"
            + (f"\n{failed}" if failed else "")
        )
    if failures:
        raise UnitsFailedError(failed)
    return [result for result in results if result is not None]


def _outcomes(
    folder: RunFolder,
    units: Sequence[Unit],
    missing: Sequence[int],
    executor: Executor | None,
    should_stop: Callable[[], bool],
) -> Iterator[tuple[int, Callable[[], Path]]]:
    """Index of each unit as it ends, and a function that gives its file or raises its error."""
    if executor is None:
        for index in missing:
            yield index, lambda index=index: _work(folder, units[index], should_stop)  # type: ignore[misc]
        return
    pending: dict[Future[Path], int] = {
        executor.submit(_work_elsewhere, folder, units[index]): index for index in missing
    }
    try:
        while pending:
            finished, _ = wait(pending, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            if should_stop():
                getattr(executor, "ask_to_stop", lambda: None)()
            for future in finished:
                yield pending.pop(future), lambda future=future: _result(future, should_stop)  # type: ignore[misc]
    finally:
        for future in pending:
            future.cancel()


def _work(folder: RunFolder, unit: Unit, should_stop: Callable[[], bool]) -> Path:
    if should_stop():
        raise StoppedError("stopped")
    result = unit.compute(folder.checkpoint_path(unit.name, unit.inputs), should_stop)
    return folder.write_unit(unit.name, unit.inputs, result)


def _result(future: Future[Path], should_stop: Callable[[], bool]) -> Path:
    from concurrent.futures.process import BrokenProcessPool

    try:
        return future.result()
    except BrokenProcessPool as error:
        # Batch systems and timeout(1) send their signal to the workers too.
        if should_stop():
            raise StoppedError("stopped together with its worker") from error
        raise ResourceError(
            "a worker process died, most likely for lack of memory; run again with --resume, with "
            "a smaller scale or fewer --workers"
        ) from error


def _failure_message(failures: Mapping[str, Exception], total: int) -> str:
    lines = [f"{len(failures)} of {total} units failed; the others are kept:"]
    for name, error in failures.items():
        kind = "" if isinstance(error, LandscapeError) else f"{type(error).__name__}: "
        lines.append(f"  {name}: {kind}{str(error).splitlines()[0] if str(error) else ''}")
    return "\n".join(lines)


class _WorkerPool(ProcessPoolExecutor):
    """A process pool whose workers can be asked to stop at their next safe point."""

    ask_to_stop: Callable[[], None]


@contextmanager
def worker_pool(workers: int) -> Iterator[Executor | None]:
    """Processes for units, each with one core's worth of threads; None for a single worker.

    Parameters
    ----------
    workers
        Processes. One means this process.

    Notes
    -----
    Workers ignore the terminal's interrupt: the run asks them to stop. They end with it, however
    it ends. What one has compiled the others read from a cache, which lives as long as the pool
    unless ``JAX_COMPILATION_CACHE_DIR`` names a lasting one.
    """
    if workers == 1:
        with nullcontext() as nothing:
            yield nothing
        return
    context = multiprocessing.get_context("spawn")
    stop, end = context.Event(), context.Event()
    with TemporaryDirectory(prefix="landscape-") as cache, _environment(_worker_settings(cache)):
        pool = _WorkerPool(
            workers,
            mp_context=context,
            initializer=_start_worker,
            initargs=(stop, end, os.getpid()),
        )
        pool.ask_to_stop = stop.set
        try:
            yield pool
        except KeyboardInterrupt:
            # Asked twice: no waiting for safe points.
            end.set()
            raise
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _worker_settings(cache: str) -> dict[str, str]:
    """Environment variables that JAX reads when a worker starts."""
    # Workers share the cores; threads inside each would make them wait for one another (small
    # networks: 1.8 times as long). Not under the flag of ``_xla``: there units that were computed
    # without such threads came out with other bits than those of this process.
    flags = os.environ.get("XLA_FLAGS", "")
    if not computes_sums_wrongly():
        flags += " --xla_cpu_multi_thread_eigen=false"
    settings = {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    return {"XLA_FLAGS": flags.strip()} | {
        name: os.environ.get(name, value) for name, value in settings.items()
    }


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the processes started within the block."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# What a worker process knows of itself; set once, when it starts.
_worker: _Worker | None = None


class _Worker:
    """A worker process: when it must stop, and when it must end."""

    def __init__(self, stop: Any, end: Any, parent: int) -> None:
        self._stop, self._end, self._parent = stop, end, parent
        self._terminated = self._busy = False

    def start(self) -> None:
        # Batch systems and timeout(1) send SIGTERM to the whole process group: the unit in work
        # then goes on to its next safe point, as it does when the run asks.
        signal.signal(signal.SIGTERM, self._terminate)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        threading.Thread(target=self._follow, daemon=True).start()

    def must_stop(self) -> bool:
        return self._terminated or bool(self._stop.is_set())

    @contextmanager
    def working(self) -> Iterator[None]:
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        self._terminated = True

    def _follow(self) -> None:
        """End when the run was killed or will not wait; when terminated, after the unit in work."""
        # A worker that outlived its run would write beside its successor.
        idle = 0
        while os.getppid() == self._parent and idle < _IDLE_POLLS and not self._end.is_set():
            time.sleep(_POLL_SECONDS)
            idle = idle + 1 if self._terminated and not self._busy else 0
        os._exit(1)


def _start_worker(stop: Any, end: Any, parent: int) -> None:
    global _worker
    _worker = _Worker(stop, end, parent)
    _worker.start()


def _work_elsewhere(folder: RunFolder, unit: Unit) -> Path:
    if _worker is None:
        return _work(folder, unit, lambda: False)
    with _worker.working():
        return _work(folder, unit, _worker.must_stop)
