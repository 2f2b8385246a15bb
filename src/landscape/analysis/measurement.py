"""What a batch job measures of one checkpoint.

Everything is of one matrix at one checkpoint, and of *parts* of it: ``"all"`` parameters, and on
request those of each layer alone (the diagonal blocks).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr
from jaxtyping import Array

from landscape.analysis.checkpoints import digest, load_checkpoint
from landscape.analysis.kept import (
    Interruptible,
    advanced,
    found_at_the_ends,
    kept_or_done,
)
from landscape.analysis.matrices import (
    by_smaller_chunks,
    layer_names,
    loss_of,
    operator,
    rank_of,
)
from landscape.analysis.options import WHOLE, Options, ranks_of
from landscape.analysis.problems import load_problem
from landscape.curvature import LinearOperator, Problem, data_mesh, noise_floor
from landscape.curvature import place as placed
from landscape.curvature.sharding import replicate, split_examples
from landscape.curvature.streams import is_stream
from landscape.errors import InputError, ResourceError
from landscape.runs.together import agreed
from landscape.spectra import (
    Estimate,
    Fraction,
    LanczosRun,
    LanczosSpectrum,
    degenerate_fraction,
    extremal_run,
    lanczos_run,
    negative_fraction,
    trace,
)

# Residuals of the eigenvalues at the ends, relative to the spectral norm.
_END_TOL = 1e-3


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A unit's work: one checkpoint; picklable, so that any process can do it.

    Attributes
    ----------
    problem
        As ``load_problem`` takes it.
    checkpoint
        Its path; empty for the problem's own parameters.
    params_key
        As for ``load_checkpoint``.
    options
        What is measured.
    across
        Whether all devices, those of other hosts included, work on the one matrix.
    expected
        The digest of its parameters and state, which its result is named by; empty if that is not
        known.
    """

    problem: str
    checkpoint: str
    params_key: str
    options: Options
    across: bool = False
    expected: str = ""

    def __call__(self, folder: Path, should_stop: Callable[[], bool]) -> xr.Dataset:
        """Measure; ``folder`` is for what survives a kill."""
        problem = at_checkpoint(known_problem(self.problem), self.checkpoint, self.params_key)
        expect_content(problem, self.expected, self.checkpoint)
        return measure(problem, self.options, folder, should_stop, across=self.across)


@functools.lru_cache(maxsize=4)
def known_problem(spec: str) -> Problem:
    """``load_problem``, once in a process, however its file is written."""
    place = absolute(spec)
    return load_problem(spec) if place == spec else known_problem(place)


def absolute(spec: str) -> str:
    """The problem for a process with another working folder, if it is in a file."""
    source, _, function = spec.rpartition(":")
    return f"{Path(source).absolute()}:{function}" if Path(source).is_file() else spec


def name_of(spec: str) -> str:
    """What results of the problem are named by, wherever its file or folder lies."""
    source, _, function = spec.rpartition(":")
    if Path(source).is_file():
        return f"{Path(source).name}:{function}"
    return Path(spec).absolute().name if Path(spec).is_dir() else spec


def at_checkpoint(problem: Problem, checkpoint: str, params_key: str = "") -> Problem:
    """The problem at the parameters and the state of a checkpoint."""
    if not checkpoint:
        return problem
    params, state = load_checkpoint(Path(checkpoint), problem, params_key)
    return dataclasses.replace(problem, params=params, state=state)


def content(problem: Problem) -> str:
    """A hash of the parameters and of the state."""
    return digest((problem.params, problem.state))


def expect_content(problem: Problem, expected: str, checkpoint: str) -> None:
    """Refuse parameters that are not those which a result is going to be named by.

    Raises
    ------
    InputError
        If they are not.
    """
    # What one of several hosts sees, all say.
    if expected and agreed(content(problem) != expected):
        raise InputError(
            f"{checkpoint} has other parameters than when the job was planned; run again"
            if checkpoint
            else "the problem's function gives other parameters each time that it is called"
        )


