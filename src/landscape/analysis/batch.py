"""Spectra of many checkpoints as one job, by any number of processes that share a run folder.

A unit of work is one checkpoint, named by what its result depends on: its parameters, the data, the
problem's name and the options. A job that is killed, or continued with more checkpoints, does what
is missing and nothing twice. What the problem's loss computes is written down when a folder is
made: one that computes something else is refused there.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from landscape.analysis.blocks import ALONE, BlockMeasurement, block_size, blocks_of, kind
from landscape.analysis.checkpoints import digest
from landscape.analysis.digests import Digests
from landscape.analysis.measurement import (
    MATRICES,
    Measurement,
    Options,
    at_checkpoint,
    known_problem,
    operator,
)
from landscape.curvature import Problem
from landscape.curvature.memory import device_memory
from landscape.errors import InputError, StorageError
from landscape.runs import (
    RunFolder,
    StopFlag,
    Unit,
    open_run_folder,
    read_run_folder,
    run_units,
)
from landscape.runs.events import read_events
from landscape.runs.folder import short_hash
from landscape.runs.together import run_units_together
from landscape.spectra.schemes import auto_scheme

COMMAND = "spectrum"


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

    @property
    def measured(self) -> dict[str, Any]:
        """The options that results depend on: how much memory there is, they do not."""
        options = dataclasses.asdict(self.options)
        del options["memory"]
        return options

    def config(self) -> dict[str, Any]:
        """What a run folder is opened with: all but the checkpoints, which may grow."""
        return {
            "command": COMMAND,
            "problem": self.problem,
            "params_key": self.params_key,
            "options": self.measured,
            "together": self.together,
        }


def make_units(job: Job, folder: Path | None = None, first: Sequence[int] = ()) -> list[Unit]:
    """One for each checkpoint or block, named by hashes of its parameters and of the data.

    Parameters
    ----------
    job
        What is asked for.
    folder
        A run folder, where hashes are kept by path, size and time of the files, and whose finished
        blocks stay as they are.
    first
        Numbers of the checkpoints to begin with: processes that begin elsewhere read them once.
    """
    job, problem = settled(job, folder, together=False), known_problem(job.problem)
    known = Digests(None if folder is None else folder / "digests.json", job.problem)
    data, options = digest(problem.batch), job.measured
    count = len(job.names)
    hashes, kinds = [""] * count, [ALONE] * count
    for number in dict.fromkeys([*first, *range(count)]):
        path = job.names[number] if job.checkpoints else ""
        there = functools.partial(at_checkpoint, problem, path, job.params_key)
        try:
            hashes[number] = known.of(path, functools.partial(_parameters, there))
            if job.together > 1:
                kinds[number] = known.of(path, functools.partial(_kind, there), " kind")
        except (InputError, OSError) as error:
            # Its unit will say why, when the others are done too.
            hashes[number] = f"unreadable {path}: {error}"
    kept = _finished_blocks(folder, hashes) if job.together > 1 and folder is not None else []
    units = []
    spec = _absolute(job.problem)
    for block in blocks_of(kinds, job.together, kept):
        names = tuple(job.names[number] for number in block)
        inputs: dict[str, Any] = {"problem": job.problem, "data": data, "options": options}
        if len(block) == 1:
            inputs["parameters"] = hashes[block[0]]
            path = str(Path(names[0]).absolute()) if job.checkpoints else ""
            work: Any = Measurement(spec, path, job.params_key, job.options, job.across)
            if hashes[block[0]].startswith("unreadable "):
                work = Unreadable(hashes[block[0]])
        else:
            inputs["parameters"] = [hashes[number] for number in block]
            paths = tuple(str(Path(name).absolute()) for name in names)
            work = BlockMeasurement(spec, paths, job.params_key, job.options)
        alone = len(block) == 1
        name = names[0] if alone else f"{names[0]} and {len(block) - 1} more"
        parts = () if alone else names
        units.append(Unit(name, json.loads(json.dumps(inputs)), work, COMMAND, parts))
    known.write()
    return units


def _absolute(problem: str) -> str:
    """The problem for a process with another working folder, if it is in a file."""
    source, _, function = problem.rpartition(":")
    return f"{Path(source).absolute()}:{function}" if Path(source).is_file() else problem


def _finished_blocks(folder: Path, hashes: Sequence[str]) -> list[tuple[int, ...]]:
    """Numbers of the checkpoints of each block that is done in a folder."""
    if not (folder / "config.json").exists():
        return []
    numbers = {one: number for number, one in enumerate(hashes)}
    opened, found = read_run_folder(folder), []
    taken: set[int] = set()
    for path in opened.finished_units().values():
        try:
            parameters = opened.inputs_of(path).get("parameters")
        except StorageError:
            continue
        if not isinstance(parameters, list) or any(one not in numbers for one in parameters):
            continue
        block = {numbers[one]: None for one in parameters}
        # No checkpoint twice: neither of equal ones, nor in two blocks.
        if len(block) == len(parameters) and taken.isdisjoint(block):
            taken |= set(block)
            found.append(tuple(block))
    return found


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """The work of a unit whose checkpoint could not be read: to say so."""

    why: str

    def __call__(self, folder: Path, should_stop: Callable[[], bool]) -> xr.Dataset:
        """Fail."""
        raise InputError(self.why.partition(": ")[2])


def sharing_memory(job: Job, workers: int) -> Job:
    """The job with what each of several workers on a CPU may take, if nothing else was said."""
    if job.options.memory is not None or jax.default_backend() != "cpu":
        return job
    memory = device_memory() // 2 // workers
    return dataclasses.replace(job, options=dataclasses.replace(job.options, memory=memory))


def settled(job: Job, out: Path | None, *, together: bool) -> Job:
    """The job with what depends on the machine as its folder has it, or as this machine asks for.

    Parameters
    ----------
    job
        What is asked for.
    out
        Its folder, which need not be there yet; None for none.
    together
        Whether it is left open how many checkpoints are measured in one program.
    """
    record: Mapping[str, Any] = {}
    if out is not None and (out / "config.json").exists():
        record = read_run_folder(out).config
    options = job.options
    if options.reorthogonalize == "auto":
        scheme = record.get("options", {}).get("reorthogonalize") or _scheme(job)
        options = dataclasses.replace(options, reorthogonalize=scheme)
        job = dataclasses.replace(job, options=options)
    if not together or job.across:
        return job
    if "together" in record:
        return dataclasses.replace(job, together=int(record["together"]))
    if len(job.names) == 1 or jax.default_backend() == "cpu":
        return job
    op = operator(known_problem(job.problem), options)
    return dataclasses.replace(job, together=block_size(op, options))


def _scheme(job: Job) -> str:
    """What ``reorthogonalize="auto"`` stands for, by the size of the problem's own parameters."""
    leaves = [leaf for leaf in jax.tree.leaves(known_problem(job.problem).params) if _is_real(leaf)]
    itemsize = max((np.dtype(jnp.result_type(leaf)).itemsize for leaf in leaves), default=4)
    devices = jax.device_count() if job.across else 1
    options = job.options
    return auto_scheme(
        sum(map(np.size, leaves)), itemsize, options.num_probes, options.num_steps, options.memory,
        devices=devices,
    )  # fmt: skip


