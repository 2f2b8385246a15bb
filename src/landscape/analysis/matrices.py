"""The matrices and numbers of one problem, as a batch job is asked for them."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

from landscape.analysis.options import WHOLE, Options
from landscape.curvature import LinearOperator, Problem, empirical_fisher, ggn, hessian
from landscape.curvature import fisher as sampled_fisher
from landscape.curvature import jacobian as jacobian_of
from landscape.curvature.batches import weigh, weighted_mean
from landscape.curvature.parameters import path_name
from landscape.curvature.streams import is_stream
from landscape.degeneracy import jacobian_rank
from landscape.degeneracy.describe import logits_function, loss_function, opened
from landscape.errors import InputError, ResourceError
from landscape.training.losses import example_losses

# Operations of an exact rank, beyond which bounds are taken, of singular values relative to the
# largest.
_EXACT_OPERATIONS, _RANK_RTOL = 1e12, 1e-3

T = TypeVar("T")

_logger = logging.getLogger("landscape")


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
    logits, state = logits_of(problem, f"--matrix {options.matrix}")
    shared["state"] = state
    if options.matrix == "fisher":
        key = jax.random.key(options.seed)
        return sampled_fisher(logits, problem.params, problem.batch, key, **shared)
    make = ggn if options.matrix == "ggn" else empirical_fisher
    weighted = {**shared, "weight": problem.weight}
    return make(logits, mean_loss, problem.params, problem.batch, **weighted)


def logits_of(problem: Problem, what: str) -> tuple[Any, Any]:
    """``logits(params, state, batch)`` of the model, and the state.

    Raises
    ------
    InputError
        If there is no model, or the loss is not the mean cross-entropy of its outputs.
    """
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


def by_smaller_chunks(
    problem: Problem, options: Options, do: Callable[[Options], T]
) -> tuple[T, Options]:
    """Do something, with half as many examples at a time each time that memory does not suffice.

    Returns
    -------
    What it gives, and the options that it was done with.

    Raises
    ------
    ResourceError
        If memory does not suffice for one example at a time.
    """
    examples = _num_examples(problem)
    while True:
        try:
            return do(options), options
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            short = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
            if not short or examples is None:
                raise
            chunk = options.chunk_size or problem.chunk_size or examples
            if chunk <= 1:
                raise ResourceError(
                    f"out of memory with one example at a time: {str(error).splitlines()[0]}"
                ) from error
            options = dataclasses.replace(options, chunk_size=-(-chunk // 2))
            _logger.warning(
                "out of memory with %d examples at a time; going on with %d",
                chunk, options.chunk_size,
            )  # fmt: skip


def _num_examples(problem: Problem) -> int | None:
    """None of a stream, whose batches are as they come."""
    if is_stream(problem.batch) or not jax.tree.leaves(problem.batch):
        return None
    shapes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(problem.batch)}
    return next(iter(shapes))[0] if len(shapes) == 1 and next(iter(shapes)) else None


def loss_of(problem: Problem, chunk_size: int | None = None) -> float:
    """The loss, by chunks if asked; of a stream the mean over its batches."""
    count = _num_examples(problem)
    state = () if problem.state is None else (problem.state,)
    if count is None:
        total = weights = 0.0
        for batch in problem.batch if is_stream(problem.batch) else ():
            weight = float(weigh(batch, problem.weight))
            total += weight * float(_jitted(problem.loss)(problem.params, *state, batch))
            weights += weight
        return total / weights if weights else float("nan")
    if chunk_size is None or chunk_size >= count:
        return float(_jitted(problem.loss)(problem.params, *state, problem.batch))
    of_chunk = functools.partial(problem.loss, problem.params, *state)
    return float(weighted_mean(of_chunk, problem.batch, chunk_size, problem.weight))


def rank_of(problem: Problem) -> dict[str, Any]:
    """Bounds of the rank of the centered Jacobian, and whether there is a gap."""
    logits_of(problem, "--rank")
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
