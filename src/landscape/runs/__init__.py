"""Run folders: a configuration, units of work, atomic results, resumption, clean stops."""

from landscape.runs.folder import (
    RunFolder,
    environment,
    open_run_folder,
    read_run_folder,
    write_atomically,
)
from landscape.runs.signals import StopFlag, stop_on_signals
from landscape.runs.units import Unit, run_units, worker_pool

__all__ = [
    "RunFolder",
    "StopFlag",
    "Unit",
    "environment",
    "open_run_folder",
    "read_run_folder",
    "run_units",
    "stop_on_signals",
    "worker_pool",
    "write_atomically",
]
