"""Spectra of many checkpoints as one job, by any number of processes that share a run folder.

A unit of work is one checkpoint, named by what its result depends on: its parameters, the data, the
name of the problem's file and function, and the options. A job that is killed, or continued with
more checkpoints, does what is missing and nothing twice. What the problem's loss computes is
written down when a folder is made: one that computes something else is refused there. A unit
refuses a checkpoint that has become another one since it was named.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from landscape.analysis.blocks import ALONE, BlockMeasurement, block_size, blocks_of, kind
from landscape.analysis.collected import COMMAND, UNREADABLE, joined, named
from landscape.analysis.digests import Digests
from landscape.analysis.matrices import by_smaller_chunks, layer_names, logits_of, operator
from landscape.analysis.measurement import (
    Measurement,
    absolute,
    at_checkpoint,
    content,
    known_problem,
    name_of,
)
from landscape.analysis.options import MATRICES, WHOLE, Options
from landscape.analysis.programs import data_digest, expect_same_loss
from landscape.curvature import Problem
from landscape.curvature.memory import device_memory
from landscape.errors import (
    InputError,
    LandscapeError,
    StoppedError,
    StorageError,
    UnitsFailedError,
)
from landscape.runs import (
    RunFolder,
    StopFlag,
    Unit,
    open_run_folder,
    read_run_folder,
    run_units,
)
from landscape.runs.folder import ConfigDamagedError
from landscape.runs.together import (
    expect_same_everywhere,
    of_the_first,
    run_units_together,
)
from landscape.spectra.schemes import auto_scheme

_logger = logging.getLogger("landscape")


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
        if options.chunk_size is not None and options.chunk_size < 1:
            raise InputError(f"chunk_size must be at least 1; got {options.chunk_size}")
        if not options.eps or not all(0 < eps < math.inf for eps in options.eps):
            raise InputError(f"eps must be positive and finite; got {options.eps}")
        if len(set(options.eps)) < len(options.eps):
            raise InputError(f"each eps can be asked for once; got {options.eps}")
        if min(options.largest, options.smallest, options.trace_matvecs) < 0:
            raise InputError("numbers of eigenvalues and products cannot be negative")
        if options.trace_matvecs == 1:
            raise InputError(
                "trace_matvecs must be 0, or at least 2: an error bar takes two probes"
            )
        if options.memory is not None and options.memory < 1:
            raise InputError(f"memory must be positive; got {options.memory} bytes")
        if not 0 <= options.seed < 2**63:
            raise InputError(f"seed must be at least 0 and below 2⁶³; got {options.seed}")
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
            "problem": name_of(self.problem),
            "params_key": self.params_key,
            "options": self.measured,
            "together": self.together,
            **({"across_devices": True} if self.across else {}),
        }


def make_units(
    job: Job, folder: Path | None = None, first: Sequence[int] = (), *, keep: bool = True
) -> list[Unit]:
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
    keep
        Whether to write hashes down.

    Raises
    ------
    InputError
        If hosts that work together see other checkpoints.
    """
    job, problem = settled(job, folder, together=False), known_problem(job.problem)
    if job.options.layers and WHOLE in layer_names(problem.params):
        raise InputError(f"a layer of {job.problem} is called {WHOLE!r}, as all of them together")
    # A load function may have changed, with whatever it calls: what it gives is hashed each time.
    kept_in = None if folder is None or problem.load is not None else folder / "digests.json"
    known = Digests(kept_in, job.problem, keep=keep)
    data, options = data_digest(problem), job.measured
    count = len(job.names)
    hashes, kinds, unreadable = [""] * count, [ALONE] * count, [""] * count
    for number in dict.fromkeys([*first, *range(count)]):
        path = job.names[number] if job.checkpoints else ""
        there = functools.partial(at_checkpoint, problem, path, job.params_key)
        try:
            hashes[number] = known.of(path, functools.partial(_content, there))
        except (MemoryError, StoppedError, jax.errors.JaxRuntimeError):
            # Of the machine, and not of the checkpoint.
            raise
        except Exception as error:
            # Whatever else, of a file or of a user's function: its unit will say why,
            # when the others are done too.
            own = "" if isinstance(error, LandscapeError) else f"{type(error).__name__}: "
            unreadable[number] = f"{own}{error}"
            hashes[number] = f"unreadable {path}: {unreadable[number]}"
        else:
            if job.together > 1:
                kind_of_it = functools.partial(_kind, there, job.options)
                try:
                    kinds[number] = known.of(path, kind_of_it, f" kind {data}")
                except StoppedError:
                    raise
                except Exception as error:
                    # It goes alone, and its unit says why; that is not written down.
                    _logger.debug("%s cannot be looked at", path, exc_info=error)
    kept = _finished_blocks(folder, hashes) if job.together > 1 and folder is not None else []
    units = []
    spec = absolute(job.problem)
    for block in blocks_of(kinds, job.together, kept):
        names, kind_of_unit = tuple(job.names[number] for number in block), COMMAND
        inputs: dict[str, Any] = {"problem": name_of(job.problem), "data": data, "options": options}
        if job.across:
            # The ends of its spectrum are Ritz values.
            inputs["across_devices"] = True
        if len(block) == 1:
            (number,) = block
            inputs["parameters"] = hashes[number]
            path = str(Path(names[0]).absolute()) if job.checkpoints else ""
            work: Any = Measurement(
                spec, path, job.params_key, job.options, job.across, hashes[number]
            )
            if unreadable[number]:
                work, kind_of_unit = Unreadable(unreadable[number]), UNREADABLE
        else:
            expected = tuple(hashes[number] for number in block)
            inputs["parameters"] = list(expected)
            paths = tuple(str(Path(name).absolute()) for name in names)
            work = BlockMeasurement(spec, paths, job.params_key, job.options, expected)
        alone = len(block) == 1
        name = names[0] if alone else f"{names[0]} and {len(block) - 1} more"
        parts = () if alone else names
        units.append(Unit(name, json.loads(json.dumps(inputs)), work, kind_of_unit, parts))
    known.write()
    expect_same_everywhere(units)
    return units


