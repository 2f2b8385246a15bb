r"""Raw moments of a spectral measure from a few products, by random probes.

Notation: symmetric ``A`` on R^P, ``m_j = tr(A^j)/P`` the j-th raw moment of its spectral measure
(mass 1/P on each eigenvalue), k probes ``v_i ~ N(0, I)``. Since A is symmetric,
``vᵀA^{a+b}v = (A^a v)·(A^b v)``: a products give 2a moments. Probes are pooled as a ratio,

    m̂_j = Σ_i v_iᵀA^j v_i / Σ_i v_iᵀv_i,

the moments of a measure of mass 1. A Gaussian probe's length is independent of its direction, so
the ratio is unbiased, for one probe already.

Source: J. Skilling, *The eigenvalues of mega-dimensional matrices*, in *Maximum Entropy and
Bayesian Methods*, 1989. The error of a ratio: W. G. Cochran, *Sampling Techniques*, 1977, §2.11.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Array, Float

from landscape._pytrees import pytree
from landscape.curvature.memory import host_memory, readable
from landscape.curvature.noise import expect_symmetric
from landscape.curvature.operators import LinearOperator
from landscape.curvature.preconditions import expect_key, expect_positive, expect_single, not_finite
from landscape.errors import InputError, ResourceError
from landscape.results import Result
from landscape.spectra.slq import gaussian_probes


@pytree
@dataclasses.dataclass(frozen=True)
class Moments(Result):
    """What k probes know of the first n raw moments of a spectrum.

    Attributes
    ----------
    probe_moments
        (k, n) ``v_iᵀA^j v_i / v_iᵀv_i`` of each probe, j = 1…n: of its own spectral measure.
    probe_norms
        (k,) squared lengths of the probes: what each counts for.
    num_parameters
        P.
    dtype
        Type of the operator's products: ``"float32"`` or ``"float64"``.
    num_matvecs
        Products with the operator that were spent.
    """

    probe_moments: Float[np.ndarray, "k n"]
    probe_norms: Float[np.ndarray, " k"]
    num_parameters: int
    dtype: str
    num_matvecs: int

    _labelled = ("moments", "stderr")
    _axes = (("k", "probe"), ("n", "order"))
    _coordinates = (("order", "_orders"),)

    @property
    def num_probes(self) -> int:
        """Number k of probes."""
        return self.probe_moments.shape[0]

    @property
    def num_moments(self) -> int:
        """Number n of moments."""
        return self.probe_moments.shape[1]

    @property
    def _orders(self) -> np.ndarray:
        return np.arange(1, self.num_moments + 1)

    @property
    def shares(self) -> Float[np.ndarray, " k"]:
        """What each probe counts for in the pooled measure; sums to 1."""
        return self.probe_norms / self.probe_norms.sum()

    @property
    def moments(self) -> Float[np.ndarray, " n"]:
        """Raw moments ``m̂_j`` of the pooled measure, j = 1…n, in powers of the eigenvalues."""
        return self.shares @ self.probe_moments

    @property
    def covariance(self) -> Float[np.ndarray, "n n"]:
        """Covariance of the moments' sampling errors, by the delta method over probes.

        NaN for one probe, which knows nothing of its own error.
        """
        k = self.num_probes
        if k == 1:
            return np.full((self.num_moments, self.num_moments), np.nan)
        deviations = self.shares[:, None] * (self.probe_moments - self.moments)
        return deviations.T @ deviations * (k / (k - 1))

    @property
    def stderr(self) -> Float[np.ndarray, " n"]:
        """Standard errors of the moments over probes; NaN for one probe."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def mean(self) -> float:
        """Mean eigenvalue, tr(A)/P."""
        return float(self.moments[0])

    @property
    def variance(self) -> float:
        """Variance of the eigenvalues.

        What the type of the products cannot tell from 0, ten units of its ``eps`` of the second
        moment, is 0.

        Raises
        ------
        InputError
            If fewer than two moments are known.
        """
        self._expect_moments(2)
        second = self.moments[1]
        variance = float(second - self.mean**2)
        return variance if variance > 10 * np.finfo(self.dtype).eps * second else 0.0

    @property
    def skewness(self) -> float:
        """Third central moment over the variance to the power 3/2; NaN if the variance is 0.

        Raises
        ------
        InputError
            If fewer than three moments are known.
        """
        self._expect_moments(3)
        first, second, third = self.moments[:3]
        variance = self.variance
        if variance == 0:
            return np.nan
        return float((third - 3 * first * second + 2 * first**3) / variance**1.5)

    def without_probe(self, probe: int) -> Moments:
        """The same without one of at least two probes: what a jackknife is made of."""
        return dataclasses.replace(
            self,
            probe_moments=np.delete(self.probe_moments, probe, axis=0),
            probe_norms=np.delete(self.probe_norms, probe),
            num_matvecs=self.num_matvecs // self.num_probes * (self.num_probes - 1),
        )

    def _expect_moments(self, needed: int) -> None:
        if self.num_moments < needed:
            raise InputError(f"{needed} moments are needed; these are {self.num_moments}")

    def __repr__(self) -> str:
        probes = f"{self.num_probes} probe{'s' if self.num_probes > 1 else ''}"
        values = ", ".join(
            f"{value:.4g} ± {error:.1g}"
            for value, error in zip(self.moments, self.stderr, strict=True)
        )
        return f"Moments(P={self.num_parameters}, {probes}: {values})"


