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

from landscape.analysis.checkpoints import load_checkpoint
from landscape.analysis.kept import advanced, kept_or_done
from landscape.analysis.problems import load_problem
from landscape.curvature import (
    LinearOperator,
    Problem,
    data_mesh,
    empirical_fisher,
    ggn,
    hessian,
    noise_floor,
)
from landscape.curvature import fisher as sampled_fisher
from landscape.curvature import jacobian as jacobian_of
from landscape.curvature import place as placed
from landscape.curvature.batches import weighted_mean
from landscape.curvature.parameters import path_name
from landscape.degeneracy import jacobian_rank
from landscape.degeneracy.describe import logits_function, loss_function, opened
from landscape.errors import InputError, ResourceError
from landscape.spectra import (
    Estimate,
    Fraction,
    LanczosRun,
    degenerate_fraction,
    extremal_eigenpairs,
    lanczos_run,
    negative_fraction,
    trace,
)
from landscape.training.losses import example_losses

MATRICES = ("hessian", "ggn", "fisher", "empirical-fisher")

WHOLE = "all"

# Vectors that pairs at the ends are found with besides those of the pairs, and fewest.
_SUBSPACE, _LEAST_SUBSPACE = 20, 5

# Operations of an exact rank, beyond which bounds are taken, of singular values relative to the
# largest.
_EXACT_OPERATIONS, _RANK_RTOL = 1e12, 1e-3


@dataclasses.dataclass(frozen=True)
class Options:
    """What is measured.

    Attributes
    ----------
    matrix
        One of ``MATRICES``; all but the Hessian need a classifier's model.
    eps
        Half-widths of the degenerate band.
    num_steps, num_probes
        Of Lanczos quadrature.
    reorthogonalize
        As for ``slq``; bounds are certified unless it is ``"none"``.
    largest, smallest
        Eigenvalues at the ends.
    trace_matvecs
        Products for the trace; 0 leaves it out.
    rank
        Whether the rank of the classifier's centered Jacobian is taken.
    layers
        Whether each layer's block is measured too.
    memory
        Bytes that vectors may take; None half of the device's.
    chunk_size
        Examples at a time; None as the problem has it.
    seed
        Of the probes.
    """

    matrix: str = "hessian"
    eps: tuple[float, ...] = (1e-3,)
    num_steps: int = 100
    num_probes: int = 1
    reorthogonalize: str = "auto"
    largest: int = 1
    smallest: int = 1
    trace_matvecs: int = 0
    rank: bool = False
    layers: bool = False
    memory: int | None = None
    chunk_size: int | None = None
    seed: int = 0


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
    """

    problem: str
    checkpoint: str
    params_key: str
    options: Options
    across: bool = False

    def __call__(self, folder: Path, should_stop: Callable[[], bool]) -> xr.Dataset:
        """Measure; ``folder`` is for what survives a kill."""
        problem = at_checkpoint(known_problem(self.problem), self.checkpoint, self.params_key)
        return measure(problem, self.options, folder, should_stop, across=self.across)


@functools.lru_cache(maxsize=4)
def known_problem(spec: str) -> Problem:
    """``load_problem``, once in a process."""
    return load_problem(spec)


def at_checkpoint(problem: Problem, checkpoint: str, params_key: str = "") -> Problem:
    """The problem at the parameters and the state of a checkpoint."""
    if not checkpoint:
        return problem
    params, state = load_checkpoint(Path(checkpoint), problem, params_key)
    return dataclasses.replace(problem, params=params, state=state)


def operator(problem: Problem, options: Options, part: str = WHOLE) -> LinearOperator:
    """The matrix of a part.

    Raises
    ------
    InputError
        For a matrix that needs a model, of a problem without one or of another loss.
    """
    wrt = None if part == WHOLE else functools.partial(_belongs, part)
    chunk_size = options.chunk_size or problem.chunk_size
    shared: dict[str, Any] = {"state": problem.state, "wrt": wrt, "chunk_size": chunk_size}
    if options.matrix == "hessian":
        return hessian(problem.loss, problem.params, problem.batch, weight=problem.weight, **shared)
    logits, state = _logits(problem, f"--matrix {options.matrix}")
    shared["state"] = state
    if options.matrix == "fisher":
        key = jax.random.key(options.seed)
        return sampled_fisher(logits, problem.params, problem.batch, key, **shared)
    make = ggn if options.matrix == "ggn" else empirical_fisher
    weighted = {**shared, "weight": problem.weight}
    return make(logits, mean_loss, problem.params, problem.batch, **weighted)


def _logits(problem: Problem, what: str) -> tuple[Any, Any]:
    """``logits(params, state, batch)`` of the model, and the state."""
    pair = isinstance(problem.batch, tuple | list) and len(problem.batch) == 2
    if problem.model is None or not pair:
        raise InputError(
            f"{what} is of a classifier's outputs: the problem has to name its model, and the "
            "batch has to be (inputs, labels)"
        )
    model, state = opened(problem.model, problem.state)
    expected = float(
        _jitted(loss_function(model))(problem.params, state or {}, tuple(problem.batch))
    )
    found = loss_of(problem, problem.chunk_size)
    if not np.isclose(found, expected, rtol=1e-4, atol=1e-6):
        raise InputError(
            f"{what} is of the mean softmax cross-entropy of the model, which is {expected:.6g} "
            f"here, and the problem's loss is {found:.6g}: another loss, weights, or a penalty in "
            "it. In Python, landscape.curvature.ggn takes any loss of the outputs"
        )
    return _on_pairs(logits_function(model)), state or {}


@functools.cache
def _jitted(function: Any) -> Any:
    return jax.jit(function)


@functools.cache
def _on_pairs(logits: Any) -> Any:
    return lambda params, state, batch: logits(params, state, batch[0])


def mean_loss(outputs: Any, batch: Any) -> Any:
    """Mean softmax cross-entropy of logits."""
    return example_losses(outputs, batch[1]).mean()


def layer_names(params: Any) -> tuple[str, ...]:
    """Of each layer: what its leaves' paths have in common, all but their last step."""
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    return tuple(dict.fromkeys(path.rpartition("/")[0] or path for path in paths))


