"""Batches as pytrees whose leaves share a leading axis, and their division into chunks.

Notation: ``N`` examples; a chunk holds ``c`` of them, the last one may hold fewer. A mean over the
data is the mean over chunks weighted by their count, or by the user's weight, so a ragged last
chunk changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from landscape.curvature.parameters import path_name
from landscape.errors import InputError

Weight = Callable[[Any], Array]


def as_arrays(**trees: Any) -> tuple[Any, ...]:
    """Pytrees of JAX arrays, in the order given.

    Raises
    ------
    InputError
        If a leaf is none, and cannot be made one, by its name.
    """

    def convert(path: tuple[Any, ...], leaf: Any) -> Array:
        try:
            return jnp.asarray(leaf)
        except (TypeError, ValueError):
            name, *inside = path
            kind = getattr(leaf, "dtype", None)
            found = f"an array of {kind}" if kind is not None else f"a {type(leaf).__name__}"
            where = f" at {path_name(tuple(inside))}" if inside else ""
            raise InputError(
                f"{path_name((name,))} must be a pytree of numeric arrays; got {found}{where}. "
                "What is no array belongs into the function"
            ) from None

    converted = jax.tree_util.tree_map_with_path(convert, trees)
    return tuple(converted[name] for name in trees)


def num_examples(batch: Any) -> int:
    """N of a batch.

    Raises
    ------
    InputError
        If the leaves disagree, one has no axis, or N = 0.
    """
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(batch)]
    lengths = {shape[0] if shape else None for shape in shapes}
    if not shapes or None in lengths or len(lengths) != 1:
        raise InputError(
            "the leaves of a batch must share a leading axis of examples; got shapes "
            f"{', '.join(map(str, shapes)) or 'of an empty pytree'}"
        )
    (length,) = lengths
    if not length:
        raise InputError("the batch is empty: its leading axis has length 0")
    return int(length)


def weighted_mean(
    function: Callable[[Any], Any], batch: Any, chunk_size: int, weight: Weight | None
) -> Any:
    """Mean of ``function(chunk)`` over the chunks of a batch, weighted by what each stands for.

    Parameters
    ----------
    function
        From a chunk to a pytree of arrays, each a mean over the chunk's examples.
    batch
        N examples.
    chunk_size
        Examples per chunk; the last may have fewer.
    weight
        From a chunk to the scalar it counts for; None counts its examples.

    Returns
    -------
    What ``function`` returns, averaged. Chunks are scanned, so memory is that of one.
    """

    def accumulate(total: Any, chunk: Any) -> Any:
        count = weigh(chunk, weight)
        value = jax.tree.map(lambda x: count.astype(_wide(x)) * x, function(chunk))
        return jax.tree.map(jnp.add, total, (value, count))

    total_count = num_examples(batch)
    full = total_count // chunk_size
    head = jax.tree.map(
        lambda x: x[: full * chunk_size].reshape(full, chunk_size, *x.shape[1:]), batch
    )
    shapes = jax.eval_shape(
        function, jax.tree.map(lambda x: x[: min(chunk_size, total_count)], batch)
    )
    zero = (
        jax.tree.map(lambda x: jnp.zeros(x.shape, _wide(x)), shapes),
        jnp.zeros((), jax.eval_shape(lambda b: weigh(b, weight), batch).dtype),
    )
    total, _ = jax.lax.scan(lambda carry, chunk: (accumulate(carry, chunk), None), zero, head)
    if total_count % chunk_size:
        total = accumulate(total, jax.tree.map(lambda x: x[full * chunk_size :], batch))
    value, count = total
    mean = jax.tree.map(lambda x: x / count.astype(x.dtype), value)
    return jax.tree.map(lambda x, like: x.astype(like.dtype), mean, shapes)


def _wide(array: Any) -> np.dtype:
    """Type for sums over examples, of which narrower ones than float32 hold too few."""
    return jnp.promote_types(array.dtype, jnp.float32)


def weigh(chunk: Any, weight: Weight | None) -> Array:
    """What a chunk counts for in the mean."""
    if weight is None:
        # Exact in float32 up to 2²⁴ examples; the default float is float64 where that is enabled.
        return jnp.asarray(num_examples(chunk), jnp.result_type(float))
    return jnp.asarray(weight(chunk))
