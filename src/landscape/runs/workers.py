"""Processes of this machine that do units.

On a CPU a small network leaves cores idle, so units run in processes of their own, one per core and
with one thread each. Processes, not threads: two threads that drive XLA's CPU client at once can
wait for each other for ever (seen with jax 0.10 on two cores and networks of width 128).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory, gettempdir
from types import FrameType
from typing import Any, TypeVar

from landscape._temporary import stale, temporary_prefix
from landscape._xla import computes_sums_wrongly

# How often a run looks whether it was asked to stop while its workers are busy, and each of them
# whether its run is still there.
POLL_SECONDS = 0.2

# Of what NumPy and SciPy are built on: with two threads in each of two processes on two cores small
# decompositions take ten to forty times as long.
_BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")

# What folders of compiled programs are called, of which a process that is killed leaves its own.
_CACHE = "landscape-programs-"

# How many looks a terminated worker stays after its last unit, so that the outcome is sent.
_IDLE_POLLS = 5

T = TypeVar("T")


class _WorkerPool(ProcessPoolExecutor):
    """A process pool whose workers can be asked to stop at their next safe point."""

    ask_to_stop: Callable[[], None]


@contextmanager
def worker_pool(workers: int, *, apart: bool = False) -> Iterator[Executor | None]:
    """Processes for units, each with one core's worth of threads; None for a single worker.

    Parameters
    ----------
    workers
        Processes. One means this process.
    apart
        One is a process of its own, too, with one core's worth of threads: what is left of a job
        for several comes out with the same bits.

    Notes
    -----
    Workers ignore the terminal's interrupt: the run asks them to stop. They end with it, however
    it ends. What one has compiled the others read from a cache, and those of later pools too: it
    lives as long as this process unless ``JAX_COMPILATION_CACHE_DIR`` names a lasting one.
    """
    if workers == 1 and not apart:
        with nullcontext() as nothing:
            yield nothing
        return
    context = multiprocessing.get_context("spawn")
    stop, end = context.Event(), context.Event()
    with _environment(_worker_settings(_programs().name)):
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


@cache
def _programs() -> TemporaryDirectory[str]:
    """The folder of compiled programs of this process, which goes when it ends."""
    for left in stale(Path(gettempdir()), _CACHE):
        rmtree(left, ignore_errors=True)
    return TemporaryDirectory(prefix=temporary_prefix(_CACHE))


def _worker_settings(programs: str) -> dict[str, str]:
    """Environment variables that JAX reads when a worker starts."""
    # Workers share the cores; threads inside each would make them wait for one another (small
    # networks: 1.8 times as long). Not under the flag of ``_xla``: there units that were computed
    # without such threads came out with other bits than those of this process.
    flags = os.environ.get("XLA_FLAGS", "")
    if not computes_sums_wrongly():
        flags += " --xla_cpu_multi_thread_eigen=false"
    settings = {
        "JAX_COMPILATION_CACHE_DIR": programs,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        **dict.fromkeys(_BLAS_THREADS, "1"),
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
            time.sleep(POLL_SECONDS)
            idle = idle + 1 if self._terminated and not self._busy else 0
        os._exit(1)


def _start_worker(stop: Any, end: Any, parent: int) -> None:
    global _worker
    _worker = _Worker(stop, end, parent)
    _worker.start()


def as_worker(do: Callable[[Callable[[], bool]], T]) -> T:
    """Do something that asks whether to stop, by what has been said to this worker process."""
    if _worker is None:
        return do(lambda: False)
    with _worker.working():
        return do(_worker.must_stop)
