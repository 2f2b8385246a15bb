"""Long vectors in tiles, and products of many with one.

Notation: L lanes, vectors of P numbers in T tiles of p each, the last one filled up with zeros; a
block holds r rows a lane as tiles of all rows, (L, T, r, p).

Products of a block with a vector add up the numbers of one tile at a time. Products with whole rows
of 0.7 M numbers take as long, and were in error by 40 to 90 units of rounding on a CPU, where tiles
leave 3 (``benchmarks/tiling.py``): orthogonality was lost again after two steps instead of five.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

# Most numbers in a tile, and what the length of one of several is a multiple of: of the numbers of
# devices that usually share a basis.
TILE, SHARED = 8192, 64


def tile_shape(size: int) -> tuple[int, int]:
    """Number T and length p of the tiles of a vector."""
    count = -(-size // TILE)
    length = -(-size // count)
    return count, length if count == 1 else -(-length // SHARED) * SHARED


def tiled(vectors: Float[Array, "L P"]) -> Float[Array, "L T p"]:
    """Vectors in tiles."""
    lanes, size = vectors.shape
    count, length = tile_shape(size)
    return jnp.pad(vectors, ((0, 0), (0, count * length - size))).reshape(lanes, count, length)


def joined(tiles: Float[Array, "L T p"], size: int) -> Float[Array, "L P"]:
    """The inverse of ``tiled``."""
    return tiles.reshape(len(tiles), -1)[:, :size]


def block_of(rows: Float[Array, "L r P"]) -> Float[Array, "L T r p"]:
    """Rows as a block."""
    lanes, count, size = rows.shape
    tiles = tiled(rows.reshape(-1, size))
    return jnp.swapaxes(tiles.reshape(lanes, count, *tiles.shape[1:]), 1, 2)


def rows_of(block: Float[Array, "L T r p"], size: int) -> Float[Array, "L r P"]:
    """The inverse of ``block_of``."""
    rows = jnp.swapaxes(block, 1, 2)
    return rows.reshape(*rows.shape[:2], -1)[..., :size]


def inner_products(
    block: Float[Array, "L T r p"], tiles: Float[Array, "L T p"]
) -> Float[Array, "L r"]:
    """Inner products of each lane's vector with its rows."""
    return jnp.einsum("ltrp,ltp->ltr", block, tiles, precision="highest").sum(1)


def combination(
    coefficients: Float[Array, "L r"], block: Float[Array, "L T r p"]
) -> Float[Array, "L T p"]:
    """Each lane's rows times their coefficients, added up."""
    # A copy of the coefficients for each tile makes it a product of matrices for each, and fast.
    spread = jnp.broadcast_to(coefficients[:, None], block.shape[:3])
    return jnp.einsum("ltr,ltrp->ltp", spread, block, precision="highest")


def inner(first: Float[Array, "L T p"], second: Float[Array, "L T p"]) -> Float[Array, " L"]:
    """Inner products lane by lane."""
    return jnp.einsum("ltp,ltp->lt", first, second, precision="highest").sum(-1)


def lengths(tiles: Float[Array, "L T p"]) -> Float[Array, " L"]:
    """Norms lane by lane."""
    return jnp.sqrt(inner(tiles, tiles))


def nonzero(lengths: Array) -> Array:
    """Lengths to divide by: 1 for those that are zero."""
    return jnp.where(lengths > 0, lengths, 1)


def remove(
    block: Float[Array, "L T r p"], tiles: Float[Array, "L T p"]
) -> tuple[Float[Array, "L T p"], Float[Array, "L r"]]:
    """The vectors without their components along the rows, which are orthonormal, and those."""
    found = inner_products(block, tiles)
    return tiles - combination(found, block), found
