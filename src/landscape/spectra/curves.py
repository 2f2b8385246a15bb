"""Shares of a spectrum at many intervals at once: f(ε) and the distribution function."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from landscape.errors import InputError
from landscape.spectra.fractions import Fraction, make_fraction
from landscape.spectra.masses import gauss_mass_bounds
from landscape.spectra.measures import SpectralMeasure, Spectrum, expect_spectrum, numbers


def fraction_curve(
    spectrum: Spectrum, epsilons: Float[np.ndarray, " n"], *, center: float = 0.0
) -> Fraction:
    """Share of the eigenvalues within ε of a centre as a curve f(ε).

    Parameters
    ----------
    spectrum
        Dense or Lanczos.
    epsilons
        (n,) positive half-widths. None is refused: what lies below the spectrum's ``noise_floor``
        is rounding.
    center
        Middle of the intervals.

    Returns
    -------
    Fraction with arrays (*batch, n): the estimate of ``degenerate_fraction``, and bounds that cost
    little (``landscape.spectra.bounds.gauss_bounds``), somewhat wider than its.

    Raises
    ------
    InputError
        If an ε is not positive, there is none or no axis of them, or the centre is not finite.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from landscape.curvature import DiagonalOperator
    >>> from landscape.spectra import dense_spectrum
    >>> spectrum = dense_spectrum(DiagonalOperator(jnp.array([-2.0, -5e-4, 0.0, 1.0])))
    >>> fraction_curve(spectrum, np.array([1e-4, 1e-3, 1.0, 2.0])).estimate.tolist()
    [0.25, 0.5, 0.75, 1.0]
    """
    epsilons = numbers(epsilons, "epsilons", ndim=1)
    if not np.all(epsilons > 0):
        raise InputError("every epsilon must be positive")
    middle = numbers(center, "center", ndim=0)
    if not np.isfinite(middle):
        raise InputError(f"center must be finite; got {center!r}")
    return _curve(spectrum, middle - epsilons, middle + epsilons)


def distribution_function(spectrum: Spectrum, points: Float[np.ndarray, " n"]) -> Fraction:
    """Share of the eigenvalues up to and with each point: Ψ(x) with a certified band.

    Parameters
    ----------
    spectrum
        Dense or Lanczos.
    points
        (n,) values of x.

    Returns
    -------
    Fraction with arrays (*batch, n), bounds as for ``fraction_curve``. Each bound holds at all
    points together; the sampling error, and ``confidence_interval``, at each of them alone.

    Raises
    ------
    InputError
        If a point is NaN, or there is none or no axis of them.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from landscape.curvature import DiagonalOperator
    >>> from landscape.spectra import dense_spectrum
    >>> spectrum = dense_spectrum(DiagonalOperator(jnp.array([0.0, 1.0, 2.0, 3.0])))
    >>> distribution_function(spectrum, np.array([-1.0, 1.0, 9.0])).estimate.tolist()
    [0.0, 0.5, 1.0]
    """
    points = numbers(points, "points", ndim=1)
    if np.isnan(points).any():
        raise InputError("a point of the distribution function is NaN")
    return _curve(spectrum, np.full_like(points, -np.inf), points)


def _curve(spectrum: Spectrum, low: np.ndarray, high: np.ndarray) -> Fraction:
    """Shares in each of n intervals."""
    expect_spectrum(spectrum)
    if not len(low):
        raise InputError("there is no interval to count in: the array is empty")
    estimate = np.clip(_pooled_counts(spectrum.nodes, spectrum.weights, low, high), 0, 1)
    if isinstance(spectrum, SpectralMeasure):
        return make_fraction(spectrum, estimate, estimate, estimate, (low, high), curve=True)
    bounds = gauss_mass_bounds(spectrum, low, high)
    return make_fraction(spectrum, estimate, *bounds, (low, high), curve=True)


def _pooled_counts(
    nodes: np.ndarray, weights: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """Weight inside each of n intervals, (*batch, n)."""
    counts = np.empty((*nodes.shape[:-1], len(low)))
    for index in np.ndindex(nodes.shape[:-1]):
        order = np.argsort(nodes[index])
        ordered = nodes[index][order]
        cumulative = np.concatenate([[0.0], np.cumsum(weights[index][order])])
        first = np.searchsorted(ordered, low, "left")
        last = np.searchsorted(ordered, high, "right")
        counts[index] = cumulative[last] - cumulative[first]
    return counts
