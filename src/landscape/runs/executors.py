"""Where units are done: processes of this machine, or a cluster."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from landscape.errors import InputError, ResourceError
from landscape.runs.folder import RunFolder
from landscape.runs.units import Unit, work
from landscape.runs.workers import worker_pool


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


@contextmanager
def executor(
    kind: str, workers: int, scheduler: Any = None, *, apart: bool = False
) -> Iterator[Executor | None]:
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
    apart
        As for ``worker_pool``.

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
        with worker_pool(workers, apart=apart) as pool:
            yield pool
        return
    try:
        from distributed import Client, LocalCluster

        from landscape.runs.dask_pool import DaskPool, DeafWorkers
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
        client.register_plugin(DeafWorkers())
        yield DaskPool(client)
