"""How many vectors a product takes at a time.

Side by side, vectors share what is read of the network, and small products become larger ones. On a
CPU that ends where the intermediate results of all of them no longer stay in the caches: each of 16
vectors took 1.4 to 2.3 times as long side by side as one after the other where a vector's
intermediate results had 10 MB and more, and 0.7 times as long where they had 3 MB (residual
networks of 20 layers, two cores). Convolutions go one vector after the other there: side by side
they become grouped ones, for which there is no fast program (470 against 160 ms for each of 4
vectors, ResNet-20). Elsewhere all go side by side.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
from jaxtyping import Array

from landscape._convolutions import convolves
from landscape.curvature.programs import product_bytes

# Intermediate results of all vectors that are taken side by side.
_CACHED_BYTES = 48 * 2**20


def by_lanes(product: Callable[[Array], Array], rows: Array, *, recomputes: bool = False) -> Array:
    """``product`` of each row, (L, P) to (L, M), as many at a time as are fastest.

    Parameters
    ----------
    product
        A linear map, its primal pass done.
    rows
        (L, P).
    recomputes
        The primal pass is not done: the rows share it, and go side by side whatever they store.

    Returns
    -------
    (L, M).
    """
    count, on_cpu = len(rows), jax.default_backend() == "cpu"
    if count == 1:
        as_batch = on_cpu and _gains_an_axis(product, rows)
        return jax.vmap(product)(rows) if as_batch else product(rows[0])[None]
    width = _width(product, rows, recomputes) if on_cpu else count
    if width == count:
        return jax.vmap(product)(rows)
    if width == 1:
        return jax.lax.map(product, rows)
    blocks = rows.reshape(count // width, width, -1)
    return jax.lax.map(jax.vmap(product), blocks).reshape(count, -1)


def in_groups(lanes: Callable[[Array], Array], groups: int) -> Callable[[Array], Array]:
    """``lanes``, a map of (L, P), for each of so many groups of rows by itself.

    The groups are an axis of their own, which can be split among devices.
    """

    def images(rows: Array) -> Array:
        return jax.vmap(lanes)(rows.reshape(groups, -1, rows.shape[-1])).reshape(rows.shape)

    return images if groups > 1 else lanes


def _gains_an_axis(product: Callable[[Array], Array], rows: Array) -> bool:
    """Whether one row is faster as a batch of one.

    XLA then brings products of matrices into the order of axes that its library is fast for: a
    tenth of the time of a product of a residual 20×128 network (jaxlib 0.10.2).
    """
    row = jax.ShapeDtypeStruct(rows.shape[1:], rows.dtype)
    return not convolves(jax.make_jaxpr(product)(row))


def _width(product: Callable[[Array], Array], rows: Array, recomputes: bool) -> int:
    """The largest divisor of the number of rows whose intermediate results are cached."""
    count = len(rows)
    program = jax.make_jaxpr(product)(jax.ShapeDtypeStruct(rows.shape[1:], rows.dtype))
    if convolves(program):
        return 1
    if recomputes:
        return count
    most = _CACHED_BYTES // max(1, product_bytes(program))
    return max(
        width for width in range(1, count + 1) if count % width == 0 and width <= max(1, most)
    )