def _finished_blocks(folder: Path, hashes: Sequence[str]) -> list[tuple[int, ...]]:
    """Numbers of the checkpoints of each block that is done in a folder."""
    if not os.path.exists(folder / "config.json"):
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
        raise InputError(self.why)


def sharing_memory(job: Job, workers: int) -> Job:
    """The job with what each of several workers on a CPU may take, if nothing else was said."""
    if job.options.memory is not None or jax.default_backend() != "cpu":
        return job
    memory = device_memory() // 2 // workers
    return dataclasses.replace(job, options=dataclasses.replace(job.options, memory=memory))


def expect_outputs(job: Job) -> None:
    """Refuse a job that needs a classifier's outputs, of a problem that does not give them.

    Raises
    ------
    InputError
        If there is no model, or another loss than the mean cross-entropy of its outputs.
    """
    if job.options.rank:
        logits_of(known_problem(job.problem), "--rank")
    if job.options.matrix != "hessian":
        logits_of(known_problem(job.problem), f"--matrix {job.options.matrix}")


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
    record: Mapping[str, Any] = {} if out is None else _record(out)
    options = _as_the_first_has_them(_settled_options(job, record.get("options")))
    job = dataclasses.replace(job, options=options)
    if not together or job.across:
        return job
    if "together" in record:
        return dataclasses.replace(job, together=int(record["together"]))
    if len(job.names) == 1 or jax.default_backend() == "cpu":
        return job
    problem = known_problem(job.problem)
    op, _ = by_smaller_chunks(problem, options, functools.partial(operator, problem))
    return dataclasses.replace(job, together=block_size(op, options))


def _as_the_first_has_them(options: Options) -> Options:
    """What memory decides, where hosts with different ones work together."""
    if jax.process_count() == 1:
        return options
    schemes, methods = ("auto", "full", "partial", "none"), ("auto", "hutchinson", "hutch++")
    subspace = of_the_first(-1 if options.subspace is None else options.subspace)
    return dataclasses.replace(
        options,
        reorthogonalize=schemes[of_the_first(schemes.index(options.reorthogonalize))],
        trace_method=methods[of_the_first(methods.index(options.trace_method))],
        subspace=None if subspace < 0 else subspace,
    )


