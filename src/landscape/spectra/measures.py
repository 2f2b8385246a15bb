"""Spectral measures: where an operator's eigenvalues are, as nodes and weights.

Notation: the spectral measure of a symmetric ``P × P`` matrix puts mass ``1/P`` on each of its
eigenvalues. Every result has the same face, ``nodes`` and ``weights`` with leading batch axes;
everything here is NumPy float64 on the host.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import eigh_tridiagonal

from landscape._pytrees import pytree
from landscape.errors import InputError
from landscape.results import Result


@pytree
@dataclasses.dataclass(frozen=True)
class SpectralMeasure(Result):
    """Exact eigenvalues of an operator.

    Attributes
    ----------
    nodes
        (*batch, P) eigenvalues in ascending order.
    weights
        (*batch, P), each 1/P.
    noise_floor
        (*batch,) the largest of the rounding of the operator's type at its norm, ``u‖A‖``, of its
        antisymmetric part, and of what was given: no eigenvalue is known better.
    num_matvecs
        Products with the operator that were spent.
    """

    nodes: Float[np.ndarray, "*batch P"]
    weights: Float[np.ndarray, "*batch P"]
    noise_floor: Float[np.ndarray, "*batch"]
    num_matvecs: int

    @property
    def num_parameters(self) -> int:
        """P."""
        return self.nodes.shape[-1]

    @property
    def norm(self) -> Float[np.ndarray, "*batch"]:
        """Spectral norm."""
        return np.asarray(np.abs(self.nodes).max(-1))

    def __repr__(self) -> str:
        return _describe("SpectralMeasure", self, "every eigenvalue")


@pytree
@dataclasses.dataclass(frozen=True)
class LanczosSpectrum(Result):
    """What m Lanczos steps from each of k Gaussian probes know of a spectrum.

    Attributes
    ----------
    alphas
        (*batch, k, m) diagonals of the tridiagonal matrices.
    betas
        (*batch, k, m) off-diagonals; the last one couples to the step that was not made.
    num_steps
        (*batch, k) steps that count: fewer than m after a breakdown, a valid end at which the
        probe's measure is known exactly.
    probe_norms
        (*batch, k) squared lengths of the probes before normalisation: what each counts for.
    num_parameters
        P.
    noise_floor
        (*batch,) of the operator, and at least that of the Lanczos steps: no end of an interval is
        known better.
    reorthogonalize
        The scheme that was used.
    dtype
        Type of the operator's products: ``"float32"`` or ``"float64"``.
    num_matvecs
        Products with the operator that were spent.
    deflated
        (*batch, q) eigenvalues that were taken out first; the probes live in the complement of
        their eigenvectors, of P − q dimensions.
    """

    alphas: Float[np.ndarray, "*batch k m"]
    betas: Float[np.ndarray, "*batch k m"]
    num_steps: Int[np.ndarray, "*batch k"]
    probe_norms: Float[np.ndarray, "*batch k"]
    num_parameters: int
    noise_floor: Float[np.ndarray, "*batch"]
    reorthogonalize: str
    dtype: str
    num_matvecs: int
    deflated: Float[np.ndarray, "*batch q"]

    _labelled = ("nodes", "weights")
    _axes = (("k", "probe"), ("m", "step"), ("n", "node"), ("q", "deflated_pair"))

    @property
    def num_probes(self) -> int:
        """Number k of probes."""
        return self.alphas.shape[-2]

    @property
    def shares(self) -> Float[np.ndarray, "*batch k"]:
        """What each probe counts for in the pooled measure; sums to 1 over probes."""
        return self.probe_norms / self.probe_norms.sum(-1, keepdims=True)

    def quadrature(
        self, index: tuple[int, ...]
    ) -> tuple[Float[np.ndarray, " s"], Float[np.ndarray, " s"]]:
        """Gauss rule of one probe: nodes in ascending order, and weights that sum to 1.

        Parameters
        ----------
        index
            Of the probe, batch axes first.
        """
        steps = self.num_steps[index]
        return self._quadrature[0][index][:steps], self._quadrature[1][index][:steps]

    def ritz(
        self, index: tuple[int, ...]
    ) -> tuple[Float[np.ndarray, " s"], Float[np.ndarray, " s"], Float[np.ndarray, " s"]]:
        """Gauss rule of one probe with the residual norm of each node's Ritz vector.

        Parameters
        ----------
        index
            Of the probe, batch axes first.

        Returns
        -------
        nodes, weights, residual_norms
            An eigenvalue lies within its residual norm, and rounding, of each node.
        """
        steps = self.num_steps[index]
        betas = self.betas[index][:steps]
        nodes, vectors = eigh_tridiagonal(self.alphas[index][:steps], betas[:-1])
        return nodes, vectors[0] ** 2, np.abs(betas[-1] * vectors[-1])

    @property
    def num_deflated(self) -> int:
        """Number q of eigenvalues that were taken out."""
        return self.deflated.shape[-1]

    @property
    def num_dimensions(self) -> int:
        """P − q, of the space that the probes live in."""
        return self.num_parameters - self.num_deflated

    @property
    def nodes(self) -> Float[np.ndarray, "*batch n"]:
        """Deflated eigenvalues, and Ritz values of all probes; (*batch, q + k·m)."""
        ritz = self._quadrature[0].reshape(*self.alphas.shape[:-2], -1)
        return np.concatenate([self.deflated, ritz], -1)

    @property
    def weights(self) -> Float[np.ndarray, "*batch n"]:
        """1/P for each deflated eigenvalue, and Gauss weights for what is left; sums to 1.

        Probes are pooled by their squared lengths; (*batch, q + k·m).
        """
        left = self.num_dimensions / self.num_parameters
        pooled = left * self._quadrature[1] * self.shares[..., None]
        return np.concatenate(
            [
                np.full(self.deflated.shape, 1 / self.num_parameters),
                pooled.reshape(*self.alphas.shape[:-2], -1),
            ],
            -1,
        )

    @property
    def norm(self) -> Float[np.ndarray, "*batch"]:
        """Largest Ritz value in magnitude, a lower estimate of the spectral norm."""
        return np.asarray(np.abs(self.nodes).max(-1))

    @functools.cached_property
    def _quadrature(self) -> tuple[np.ndarray, np.ndarray]:
        """Gauss nodes and weights of each probe, (*batch, k, m).

        G. H. Golub and J. H. Welsch, *Calculation of Gauss quadrature rules*, Math. Comp. 23,
        1969. After a breakdown the surplus nodes repeat the largest one with weight 0.
        """
        nodes, weights = np.zeros_like(self.alphas), np.zeros_like(self.alphas)
        for index in np.ndindex(self.num_steps.shape):
            steps = self.num_steps[index]
            values, vectors = eigh_tridiagonal(
                self.alphas[index][:steps], self.betas[index][: steps - 1]
            )
            nodes[index][:steps], nodes[index][steps:] = values, values[-1]
            weights[index][:steps] = vectors[0] ** 2
        return nodes, weights

    def __repr__(self) -> str:
        steps, probes = self.alphas.shape[-1], self.num_probes
        what = f"{steps} Lanczos step{'s' if steps > 1 else ''} × "
        what += f"{probes} probe{'s' if probes > 1 else ''}"
        if self.num_deflated:
            one = self.num_deflated == 1
            what += f" after {self.num_deflated} deflated eigenvalue{'' if one else 's'}"
        return _describe(
            "LanczosSpectrum", self, f"{what}, reorthogonalize={self.reorthogonalize!r}"
        )


#: What shares and densities are read from: all eigenvalues, or a Lanczos run's quadrature.
Spectrum = SpectralMeasure | LanczosSpectrum


def expect_spectrum(spectrum: Any) -> None:
    """Refuse what is no spectrum.

    Raises
    ------
    InputError
        For an operator, say.
    """
    if not isinstance(spectrum, Spectrum):
        raise InputError(
            "expected a spectrum, as slq(op, key) and dense_spectrum(op) return; got "
            f"{type(spectrum).__name__}"
        )


def numbers(values: Any, name: str, *, ndim: int | None = None) -> np.ndarray:
    """An array of float64.

    Raises
    ------
    InputError
        If they are no numbers, or the array has not as many axes as asked for.
    """
    try:
        found = np.asarray(values, float)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be numbers; got {values!r}") from None
    if ndim is not None and found.ndim != ndim:
        raise InputError(f"{name} must have {ndim} axis; got an array of shape {found.shape}")
    return found


def _describe(name: str, spectrum: Any, method: str) -> str:
    batch = spectrum.nodes.shape[:-1]
    many = f"{'×'.join(map(str, batch))} spectra, " if batch else ""
    return (
        f"{name}({many}P={spectrum.num_parameters}, {method}, nodes in "
        f"[{spectrum.nodes.min():.3g}, {spectrum.nodes.max():.3g}])"
    )
