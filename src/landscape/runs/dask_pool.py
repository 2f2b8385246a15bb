"""The workers of a Dask cluster; needs the ``cluster`` extra."""

from __future__ import annotations

import logging
import signal
import uuid
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from distributed import Event, WorkerPlugin

from landscape.runs.folder import RunFolder
from landscape.runs.units import LostError, Unit, work

_logger = logging.getLogger("landscape")


class DaskPool(Executor):
    """The workers of a Dask cluster, as many units at a time as they have threads.

    What a worker that dies has begun, Dask gives to others; a unit that raises is not tried again.

    Parameters
    ----------
    client
        Of the cluster.
    """

    def __init__(self, client: Any) -> None:
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


class DeafWorkers(WorkerPlugin):
    """Workers ignore the terminal's interrupt, and do not log what the one who asks is told."""

    name = "landscape-deaf"

    def setup(self, worker: Any) -> None:
        """Of each worker as it starts."""
        for number in (signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        logging.getLogger("distributed.worker").setLevel(logging.CRITICAL)


def _on_a_dask_worker(event: str, folder: RunFolder, unit: Unit) -> Path:
    asked = Event(event)
    return work(folder, unit, asked.is_set)
