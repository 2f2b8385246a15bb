"""Units of work: independent, named by their inputs, done once, side by side."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from pathlib import Path
from typing import Any

import xarray as xr

from landscape.errors import (
    LandscapeError,
    ResourceError,
    StoppedError,
    StorageError,
    UnitsFailedError,
)
from landscape.runs.events import read_events
from landscape.runs.folder import DamagedError, RunFolder, unit_stem
from landscape.runs.signals import StopFlag
from landscape.runs.workers import POLL_SECONDS, as_worker

_logger = logging.getLogger("landscape")

# Units in work at once in an executor that does not tell how many it takes.
_PLACES = 64
# How seldom at last a run looks what others have done in the folder.
_LOOK_SECONDS = 5.0


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
    kind
        What its files are called besides the hash of its inputs; by default its name. Of units that
        may be named otherwise when they are asked for again, and are the same.
    parts
        Names of what it is made of, if that is several things.
    """

    name: str
    inputs: Mapping[str, Any]
    compute: Callable[[Path, Callable[[], bool]], xr.Dataset]
    kind: str = ""
    parts: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What its files are called."""
        return self.kind or self.name

    @property
    def stem(self) -> str:
        """Their names, less the hash of their content."""
        return unit_stem(self.label, self.inputs)


class LostError(ResourceError):
    """A worker or a device is gone: nothing that follows could be done there."""


Report = Callable[[str, int, int], None]


def run_units(
    folder: RunFolder,
    units: Sequence[Unit],
    *,
    executor: Executor | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    report: Report = lambda name, done, total: None,
    own: Sequence[int] | None = None,
    again: str = "run again with --resume",
) -> list[xr.Dataset]:
    """Do every unit that is not done, and return all results in the units' order.

    Any number of processes may do so in one folder: each unit is claimed by one of them, and what
    another has claimed is waited for. A result that is not what was written is set aside and made
    anew.

    Parameters
    ----------
    folder
        Where results are, and go.
    units
        What is to be done.
    executor
        Where: ``worker_pool()``, or any other whose processes see the folder; None is this process,
        one unit after the other.
    should_stop
        Asked before each unit, and by units at their safe points.
    report
        Called with a unit's name, the number done and the total, as units finish.
    own
        Numbers of those that are to be done before this returns, by whomever, and are begun with;
        default all. Of the others it does what nobody else has claimed by then, and leaves those
        that have failed.
    again
        How to continue, for the messages.

    Returns
    -------
    Those of its own units.

    Raises
    ------
    StoppedError
        If a stop was asked for; what is finished is kept.
    UnitsFailedError
        If some units failed, after all others were done; each is named.
    StorageError
        If the folder cannot be written.
    ResourceError
        If a worker process died, as the operating system lets it when memory runs out; if a device
        is gone; or if memory did not suffice for any of the units that failed.
    """
    tally = _Tally(folder, units, report, range(len(units)) if own is None else own)
    note_plan(folder, units)
    tally.read_finished(say=False)
    stopped = False
    with folder.claims.renewed():
        for index, outcome in _outcomes(tally, executor, should_stop):
            name = units[index].name
            try:
                path = outcome()
            except StoppedError:
                stopped = True
            except (StorageError, LostError):
                # Nothing that follows could be kept, or done, either.
                raise
            except Exception as error:
                tally.failures[name] = error
                _logger.debug("unit %s failed", name, exc_info=error)
                folder.events.add(
                    "failed", unit=name, stem=tally.stems[index],
                    error=f"{type(error).__name__}: {error}", **_job(),
                )  # fmt: skip
            else:
                if tally.keep(index, path):
                    tally.say(index)
            finally:
                folder.claims.release(tally.stems[index])
    tally.clear()
    failed = failure_message(tally.failures, len(units)) if tally.failures else ""
    if stopped or (should_stop() and tally.open):
        told = {"signal": should_stop.signal} if isinstance(should_stop, StopFlag) else {}
        folder.events.add("stopped", done=tally.done, total=len(units), **told)
        raise StoppedError(
            f"stopped with {tally.done} of {len(units)} units done; {again} to continue"
            + (f"\n{failed}" if failed else "")
        )
    if tally.failures:
        if all(isinstance(error, ResourceError) for error in tally.failures.values()):
            raise ResourceError(failed)
        raise UnitsFailedError(failed, list(tally.failures))
    return [result for index in tally.own if (result := tally.results[index]) is not None]


def note_plan(folder: RunFolder, units: Sequence[Unit]) -> None:
    """Write down what is to be done, and what units are called: file names tell less."""
    stems, names = [unit.stem for unit in units], [unit.name for unit in units]
    parts = {unit.name: list(unit.parts) for unit in units if unit.parts}
    folder.events.add(
        "planned", units=stems, names=names, place=os.getcwd(),
        **({"parts": parts} if parts else {}),
    )  # fmt: skip


def read_or_set_aside(folder: RunFolder, unit: Unit, path: Path) -> xr.Dataset | None:
    """A unit's result; None if it is not what was written, and has been set aside."""
    try:
        return folder.read_unit(path)
    except StorageError as error:
        if not path.exists():
            # Another process has set it aside.
            return None
        if not isinstance(error, DamagedError):
            raise
        place = folder.set_aside(path)
        _logger.warning("%s; it is now %s, and the unit is done again", error, place)
        folder.events.add("set aside", unit=unit.name, stem=unit.stem, file=str(place))
        return None