def measure(
    problem: Problem,
    options: Options,
    folder: Path,
    should_stop: Callable[[], bool],
    *,
    across: bool = False,
) -> xr.Dataset:
    """All parts of one checkpoint; less memory is used where there is not enough.

    Parameters
    ----------
    problem
        At the checkpoint.
    options
        What is measured.
    folder
        For what survives a kill; made if there is something to keep.
    should_stop
        Asked between steps.
    across
        As for ``Measurement``.

    Returns
    -------
    Dimensions ``part``, ``eps``, ``node`` and ``rank``; NaN where something is not
    known. ``chunk_size`` is 0 if all examples were taken at once.

    Raises
    ------
    StoppedError
        If a stop was asked for; what has been done is kept in the folder.
    ResourceError
        If it does not fit, one example at a time.
    """
    parts = (WHOLE, *(layer_names(problem.params) if options.layers else ()))
    undivided = problem
    if across:
        problem = _spread(problem)
    # What is done together is another number, and has names of its own.
    kind = "spread" if across else "part"
    found = [
        kept_or_done(
            folder / f"{kind}-{number}",
            functools.partial(
                with_less_memory, problem, options, part, should_stop=should_stop, across=across
            ),
            keep=len(parts) > 1,
        )
        for number, part in enumerate(parts)
    ]
    result = xr.concat(found, xr.Variable("part", list(parts)))
    chunk = int(result["chunk_size"].max()) or None
    result["loss"] = ((), _loss(problem, dataclasses.replace(options, chunk_size=chunk), across))
    if options.rank:
        rank = kept_or_done(folder / "rank", lambda _: xr.Dataset(rank_of(undivided)), keep=False)
        result = result.assign(rank)
    return result


def with_less_memory(
    problem: Problem,
    options: Options,
    part: str,
    place: Path,
    should_stop: Callable[[], bool],
    across: bool,
) -> xr.Dataset:
    """A part, by chunks of half as many examples each time that memory does not suffice."""
    if across:
        return _part(problem, options, options, part, place, should_stop, across=True)
    found, _ = by_smaller_chunks(
        problem, options, lambda with_: _part(problem, options, with_, part, place, should_stop)
    )
    return found


def _loss(problem: Problem, options: Options, across: bool) -> float:
    if across:
        return loss_of(problem, options.chunk_size)
    return by_smaller_chunks(problem, options, lambda o: loss_of(problem, o.chunk_size))[0]


def _spread(problem: Problem) -> Problem:
    """The problem with its batch split among all devices, and all else on each of them."""
    if is_stream(problem.batch):
        raise InputError("a stream of batches cannot be split among devices: give one batch")
    return dataclasses.replace(
        problem,
        batch=split_examples(problem.batch, data_mesh()),
        params=replicate(problem.params, data_mesh()),
        state=replicate(problem.state, data_mesh()),
    )


def _part(
    problem: Problem,
    asked: Options,
    options: Options,
    part: str,
    place: Path,
    should_stop: Callable[[], bool],
    across: bool = False,
) -> xr.Dataset:
    op = operator(problem, options, part)
    if across:
        op = placed(op, data_mesh())
    options = options.for_size(op.shape[0], op.dtype.itemsize)
    keys = jax.random.split(jax.random.key(options.seed), 4)

    def spectrum(there: Path) -> xr.Dataset:
        floor = noise_floor(op, keys[0])
        run, steps = lanczos_of(op, keys[1], options)
        found = advanced(run, steps, place, should_stop).spectrum(noise_floor=floor)
        data = _of_spectrum(found, op.shape[0], options)
        if across and ranks:
            # No device would hold the vectors of a basis of its own.
            values, errors = ritz_ends(found, (0,), options)
            data |= _of_ends(values, errors, "ritz")
        return xr.Dataset(data, coords={"eps": list(options.eps)})

    def ends(there: Path) -> xr.Dataset:
        values, errors = np.full(len(ranks), np.nan), np.full(len(ranks), np.nan)
        largest = min(options.largest, op.shape[0])
        smallest = min(options.smallest, op.shape[0] - largest)
        run = extremal_run(
            op, keys[2], num_largest=largest, num_smallest=smallest, tol=_END_TOL,
            subspace=options.subspace,
        )  # fmt: skip
        pairs = found_at_the_ends(run, there, should_stop)
        where = [*range(largest), *range(len(ranks) - smallest, len(ranks))]
        values[where], errors[where] = pairs.values, pairs.residual_norms
        return xr.Dataset(_of_ends(values, errors, pairs.status), coords={"rank": ranks})

    def traced(there: Path) -> xr.Dataset:
        found = trace_of(Interruptible(op, should_stop), keys[3], options)
        return xr.Dataset({
            "trace": ((), float(found.value)),
            "trace_stderr": ((), float(found.stderr)),
            "trace_method": ((), found.method),
        })  # fmt: skip

    ranks = ranks_of(options)
    stages = {"spectrum": spectrum}
    if ranks and not across:
        stages["ends"] = ends
    if options.trace_matvecs:
        stages["trace"] = traced
    chunk = options.chunk_size or problem.chunk_size or 0
    how = {"chunk_size": chunk, "short_of_memory": options.chunk_size != asked.chunk_size}

    def told(stage: Callable[[Path], xr.Dataset], there: Path) -> xr.Dataset:
        return stage(there).assign(how)

    found = [
        kept_or_done(
            place.with_name(f"{place.name}-{name}"), functools.partial(told, stage), keep=False
        )
        for name, stage in stages.items()
    ]
    # A stage that was kept may have been taken by other chunks: the smallest is told.
    chunks = [int(one["chunk_size"]) for one in found if int(one["chunk_size"])]
    result = xr.merge([one.drop_vars(list(how)) for one in found])
    result["chunk_size"] = ((), min(chunks, default=0))
    result["short_of_memory"] = ((), any(bool(one["short_of_memory"]) for one in found))
    return result.assign_coords(rank=ranks) if ranks else result


