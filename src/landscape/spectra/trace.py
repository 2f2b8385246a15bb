r"""Trace, Frobenius norm and diagonal of an operator, from products with random vectors.

Notation: symmetric ``A``, ``P × P``; probes ``v`` with independent random signs, so that
``E vvᵀ = I``; ``n`` of them. Then ``vᵀAv`` has the mean ``tr A``, ``‖Av‖²`` the mean
``‖A‖_F²``, and the entries of ``v ∘ Av`` the means ``A_ii``. The variances come from the entries
off the diagonal alone: ``2 Σ_{i≠j} A_ij²`` for the trace, ``Σ_{j≠i} A_ij²`` for entry i.

A spectrum with a few outliers is split first. Let ``Q`` (P × k) hold an orthonormal basis of
``AS``, S Gaussian, ``M = QᵀAQ`` and ``Π = I − QQᵀ``. For a symmetric A

    ``A = QQᵀA + AQQᵀ − QMQᵀ + ΠAΠ``,

whatever Q is: the first three terms are known from the products ``AQ``, and only the last is left
to probes. The identity does not ask for orthonormal columns, so rounding in Q biases nothing.
A third of the products goes to each of AS, AQ and the probes.

Sources: M. F. Hutchinson, *A stochastic estimator of the trace of the influence matrix for
Laplacian smoothing splines*, Commun. Stat. Simul. Comput. 18, 1989; R. A. Meyer, C. Musco,
C. Musco and D. P. Woodruff, *Hutch++: Optimal stochastic trace estimation*, SOSA 2021; C. Bekas,
E. Kokiopoulou and Y. Saad, *An estimator for the diagonal of a matrix*, Appl. Numer. Math. 57,
2007; R. A. Baston and Y. Nakatsukasa, *Stochastic diagonal estimation: probabilistic bounds and an
improved algorithm*, arXiv:2201.10684, 2022 (the split for the diagonal; here with Π on both sides,
which symmetry allows and which leaves less to the probes).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.special import stdtrit

from landscape._pytrees import pytree
from landscape.curvature.memory import device_memory, readable
from landscape.curvature.noise import expect_symmetric
from landscape.curvature.operators import LinearOperator
from landscape.curvature.preconditions import (
    expect_integer,
    expect_key,
    expect_level,
    expect_positive,
    expect_single,
    not_finite,
)
from landscape.errors import InputError, ResourceError
from landscape.results import Result

METHODS = ("hutch++", "hutchinson")

# Smallest budgets: two probes, the least that have a standard deviation, and for Hutch++ one
# product for the sketch and one for what it captures.
_LEAST = {"hutch++": 4, "hutchinson": 2}

# Bytes that the vectors of one product may take, and as many its images; and the most columns. On a
# CPU a product with one takes longer per column, and so does one with many: 31, 25, 29, 36 ms with
# 1, 4, 8, 32 columns (residual 20×128 network, P = 709,652, batch 500; 12, 7.6, 7.4, 9.2 ms at
# P = 130,580).
_BLOCK_BYTES = 2**27
_BLOCK_COLUMNS = {"cpu": 8}
_MANY_COLUMNS = 128

# Rows of Q that are in float64 at a time.
_ROWS = 2**16


@pytree
@dataclasses.dataclass(frozen=True)
class Estimate(Result):
    """A number, or a vector of them, from random probes.

    Attributes
    ----------
    value
        () or (P,).
    stderr
        Of the same shape: the probes' sample standard deviation over √n; 0 for an exact answer. It
        covers the probes, not the rounding of the products, and with few probes it is itself
        uncertain: see ``confidence_interval``. Two or three probes of a matrix with few entries off
        the diagonal can agree by chance, and then it is 0 or nearly.
    num_matvecs
        Products with the operator that were spent.
    num_probes
        n, those that the standard error comes from; 0 for an exact answer.
    method
        ``"hutch++"``, ``"hutchinson"`` or ``"exact"``.
    """

    value: Float[np.ndarray, "*shape"]
    stderr: Float[np.ndarray, "*shape"]
    num_matvecs: int
    num_probes: int
    method: str

    def confidence_interval(
        self, level: float = 0.95
    ) -> tuple[Float[np.ndarray, "*shape"], Float[np.ndarray, "*shape"]]:
        """Where the true value lies, by Student's law with n − 1 degrees of freedom.

        Parameters
        ----------
        level
            Probability with which the interval covers it, for samples that are near normal; of a
            vector, entry by entry.

        Returns
        -------
        low, high
            Of the value's shape; both the value itself for an exact answer.

        Raises
        ------
        InputError
            If the level is not between 0 and 1.
        """
        expect_level(level)
        if not self.num_probes:
            return self.value, self.value
        half = stdtrit(self.num_probes - 1, (1 + level) / 2) * self.stderr
        return np.asarray(self.value - half), np.asarray(self.value + half)

    def __repr__(self) -> str:
        how = f"{self.method}, {self.num_matvecs} product{'s' if self.num_matvecs != 1 else ''}"
        if self.value.ndim:
            mean, error = self.value.mean(), np.sqrt(np.mean(self.stderr**2))
            return f"Estimate(shape {self.value.shape}, mean {mean:.6g}, each ±{error:.1e}, {how})"
        return f"Estimate({self.value:.6g} ± {self.stderr:.1e}, {how})"


def trace(
    op: LinearOperator,
    key: Array,
    *,
    method: str = "hutch++",
    num_matvecs: int,
    block_size: int | None = None,
) -> Estimate:
    """Estimate the sum of the eigenvalues; without bias.

    Parameters
    ----------
    op
        Symmetric operator, (P, P).
    key
        JAX random key; probe ``i`` depends on the key and ``i`` alone.
    method
        ``"hutch++"`` captures ``⌊num_matvecs/3⌋`` leading directions first and is exact for a
        matrix of no higher rank; it keeps as many vectors of length P. ``"hutchinson"`` keeps none,
        and is as good where no few eigenvalues dominate.
    num_matvecs
        Products to spend, at least 4 with ``"hutch++"`` and 2 with ``"hutchinson"``. From P on the
        answer is exact, by P products with the identity.
    block_size
        Columns per product: fewer need less memory. Default up to 8 on a CPU and 128 elsewhere,
        while the columns take no more than 128 MiB.

    Returns
    -------
    Estimate, of shape ().

    Raises
    ------
    InputError
        If the operator is not square or is a family, a product is NaN or infinite, the method is
        unknown, or the budget or block size too small.
    ResourceError
        If the directions that ``"hutch++"`` keeps do not fit in memory.

    Examples
    --------
    >>> from landscape.curvature import DiagonalOperator
    >>> op = DiagonalOperator(jnp.array([3.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]))
    >>> trace(op, jax.random.key(0), num_matvecs=8)
    Estimate(5 ± 0.0e+00, exact, 8 products)
    >>> estimate = trace(op, jax.random.key(0), num_matvecs=6)
    >>> print(f"{estimate.value:.4f}")  # rank 2: two directions are all there is
    5.0000
    """
    plan = _plan(op, key, method, num_matvecs, block_size)
    if plan.method == "exact":
        return _exact(op, _exact_diagonal(op, plan).sum())
    sketch_key, probe_key = jax.random.split(key)
    basis, known, _ = _captured(op, sketch_key, plan)
    samples = (_inner(probe, image) for _, probe, image in _probed(op, probe_key, basis, plan))
    rest, stderr = _mean_and_stderr(samples)
    return Estimate(np.asarray(known.sum() + rest), stderr, num_matvecs, plan.num_probes, method)


def diagonal(
    op: LinearOperator,
    key: Array,
    *,
    method: str = "hutch++",
    num_matvecs: int,
    block_size: int | None = None,
) -> Estimate:
    """Estimate the diagonal entries; without bias.

    Parameters
    ----------
    op
        Symmetric operator, (P, P).
    key, method, num_matvecs, block_size
        As for ``trace``.

    Returns
    -------
    Estimate, of shape (P,). The standard errors are those of single entries; the errors of
    different entries come from the same probes.

    Raises
    ------
    InputError
        As ``trace``; and if the directions captured show that the operator is not symmetric.
    ResourceError
        As ``trace``.

    Examples
    --------
    >>> from landscape.curvature import DiagonalOperator
    >>> op = DiagonalOperator(jnp.array([3.0, 2.0, 0.0, 0.0]))
    >>> diagonal(op, jax.random.key(0), method="hutchinson", num_matvecs=2).value.tolist()
    [3.0, 2.0, 0.0, 0.0]
    """
    plan = _plan(op, key, method, num_matvecs, block_size)
    if plan.method == "exact":
        return _exact(op, _exact_diagonal(op, plan))
    sketch_key, probe_key = jax.random.split(key)
    basis, known, inner = _captured(op, sketch_key, plan)
    # The split asks for it, where a trace is that of any matrix.
    expect_symmetric(op, inner, float(np.linalg.norm(inner, 2)))
    samples = (
        np.multiply(signs, image, dtype=float)
        for signs, _, image in _probed(op, probe_key, basis, plan, project_images=True)
    )
    rest, stderr = _mean_and_stderr(samples)
    return Estimate(known + rest, stderr, num_matvecs, plan.num_probes, method)


def frobenius_norm(
    op: LinearOperator, key: Array, *, num_matvecs: int, block_size: int | None = None
) -> Estimate:
    """Estimate the Frobenius norm: the root of the sum of the squared eigenvalues.

    The mean of ``‖Av‖²`` has no bias; its root is too small by ``stderr²/(2·value)`` to leading
    order, which is less than the standard error where that is small.

    Parameters
    ----------
    op
        Symmetric operator, (P, P).
    key, block_size
        As for ``trace``.
    num_matvecs
        Probes, at least 2. From P on the answer is exact, by P products with the identity.

    Returns
    -------
    Estimate, of shape (); the standard error is that of the mean of squares, divided by twice the
    root (the delta method).

    Raises
    ------
    InputError
        As ``trace``.

    Examples
    --------
    >>> from landscape.curvature import DiagonalOperator
    >>> op = DiagonalOperator(jnp.array([3.0, 4.0, 0.0]))
    >>> frobenius_norm(op, jax.random.key(0), num_matvecs=2)
    Estimate(5 ± 0.0e+00, hutchinson, 2 products)
    """
    plan = _plan(op, key, "hutchinson", num_matvecs, block_size)
    if plan.method == "exact":
        squares = [image @ image for _, image in _identity_images(op, plan)]
        return _exact(op, np.sqrt(np.sum(squares)))
    # The key that trace gives to its probes, so that the probes are the same.
    _, probe_key = jax.random.split(key)
    basis = jnp.zeros((op.shape[0], 0), op.dtype)
    samples = (_inner(image, image) for _, _, image in _probed(op, probe_key, basis, plan))
    square, stderr = _mean_and_stderr(samples)
    root = np.sqrt(square)
    # All products zero: no spread either.
    return Estimate(
        np.asarray(root),
        np.asarray(stderr / (2 * root) if root else 0.0),
        num_matvecs,
        plan.num_probes,
        "hutchinson",
    )


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What a budget is spent on: ``2·num_captured + num_probes`` products, in blocks."""

    method: str
    num_captured: int
    num_probes: int
    width: int