def _is_real(leaf: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.floating))


def expect_same_loss(job: Job, folder: RunFolder) -> None:
    """Refuse a problem whose loss computes something else than when the folder was made.

    It is compared by its program, less what is no number in it; programs of other versions of JAX
    are not compared.

    Raises
    ------
    InputError
        If it does.
    """
    now = {"jax": jax.__version__, "program": _program(known_problem(job.problem))}
    path = folder.path / "loss.json"
    try:
        before = json.loads(path.read_text())
    except (OSError, ValueError):
        folder.write_json(path.name, now)
        return
    if before.get("jax") == now["jax"] and before.get("program") != now["program"]:
        raise InputError(
            f"the loss of {job.problem} is not the one that the results in {folder.path} are of: "
            "its program, or a shape of its data, has changed. Choose another --out"
        )


def _program(problem: Problem) -> str:
    """A hash of what the loss computes; empty of a stream."""
    state = () if problem.state is None else (problem.state,)
    if hasattr(problem.batch, "__next__") or not jax.tree.leaves(problem.batch):
        return ""
    text = str(jax.make_jaxpr(problem.loss)(problem.params, *state, problem.batch))
    return short_hash(re.sub(r" at 0x[0-9a-f]+", "", text).encode())


def _parameters(there: Callable[[], Problem]) -> str:
    problem = there()
    return digest((problem.params, problem.state))


def _kind(there: Callable[[], Problem]) -> str:
    return kind(there())


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
        (i, n): every n-th unit, from the i-th; then what nobody has claimed of the others.
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
    job = settled(job, out, together=False)
    folder = open_run_folder(out, job.config(), resume=True)
    expect_same_loss(job, folder)
    mine = range(len(job.names))[shard[0] :: shard[1]]
    units = list(make_units(job, out, mine) if units is None else units)
    asked = units[shard[0] :: shard[1]]
    if jax.process_count() > 1:
        results = run_units_together(folder, asked, should_stop=should_stop, report=report)
    else:
        results = run_units(
            folder, units, executor=executor, should_stop=should_stop, report=report,
            own=range(len(units))[shard[0] :: shard[1]], again="run the same command again",
        )  # fmt: skip
    return joined(
        [_named(one, unit.parts or (unit.name,)) for unit, one in zip(asked, results, strict=True)]
    )


def _named(result: xr.Dataset, checkpoints: Sequence[str]) -> xr.Dataset:
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


def _finished(folder: RunFolder) -> list[xr.Dataset]:
    """What is done of a job, with the names of the checkpoints, which events have written down.

    Of a name that has been planned more than once, its checkpoint changed, the last plan counts; of
    a checkpoint in several blocks the last one.
    """
    finished = folder.finished_units()
    stems: dict[str, str] = {}
    parts: dict[str, list[str]] = {}
    for event in read_events(folder.path / "events"):
        if event.get("event") == "planned":
            parts |= event.get("parts", {})
            for name, stem in zip(event["names"], event["units"], strict=True):
                stems.pop(name, None)
                stems[name] = stem
    stems = {name: stem for name, stem in stems.items() if stem in finished}
    found: list[xr.Dataset] = []
    seen: set[str] = set()
    # From the last on: for what it holds, others are no more asked.
    for name, stem in reversed(stems.items()):
        one = _named(folder.read_unit(finished[stem]), parts.get(name, [name]))
        mine = [str(checkpoint) for checkpoint in one["checkpoint"].values]
        new = [place for place, checkpoint in enumerate(mine) if checkpoint not in seen]
        seen.update(mine)
        if new:
            found.append(one.isel(checkpoint=new))
    return found[::-1]


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
        # Of a list some shards may have two tasks and others none: all end with what is left.
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
    return sum(unit.stem in finished for unit in units)