def _of_spectrum(spectrum: LanczosSpectrum, size: int, options: Options) -> dict[str, Any]:
    """Nodes, weights and fractions of one matrix."""
    padding = (0, options.num_steps * options.num_probes - len(spectrum.nodes))
    floor = float(np.max(spectrum.noise_floor))
    data: dict[str, Any] = {
        "parameters": ((), size),
        "noise_floor": ((), floor),
        "matvecs": ((), spectrum.num_matvecs),
        "certified": ((), spectrum.reorthogonalize != "none"),
        "nodes": (("node",), np.pad(spectrum.nodes, padding, constant_values=np.nan)),
        "weights": (("node",), np.pad(spectrum.weights, padding)),
    }
    for name, measured in (("degenerate", degenerate_fraction), ("negative", negative_fraction)):
        table = np.full((5, len(options.eps)), np.nan)
        for column, eps in enumerate(options.eps):
            if eps >= floor:
                table[:, column] = _ends(measured(spectrum, eps))
        for row, end in enumerate(("", "_lower", "_upper", "_low", "_high")):
            data[name + end] = (("eps",), table[row])
    return data


def _of_ends(values: np.ndarray, errors: np.ndarray, status: str) -> dict[str, Any]:
    return {
        "eigenvalue": (("rank",), values),
        "eigenvalue_residual": (("rank",), errors),
        "eigenvalue_status": ((), status),
    }


def ritz_ends(
    spectrum: LanczosSpectrum, index: tuple[int, ...], options: Options
) -> tuple[np.ndarray, np.ndarray]:
    """Ritz values of one probe at both ends, by rank, and the norms of their residuals."""
    nodes, _, residuals = spectrum.ritz(index)
    above = min(options.largest, len(nodes))
    below = min(options.smallest, len(nodes) - above)
    values = np.full(options.largest + options.smallest, np.nan)
    errors = np.full_like(values, np.nan)
    for found, row in ((nodes, values), (residuals, errors)):
        row[:above] = found[::-1][:above]
        if below:
            row[-below:] = found[:below][::-1]
    return values, errors


def lanczos_of(op: LinearOperator, key: Array, options: Options) -> tuple[LanczosRun, int]:
    """A run that has not begun, and the steps that it is for."""
    steps = min(options.num_steps, op.shape[0])
    run = lanczos_run(
        op, key, num_probes=options.num_probes, reorthogonalize=options.reorthogonalize,
        capacity=steps, memory=options.memory,
    )  # fmt: skip
    return run, steps


def trace_of(op: LinearOperator, key: Array, options: Options) -> Estimate:
    """The trace; by Hutchinson's method where this machine does not hold what Hutch++ keeps."""
    budget = min(options.trace_matvecs, op.shape[0])
    try:
        return trace(op, key, num_matvecs=budget, method=options.trace_method)
    except ResourceError:
        return trace(op, key, num_matvecs=budget, method="hutchinson")


def _ends(fraction: Fraction) -> list[float]:
    """Estimate, certified bounds, and interval."""
    low, high = fraction.confidence_interval()
    told = (fraction.estimate, fraction.lower, fraction.upper, low, high)
    return [float(np.squeeze(value)) for value in told]
