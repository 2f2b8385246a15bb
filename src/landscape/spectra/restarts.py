r"""The space that eigenpairs at the ends are found in: Lanczos steps, and thick restarts.

Notation and source as in ``landscape.spectra.extremal``.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from landscape._pytrees import pytree
from landscape.curvature.operators import LinearOperator
from landscape.spectra.lanczos import BREAKDOWN
from landscape.spectra.tiles import joined, lengths, remove, tile_shape, tiled


@pytree
@dataclasses.dataclass(frozen=True)
class Space:
    """A basis in construction: rows of Q, the next one included, and ``Q A Qᵀ`` by columns."""

    block: Float[Array, "1 T rows p"]
    projection: Float[Array, "rows room"]
    filled: Int[Array, ""]
    scale: Float[Array, ""]
    key: Array


def begin(op: LinearOperator, key: Array, room: int) -> Space:
    """A space of one random vector, with room for so many."""
    start, fresh = jax.random.split(key)
    count, length = tile_shape(op.shape[0])
    v = tiled(jax.random.normal(start, (1, op.shape[0]), op.dtype))
    block = jnp.zeros((1, count, room + 1, length), op.dtype)
    return Space(
        block=block.at[:, :, 0].set(v / lengths(v)[:, None, None]),
        projection=jnp.zeros((room + 1, room), op.dtype),
        filled=jnp.zeros((), jnp.int32),
        scale=jnp.zeros((), op.dtype),
        key=fresh,
    )


def filled_up(s: np.ndarray, room: int, op: LinearOperator) -> Array:
    """Coordinates of Ritz vectors in the whole basis, zero where none has been made yet."""
    return jnp.asarray(np.pad(s, ((0, room - len(s)), (0, 0))), op.dtype)


def extend(op: LinearOperator, space: Space, stop: int) -> Space:
    """Make Lanczos steps until the basis holds so many vectors."""
    if op.traceable:
        return _extend_compiled(op, space, stop)
    for row in range(int(space.filled), stop):
        space = _grow_compiled(space, op.matvec(_row(space, row, op.shape[0])))
    return space


@partial(jax.jit, donate_argnums=1)
def _extend_compiled(op: LinearOperator, space: Space, stop: Array | int) -> Space:
    product = op._products()

    def unfinished(space: Space) -> Array:
        return space.filled < stop

    def step(space: Space) -> Space:
        return _grow(space, product(_row(space, space.filled, op.shape[0])))

    return jax.lax.while_loop(unfinished, step, space)


def _row(space: Space, row: Array | int, size: int) -> Array:
    return joined(space.block[:, :, row], size)[0]


def _grow(space: Space, image: Array) -> Space:
    """One step, given the image of the last vector."""
    row = space.filled
    rest, column = _orthogonal(space.block, tiled(image[None]))
    length = lengths(rest)[0]
    scale = jnp.maximum(space.scale, jnp.linalg.norm(column) + length)
    exhausted = length <= BREAKDOWN * jnp.finfo(rest.dtype).eps * scale
    key, fresh = jax.random.split(space.key)

    def begin_anew(rest: Array) -> Array:
        v = tiled(jax.random.normal(fresh, (1, len(image)), rest.dtype))
        return _orthogonal(space.block, v / lengths(v)[:, None, None])[0]

    rest = jax.lax.cond(exhausted, begin_anew, lambda rest: rest, rest)
    norm = lengths(rest)[0]
    following = rest / jnp.where(norm > 0, norm, 1)
    column = column.at[row + 1].set(jnp.where(exhausted, 0, length))
    return Space(
        block=space.block.at[:, :, row + 1].set(following),
        projection=space.projection.at[:, row].set(column),
        filled=row + 1,
        scale=scale,
        key=key,
    )


_grow_compiled = jax.jit(_grow, donate_argnums=0)


def _orthogonal(block: Array, tiles: Array) -> tuple[Array, Array]:
    """The vector without its components along the rows, and those: two passes are enough."""
    total = jnp.zeros(block.shape[2], block.dtype)
    for _ in range(2):
        tiles, found = remove(block, tiles)
        total = total + found[0]
    return tiles, total


@partial(jax.jit, donate_argnums=0)
def restart(space: Space, s: Array, theta: Array) -> Space:
    """Keep some Ritz vectors, and the last Lanczos vector behind them."""
    kept = s.shape[1]
    rows, room = space.projection.shape
    last = space.block[:, :, space.filled]
    block = jnp.zeros_like(space.block)
    block = block.at[:, :, :kept].set(combine(space.block, s))
    block = block.at[:, :, kept].set(last)
    diagonal = jnp.zeros((rows, room), s.dtype)
    diagonal = diagonal.at[jnp.arange(kept), jnp.arange(kept)].set(theta.astype(s.dtype))
    return dataclasses.replace(
        space, block=block, projection=diagonal, filled=jnp.asarray(kept, jnp.int32)
    )


@partial(jax.jit, static_argnums=1, donate_argnums=0)
def start_anew(space: Space, size: int) -> Space:
    """A fresh random vector, orthogonal to those that were kept, in place of the last one."""
    key, fresh = jax.random.split(space.key)
    block = space.block.at[:, :, space.filled].set(0)
    v = tiled(jax.random.normal(fresh, (1, size), block.dtype))
    v = _orthogonal(block, v / lengths(v)[:, None, None])[0]
    block = block.at[:, :, space.filled].set(v / lengths(v)[:, None, None])
    return dataclasses.replace(space, block=block, key=key)


@jax.jit
def combine(block: Array, s: Array) -> Array:
    """Ritz vectors as a block."""
    spread = jnp.broadcast_to(s, (*block.shape[:2], *s.shape))
    rows = block[:, :, : s.shape[0]]
    return jnp.einsum("ltrk,ltrp->ltkp", spread, rows, precision="highest")
