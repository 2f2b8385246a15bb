"""The door: what a loss must be before its curvature means anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from landscape.curvature.batches import Weight, num_examples, weighted_mean
from landscape.curvature.programs import equations
from landscape.errors import InputError

_ROUNDING = 32 * float(np.finfo(np.float32).eps)

_RANDOM = (
    "it draws random numbers (dropout, augmentation, a generator of its own); switch that off "
    "(NNX: model.eval(); Linen: deterministic=True)"
)

# Losses below this are looked at elsewhere too.
_SMALL = 1e-2


def check_loss(
    loss: Callable[..., Array],
    params: Any,
    state: Any,
    batch: Any,
    weight: Weight | None,
    chunk_size: int | None = None,
) -> None:
    """Refuse a loss that is not a finite, deterministic mean over the batch's examples.

    Parameters
    ----------
    loss, params, state, batch, weight, chunk_size
        As for ``hessian``; with a chunk size no more examples than that are taken at a time.

    Raises
    ------
    InputError
        Naming what was found and what to do.

    Notes
    -----
    The mean over chunks of a third of the examples is compared with the loss of the whole batch, or
    that over thirds of chunks with that over chunks, and of the first chunk alone: this catches
    sums, batch normalisation in training mode, and masks unless by chance all parts have as many
    examples unmasked. If both are near zero they are compared at other parameters too.
    The tolerance, 10⁻³ of the chunks' mean absolute loss and at least 32 units of float32 rounding,
    is above rounding and below those errors, for the small losses of trained networks too. Nothing
    is evaluated under a tracer.
    """
    with in_words(batch):
        dtype = _expect_scalar(loss, params, state, batch)
        leaves = jax.tree.leaves((params, state, batch))
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            return
        _expect_weight(weight, batch)
        length = num_examples(batch)
        at_once = length if chunk_size is None else min(chunk_size, length)
        whole = _whole(loss, params, state, batch, weight, at_once)
        if not np.isfinite(whole):
            raise InputError(
                f"the loss is {whole} at these parameters and this batch: look for NaN or infinite "
                "entries in either"
            )
        if _whole(loss, params, state, batch, weight, at_once) != whole:
            raise InputError(f"two evaluations of the loss differ: {_RANDOM}")
        # Of parameters in a coarse type the loss is no finer, whatever it is cast to at the end.
        types = [jnp.result_type(leaf) for leaf in jax.tree.leaves(params)]
        types = [dtype, *(one for one in types if jnp.issubdtype(one, np.floating))]
        dtype = max(types, key=lambda one: float(jnp.finfo(one).eps))
        if at_once > 1:
            _expect_means(loss, params, state, batch, weight, at_once, dtype)


def _expect_weight(weight: Weight | None, batch: Any) -> None:
    """Refuse a weight that is no function from a batch to a positive number."""
    if weight is None:
        return
    if not callable(weight):
        raise InputError(
            f"weight must be a function, weight(batch) -> scalar; got {type(weight).__name__}"
        )
    count = jnp.asarray(weight(batch))
    if count.shape != ():
        raise InputError(
            f"weight must return a scalar, what the batch counts for in the mean; got shape "
            f"{count.shape}"
        )
    if not (np.isfinite(float(count)) and float(count) > 0):
        raise InputError(f"the weight of the whole batch must be positive; it is {float(count):g}")


def _expect_scalar(loss: Callable[..., Array], params: Any, state: Any, batch: Any) -> np.dtype:
    """The loss's type, if it is a scalar and the same each time it is traced."""
    program, shape = jax.make_jaxpr(partial(_evaluate, loss), return_shape=True)(
        params, state, batch
    )
    again = jax.make_jaxpr(partial(_evaluate, loss))(params, state, batch)
    if not hasattr(shape, "shape") or shape.shape != ():
        found = getattr(shape, "shape", type(shape).__name__)
        raise InputError(
            f"the loss must return a scalar, the mean over the batch's examples; got {found}"
            + (": return the mean of the per-example losses" if hasattr(shape, "shape") else "")
        )
    if not jnp.issubdtype(shape.dtype, np.floating):
        raise InputError(f"the loss must be a real number of a floating type; got {shape.dtype}")
    if not _same_constants(program, again):
        raise InputError(f"two traces of the loss differ: {_RANDOM}")
    return np.dtype(shape.dtype)


def _whole(
    loss: Callable[..., Array],
    params: Any,
    state: Any,
    batch: Any,
    weight: Weight | None,
    at_once: int,
) -> float:
    """The loss of all examples, so many at a time."""
    if at_once == num_examples(batch):
        return float(_loss(loss, params, state, batch))
    return float(_mean_of_chunks(loss, params, state, batch, weight, at_once)[0])