def _plan(
    op: LinearOperator, key: Array, method: str, num_matvecs: int, block_size: int | None
) -> _Plan:
    """Check the arguments and divide the budget."""
    expect_single(op)
    expect_key(key)
    expect_integer(num_matvecs=num_matvecs)
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    if block_size is not None:
        expect_positive(block_size=block_size)
    size = op.shape[0]
    if num_matvecs >= size:
        return _Plan("exact", 0, 0, _width(op, size, block_size))
    if num_matvecs < _LEAST[method]:
        raise InputError(
            f"num_matvecs must be at least {min(_LEAST[method], size)} for {method!r} on {size} "
            f"parameters: an error bar takes two probes; got {num_matvecs}"
        )
    captured = num_matvecs // 3 if method == "hutch++" else 0
    probes = num_matvecs - 2 * captured
    needed, total = 3 * captured * size * op.dtype.itemsize, device_memory()
    if needed > 0.9 * total:
        raise ResourceError(
            f"capturing {captured} directions of {size} parameters needs {readable(needed)}, there "
            f"are {readable(total)}; take fewer products, or method='hutchinson'"
        )
    return _Plan(method, captured, probes, _width(op, probes, block_size))


def _width(op: LinearOperator, columns: int, block_size: int | None) -> int:
    """Columns per product: even blocks, so that one program serves all with little to spare."""
    if block_size is None:
        fitting = _BLOCK_BYTES // max(1, op.shape[0] * op.dtype.itemsize)
        most = _BLOCK_COLUMNS.get(jax.default_backend(), _MANY_COLUMNS)
        block_size = min(most, max(1, fitting))
    num_blocks = -(-columns // block_size)
    return -(-columns // max(1, num_blocks))


def _captured(op: LinearOperator, key: Array, plan: _Plan) -> tuple[Array, np.ndarray, np.ndarray]:
    """A basis Q of what a sketch finds, the diagonal of ``QQᵀA + AQQᵀ − QMQᵀ``, and M."""
    size, columns, width = op.shape[0], plan.num_captured, plan.width
    known = np.zeros(size)
    if not columns:
        return jnp.zeros((size, 0), op.dtype), known, np.zeros((1, 1))

    # Gaussian, not signs: a square matrix of few random signs is singular all too often, and would
    # lose directions of an A that is diagonal.
    draw = partial(_columns, key, width, op, jax.random.normal)
    sketch = jnp.concatenate([image for _, _, image in _blocks(op, draw, columns, width)], 1)
    basis, _ = jnp.linalg.qr(sketch[:, :columns])
    # Columns of zeros fill the last block; they change nothing, as any Q would do.
    basis = jnp.pad(basis, ((0, 0), (0, -columns % width)))

    take = partial(_from, basis, width)
    rows = [slice(start, start + _ROWS) for start in range(0, size, _ROWS)]
    on_host = np.asarray(basis)
    inner = np.zeros((basis.shape[1], basis.shape[1]))
    for start, vectors, image in _blocks(op, take, columns, width):
        found, there = np.asarray(vectors), np.asarray(image)
        for part in rows:
            products = there[part].astype(np.float64)
            inner[:, start : start + width] += on_host[part].astype(np.float64).T @ products
            known[part] += 2 * (found[part] * products).sum(1)
    for part in rows:
        q = on_host[part].astype(np.float64)
        known[part] -= ((q @ inner) * q).sum(1)
    return basis, known, inner


def _probed(
    op: LinearOperator, key: Array, basis: Array, plan: _Plan, *, project_images: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Each probe's signs v, Πv and AΠv or ΠAΠv, on the host."""
    count, width = plan.num_probes, plan.width
    for start in range(0, count, width):
        signs = _columns(key, width, op, _signs, start)
        probes = _outside(basis, signs)
        images = _image(op, probes)
        if project_images:
            images = _outside(basis, images)
        # One after the other in memory: columns would be gathered number by number.
        on_host = [np.asarray(x.T) for x in (signs, probes, images)]
        for i in range(min(width, count - start)):
            v, probe, image = (x[i] for x in on_host)
            yield v, probe, image


def _inner(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """An inner product, its sums in float64."""
    return np.asarray(np.einsum("i,i", first, second, dtype=np.float64))


def _identity_images(op: LinearOperator, plan: _Plan) -> Iterator[tuple[int, np.ndarray]]:
    """Every column of A with its number, in float64 on the host."""
    size, width = op.shape[0], plan.width

    draw = partial(_unit_vectors, width, size, op.dtype)
    for start, _, image in _blocks(op, draw, size, width):
        on_host = np.asarray(image)
        for i in range(min(width, size - start)):
            yield start + i, on_host[:, i].astype(np.float64)


def _exact(op: LinearOperator, value: np.ndarray | np.floating) -> Estimate:
    return Estimate(np.asarray(value), np.zeros_like(value), op.shape[0], 0, "exact")


def _exact_diagonal(op: LinearOperator, plan: _Plan) -> np.ndarray:
    return np.array([column[i] for i, column in _identity_images(op, plan)], float)


def _blocks(
    op: LinearOperator, draw: Callable[[int], Array], count: int, width: int
) -> Iterator[tuple[int, Array, Array]]:
    """Blocks of columns from the one at ``start`` on, with their images."""
    for start in range(0, count, width):
        vectors = draw(start)
        yield start, vectors, _image(op, vectors)


def _image(op: LinearOperator, vectors: Array) -> Array:
    image = op.matmat(vectors)
    if not bool(jnp.isfinite(image).all()):
        raise not_finite()
    return image


def _mean_and_stderr(samples: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error, entry by entry, of at least two samples.

    Updated with each: a sum of squares would cancel where the spread is small (B. P. Welford,
    *Note on a method for calculating corrected sums of squares and products*, Technometrics 4,
    1962).
    """
    count, mean, squares = 0, np.zeros(()), np.zeros(())
    for sample in samples:
        count += 1
        before = sample - mean
        mean = np.asarray(mean + before / count)
        squares = np.asarray(squares + before * (sample - mean))
    return mean, np.asarray(np.sqrt(squares / (count - 1) / count))


@partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _drawn(
    key: Array,
    width: int,
    size: int,
    dtype: np.dtype,
    distribution: Callable[..., Array],
    start: Int[Array, ""] | int,
) -> Array:
    def row(number: Array) -> Array:
        return distribution(jax.random.fold_in(key, number), (size,), dtype)

    return jax.vmap(row)(start + jnp.arange(width)).T


def _columns(
    key: Array, width: int, op: LinearOperator, distribution: Callable[..., Array], start: int
) -> Array:
    """Random columns number start, start + 1 …, each from the key and its number alone."""
    return _drawn(key, width, op.shape[0], op.dtype, distribution, start)


def _signs(key: Array, shape: tuple[int], dtype: np.dtype) -> Array:
    """Random signs, a bit for each: ``jax.random.rademacher`` draws 32, ten times as long."""
    (size,) = shape
    words = jax.random.bits(key, (-(-size // 32),), np.uint32)
    bits = (words[:, None] >> jnp.arange(32, dtype=np.uint32)[None]) & 1
    return (1 - 2 * bits.reshape(-1)[:size].astype(np.int8)).astype(dtype)


def _from(basis: Array, width: int, start: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(basis, start, width, axis=1)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _unit_vectors(width: int, size: int, dtype: np.dtype, start: Int[Array, ""] | int) -> Array:
    # Past the last one: zeros.
    return jax.nn.one_hot(start + jnp.arange(width), size, dtype=dtype, axis=0)


@jax.jit
def _outside(basis: Array, vectors: Array) -> Array:
    """``(I − QQᵀ)V``."""
    if not basis.shape[1]:
        return vectors
    inner = jnp.matmul(basis.T, vectors, precision="highest")
    return vectors - jnp.matmul(basis, inner, precision="highest")