class _Tally:
    """What is done and what is not, of this process's units, by whoever did it.

    Attributes
    ----------
    results
        In the units' order.
    open
        Numbers of the units that are neither done nor in work here.
    own
        Those that have to be done.
    """

    def __init__(
        self, folder: RunFolder, units: Sequence[Unit], report: Report, own: Sequence[int]
    ) -> None:
        self.folder, self.units, self._report = folder, units, report
        self.own = dict.fromkeys(own)
        self.stems = [unit.stem for unit in units]
        self.results: list[xr.Dataset | None] = [None] * len(units)
        others = [index for index in range(len(units)) if index not in self.own]
        self.open = [*own, *others]
        self.failures: dict[str, Exception] = {}
        self._others, self._begun = bool(others), folder.events.now()
        self._left_alone: set[str] = set()

    @property
    def done(self) -> int:
        """How many results there are."""
        return sum(result is not None for result in self.results)

    def keep(self, index: int, path: Path) -> bool:
        """Read a result; False if it has been set aside."""
        self.results[index] = read_or_set_aside(self.folder, self.units[index], path)
        if self.results[index] is None:
            if index not in self.open:
                self.open.append(index)
            return False
        if index in self.open:
            self.open.remove(index)
        return True

    def read_finished(self, *, say: bool) -> None:
        """Read what has been finished, here before or by another process."""
        finished = self.folder.finished_units()
        for index in list(self.open):
            path = finished.get(self.stems[index])
            if path is not None and self.keep(index, path) and say:
                self.say(index)

    def say(self, index: int) -> None:
        """Report that a unit is done."""
        self._report(self.units[index].name, self.done, len(self.units))

    def clear(self) -> None:
        """Remove claims and checkpoints of units that are done: of processes that were killed."""
        finished = self.folder.finished_units()
        for stem in self.folder.claims.latest():
            if stem in finished:
                self.folder.claims.clear(stem)
        for place in (self.folder.path / "checkpoints").glob("*"):
            if place.name in finished:
                shutil.rmtree(place, ignore_errors=True)

    def take(self) -> int | None:
        """Claim an open unit; None if others have them all."""
        latest = self.folder.claims.latest()
        if self._others and not any(
            index in self.own and self.units[index].name not in self.failures for index in self.open
        ):
            self._look_for_failures()
        for index in list(self.open):
            stem, unit = self.stems[index], self.units[index]
            alone = index not in self.own and stem in self._left_alone
            if unit.name in self.failures or alone:
                continue
            how = self.folder.claims.take(stem, latest)
            if not how:
                continue
            if self.folder.unit_path(unit.label, unit.inputs) is not None:
                # Finished between the look and the claim.
                self.folder.claims.release(stem)
                continue
            self.folder.events.add(how, unit=unit.name)
            self.open.remove(index)
            return index
        return None

    def give_back(self, indices: Iterable[int]) -> None:
        """Units that nobody does any more are open again."""
        for index in indices:
            self.open.append(index)
            self.folder.claims.release(self.stems[index])

    def _look_for_failures(self) -> None:
        """What others have failed with, in this job: since it began, or under its number."""
        for event in read_events(self.folder.path / "events"):
            if event.get("event") != "failed" or "stem" not in event:
                continue
            ours = "job" in event and {"job": event["job"]} == _job()
            if ours or event.get("time", 0.0) >= self._begun:
                self._left_alone.add(event["stem"])


def _job() -> dict[str, str]:
    """The number of the array of tasks that this process is one of, if Slurm says so."""
    number = os.environ.get("SLURM_ARRAY_JOB_ID")
    return {"job": number} if number else {}


