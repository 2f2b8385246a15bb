"""A basis in blocks of rows, and block Gram–Schmidt against some of them.

Notation: L lanes, R rows in blocks of r; vectors are in tiles, (L, T, p), and a block is
(L, T, r, p) (``tiles``).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from landscape.spectra.tiles import inner, lengths, nonzero, remove, tile_shape

# The basis is kept in blocks of rows, each an array of its own: a slice of one large array would be
# copied before it is multiplied (1.7 times the time of a sweep, on a CPU). Four blocks of a size,
# then four of twice the size: a sweep is one branch per block of the compiled program, and these
# sizes keep their number at 4 log₂(m/32) while few unfilled rows are touched.
BLOCKS_OF_A_SIZE = 4

# From rows that are orthogonal up to √u so much, in units of it, is taken by one pass.
_TAKEN = 100.0

# Rows in the smallest block, and of what losses of orthogonality are looked at together.
PANEL = 16


def block_sizes(capacity: int) -> tuple[int, ...]:
    """Rows of each block of a basis with room for so many steps."""
    sizes: list[int] = []
    while sum(sizes) < capacity:
        sizes.append(PANEL * 2 ** (len(sizes) // BLOCKS_OF_A_SIZE))
    return tuple(sizes)


def empty_block(like: Array, rows: int) -> Array:
    """A block of so many rows, for vectors like these."""
    lanes, size = like.shape
    count, length = tile_shape(size)
    return jnp.zeros((lanes, count, rows, length), like.dtype)


def first_rows(basis: tuple[Array, ...]) -> np.ndarray:
    """Number of the first row of each block."""
    return np.cumsum([0, *(block.shape[2] for block in basis)])[:-1]


def store(
    basis: tuple[Array, ...], vectors: Float[Array, "L T p"], row: Int[Array, ""]
) -> tuple[Array, ...]:
    """The basis with one more row. Each block is written in place, or left alone."""

    def write(block: Array, at: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(block, vectors[:, :, None], at, axis=2)

    return tuple(
        jax.lax.cond(
            (row >= first) & (row < first + block.shape[2]),
            write,
            lambda block, at: block,
            block,
            row - first,
        )
        for block, first in zip(basis, first_rows(basis).tolist(), strict=True)
    )


def sweep_twice(
    basis: tuple[Array, ...],
    vectors: tuple[Array, Array],
    reading: Bool[Array, " b"],
    both: Bool[Array, ""] | None,
) -> tuple[tuple[Array, Array], Array, Array]:
    """Each lane's first vector, or both, made orthogonal to the rows of some blocks; in tiles.

    Returns the vectors, the overlaps of the first with the rows before, (L, R), and how many rows
    were read. A second pass is made if the first took too much of the norm of the first vector; of
    rows that are orthogonal up to √u only, where ``both`` is given, if it took more than that from
    them: one pass leaves up to √u of what it took.
    """
    sizes = jnp.asarray([block.shape[2] for block in basis], jnp.float32)
    shape = (basis[0].shape[0], sum(block.shape[2] for block in basis))
    before = lengths(vectors[0])

    def unfinished(carry: tuple[Array, Any, Any]) -> Array:
        passes, vectors, overlaps = carry
        lost = lengths(vectors[0]) < before / jnp.sqrt(2.0)
        if both is not None:
            root = float(jnp.finfo(overlaps.dtype).eps / 2) ** 0.5
            lost |= jnp.linalg.norm(overlaps, axis=-1) > _TAKEN * root * before
        return (passes == 0) | ((passes == 1) & jnp.any(lost))

    def once(carry: tuple[Array, Any, Any]) -> tuple[Array, Any, Any]:
        passes, vectors, overlaps = carry
        vectors, found = _sweep(basis, vectors, reading, both)
        return passes + 1, vectors, jnp.where(passes == 0, found, overlaps)

    def sweeps(start: tuple[Array, Any, Any]) -> tuple[Array, Any, Any]:
        passes, (first, second), overlaps = jax.lax.while_loop(unfinished, once, start)
        if both is not None:
            second = second / nonzero(lengths(second))[:, None, None]
            first = first - inner(first, second)[:, None, None] * second
        return passes, (first, second), overlaps

    start = (jnp.zeros((), jnp.int32), vectors, jnp.zeros(shape, vectors[0].dtype))
    # Inside a branch the loop works on the basis where it lies; outside, it would copy it.
    passes, vectors, overlaps = jax.lax.cond(reading.any(), sweeps, lambda start: start, start)
    return vectors, overlaps, passes * jnp.sum(jnp.where(reading, sizes, 0))


def _sweep(
    basis: tuple[Array, ...],
    vectors: tuple[Array, Array],
    reading: Bool[Array, " b"],
    both: Bool[Array, ""] | None,
) -> tuple[tuple[Array, Array], Array]:
    """One pass of block Gram–Schmidt against some blocks of rows, and the first's overlaps."""

    def read(block: Array, first: Array, second: Array) -> tuple[Array, Array, Array]:
        rest, overlaps = remove(block, first)
        # One after the other: as two columns of one product they take no less time on a CPU, and
        # more for blocks of 16 rows (``benchmarks/tiling.py``).
        if both is not None:
            second = jax.lax.cond(both, lambda x: remove(block, x)[0], lambda x: x, second)
        return rest, second, overlaps

    def leave(block: Array, first: Array, second: Array) -> tuple[Array, Array, Array]:
        return first, second, jnp.zeros((block.shape[0], block.shape[2]), block.dtype)

    first, second = vectors
    found = []
    for block, wanted in zip(basis, reading, strict=True):
        first, second, overlaps = jax.lax.cond(wanted, read, leave, block, first, second)
        found.append(overlaps)
    return (first, second), jnp.concatenate(found, -1)