def _belongs(part: str, path: str) -> bool:
    return (path.rpartition("/")[0] or path) == part


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
    found = [
        kept_or_done(
            folder / f"part-{number}",
            functools.partial(
                with_less_memory, problem, options, part, should_stop=should_stop, across=across
            ),
            keep=len(parts) > 1,
        )
        for number, part in enumerate(parts)
    ]
    result = xr.concat(found, xr.Variable("part", list(parts)))
    result["loss"] = ((), loss_of(problem, int(result["chunk_size"].max()) or None))
    if options.rank:
        result = result.assign(rank_of(problem))
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
    examples = _num_examples(problem)
    while True:
        try:
            return _part(problem, options, part, place, should_stop, across)
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            short = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
            if not short or examples is None or across:
                raise
            chunk = options.chunk_size or problem.chunk_size or examples
            if chunk <= 1:
                raise ResourceError(
                    f"out of memory with one example at a time: {str(error).splitlines()[0]}"
                ) from error
            options = dataclasses.replace(options, chunk_size=-(-chunk // 2))


def _num_examples(problem: Problem) -> int | None:
    """None of a stream, whose batches are as they come."""
    if hasattr(problem.batch, "__next__") or not jax.tree.leaves(problem.batch):
        return None
    shapes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(problem.batch)}
    return next(iter(shapes))[0] if len(shapes) == 1 and next(iter(shapes)) else None


def _part(
    problem: Problem,
    options: Options,
    part: str,
    place: Path,
    should_stop: Callable[[], bool],
    across: bool,
) -> xr.Dataset:
    op = operator(problem, options, part)
    if across:
        op = placed(op, data_mesh())
    keys = jax.random.split(jax.random.key(options.seed), 4)
    floor = noise_floor(op, keys[0])
    run, steps = lanczos_of(op, keys[1], options)
    spectrum = advanced(run, steps, place, should_stop).spectrum(noise_floor=floor)
    padding = (0, options.num_steps * options.num_probes - len(spectrum.nodes))
    data: dict[str, Any] = {
        "parameters": ((), op.shape[0]),
        "noise_floor": ((), float(np.max(spectrum.noise_floor))),
        "matvecs": ((), spectrum.num_matvecs),
        "chunk_size": ((), options.chunk_size or problem.chunk_size or 0),
        "certified": ((), spectrum.reorthogonalize != "none"),
        "nodes": (("node",), np.pad(spectrum.nodes, padding, constant_values=np.nan)),
        "weights": (("node",), np.pad(spectrum.weights, padding)),
    }
    for name, measured in (("degenerate", degenerate_fraction), ("negative", negative_fraction)):
        table = np.full((5, len(options.eps)), np.nan)
        for column, eps in enumerate(options.eps):
            if eps >= float(np.max(spectrum.noise_floor)):
                table[:, column] = _ends(measured(spectrum, eps))
        for row, end in enumerate(("", "_lower", "_upper", "_low", "_high")):
            data[name + end] = (("eps",), table[row])
    count = (options.largest, options.smallest)
    values, errors = np.full(sum(count), np.nan), np.full(sum(count), np.nan)
    largest = min(options.largest, op.shape[0])
    smallest = min(options.smallest, op.shape[0] - largest)
    if largest or smallest:
        pairs = extremal_eigenpairs(
            op, keys[2], num_largest=largest, num_smallest=smallest, tol=1e-3,
            subspace=_subspace(op, largest + smallest, options.memory),
        )  # fmt: skip
        where = [*range(largest), *range(sum(count) - smallest, sum(count))]
        values[where], errors[where] = pairs.values, pairs.residual_norms
    ranks = [*range(1, count[0] + 1), *range(-count[1], 0)]
    if ranks:
        data["rank"] = ranks
        data["eigenvalue"] = (("rank",), values)
        data["eigenvalue_residual"] = (("rank",), errors)
    if options.trace_matvecs:
        estimate = trace_of(op, keys[3], options)
        data["trace"] = ((), float(estimate.value))
        data["trace_stderr"] = ((), float(estimate.stderr))
    return xr.Dataset(data, coords={"eps": list(options.eps)})


def lanczos_of(op: LinearOperator, key: Array, options: Options) -> tuple[LanczosRun, int]:
    """A run that has not begun, and the steps that it is for."""
    steps = min(options.num_steps, op.shape[0])
    run = lanczos_run(
        op, key, num_probes=options.num_probes, reorthogonalize=options.reorthogonalize,
        capacity=steps, memory=options.memory,
    )  # fmt: skip
    return run, steps


def _subspace(op: LinearOperator, count: int, memory: int | None) -> int | None:
    """How many vectors pairs at the ends are found with: fewer where memory does not hold more."""
    usual = min(2 * count + _SUBSPACE, op.shape[0])
    if memory is None:
        return usual
    fitting = memory // (op.shape[0] * op.dtype.itemsize) - 1 - count
    return min(usual, max(fitting, count + _LEAST_SUBSPACE))


def trace_of(op: LinearOperator, key: Array, options: Options) -> Estimate:
    """The trace; without the directions that Hutch++ keeps, where memory does not hold them."""
    budget = options.trace_matvecs
    kept = 3 * (budget // 3) * op.shape[0] * op.dtype.itemsize
    if options.memory is not None and kept > options.memory:
        return trace(op, key, num_matvecs=budget, method="hutchinson")
    try:
        return trace(op, key, num_matvecs=budget)
    except ResourceError:
        return trace(op, key, num_matvecs=budget, method="hutchinson")


def _ends(fraction: Fraction) -> list[float]:
    """Estimate, certified bounds, and interval."""
    low, high = fraction.confidence_interval()
    told = (fraction.estimate, fraction.lower, fraction.upper, low, high)
    return [float(np.squeeze(value)) for value in told]


def loss_of(problem: Problem, chunk_size: int | None = None) -> float:
    """The loss, by chunks if asked; NaN of a stream."""
    count = _num_examples(problem)
    if count is None:
        return float("nan")
    state = () if problem.state is None else (problem.state,)
    if chunk_size is None or chunk_size >= count:
        return float(_jitted(problem.loss)(problem.params, *state, problem.batch))
    of_chunk = functools.partial(problem.loss, problem.params, *state)
    return float(weighted_mean(of_chunk, problem.batch, chunk_size, problem.weight))


def rank_of(problem: Problem) -> dict[str, Any]:
    """Bounds of the rank of the centered Jacobian, and whether there is a gap."""
    _logits(problem, "--rank")
    model, state = opened(problem.model, problem.state)
    op = jacobian_of(logits_function(model), problem.params, problem.batch[0], state=state or {})
    least, most = sorted(op.shape)
    how: dict[str, Any] = {}
    if 4 * least**2 * most > _EXACT_OPERATIONS:
        how = {"method": "lanczos", "rtol": _RANK_RTOL, "key": jax.random.key(0)}
    found = jacobian_rank(op, centered=True, **how)
    return {
        "jacobian_rank_rtol": ((), float(found.rtol)),
        "jacobian_rank_lower": ((), int(found.lower)),
        "jacobian_rank_upper": ((), int(found.upper)),
        "jacobian_rank_status": ((), str(found.status)),
    }
