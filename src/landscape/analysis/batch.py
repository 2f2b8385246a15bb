"""Spectra of many checkpoints as one job, by any number of processes that share a run folder.

A unit of work is one checkpoint, named by what its result depends on: its parameters, the data, the
problem's name and the options. A job that is killed, or continued with more checkpoints, does what
is missing and nothing twice.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr

from landscape.analysis.blocks import ALONE, BlockMeasurement, block_size, blocks_of, kind
from landscape.analysis.checkpoints import digest
from landscape.analysis.measurement import (
    MATRICES,
    Measurement,
    Options,
    at_checkpoint,
    known_problem,
    operator,
)
from landscape.curvature import Problem
from landscape.errors import InputError
from landscape.report import Page, Table
from landscape.runs import (
    RunFolder,
    StopFlag,
    Unit,
    open_run_folder,
    read_run_folder,
    run_units,
    write_atomically,
)
from landscape.runs.events import read_events
from landscape.runs.folder import unit_stem
from landscape.runs.together import run_units_together

COMMAND = "spectrum"

# Rows of a summary.
_SHOWN = 60


@dataclasses.dataclass(frozen=True)
class Job:
    """What a batch job is asked for.

    Attributes
    ----------
    problem
        As ``load_problem`` takes it.
    checkpoints
        Paths; none measures the problem's own parameters.
    params_key
        Where in a checkpoint the parameters are.
    options
        What is measured.
    across
        Whether all devices work on one checkpoint at a time.
    together
        How many checkpoints of one shape are measured in one program.
    """

    problem: str
    checkpoints: tuple[str, ...] = ()
    params_key: str = ""
    options: Options = dataclasses.field(default_factory=Options)
    across: bool = False
    together: int = 1

    def __post_init__(self) -> None:
        options = self.options
        if options.matrix not in MATRICES:
            raise InputError(
                f"the matrix must be one of {', '.join(MATRICES)}; got {options.matrix!r}"
            )
        counts = {
            "num_steps": options.num_steps, "num_probes": options.num_probes,
            "together": self.together,
        }  # fmt: skip
        for name, value in counts.items():
            if value < 1:
                raise InputError(f"{name} must be at least 1; got {value}")
        if not options.eps or min(options.eps) <= 0:
            raise InputError(f"eps must be positive; got {options.eps}")
        if min(options.largest, options.smallest, options.trace_matvecs) < 0:
            raise InputError("numbers of eigenvalues and products cannot be negative")
        if self.across and self.together > 1:
            raise InputError("all devices work on one checkpoint, or on several together: not both")

    @property
    def names(self) -> tuple[str, ...]:
        """Of all units: the paths of their checkpoints."""
        return self.checkpoints or ("problem",)

    def config(self) -> dict[str, Any]:
        """What a run folder is opened with: all but the checkpoints, which may grow."""
        return {
            "command": COMMAND,
            "problem": self.problem,
            "params_key": self.params_key,
            "options": dataclasses.asdict(self.options),
            "together": self.together,
        }


def make_units(job: Job, folder: Path | None = None) -> list[Unit]:
    """One for each checkpoint or block, named by hashes of its parameters and of the data.

    Parameters
    ----------
    job
        What is asked for.
    folder
        A run folder, where hashes are kept by path, size and time of the files.
    """
    problem = known_problem(job.problem)
    known = _Digests(None if folder is None else folder / "digests.json")
    data = digest(problem.batch)
    options = dataclasses.asdict(job.options)
    # How much memory there is, is no part of the result.
    options.pop("memory")
    hashes, kinds = [], []
    for name in job.names:
        path = name if job.checkpoints else ""
        there = functools.partial(at_checkpoint, problem, path, job.params_key)
        try:
            hashes.append(known.of(path, functools.partial(_parameters, there)))
            one = ALONE
            if job.together > 1:
                one = known.of(path, functools.partial(_kind, there), " kind")
            kinds.append(one)
        except InputError:
            # Its unit will say why, when the others are done too.
            hashes.append(f"unreadable {path}")
            kinds.append(ALONE)
    units = []
    for block in blocks_of(kinds, job.together):
        first, paths = job.names[block[0]], tuple(job.names[number] for number in block)
        inputs = {"problem": job.problem, "data": data, "options": options}
        if len(block) == 1:
            inputs["parameters"] = hashes[block[0]]
            path = first if job.checkpoints else ""
            work: Any = Measurement(job.problem, path, job.params_key, job.options, job.across)
        else:
            inputs["parameters"] = [hashes[number] for number in block]
            work = BlockMeasurement(job.problem, paths, job.params_key, job.options)
        name = first if len(block) == 1 else f"{first} and {len(block) - 1} more"
        units.append(Unit(name, json.loads(json.dumps(inputs)), work))
    known.write()
    return units


def with_blocks(job: Job) -> Job:
    """The job with as many checkpoints together as the device and its memory ask for."""
    if job.across or len(job.names) == 1:
        return job
    return dataclasses.replace(
        job, together=block_size(operator(known_problem(job.problem), job.options), job.options)
    )


def _parameters(there: Callable[[], Problem]) -> str:
    problem = there()
    return digest((problem.params, problem.state))


def _kind(there: Callable[[], Problem]) -> str:
    return kind(there())


class _Digests:
    """Hashes of checkpoints, kept by path, size and time of change."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, str] = {}
        if path is not None and path.exists():
            try:
                self._known = dict(json.loads(path.read_text()))
            except (OSError, ValueError):
                self._known = {}

    def of(self, path: str, compute: Callable[[], str], what: str = "") -> str:
        """What is known of a path's content, which is read if it has changed."""
        if not path:
            return compute()
        key = _stamp(Path(path)) + what
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]

    def write(self) -> None:
        """Keep them."""
        if self._path is not None and self._known:
            write_atomically(self._path, json.dumps(self._known, indent=1).encode())


