"""Arrays side by side, written to their places, under ``jax.vmap`` too.

On a CPU XLA's loop for a concatenation, and for what JAX makes of ``dynamic_update_slice`` when it
maps over it (a scatter), loads with a mask at addresses outside of each part. Where nothing happens
to be mapped there, a processor with AVX-512 takes 60 times as long over it: a product of a residual
20×128 network with ten vectors took 0.2 or 1.8 s, by chance (jaxlib 0.10.2, AMD EPYC). An update in
place reads nothing outside. So this is a primitive of its own, whose rule for mapping makes the
same updates of arrays with one more axis.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array


def side_by_side(parts: Sequence[Array]) -> Array:
    """Arrays of one type as one along their last axis, ``jnp.concatenate(parts, -1)``.

    Parameters
    ----------
    parts
        (…, n_i) each.

    Returns
    -------
    (…, Σ n_i)
    """
    return _side_by_side.bind(*parts)


def _write(*parts: Array) -> Array:
    *lead, _ = parts[0].shape
    flat = jnp.zeros((*lead, sum(part.shape[-1] for part in parts)), parts[0].dtype)
    # XLA makes a pad of the first update, which is such a loop again, unless it is kept from it.
    flat = jax.lax.optimization_barrier(flat)
    for part, start in zip(parts, _starts(parts), strict=True):
        flat = jax.lax.dynamic_update_slice(flat, part, (*[0] * len(lead), start))
    return flat


def _starts(parts: Sequence[Any]) -> list[int]:
    return [0, *itertools.accumulate(part.shape[-1] for part in parts)][:-1]


def _shape(*parts: Any) -> Any:
    *lead, _ = parts[0].shape
    return parts[0].update(shape=(*lead, sum(part.shape[-1] for part in parts)))


def _transposed(cotangent: Any, *parts: Any) -> list[Any]:
    """Each part of a cotangent, of those that are differentiated."""
    avals = [part.aval for part in parts]
    return [
        cotangent[..., start : start + aval.shape[-1]]
        if ad.is_undefined_primal(part) and not isinstance(cotangent, ad.Zero)
        else None
        for part, aval, start in zip(parts, avals, _starts(avals), strict=True)
    ]


def _mapped(parts: Sequence[Array], axes: Sequence[int | None]) -> tuple[Array, int]:
    """The same, with the mapped axis in front."""
    size = next(
        part.shape[axis] for part, axis in zip(parts, axes, strict=True) if axis is not None
    )
    fronted = [
        jnp.broadcast_to(part, (size, *part.shape)) if axis is None else jnp.moveaxis(part, axis, 0)
        for part, axis in zip(parts, axes, strict=True)
    ]
    return side_by_side(fronted), 0


_side_by_side = Primitive("side_by_side")
_side_by_side.def_impl(jax.jit(_write))
_side_by_side.def_abstract_eval(_shape)
ad.deflinear2(_side_by_side, _transposed)
batching.primitive_batchers[_side_by_side] = _mapped
mlir.register_lowering(_side_by_side, mlir.lower_fun(_write, multiple_results=False))
