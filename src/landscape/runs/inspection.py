"""Run folders seen from outside: how far they are, whether they are whole, what can go."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from landscape._temporary import stale
from landscape.errors import InputError, StorageError
from landscape.runs.claims import Claim
from landscape.runs.events import places_of, read_events
from landscape.runs.folder import (
    UNIT_NAME,
    ConfigDamagedError,
    DamagedError,
    RunFolder,
    places_of_strays,
    read_run_folder,
)

_logger = logging.getLogger("landscape")


@dataclasses.dataclass(frozen=True)
class RunState:
    """How far a run is.

    Attributes
    ----------
    path
        The folder.
    config
        What was asked for.
    planned
        Units that have been planned, by their names and the hashes of their inputs.
    finished
        Those that are done.
    claims
        Those that are claimed.
    failed
        Of each unit that failed last and is not done: why.
    size
        Bytes of the folder.
    last
        Seconds since 1970 of the last event; None if there is none.
    damaged
        Files of units that are not what was written; they are not among the finished.
    names
        How many names were asked for: those of equal inputs are one unit.
    """

    path: Path
    config: dict[str, Any]
    planned: tuple[str, ...]
    finished: tuple[str, ...]
    claims: tuple[Claim, ...]
    failed: dict[str, str]
    size: int
    last: float | None
    damaged: tuple[Path, ...] = ()
    names: int = 0

    @property
    def total(self) -> int:
        """All units that are known of."""
        return len({*self.planned, *self.finished})

    @property
    def word(self) -> str:
        """``"done"``, ``"running"``, ``"failed"``, or ``"unfinished"``."""
        if self.total and len(self.finished) >= self.total:
            return "done"
        if any(not claim.stale for claim in self.claims):
            return "running"
        return "failed" if self.failed else "unfinished"


def run_state(path: Path) -> RunState:
    """Look at a run folder.

    Raises
    ------
    InputError
        If it is none.
    """
    folder = read_run_folder(path)
    planned: dict[str, str] = {}
    failed: dict[str, str] = {}
    places: dict[str, list[str]] = {}
    last = None
    for event in read_events(path / "events"):
        last = event.get("time", last)
        if event.get("event") == "planned" and {"names", "units"} <= event.keys():
            # What a name was planned with before, its new inputs have taken the place of.
            planned.update(zip(event["names"], event["units"], strict=True))
            places.update(places_of(event))
            # Checkpoints that failed, were removed, and are not asked for any more.
            for name in failed.keys() - set(event["names"]):
                if not any(map(os.path.exists, places.get(name, ()))):
                    planned.pop(name, None)
                    del failed[name]
        if event.get("event") == "failed":
            failed[event["unit"]] = event["error"]
        elif event.get("event") == "finished":
            failed.pop(event["unit"], None)
    # What a name stands for now may have been done under another.
    files = folder.finished_units()
    done = {stem: path for stem, path in files.items() if folder.is_whole(path)}
    failed = {name: why for name, why in failed.items() if planned.get(name) not in done}
    wanted = tuple(dict.fromkeys(planned.values()))
    finished = tuple(stem for stem in done if stem in wanted) if wanted else tuple(done)
    return RunState(
        path=path,
        config=dict(folder.config),
        planned=wanted,
        finished=finished,
        claims=tuple(c for c in folder.claims.latest().values() if c.stem not in finished),
        failed=failed,
        size=_size(path),
        last=last,
        damaged=tuple(path for stem, path in files.items() if stem not in done),
        names=len(planned),
    )


def find_runs(place: Path) -> list[RunState]:
    """All run folders at or right below a place, two levels deep.

    Raises
    ------
    InputError
        If there is no such folder.
    """
    if not place.is_dir():
        raise InputError(f"there is no folder {place}")
    found = []
    for config in sorted({*place.glob("config.json"), *place.glob("*/config.json"),
                          *place.glob("*/*/config.json")}):  # fmt: skip
        try:
            found.append(run_state(config.parent))
        except ConfigDamagedError as error:
            _logger.warning("%s", error)
        except InputError:
            continue
    return found


def verify_run(path: Path) -> list[str]:
    """Read every result and compare it with its checksum.

    Returns
    -------
    What is wrong, a line each.

    Raises
    ------
    InputError
        If it is no run folder.
    """
    folder = read_run_folder(path)
    return list(_problems(folder))


def _problems(folder: RunFolder) -> Iterator[str]:
    seen: dict[str, Path] = {}
    plans = [e for e in read_events(folder.path / "events") if e.get("event") == "planned"]
    ever = {stem for plan in plans for stem in plan.get("units", ())}
    for file in sorted((folder.path / "units").glob("*")):
        if file.name.startswith(".writing-"):
            continue
        if not UNIT_NAME.fullmatch(file.name):
            yield f"{file}: no result of this run; remove it"
            continue
        try:
            folder.read_unit(file)
        except DamagedError as error:
            yield f"{file}: damaged, {str(error).rpartition(': ')[2]}"
        except (StorageError, OSError, ValueError) as error:
            yield f"{file}: cannot be read ({error})"
        stem = file.name.rsplit(".", 2)[0]
        if ever and stem not in ever:
            yield f"{file}: of no unit that was asked for here, as far as the events tell"
        if stem in seen:
            yield (
                f"{file}: a second result of the same unit as {seen[stem].name}; landscape runs gc "
                "removes it"
            )
        seen.setdefault(stem, file)
    for stem in sorted(_said_to_be_finished(folder) - seen.keys()):
        yield f"{folder.path / 'units' / stem}: was finished, and is not there; run it again"
    for file in sorted(folder.path.glob("results*.nc")):
        try:
            folder.read_dataset(file.name)
        except StorageError as error:
            yield f"{file}: {error}"


def _said_to_be_finished(folder: RunFolder) -> set[str]:
    """Units of the last plan whose end was written down, and that were not set aside since."""
    planned: dict[str, str] = {}
    found: set[str] = set()
    for event in read_events(folder.path / "events"):
        if event.get("event") == "planned":
            planned.update(zip(event.get("names", ()), event.get("units", ()), strict=False))
        elif event.get("event") == "finished":
            found.add(event.get("stem", ""))
        elif event.get("event") == "set aside":
            found.discard(event.get("stem", ""))
    return found & set(planned.values())


@dataclasses.dataclass(frozen=True)
class Rubbish:
    """Something that can go.

    Attributes
    ----------
    path
        A file or folder.
    why
        In a few words.
    size
        Bytes.
    """

    path: Path
    why: str
    size: int


def collect_rubbish(path: Path, *, remove: bool) -> list[Rubbish]:
    """What killed processes left, and what is of no more use.

    Temporary files of processes that are gone, claims that are stale or whose unit is done,
    checkpoints of units that are finished or no longer planned, second results of a unit, and
    results that were set aside.

    Parameters
    ----------
    path
        A run folder.
    remove
        Whether to remove it, or to tell only.

    Returns
    -------
    What it is.

    Raises
    ------
    InputError
        If it is no run folder.
    StorageError
        If something cannot be removed.
    """
    folder = read_run_folder(path)
    finished, planned = folder.finished_units(), set(run_state(path).planned)
    found: list[tuple[Path, str]] = []
    for place in places_of_strays(path):
        found += [(stray, "left by a killed process") for stray in stale(place)]
    kept = set(finished.values())
    for file in (path / "units").glob("*.nc"):
        if file not in kept:
            found.append((file, "second result of a unit"))
    for claim in (path / "claims").glob("*.json"):
        stem = claim.name.rsplit(".", 2)[0]
        if stem in finished:
            found.append((claim, "claim of a unit that is done"))
    for one in folder.claims.latest().values():
        if one.stale and one.stem not in finished:
            found.append((one.path, "stale claim"))
    for checkpoint in (path / "checkpoints").glob("*"):
        if checkpoint.name in finished:
            found.append((checkpoint, "checkpoint of a unit that is done"))
        elif planned and checkpoint.name not in planned:
            found.append((checkpoint, "checkpoint of a unit that is no longer asked for"))
    found += [(file, "set aside") for file in (path / "set-aside").glob("*")]
    rubbish = [Rubbish(where, why, _size(where)) for where, why in found]
    if remove:
        for one_of_them in rubbish:
            _remove(one_of_them.path)
    return rubbish


def _size(path: Path) -> int:
    """Bytes of a file or a folder, in which others may be at work."""
    if not path.is_dir():
        return _bytes_of(path)
    # Folders that vanish on the way are skipped.
    return sum(_bytes_of(Path(place, name)) for place, _, names in os.walk(path) for name in names)


def _bytes_of(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _remove(path: Path) -> None:
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"cannot remove {path}: {error.strerror}") from error
