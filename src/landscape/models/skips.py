"""Skip matrices: what a hidden layer adds to its activation, and how to carry it in a module.

Notation: ``n`` units a layer, column vectors ``x``; a skip matrix ``Q`` adds ``Q x_l`` to layer
``l + 1``. Source: A. E. Orhan and X. Pitkow, *Skip Connections Eliminate Singularities*,
ICLR 2018 (arXiv:1701.09175).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from landscape.errors import InputError


class SkipMatrix:
    """A constant ``n × n`` matrix that compares and hashes by value.

    A Linen module is a static argument of compiled programs and must be hashable; an array is
    not. The values themselves reach the program as the variable ``fixed/skip``, never as constants.

    Parameters
    ----------
    values
        Array-like of shape (n, n), finite.

    Raises
    ------
    InputError
        If the matrix is not square or not finite.
    """

    def __init__(self, values: Any) -> None:
        matrix = np.array(values, dtype=np.float64)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise InputError(f"a skip matrix must be square; got shape {matrix.shape}")
        if not np.isfinite(matrix).all():
            raise InputError("a skip matrix must be finite; it has NaN or infinite entries")
        matrix.setflags(write=False)
        self.values = matrix
        self._hash = hash((matrix.shape, matrix.tobytes()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SkipMatrix) and np.array_equal(self.values, other.values)

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        n = self.values.shape[0]
        return f"SkipMatrix({n}×{n})"


def random_orthogonal(
    key: jax.Array, count: int, width: int, dtype: Any = jnp.float32
) -> Float[Array, "count width width"]:
    """Draw ``count`` orthogonal matrices from the Haar measure.

    Parameters
    ----------
    key
        A JAX random key.
    count, width
        Number of matrices and their size n.
    dtype
        Type of the entries.

    Returns
    -------
    Array of shape (count, n, n). Matrix ``k`` depends on ``key`` and ``k`` alone, so a deeper
    network has the matrices of a shallower one and some more.

    Notes
    -----
    QR of a Gaussian matrix with the signs of R's diagonal moved into Q: F. Mezzadri, *How to
    generate random matrices from the classical compact groups*, Notices of the AMS 54, 2007.

    Examples
    --------
    >>> q = random_orthogonal(jax.random.key(0), 3, 4)[2]
    >>> bool(jnp.allclose(q @ q.T, jnp.eye(4), atol=1e-6))
    True
    """

    def draw(k: Array) -> Array:
        gaussian = jax.random.normal(jax.random.fold_in(key, k), (width, width), dtype)
        q, r = jnp.linalg.qr(gaussian)
        diagonal = jnp.diagonal(r)
        return q * jnp.where(diagonal < 0, -1, 1).astype(dtype)[None, :]

    return jax.vmap(draw)(jnp.arange(count))
