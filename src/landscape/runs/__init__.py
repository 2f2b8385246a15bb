"""Run folders: a configuration, units of work, atomic results, resumption, clean stops."""

from landscape.runs.executors import executor
from landscape.runs.files import netcdf_bytes, write_atomically
from landscape.runs.folder import (
    RunFolder,
    environment,
    expect_free,
    open_run_folder,
    read_run_folder,
)
from landscape.runs.inspection import (
    Rubbish,
    RunState,
    collect_rubbish,
    find_runs,
    run_state,
    verify_run,
)
from landscape.runs.progress import default_workers, progress
from landscape.runs.signals import StopFlag, stop_on_signals
from landscape.runs.units import Unit, run_units
from landscape.runs.workers import worker_pool

__all__ = [
    "Rubbish",
    "RunFolder",
    "RunState",
    "StopFlag",
    "Unit",
    "collect_rubbish",
    "default_workers",
    "environment",
    "executor",
    "expect_free",
    "find_runs",
    "netcdf_bytes",
    "open_run_folder",
    "progress",
    "read_run_folder",
    "run_state",
    "run_units",
    "stop_on_signals",
    "verify_run",
    "worker_pool",
    "write_atomically",
]
