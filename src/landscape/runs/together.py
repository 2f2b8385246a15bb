"""Units that several hosts do together, each its part of every unit.

All processes go through the units in the same order; the first one says what is to be done, claims
it, and writes the results. What one of them is asked, all are: a stop takes effect at the unit's
next safe point.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import jax
import numpy as np
import xarray as xr
from jax.experimental import multihost_utils

from landscape.errors import (
    InputError,
    ResourceError,
    StoppedError,
    StorageError,
    UnitsFailedError,
)
from landscape.runs.files import short_hash
from landscape.runs.folder import RunFolder
from landscape.runs.units import Report, Unit, failure_message, note_plan, read_or_set_aside

# What is to become of a unit, as the first process says.
_DONE, _OURS, _OTHERS = range(3)

# Between two looks at what others have claimed, and for a result to be seen on another host.
_LOOK_SECONDS = 5.0
_SEEN_SECONDS = 60.0


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
        As for ``run_units``. What a unit is given as ``should_stop`` has to be called equally often
        on all hosts.

    Raises
    ------
    StoppedError
        If a stop was asked for on one of the hosts; what is finished is kept.
    UnitsFailedError
        If some units failed, after all others were done.
    StorageError
        If the folder cannot be written.
    ResourceError
        If a host or a device was lost.
    """
    expect_same_everywhere(units)
    first = jax.process_index() == 0
    if first:
        note_plan(folder, units)
    waiting, done = list(range(len(units))), 0
    failures: dict[str, Exception] = {}

    def stop() -> bool:
        return agreed(should_stop())

    with folder.claims.renewed() if first else nullcontext():
        while waiting:
            left = []
            for number in waiting:
                unit = units[number]
                with _losses_are_told(done, len(units)):
                    state = of_the_first(_taken(folder, unit) if first else _DONE)
                    if state == _OTHERS:
                        left.append(number)
                        continue
                    if state == _OURS:
                        if stop():
                            raise _stopped(done, len(units))
                        try:
                            _do(folder, unit, stop)
                        except StoppedError as error:
                            raise _stopped(done, len(units)) from error
                        except InputError as error:
                            # Of what all have read: it is the same on each.
                            failures[unit.name] = error
                            if first:
                                folder.events.add(
                                    "failed", unit=unit.name, stem=unit.stem, error=str(error)
                                )
                            continue
                        finally:
                            if first:
                                folder.claims.release(unit.stem)
                        multihost_utils.sync_global_devices(f"unit {number}")
                done += 1
                report(unit.name, done, len(units))
            waiting = left
            if waiting:
                if stop():
                    raise _stopped(done, len(units))
                time.sleep(_LOOK_SECONDS)
    if failures:
        raise UnitsFailedError(failure_message(failures, len(units)), list(failures))
    return [folder.read_unit(_seen(folder, unit)) for unit in units]


def _do(folder: RunFolder, unit: Unit, stop: Callable[[], bool]) -> None:
    checkpoints = folder.checkpoint_path(unit.label, unit.inputs)
    begun = time.perf_counter()
    result = unit.compute(checkpoints, stop)
    if jax.process_index() == 0:
        folder.write_unit(unit.label, unit.inputs, result)
        seconds = round(time.perf_counter() - begun, 3)
        folder.events.add("finished", unit=unit.name, stem=unit.stem, seconds=seconds)
        shutil.rmtree(checkpoints, ignore_errors=True)


def _taken(folder: RunFolder, unit: Unit) -> int:
    """Whether a unit is done, now ours, or in work elsewhere."""
    path = folder.unit_path(unit.label, unit.inputs)
    if path is not None and read_or_set_aside(folder, unit, path) is not None:
        return _DONE
    how = folder.claims.take(unit.stem)
    if not how:
        return _OTHERS
    folder.events.add(how, unit=unit.name)
    return _OURS


def _seen(folder: RunFolder, unit: Unit) -> Path:
    """The file of a finished unit, when this host's file system shows it."""
    until = time.monotonic() + _SEEN_SECONDS
    while True:
        path = folder.unit_path(unit.label, unit.inputs)
        if path is not None:
            return path
        if time.monotonic() > until:
            raise StorageError(
                f"the result of {unit.name} cannot be seen in {folder.path} from this host: all "
                "hosts have to share the folder"
            )
        time.sleep(0.2)


def _stopped(done: int, total: int) -> StoppedError:
    return StoppedError(f"stopped with {done} of {total} units done; run again to continue")


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


def expect_same_everywhere(units: Sequence[Unit]) -> None:
    """Refuse units that are not the same on all hosts.

    Raises
    ------
    InputError
        If they differ: hosts see other files, or were started with other options.
    """
    # Of so few digits that it is an int32.
    mine = int(short_hash("\n".join(unit.stem for unit in units).encode())[:7], 16)
    if not agreed(mine == of_the_first(mine), everywhere=True):
        raise InputError(
            "the hosts do not see the same: start all with the same options, and let all read the "
            "same checkpoints and data (of this host: "
            + ", ".join(f"{unit.name} {unit.stem.rpartition('.')[2]}" for unit in units[:3])
            + (", …)" if len(units) > 3 else ")")
        )


def of_the_first(value: int) -> int:
    """What the first process says."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def agreed(value: bool, *, everywhere: bool = False) -> bool:
    """Whether it is so for one of the processes, or for all of them; each has to ask."""
    if jax.process_count() == 1:
        return value
    every = multihost_utils.process_allgather(np.asarray(value))
    return bool(np.all(every) if everywhere else np.any(every))