def spectral_moments(
    op: LinearOperator, key: Array, *, num_moments: int = 4, num_probes: int = 10
) -> Moments:
    """Estimate the raw moments of an operator's spectrum.

    All probes go through the operator together, in ``⌈num_moments/2⌉`` products with P × k
    matrices. Inner products are summed on the host in float64, where two P × k matrices are kept.
    The powers of A are divided by powers of two, which is exact, so that only a moment itself can
    overflow, never what leads to it.

    Parameters
    ----------
    op
        Symmetric operator, (P, P). Only its ``matmat`` is used.
    key
        JAX random key for the probes; probe ``i`` depends on the key and ``i`` alone, and is that
        of ``slq``.
    num_moments
        n. The default is what ``fit_mixture`` needs.
    num_probes
        k. The standard deviation of m̂_j is √(2 (m_2j − m_j²) / (kP + 2)) exactly: the pooled
        probes are one direction, uniform in R^kP. The default is our choice: it knows its own
        error to about 1/√(2(k − 1)), 24 %.

    Returns
    -------
    Moments

    Raises
    ------
    InputError
        For num_moments or num_probes below 1, an operator that is not square or is a family, a
        product that is NaN or infinite, one that two probes show not to be symmetric, and a moment
        beyond the largest float64.
    ResourceError
        If the probes do not fit in the host's memory.

    Examples
    --------
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from landscape.curvature import DiagonalOperator
    >>> op = DiagonalOperator(jnp.array([2.0, 2.0, 2.0]))
    >>> moments = spectral_moments(op, jax.random.key(0), num_moments=3, num_probes=2)
    >>> moments.moments.round(9).tolist(), moments.num_matvecs
    ([2.0, 4.0, 8.0], 4)
    """
    expect_positive(num_moments=num_moments, num_probes=num_probes)
    expect_single(op)
    expect_key(key)
    size, num_products = op.shape[0], (num_moments + 1) // 2
    # Two of them in float64, what is made of one, and the probes and their images in the type.
    needed, total = num_probes * size * (24 + 2 * op.dtype.itemsize), host_memory()
    if needed > 0.9 * total:
        raise ResourceError(
            f"{num_probes} probes of {size} numbers need {readable(needed)}, the machine has "
            f"{readable(total)}; take fewer probes"
        )
    # Rows; A^a v = 2^exponent · vector, with one exponent a probe.
    vectors = np.asarray(gaussian_probes(key, num_probes, size, op.dtype), np.float64)
    exponents = np.zeros(num_probes, int)
    norms = _inner(vectors, vectors)
    moments = np.empty((num_probes, 2 * num_products))
    scale = 0.0
    for product in range(num_products):
        before, exponents_before = vectors, exponents
        vectors, shifts = _scaled(np.asarray(op.matmat(before.T), np.float64).T)
        exponents = exponents_before + shifts
        for offset, left, power in (
            (0, before, exponents_before + exponents),
            (1, vectors, 2 * exponents),
        ):
            with np.errstate(over="ignore"):
                moments[:, 2 * product + offset] = np.ldexp(_inner(left, vectors) / norms, power)
        products, longest = _of_unit_vectors(before, vectors, shifts)
        scale = max(scale, longest)
        expect_symmetric(op, products, scale)
    moments = moments[:, :num_moments]
    if not np.isfinite(moments).all():
        order = int(np.flatnonzero(~np.isfinite(moments).all(0))[0]) + 1
        raise InputError(
            f"moment {order} is larger than the largest float64; take fewer moments, or the "
            "operator times a small number"
        )
    return Moments(
        probe_moments=moments,
        probe_norms=norms,
        num_parameters=size,
        dtype=op.dtype.name,
        num_matvecs=num_products * num_probes,
    )


def _scaled(products: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows divided by powers of two so that their largest entries lie in [½, 1), and the powers."""
    if not np.isfinite(products).all():
        raise not_finite()
    _, shifts = np.frexp(np.abs(products).max(-1))
    return np.ldexp(products, -shifts[:, None]), shifts


def _of_unit_vectors(
    before: np.ndarray, images: np.ndarray, shifts: np.ndarray
) -> tuple[np.ndarray, float]:
    """``xᵢᵀAxⱼ``, (k, k), of rows divided by their lengths, and the longest image of such a row.

    What overflows is left out, as are rows of zeros: moments refuse it by themselves.
    """
    lengths = np.sqrt(_inner(before, before))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        longest = np.ldexp(np.sqrt(_inner(images, images)) / lengths, shifts)
        products = np.ldexp(before @ images.T / lengths[:, None] / lengths, shifts)
    kept = np.isfinite(longest)
    return products[np.ix_(kept, kept)], float(longest[kept].max(initial=0))


def _inner(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Inner products of rows."""
    return np.einsum("kp,kp->k", left, right)
