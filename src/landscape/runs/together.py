"""Units that several hosts do together, each its part of every unit.

All processes go through the units in the same order; the first one says what is to be done, and
writes the results. A stop that one of them is asked for stops all after the unit in work.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import jax
import numpy as np
import xarray as xr
from jax.experimental import multihost_utils

from landscape.errors import ResourceError, StoppedError
from landscape.runs.folder import RunFolder
from landscape.runs.units import Report, Unit, note_plan, read_or_set_aside


def run_units_together(
    folder: RunFolder,
    units: Sequence[Unit],
    *,
    should_stop: Callable[[], bool] = lambda: False,
    report: Report = lambda name, done, total: None,
) -> list[xr.Dataset]:
    """Do every unit that is not done, on all hosts at once, and return all results.

    Parameters
    ----------
    folder
        A run folder that every host sees.
    units, should_stop, report
        As for ``run_units``.

    Raises
    ------
    StoppedError
        If a stop was asked for on one of the hosts; what is finished is kept.
    StorageError
        If the folder cannot be written.
    ResourceError
        If a host or a device was lost.
    """
    first = jax.process_index() == 0
    if first:
        note_plan(folder, units)
    for number, unit in enumerate(units, 1):
        with _losses_are_told(number - 1, len(units)):
            if _of_the_first(first and _is_done(folder, unit)):
                continue
            if _any(should_stop()):
                raise StoppedError(
                    f"stopped with {number - 1} of {len(units)} units done; run again to continue"
                )
            checkpoints = folder.checkpoint_path(unit.name, unit.inputs)
            result = unit.compute(checkpoints, lambda: False)
            if first:
                folder.write_unit(unit.name, unit.inputs, result)
                folder.events.add("finished", unit=unit.name)
                shutil.rmtree(checkpoints, ignore_errors=True)
            multihost_utils.sync_global_devices(f"unit {number}")
        report(unit.name, number, len(units))
    finished = [folder.unit_path(unit.name, unit.inputs) for unit in units]
    return [folder.read_unit(path) for path in finished if path is not None]


@contextmanager
def _losses_are_told(done: int, total: int) -> Iterator[None]:
    """A host or a device that is gone, as an error that says so."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        # Collectives between CPUs raise a ValueError that begins with their library's name.
        lost = isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error)
        if not lost or "RESOURCE_EXHAUSTED" in str(error):
            raise
        raise ResourceError(
            f"a host or a device was lost: {str(error).splitlines()[0]}. {done} of {total} units "
            "are done; start all hosts again to continue"
        ) from error


def _is_done(folder: RunFolder, unit: Unit) -> bool:
    """Whether there is a result that is what was written."""
    path = folder.unit_path(unit.name, unit.inputs)
    return path is not None and read_or_set_aside(folder, unit, path) is not None


def _of_the_first(value: bool) -> bool:
    """What the first process says."""
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def _any(value: bool) -> bool:
    """Whether it is so for one of the processes."""
    return bool(np.any(multihost_utils.process_allgather(np.asarray(value))))
