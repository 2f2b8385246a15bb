"""Units of work: independent, named by their inputs, done once, side by side.

On a CPU a small network leaves cores idle, so units run on threads: compiled programs release the
interpreter's lock and share one compilation cache.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import xarray as xr

from landscape.errors import LandscapeError, StoppedError, StorageError, UnitsFailedError
from landscape.runs.folder import RunFolder

_logger = logging.getLogger("landscape")


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
        Called with a checkpoint folder of the unit's own.
    """

    name: str
    inputs: Mapping[str, Any]
    compute: Callable[[Path], xr.Dataset]


Report = Callable[[str, int, int], None]


def run_units(
    folder: RunFolder,
    units: Sequence[Unit],
    *,
    workers: int,
    should_stop: Callable[[], bool],
    report: Report = lambda name, done, total: None,
) -> list[xr.Dataset]:
    """Do every unit that is not done, and return all results in the units' order.

    Parameters
    ----------
    folder
        Where results are, and go.
    units
        What is to be done.
    workers
        Units at a time.
    should_stop
        Asked before each unit.
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
    stopped: StoppedError | None = None

    def work(index: int) -> xr.Dataset:
        unit = units[index]
        if should_stop():
            raise StoppedError("stopped")
        result = unit.compute(folder.checkpoint_path(unit.name, unit.inputs))
        folder.write_unit(unit.name, unit.inputs, result)
        return result

    with ThreadPoolExecutor(max_workers=workers) as pool:
        pending: dict[Future[xr.Dataset], int] = {pool.submit(work, i): i for i in missing}
        while pending:
            finished, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in finished:
                index = pending.pop(future)
                try:
                    results[index] = future.result()
                except StoppedError as error:
                    stopped = error
                except StorageError:
                    # Nothing that follows could be kept either.
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
                except Exception as error:
                    failures[units[index].name] = error
                    _logger.debug("unit %s failed", units[index].name, exc_info=error)
                else:
                    done += 1
                    report(units[index].name, done, len(units))
    if stopped is not None:
        raise StoppedError(
            f"stopped with {done} of {len(units)} units done; run again with --resume to continue"
        )
    if failures:
        raise UnitsFailedError(_failure_message(failures, len(units)))
    return [result for result in results if result is not None]


def _failure_message(failures: Mapping[str, Exception], total: int) -> str:
    lines = [f"{len(failures)} of {total} units failed; the others are kept:"]
    for name, error in failures.items():
        kind = "" if isinstance(error, LandscapeError) else f"{type(error).__name__}: "
        lines.append(f"  {name}: {kind}{str(error).splitlines()[0] if str(error) else ''}")
    return "\n".join(lines)
