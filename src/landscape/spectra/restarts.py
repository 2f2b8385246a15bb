r"""The space that eigenpairs at the ends are found in: Lanczos steps, and thick restarts.

Notation and source as in ``landscape.spectra.extremal``.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from landscape._pytrees import pytree
from landscape.curvature.operators import LinearOperator
from landscape.spectra.lanczos import BREAKDOWN
from landscape.spectra.tiles import (
    combination,
    inner_products,
    joined,
    lengths,
    tile_shape,
    tiled,
)

# Vectors that steps take beside the basis and the product, as XLA's compiler for CPUs tells.
BESIDES = 5

# Numbers of a block that are combined at a time.
_NUMBERS_AT_ONCE = 2**22


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
    return _begun(key, op.shape[0], op.dtype, room)


@partial(jax.jit, static_argnums=(1, 2, 3))
def _begun(key: Array, size: int, dtype: np.dtype, room: int) -> Space:
    start, fresh = jax.random.split(key)
    count, length = tile_shape(size)
    v = tiled(jax.random.normal(start, (1, size), dtype))
    block = jnp.zeros((1, count, room + 1, length), dtype)
    return Space(
        block=_with_row(block, v / lengths(v)[:, None, None], 0),
        projection=jnp.zeros((room + 1, room), dtype),
        filled=jnp.zeros((), jnp.int32),
        scale=jnp.zeros((), dtype),
        key=fresh,
    )


def filled_up(s: np.ndarray, room: int, op: LinearOperator) -> Array:
    """Coordinates of Ritz vectors in all rows of the block, zero where none has been made yet."""
    return jnp.asarray(np.pad(s, ((0, room + 1 - len(s)), (0, 0))), op.dtype)


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
        block=_with_row(space.block, following, row + 1),
        projection=space.projection.at[:, row].set(column),
        filled=row + 1,
        scale=scale,
        key=key,
    )


_grow_compiled = jax.jit(_grow, donate_argnums=0)


def _orthogonal(
    block: Array, tiles: Array, kept: Bool[Array, " rows"] | None = None
) -> tuple[Array, Array]:
    """The vector without its components along (some) rows, and those: two passes are enough."""
    total = jnp.zeros(block.shape[2], block.dtype)
    for _ in range(2):
        found = inner_products(block, tiles)
        found = found if kept is None else jnp.where(kept, found, 0)
        tiles = tiles - combination(found, block)
        total = total + found[0]
    return tiles, total


@partial(jax.jit, donate_argnums=0)
def restart(space: Space, s: Array, theta: Array) -> Space:
    """Keep some Ritz vectors, and the last Lanczos vector behind them."""
    kept = s.shape[1]
    rows, room = space.projection.shape
    last = jax.nn.one_hot(space.filled, rows, dtype=s.dtype)
    block = _combined_in_place(space.block, jnp.concatenate([s, last[:, None]], 1))
    diagonal = jnp.zeros((rows, room), s.dtype)
    diagonal = diagonal.at[jnp.arange(kept), jnp.arange(kept)].set(theta.astype(s.dtype))
    return dataclasses.replace(
        space, block=block, projection=diagonal, filled=jnp.asarray(kept, jnp.int32)
    )


@partial(jax.jit, static_argnums=1, donate_argnums=0)
def start_anew(space: Space, size: int) -> Space:
    """A fresh random vector, orthogonal to those that were kept, in place of the last one."""
    key, fresh = jax.random.split(space.key)
    block = space.block
    v = tiled(jax.random.normal(fresh, (1, size), block.dtype))
    # Left out by its number: were it written over first, the compiler would copy the block.
    kept = jnp.arange(block.shape[2]) != space.filled
    v = _orthogonal(block, v / lengths(v)[:, None, None], kept)[0]
    block = _with_row(block, v / lengths(v)[:, None, None], space.filled)
    return dataclasses.replace(space, block=block, key=key)


def _with_row(block: Array, tiles: Array, row: Array | int) -> Array:
    """In place, where the block is given up."""
    return jax.lax.dynamic_update_slice_in_dim(block, tiles[:, :, None], row, axis=2)


def _combined_in_place(block: Array, s: Array) -> Array:
    """Combinations of the rows in place of the first of them, zero in the others.

    Some tiles at a time: of long vectors a second block would be more than there is memory for.
    """
    count, rows, length = block.shape[1:]
    width = min(count, max(1, _NUMBERS_AT_ONCE // (rows * length)))

    def change(first: Array | int, width: int, block: Array) -> Array:
        tiles = jax.lax.dynamic_slice_in_dim(block, first, width, axis=1)
        empty = ((0, 0), (0, 0), (0, rows - s.shape[1]), (0, 0))
        new = jnp.pad(combine(tiles, s), empty)
        return jax.lax.dynamic_update_slice_in_dim(block, new, first, axis=1)

    def change_some(number: Array, block: Array) -> Array:
        return change(number * width, width, block)

    block = jax.lax.fori_loop(0, count // width, change_some, block)
    rest = count % width
    return change(count - rest, rest, block) if rest else block


@jax.jit
def combine(block: Array, s: Array) -> Array:
    """Combinations of all rows, as a block."""
    spread = jnp.broadcast_to(s, (*block.shape[:2], *s.shape))
    return jnp.einsum("ltrk,ltrp->ltkp", spread, block, precision="highest")