def _stamp(path: Path) -> str:
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    stats = [file.stat() for file in files]
    size, changed = sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)
    return f"{path.absolute()} {size} {changed}"


def run_job(
    job: Job,
    out: Path,
    *,
    executor: Executor | None,
    should_stop: Callable[[], bool] | StopFlag = lambda: False,
    report: Callable[[str, int, int], None] = lambda name, done, total: None,
    shard: tuple[int, int] = (0, 1),
    units: Sequence[Unit] | None = None,
) -> xr.Dataset:
    """Do what is missing of a job, and return all that is asked for.

    Parameters
    ----------
    job
        What is asked for.
    out
        A run folder of such a job, or none yet.
    executor, should_stop, report
        As for ``run_units``.
    shard
        (i, n): only every n-th unit, from the i-th; the others are left to other processes.
    units
        Of the job, if they have been made.

    Returns
    -------
    Of the units of the shard; dimensions ``checkpoint`` and those of ``measure``.

    Raises
    ------
    InputError, StorageError, UnitsFailedError, StoppedError, ResourceError
        See ``run_units``, ``open_run_folder`` and ``load_problem``.
    """
    folder = open_run_folder(out, job.config(), resume=True)
    units = make_units(job, out) if units is None else units
    mine = list(units)[shard[0] :: shard[1]]
    if jax.process_count() > 1:
        results = run_units_together(folder, mine, should_stop=should_stop, report=report)
    else:
        results = run_units(folder, mine, executor=executor, should_stop=should_stop, report=report)
    return joined({unit.name: one for unit, one in zip(mine, results, strict=True)})