def _expect_means(
    loss: Callable[..., Array],
    params: Any,
    state: Any,
    batch: Any,
    weight: Weight | None,
    at_once: int,
    dtype: np.dtype,
) -> None:
    """Refuse a loss that is not the mean over the parts of the batch, nor over those of a chunk."""
    third = -(-at_once // 3)
    _expect_parts(loss, params, state, batch, third)
    # Over many chunks what a mask does to each may cancel: the first is looked at alone too.
    alone = (
        [jax.tree.map(lambda leaf: leaf[:at_once], batch)] if at_once < num_examples(batch) else []
    )
    for examples in (batch, *alone):
        for moved in (False, True):
            at = _elsewhere(params) if moved else params
            whole = _whole(loss, at, state, examples, weight, at_once)
            found, size = map(float, _mean_of_chunks(loss, at, state, examples, weight, third))
            if not moved and not np.isfinite(found):
                raise InputError(
                    f"the loss of a part of the batch is {found}: guard the mean of a mask that "
                    "may be empty"
                )
            if np.isfinite(whole) and np.isfinite(found):
                _expect_mean(whole, found, size, dtype)
            # Of a loss near zero a sum and a mean are alike: look at one that is not.
            if max(size, abs(whole)) > _SMALL:
                break


@contextmanager
def in_words(
    batch: Any, called: str = "loss(params, batch), or loss(params, state, batch) with a state"
) -> Iterator[None]:
    """What a loss raises because of how it is used, told by that; other errors as they are."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = _reason(error, batch, called)
        if reason is None:
            raise
        raise InputError(reason) from error


def _reason(error: Exception, batch: Any, called: str) -> str | None:
    # Flax's modules refuse to be changed inside a transformation, JAX what leaked out of one.
    # Flax's error is known by its name, since this room does not import flax.
    if type(error).__name__ in ("TraceContextError", "UnexpectedTracerError"):
        return (
            f"the loss changes something outside itself: {_RANDOM}. Running statistics of a layer "
            "in training mode are such a thing too: use those it has, or return the new ones apart"
        )
    told = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, TypeError) and "positional argument" in told:
        return f"the function is called as {called}, and raised: {told}"
    if isinstance(batch, list | tuple) and len(batch) > 1:
        inner = {jax.tree.structure(one) for one in batch}
        if len(inner) == 1 and not jax.tree_util.treedef_is_leaf(*inner):
            return (
                f"the loss raised {type(error).__name__}: {told}. A list or a tuple is one batch, "
                f"and this one has {len(batch)} parts of one form: if they are batches, put them "
                "together, or stream them from an object whose __iter__ gives one after the other"
            )
    return None


def _same_constants(program: Any, other: Any) -> bool:
    """Whether two traces have the same numbers in them."""
    mine, others = (list(_constants(p)) for p in (program, other))
    pairs = zip(mine, others, strict=False)
    same = (np.array_equal(a, b, equal_nan=a.dtype.kind in "fc") for a, b in pairs)
    return len(mine) == len(others) and all(same)


def _constants(program: Any) -> Iterator[np.ndarray]:
    """What a program closes over, and the numbers that are written into it."""
    for constant in program.consts:
        if not isinstance(constant, jax.core.Tracer):
            key = jnp.issubdtype(jnp.result_type(constant), jax.dtypes.prng_key)
            yield np.asarray(jax.random.key_data(constant) if key else constant)
    for equation in equations(program):
        for variable in equation.invars:
            value = getattr(variable, "val", None)
            if hasattr(value, "dtype") or isinstance(value, int | float | complex):
                yield np.asarray(value)


def _expect_parts(
    loss: Callable[..., Array], params: Any, state: Any, batch: Any, count: int
) -> None:
    """Refuse a loss that a part of the batch cannot be given to."""
    part = jax.tree.map(lambda leaf: leaf[:count], batch)
    try:
        _loss.eval_shape(loss, params, state, part)
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise InputError(
            f"the loss can be computed of all {num_examples(batch)} examples, but not of {count} "
            f"of them ({type(error).__name__}: {first}). Write it for any number of examples, "
            "jnp.arange(len(y)) for jnp.arange(128), so that it can be checked to be their mean; "
            "or pass check=False, and no chunk_size"
        ) from error


def _expect_mean(whole: float, mean: float, size: float, dtype: np.dtype) -> None:
    """Refuse a loss that differs from the mean over its chunks, given that of their sizes."""
    tolerance = max(1e-3, 4 * float(jnp.finfo(dtype).eps))
    if abs(mean - whole) > max(tolerance * max(size, abs(whole)), _ROUNDING):
        raise InputError(
            f"the loss of the whole batch is {whole:.6g}, but the weighted mean over its parts is "
            f"{mean:.6g}: the loss must be a mean over the examples. A sum, a mask without "
            "`weight`, dropout, or batch normalisation in training mode gives this. If it is meant "
            "so, as of losses that compare examples with one another, pass check=False, and no "
            "chunk_size"
        )


def _elsewhere(params: Any) -> Any:
    """Parameters a tenth of their size away, or a tenth from 0, always the same."""
    leaves, structure = jax.tree.flatten(params)
    generator = np.random.default_rng(0)

    def moved(leaf: Any) -> Any:
        if not jnp.issubdtype(jnp.result_type(leaf), np.floating):
            return leaf
        step = 0.1 * generator.standard_normal(jnp.shape(leaf))
        size = jnp.sqrt(jnp.mean(jnp.square(leaf))) if jnp.size(leaf) else 1
        size = jnp.where(size > 0, size, 1)
        return leaf + jnp.asarray(step, jnp.result_type(leaf)) * size

    return jax.tree.unflatten(structure, [moved(leaf) for leaf in leaves])


def check_outputs(model_fn: Callable[..., Array], params: Any, state: Any, batch: Any) -> Any:
    """Shape and type of a model's outputs.

    Raises
    ------
    InputError
        If they are no array with a leading axis of the batch's examples.
    """
    called = "model_fn(params, batch), or model_fn(params, state, batch) with a state"
    with in_words(batch, called):
        outputs = jax.eval_shape(partial(_evaluate, model_fn), params, state, batch)
    length = num_examples(batch)
    shape = getattr(outputs, "shape", None)
    if shape is None or not shape or shape[0] != length:
        found = type(outputs).__name__ if shape is None else f"shape {shape}"
        raise InputError(
            f"model_fn must return one array of outputs with the batch's {length} examples on its "
            f"first axis; got {found}"
        )
    return outputs


def linearize_outputs(
    outputs: Callable[[Any], Array], leaves: Any
) -> tuple[Array, Callable[[Any], Array]]:
    """A model's outputs, and the map v ↦ Jv.

    Where the model has a ``jax.custom_vjp`` inside, which knows of no tangents, J is the transpose
    of its transpose.
    """
    z, push = jax.linearize(outputs, leaves)
    # JAX notices when the map is compiled.
    names = (equation.primitive.name for equation in equations(jax.make_jaxpr(push)(leaves)))
    if "custom_lin" not in names:
        return z, push
    z, pull = jax.vjp(outputs, leaves)
    push = jax.linear_transpose(lambda u: pull(u)[0], z)
    return z, lambda v: push(v)[0]


def linearize_gradient(loss: Callable[[Any], Array], leaves: Any) -> Callable[[Any], Any]:
    """The map v ↦ Hv of a loss of some leaves.

    Raises
    ------
    InputError
        If the loss has a gradient, and no derivative of it.
    """
    try:
        return jax.linearize(jax.grad(loss), leaves)[1]
    except (NotImplementedError, TypeError, ValueError) as error:
        # What is wrong with the loss or its gradient is said as it is: it is raised again here.
        jax.eval_shape(jax.grad(loss), leaves)
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"the loss cannot be differentiated twice: {reason[0]} Kernels that come with a first "
            "derivative of their own, such as fused attention, often have no other: switch them "
            "off (for jax.nn.dot_product_attention with implementation='xla')"
        ) from error


def _evaluate(loss: Callable[..., Any], params: Any, state: Any, batch: Any) -> Any:
    return loss(params, batch) if state is None else loss(params, state, batch)


_loss = jax.jit(_evaluate, static_argnums=0)


@partial(jax.jit, static_argnums=(0, 4, 5))
def _mean_of_chunks(
    loss: Callable[..., Array],
    params: Any,
    state: Any,
    batch: Any,
    weight: Weight | None,
    chunk_size: int,
) -> tuple[Array, Array]:
    """Means over the chunks of their losses and of the losses' absolute values."""

    def both(chunk: Any) -> tuple[Array, Array]:
        value = jnp.asarray(_evaluate(loss, params, state, chunk))
        return value, jnp.abs(value)

    return weighted_mean(both, batch, chunk_size, weight)