def _record(out: Path) -> Mapping[str, Any]:
    """The configuration of a folder, from its results if it is damaged or gone."""
    with contextlib.suppress(ConfigDamagedError):
        if os.path.exists(out / "config.json"):
            return read_run_folder(out).config
    folder = RunFolder(out, {}, [])
    found: list[Mapping[str, Any]] = []
    for path in folder.finished_units().values():
        with contextlib.suppress(StorageError):
            found.append(folder.inputs_of(path))
    if not found:
        return {}
    sizes = [len(one["parameters"]) for one in found if isinstance(one["parameters"], list)]
    return {"options": found[0]["options"], "together": max(sizes, default=1)}


def _settled_options(job: Job, record: Mapping[str, Any] | None) -> Options:
    """Numbers that memory decides: those of the folder, or of the problem's own parameters here."""
    options = job.options
    leaves = [leaf for leaf in jax.tree.leaves(known_problem(job.problem).params) if _is_real(leaf)]
    itemsize = max((np.dtype(jnp.result_type(leaf)).itemsize for leaf in leaves), default=4)
    size = max(sum(map(np.size, leaves)), 1)
    settled = options.for_size(size, itemsize)
    if options.reorthogonalize == "auto":
        scheme = auto_scheme(
            size, itemsize, options.num_probes, options.num_steps, options.memory,
            devices=jax.device_count() if job.across else 1,
        )  # fmt: skip
        settled = dataclasses.replace(settled, reorthogonalize=scheme)
    if record is None:
        return settled
    automatic = [
        field.name
        for field in dataclasses.fields(Options)
        if field.name in record and getattr(options, field.name) in ("auto", None)
        and field.name in ("reorthogonalize", "trace_method", "subspace")
    ]  # fmt: skip
    return dataclasses.replace(settled, **{name: record[name] for name in automatic})


def _is_real(leaf: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.floating))


def _content(there: Callable[[], Problem]) -> str:
    return content(there())


def _kind(there: Callable[[], Problem], options: Options) -> str:
    return kind(there(), options)


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
    expect_same_loss(job.problem, job.options, folder)
    mine = range(len(job.names))[shard[0] :: shard[1]]
    units = list(make_units(job, out, mine) if units is None else units)
    asked = units[shard[0] :: shard[1]]
    try:
        if jax.process_count() > 1:
            results = run_units_together(folder, asked, should_stop=should_stop, report=report)
        else:
            results = run_units(
                folder, units, executor=executor, should_stop=should_stop, report=report,
                own=range(len(units))[shard[0] :: shard[1]], again="run the same command again",
            )  # fmt: skip
    except UnitsFailedError as error:
        if jax.process_index() == 0:
            # A hash may be wrong.
            failed = [unit for unit in units if unit.name in error.names]
            paths = [part for unit in failed for part in unit.parts or (unit.name,)]
            Digests(folder.path / "digests.json", job.problem).forget(paths)
        raise
    return joined(
        [named(one, unit.parts or (unit.name,)) for unit, one in zip(asked, results, strict=True)]
    )


def shard_from(text: str | None) -> tuple[int, int]:
    """``"i/n"`` with i from 0; by default what Slurm says of a job array.

    Raises
    ------
    InputError
        If it is not of that form, or i is none of 0 … n − 1.
    """
    if text is None:
        try:
            count = max(int(os.environ.get("SLURM_ARRAY_TASK_COUNT", "1")), 1)
            first = int(os.environ.get("SLURM_ARRAY_TASK_MIN", "0"))
            step = int(os.environ.get("SLURM_ARRAY_TASK_STEP", "1"))
            number = int(os.environ.get("SLURM_ARRAY_TASK_ID", str(first)))
        except ValueError as error:
            raise InputError(f"SLURM_ARRAY_TASK_… of the environment: {error}") from error
        # Of a list some shards may have two tasks and others none: all end with what is left.
        return (number - first) // max(step, 1) % count, count
    place, slash, total = text.partition("/")
    if not slash or not place.isdecimal() or not total.isdecimal() or int(place) >= int(total):
        raise InputError(f"--shard must be i/n with i from 0 to n − 1; got {text!r}")
    return int(place), int(total)


def count_done(out: Path, units: Sequence[Unit]) -> int:
    """How many of some units are done, and whole, in a folder, which need not be there yet."""
    if not os.path.exists(out / "config.json"):
        return 0
    folder = read_run_folder(out)
    paths = map(folder.finished_units().get, (unit.stem for unit in units))
    return sum(path is not None and folder.is_whole(path) for path in paths)