def joined(results: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """The results of all units as one, by the names of their checkpoints.

    Checkpoints of networks with other layers have NaN for parts that they do not have.
    """
    if not results:
        return xr.Dataset(coords={"checkpoint": []})
    # Those of a block have the names of all of its checkpoints with them.
    every = [
        one if "checkpoint" in one.dims else one.expand_dims(checkpoint=[name])
        for name, one in results.items()
    ]
    return xr.concat(
        every, "checkpoint", join="outer", data_vars="all", coords="minimal", compat="override"
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


def _finished(folder: RunFolder) -> dict[str, xr.Dataset]:
    """What is done of a job, by the names of the checkpoints, which events have written down."""
    names: dict[str, str] = {}
    for event in read_events(folder.path / "events"):
        if event.get("event") == "planned":
            names.update(zip(event["units"], event["names"], strict=True))
    finished = folder.finished_units()
    planned = [stem for stem in names if stem in finished]
    others = [stem for stem in finished if stem not in names]
    return {names.get(stem, stem): folder.read_unit(finished[stem]) for stem in [*planned, *others]}


def shard_from(text: str | None) -> tuple[int, int]:
    """``"i/n"`` with i from 0; by default what Slurm says of a job array.

    Raises
    ------
    InputError
        If it is not of that form, or i is none of 0 … n − 1.
    """
    if text is None:
        count = int(os.environ.get("SLURM_ARRAY_TASK_COUNT", "1"))
        first = int(os.environ.get("SLURM_ARRAY_TASK_MIN", "0"))
        step = int(os.environ.get("SLURM_ARRAY_TASK_STEP", "1"))
        number = int(os.environ.get("SLURM_ARRAY_TASK_ID", str(first)))
        return (number - first) // max(step, 1) % count, count
    place, slash, total = text.partition("/")
    if not slash or not place.isdecimal() or not total.isdecimal() or int(place) >= int(total):
        raise InputError(f"--shard must be i/n with i from 0 to n − 1; got {text!r}")
    return int(place), int(total)


def count_done(out: Path, units: Sequence[Unit]) -> int:
    """How many of some units are done in a folder, which need not be there yet."""
    if not (out / "config.json").exists():
        return 0
    folder = read_run_folder(out)
    finished = folder.finished_units()
    return sum(unit_stem(unit.name, unit.inputs) in finished for unit in units)


def summary(found: xr.Dataset) -> Page:
    """A table of all checkpoints."""
    rows = []
    eps = [float(e) for e in found["eps"].values] if "eps" in found else []
    for name in found["checkpoint"].values:
        one = found.sel(checkpoint=name)
        for part in one["part"].values:
            at = one.sel(part=part)
            if not np.isfinite(at["parameters"]):
                continue
            shares = [_share(at.sel(eps=e)) for e in eps]
            ends = [_value(at["eigenvalue"].sel(rank=r)) for r in at["rank"].values]
            row = [str(name), str(part), f"{int(at['parameters']):,}", *shares, *ends]
            if "trace" in at:
                row.append(f"{float(at['trace']):.4g} ± {float(at['trace_stderr']):.1g}")
            rows.append(row)
    head = ["checkpoint", "part", "P", *(f"within {e:g} of 0" for e in eps)]
    if "rank" in found.coords:
        head += [f"eigenvalue {rank}" for rank in found["rank"].values]
    head += ["trace"] * ("trace" in found)
    table = Table(
        "Spectra",
        head,
        rows[:_SHOWN],
        "Shares with their certified bounds; — where ε is below the noise floor."
        + (f" {len(rows) - _SHOWN:,} more rows are in the run folder." * (len(rows) > _SHOWN)),
    )
    return Page(
        "Spectra of checkpoints", [f"{found.sizes['checkpoint']:,} checkpoints."], [table], []
    )


def _share(at: xr.Dataset) -> str:
    if not np.isfinite(at["degenerate"]):
        return "—"
    low, high = float(at["degenerate_lower"]), float(at["degenerate_upper"])
    return f"{float(at['degenerate']):.4f} [{low:.4f}, {high:.4f}]"


def _value(value: xr.DataArray) -> str:
    return f"{float(value):.4g}" if np.isfinite(value) else ""