def _outcomes(
    tally: _Tally, executor: Executor | None, should_stop: Callable[[], bool]
) -> Iterator[tuple[int, Callable[[], Path]]]:
    """Index of each unit as it ends, and a function that gives its file or raises its error."""
    folder, units = tally.folder, tally.units
    pending: dict[Future[Path], int] = {}
    # What others do is looked at seldom while nothing happens here.
    look, pause = 0.0, POLL_SECONDS
    try:
        while True:
            if should_stop():
                getattr(executor, "ask_to_stop", lambda: None)()
                if pending and not _places(executor):
                    # A cluster without workers: nobody is left who could stop, or begin.
                    tally.give_back(pending.values())
                    return
            if time.monotonic() >= look:
                # Workers of a cluster come, and go.
                while len(pending) < _places(executor) and not should_stop():
                    tally.read_finished(say=True)
                    index = tally.take()
                    if index is None:
                        break
                    if executor is None:
                        yield index, lambda index=index: work(folder, units[index], should_stop)  # type: ignore[misc]
                    else:
                        pending[executor.submit(_work_elsewhere, folder, units[index])] = index
                tally.read_finished(say=True)
                look, pause = time.monotonic() + pause, min(2 * pause, _LOOK_SECONDS)
            unfinished = [
                i for i in tally.open if i in tally.own and units[i].name not in tally.failures
            ]
            if not pending and (should_stop() or not unfinished):
                return
            if pending:
                finished, _ = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                for future in finished:
                    look, pause = 0.0, POLL_SECONDS
                    yield pending.pop(future), lambda future=future: _result(future, should_stop)  # type: ignore[misc]
            else:
                # Others have claimed what is left.
                time.sleep(POLL_SECONDS)
    finally:
        for future in pending:
            future.cancel()


def _places(executor: Executor | None) -> int:
    """Units at a time."""
    return 1 if executor is None else int(getattr(executor, "_max_workers", _PLACES))


def work(folder: RunFolder, unit: Unit, should_stop: Callable[[], bool]) -> Path:
    """Do one unit and write its result; its path.

    Raises
    ------
    ResourceError
        If memory does not suffice.
    LostError
        If the device is gone.
    """
    if should_stop():
        raise StoppedError("stopped")
    begun = time.perf_counter()
    checkpoints = folder.checkpoint_path(unit.label, unit.inputs)
    try:
        result = unit.compute(checkpoints, should_stop)
    except StorageError:
        # Whoever took it over and finished it has removed its checkpoints.
        path = folder.unit_path(unit.label, unit.inputs)
        if path is None:
            raise
        return path
    except MemoryError as error:
        raise ResourceError(f"out of memory {error}".strip()) from error
    except RuntimeError as error:
        found = _of_the_device(error)
        if found is error:
            raise
        raise found from error
    path = folder.write_unit(unit.label, unit.inputs, result)
    seconds = round(time.perf_counter() - begun, 3)
    folder.events.add("finished", unit=unit.name, stem=unit.stem, seconds=seconds)
    # What is done needs none.
    shutil.rmtree(checkpoints, ignore_errors=True)
    return path


def _of_the_device(error: RuntimeError) -> Exception:
    """What a unit's error is: lack of memory, a device that is gone, or itself."""
    import jax

    if isinstance(error, LandscapeError) or not isinstance(error, jax.errors.JaxRuntimeError):
        return error
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "RESOURCE_EXHAUSTED" in str(error):
        return ResourceError(f"the device is out of memory: {first}")
    try:
        jax.block_until_ready(jax.numpy.zeros(()) + 1)
    except jax.errors.JaxRuntimeError:
        return LostError(f"the device is gone: {first}")
    return error


def _result(future: Future[Path], should_stop: Callable[[], bool]) -> Path:
    from concurrent.futures.process import BrokenProcessPool

    try:
        return future.result()
    except BrokenProcessPool as error:
        # Batch systems and timeout(1) send their signal to the workers too.
        if should_stop():
            raise StoppedError("stopped together with its worker") from error
        raise LostError(
            "a worker process died, most likely for lack of memory; what is finished is kept: "
            "continue with fewer --workers"
        ) from error
    except Exception as error:
        if type(error).__name__ == "KilledWorker":
            # Of Dask, which has tried it on several.
            raise ResourceError(f"the workers that did it died: {error}") from error
        raise


def failure_message(failures: Mapping[str, Exception], total: int) -> str:
    """Which units failed, a line each."""
    lines = [f"{len(failures)} of {total} units failed; the others are kept:"]
    for name, error in failures.items():
        kind = "" if isinstance(error, LandscapeError) else f"{type(error).__name__}: "
        lines.append(f"  {name}: {kind}{str(error).splitlines()[0] if str(error) else ''}")
    return "\n".join(lines)


def _work_elsewhere(folder: RunFolder, unit: Unit) -> Path:
    return as_worker(functools.partial(work, folder, unit))
