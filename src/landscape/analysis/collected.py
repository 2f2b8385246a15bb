"""The results of a run folder as one labelled dataset."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import xarray as xr

from landscape.errors import InputError
from landscape.runs import RunFolder, read_run_folder
from landscape.runs.events import places_of, read_events
from landscape.runs.folder import DamagedError

# What a batch job's folder says that it was made by.
COMMAND = "spectrum"
# What units are called whose checkpoint cannot be read.
UNREADABLE = f"{COMMAND}-unreadable"


def named(result: xr.Dataset, checkpoints: Sequence[str]) -> xr.Dataset:
    """A unit's result, alone or of a block, with the names of its checkpoints."""
    if "checkpoint" not in result.dims:
        return result.expand_dims(checkpoint=list(checkpoints))
    return result.assign_coords(checkpoint=list(checkpoints))


def joined(results: Sequence[xr.Dataset]) -> xr.Dataset:
    """The results of all units as one, by the names of their checkpoints.

    Checkpoints of networks with other layers have NaN for parts that they do not have.
    """
    if not results:
        return xr.Dataset(coords={"checkpoint": []})
    return xr.concat(
        results, "checkpoint", join="outer", data_vars="all", coords="minimal", compat="override"
    )


def open_run(path: Path | str) -> xr.Dataset:
    """The results of a run folder as one labelled dataset.

    Parameters
    ----------
    path
        A folder of ``landscape spectrum``, finished or not, or a finished one of ``landscape
        reproduce``.

    Returns
    -------
    Of a batch job what is done, by ``checkpoint``. Of an experiment its results; by ``group`` if it
    has trained networks of several sizes, with NaN where a group has no such entry.

    Raises
    ------
    InputError
        If it is no run folder, or has no results yet.
    StorageError
        If a result is not what was written.
    """
    folder = read_run_folder(Path(path))
    if folder.config.get("command") == COMMAND:
        return joined(_finished(folder))
    found = {}
    for file in sorted(folder.path.glob("results*.nc")):
        dataset = folder.read_dataset(file.name)
        assert dataset is not None
        found[file.stem.removeprefix("results").removeprefix("-")] = dataset
    if not found:
        raise InputError(f"the run in {folder.path} has no results yet; continue it")
    if len(found) == 1:
        return next(iter(found.values()))
    named = xr.Variable("group", list(found))
    return xr.concat(list(found.values()), named, join="outer", data_vars="all")


def _is_unreadable(stem: str) -> bool:
    return stem.startswith(f"{UNREADABLE}.")


def _is_another(before: str, now: str | None) -> bool:
    """Whether a checkpoint that was planned is another one than what is planned now.

    Where neither is to be seen, as on another machine, they are two.
    """
    if now is None or not os.path.exists(now):
        return before != now
    return os.path.exists(before) and not os.path.samefile(before, now)


def _finished(folder: RunFolder) -> list[xr.Dataset]:
    """What is done of a job, with the names of the checkpoints, which events have written down.

    Of a name that has been planned more than once, its checkpoint changed, the last plan counts in
    which it could be read; of a checkpoint in several blocks, or under several names one of which
    is gone, the last one. A result that is not what was written is left out, with a warning.
    """
    finished = folder.finished_units()
    stems: dict[str, str] = {}
    places: dict[str, str] = {}
    parts: dict[str, list[str]] = {}
    for event in read_events(folder.path / "events"):
        if event.get("event") == "planned" and {"names", "units"} <= event.keys():
            parts |= event.get("parts", {})
            planned = dict(zip(event["names"], event["units"], strict=True))
            # What cannot be read hides no result.
            planned = {n: stem for n, stem in planned.items() if not _is_unreadable(stem)}
            places |= {name: place[0] for name, place in places_of(event).items()}
            again = {(stem, Path(name).name): name for name, stem in planned.items()}
            stems = {
                name: stem
                for name, stem in stems.items()
                if _is_another(places[name], places.get(again.get((stem, Path(name).name), "")))
            }
            # Other checkpoints by the same names.
            for name, stem in planned.items():
                stems.pop(name, None)
                stems[name] = stem
    stems = {name: stem for name, stem in stems.items() if stem in finished}
    found: list[xr.Dataset] = []
    seen: set[str] = set()
    # From the last on: for what it holds, others are no more asked.
    for name, stem in reversed(stems.items()):
        try:
            result = folder.read_unit(finished[stem])
        except DamagedError as error:
            warnings.warn(f"{error}; it is left out until the job is run again", stacklevel=3)
            continue
        one = named(result, parts.get(name, [name]))
        mine = [str(checkpoint) for checkpoint in one["checkpoint"].values]
        new = [place for place, checkpoint in enumerate(mine) if checkpoint not in seen]
        seen.update(mine)
        if new:
            found.append(one.isel(checkpoint=new))
    return found[::-1]
