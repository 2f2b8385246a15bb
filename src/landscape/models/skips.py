"""Skip matrices: what a hidden layer adds to its activation, and how to carry it in a module.

Notation: ``n`` units a layer, column vectors ``x``; a skip matrix ``Q`` adds ``Q x_l`` to layer
``l + 1``. Source: A. E. Orhan and X. Pitkow, *Skip Connections Eliminate Singularities*,
ICLR 2018 (arXiv:1701.09175). Of the families there (repeated columns, eigenvalues on the unit
circle) these are members of our choice.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from landscape._decompositions import one_by_one
from landscape.errors import InputError

# Where the angles of eigenvalues on the unit circle lie, and the largest singular value beside
# them: beyond it the eigenvalues of a float64 matrix could not be told to 8 digits.
_ANGLES = (0.1, np.pi - 0.1)
LARGEST = 1e4


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
        q, diagonal = _orthogonalised(gaussian)
        return q * jnp.where(diagonal < 0, -1, 1).astype(dtype)[None, :]

    return jax.vmap(draw)(jnp.arange(count))


@one_by_one
def _orthogonalised(matrix: Array) -> tuple[Array, Array]:
    """Q, and the diagonal of R."""
    q, r = jnp.linalg.qr(matrix)
    return q, jnp.diagonal(r)


def repeated_orthogonal(
    key: jax.Array, width: int, num_distinct: int, dtype: Any = jnp.float32
) -> Float[Array, "width width"]:
    """A matrix of few distinct orthonormal columns, repeated in turn.

    Parameters
    ----------
    key
        A JAX random key.
    width
        Size n.
    num_distinct
        Distinct columns d, from 1 to n. With d = n/2, n/4, … the first half of the columns is
        copied onto the second half, again and again; the same key gives the same first columns
        whatever d is. With d = n the matrix is orthogonal.
    dtype
        Type of the entries.

    Returns
    -------
    (n, n); column i is column ``i mod d``.

    Raises
    ------
    InputError
        If there are not between 1 and n distinct columns.

    Examples
    --------
    >>> q = repeated_orthogonal(jax.random.key(0), 4, 2)
    >>> abs((q.T @ q).round(5)).astype(int).tolist()
    [[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]]
    """
    if not 1 <= num_distinct <= width:
        raise InputError(f"between 1 and {width} columns can be distinct; got {num_distinct}")
    return random_orthogonal(key, 1, width, dtype)[0][:, np.arange(width) % num_distinct]


def unit_circle(
    key: jax.Array, width: int, tau: float, dtype: Any = jnp.float32
) -> Float[Array, "width width"]:
    r"""A matrix whose eigenvalues lie on the unit circle, and whose singular values spread.

    Parameters
    ----------
    key
        A JAX random key.
    width
        Size n.
    tau
        τ ≥ 0: ``QQᵀ`` has the eigenvalues ``λ_i ∝ exp(−τ(i − 1))``, i = 1 … n, of product 1. With
        τ = 0 the matrix is orthogonal.
    dtype
        Type of the entries.

    Returns
    -------
    (n, n).

    Raises
    ------
    InputError
        If τ is negative or not finite, or the largest singular value exceeds 10⁴.

    Notes
    -----
    The singular values ``s_i = √λ_i`` come in pairs of product 1, i and n + 1 − i. For each pair
    ``D R(γ)``, ``D = diag(s, 1/s)`` and R a rotation, has determinant 1 and trace
    ``(s + 1/s) cos γ``; with ``cos γ = 2 cos φ / (s + 1/s)`` its eigenvalues are ``exp(±iφ)``. The
    angles φ are uniform on [0.1, π − 0.1], as a pair of real eigenvalues would be defective; an odd
    one out is ±1, and the block diagonal matrix is turned by a random orthogonal one.

    Examples
    --------
    >>> q = unit_circle(jax.random.key(0), 5, 0.3)
    >>> abs(np.linalg.eigvals(q)).round(4).tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    if not (np.isfinite(tau) and tau >= 0):
        raise InputError(f"tau must be finite and not negative; got {tau!r}")
    largest = np.exp(tau * (width - 1) / 4)
    if largest > LARGEST:
        raise InputError(
            f"with tau = {tau} the largest singular value of a {width}×{width} matrix is "
            f"{largest:.1e}; tau = {4 * np.log(LARGEST) / (width - 1):.3g} is the most that can "
            f"be had, with {LARGEST:.0e}"
        )
    turn_key, angle_key, sign_key = jax.random.split(key, 3)
    first = 2 * np.arange(width // 2)
    s = jnp.asarray(np.exp(tau * (width - 1 - first) / 4), dtype)
    angles = jax.random.uniform(angle_key, s.shape, dtype, *_ANGLES)
    cosine = 2 * jnp.cos(angles) / (s + 1 / s)
    sine = jnp.sqrt(1 - cosine**2)
    blocks = jnp.zeros((width, width), dtype)
    if width % 2:
        blocks = blocks.at[-1, -1].set(jax.random.rademacher(sign_key, (), dtype))
    blocks = blocks.at[first, first].set(s * cosine).at[first, first + 1].set(-s * sine)
    blocks = blocks.at[first + 1, first].set(sine / s).at[first + 1, first + 1].set(cosine / s)
    turn = random_orthogonal(turn_key, 1, width, dtype)[0]
    return jnp.matmul(jnp.matmul(turn, blocks, precision="highest"), turn.T, precision="highest")


KINDS = ("orthogonal", "repeated", "unit circle")


@dataclasses.dataclass(frozen=True)
class RandomSkip:
    """A skip matrix that each network draws for itself at its initialisation.

    Attributes
    ----------
    kind
        ``"orthogonal"`` (Haar measure), ``"repeated"`` or ``"unit circle"``.
    num_distinct
        Of ``"repeated"``, see ``repeated_orthogonal``.
    tau
        Of ``"unit circle"``, see ``unit_circle``.

    Examples
    --------
    >>> RandomSkip("unit circle", tau=0.1).draw(jax.random.key(0), 4).shape
    (4, 4)
    """

    kind: str = "orthogonal"
    num_distinct: int | None = None
    tau: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"kind must be one of {', '.join(KINDS)}; got {self.kind!r}")
        for name, kind in (("num_distinct", "repeated"), ("tau", "unit circle")):
            if (getattr(self, name) is None) == (self.kind == kind):
                raise InputError(f"{name} belongs to {kind!r} skips, and they need it")

    def draw(self, key: jax.Array, width: int, dtype: Any = jnp.float32) -> Array:
        """Draw a matrix.

        Parameters
        ----------
        key
            A JAX random key.
        width
            Size n.
        dtype
            Type of the entries.

        Returns
        -------
        (n, n).
        """
        if self.num_distinct is not None:
            return repeated_orthogonal(key, width, self.num_distinct, dtype)
        if self.tau is not None:
            return unit_circle(key, width, self.tau, dtype)
        return random_orthogonal(key, 1, width, dtype)[0]
