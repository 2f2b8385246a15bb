"""Where units are done: processes of this machine, or a cluster."""

from __future__ import annotations

import logging
import signal
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from landscape.errors import InputError, ResourceError
from landscape.runs.folder import RunFolder
from landscape.runs.units import LostError, Unit, work
from landscape.runs.workers import worker_pool

_logger = logging.getLogger("landscape")


class DevicePool(ThreadPoolExecutor):
    """A thread for each device, whose units are done on it.

    Processes would not do: the one that plans holds the devices' memory already.

    Parameters
    ----------
    devices
        Of this process.
    """

    def __init__(self, devices: Sequence[Any]) -> None:
        super().__init__(len(devices))
        self._stop = threading.Event()
        self._free: SimpleQueue[Any] = SimpleQueue()
        for device in devices:
            self._free.put(device)

    def ask_to_stop(self) -> None:
        """Units in work stop at their next safe points."""
        self._stop.set()

    def __exit__(self, *error: Any) -> bool | None:
        """Units in work are not waited for to their ends."""
        self.ask_to_stop()
        return super().__exit__(*error)

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Do a unit of a run folder; ``fn`` is what a process would do."""
        return super().submit(self._on_a_device, *args, **kwargs)

    def _on_a_device(self, folder: RunFolder, unit: Unit) -> Path:
        import jax

        device = self._free.get()
        try:
            with jax.default_device(device):
                return work(folder, unit, self._stop.is_set)
        finally:
            self._free.put(device)


class DaskPool(Executor):
    """The workers of a Dask cluster, as many units at a time as they have threads.

    What a worker that dies has begun, Dask gives to others; a unit that raises is not tried again.

    Parameters
    ----------
    client
        Of the cluster.
    """

    def __init__(self, client: Any) -> None:
        from distributed import Event

        self._client, self._tasks = client, client.get_executor(retries=0)
        self._name = f"landscape-stop-{uuid.uuid4().hex}"
        self._event = Event(self._name, client=client)
        self._told = False

    @property
    def _max_workers(self) -> int:
        """Units at a time: none while a cluster has no workers yet, which is told once."""
        try:
            places = sum(self._client.nthreads().values())
        except OSError as error:
            raise LostError(f"the Dask scheduler is gone: {error}") from error
        if not places and not self._told:
            self._told = True
            _logger.warning("no worker of the Dask cluster is there yet; waiting for the first")
        return places

    def ask_to_stop(self) -> None:
        """Units in work stop at their next safe points; those that wait do not begin."""
        self._event.set()

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Do a unit of a run folder; ``fn`` is what a process would do."""
        folder, unit = args
        # Workers have working folders of their own.
        folder = RunFolder(folder.path.absolute(), folder.config, folder.environments)
        found: Future[Any] = self._tasks.submit(
            _on_a_dask_worker, self._name, folder, unit, pure=False
        )
        return found


def _deaf_workers(client: Any) -> None:
    """Workers of this machine ignore the terminal's interrupt, and do not log what is told here."""
    from distributed import WorkerPlugin

    class Deaf(WorkerPlugin):
        name = "landscape-deaf"

        def setup(self, worker: Any) -> None:
            for number in (signal.SIGINT, signal.SIGUSR1):
                signal.signal(number, signal.SIG_IGN)
            logging.getLogger("distributed.worker").setLevel(logging.CRITICAL)

    client.register_plugin(Deaf())


def _on_a_dask_worker(event: str, folder: RunFolder, unit: Unit) -> Path:
    from distributed import Event

    asked = Event(event)
    return work(folder, unit, asked.is_set)


@contextmanager
def executor(kind: str, workers: int, scheduler: Any = None) -> Iterator[Executor | None]:
    """Where units are done.

    Parameters
    ----------
    kind
        ``"processes"`` of this machine, on several accelerators a thread for each; or ``"dask"``: a
        Dask cluster, whose workers see the run folder.
    workers
        Processes, here or of a local Dask cluster.
    scheduler
        Of Dask: the address of a scheduler, the path of the file that it has written, a cluster
        object, or a function that gives one.

    Raises
    ------
    InputError
        If Dask is not installed.
    """
    if kind == "processes":
        import jax

        if jax.default_backend() != "cpu" and workers > 1:
            with DevicePool(jax.local_devices()[:workers]) as devices:
                yield devices
            return
        with worker_pool(workers) as pool:
            yield pool
        return
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise InputError(
            "--executor dask needs the cluster extra: install landscape-jax[cluster]"
        ) from error
    if scheduler is not None:
        scheduler = scheduler() if callable(scheduler) else scheduler
        is_file = isinstance(scheduler, str) and Path(scheduler).is_file()
        try:
            client = Client(scheduler_file=scheduler) if is_file else Client(scheduler)
        except TypeError as error:
            raise InputError(
                "--scheduler is an address, a scheduler's file, or a function that returns a Dask "
                f"cluster; got {scheduler!r:.200}"
            ) from error
        except (OSError, ValueError) as error:
            raise ResourceError(
                f"the Dask scheduler {scheduler} cannot be reached: {error}"
            ) from error
        with client:
            yield DaskPool(client)
        return
    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        _deaf_workers(client)
        yield DaskPool(client)
