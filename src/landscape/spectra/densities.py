"""A spectral measure smoothed for drawing. Sampling is done elsewhere; a bandwidth lives here."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from landscape.curvature.preconditions import expect_real
from landscape.errors import InputError
from landscape.spectra.measures import Spectrum, expect_spectrum, numbers


def density(
    spectrum: Spectrum, grid: Float[np.ndarray, " n"], *, bandwidth: float
) -> Float[np.ndarray, "*batch n"]:
    """Spectral density: the measure convolved with a Gaussian.

    Parameters
    ----------
    spectrum
        Dense or Lanczos.
    grid
        (n,) eigenvalues at which it is evaluated.
    bandwidth
        Standard deviation of the Gaussian, in units of the eigenvalues.

    Returns
    -------
    (*batch, n), per unit of eigenvalue. It integrates to 1 over the real line; it is not
    renormalised to the grid, so mass outside the grid is missing visibly.

    Raises
    ------
    InputError
        If the bandwidth is not positive.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from landscape.curvature import DiagonalOperator
    >>> from landscape.spectra import dense_spectrum
    >>> spectrum = dense_spectrum(DiagonalOperator(jnp.array([0.0, 1.0])))
    >>> grid = np.linspace(-1, 2, 301)
    >>> values = density(spectrum, grid, bandwidth=0.1)
    >>> round(float(np.trapezoid(values, grid)), 3)
    1.0
    """
    expect_spectrum(spectrum)
    points = numbers(grid, "grid", ndim=1)
    return smooth(spectrum.nodes, spectrum.weights, points, bandwidth)


def asinh_density(
    spectrum: Spectrum,
    grid: Float[np.ndarray, " n"],
    *,
    linear_width: float,
    bandwidth: float,
) -> Float[np.ndarray, "*batch n"]:
    """Density in the coordinate ``t = asinh(λ / linear_width)``.

    Logarithmic in |λ| on both sides and linear about zero, so that zero, tiny eigenvalues and
    outliers are seen in one picture.

    Parameters
    ----------
    spectrum
        Dense or Lanczos.
    grid
        (n,) eigenvalues λ.
    linear_width
        Where linear turns into logarithmic.
    bandwidth
        Standard deviation of the Gaussian, in units of t: about relative for large |λ|.

    Returns
    -------
    (*batch, n), mass per unit of t.

    Raises
    ------
    InputError
        If linear_width or bandwidth is not positive.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from landscape.curvature import DiagonalOperator
    >>> from landscape.spectra import dense_spectrum
    >>> spectrum = dense_spectrum(DiagonalOperator(jnp.array([0.0, 0.0, 1e-4, 10.0])))
    >>> t = np.linspace(-20, 20, 401)
    >>> density = asinh_density(spectrum, 1e-5 * np.sinh(t), linear_width=1e-5, bandwidth=0.3)
    >>> print(f"{density.sum() * 0.1:.3f}, largest at {1e-5 * np.sinh(t[density.argmax()]):.3f}")
    1.000, largest at 0.000
    """
    expect_spectrum(spectrum)
    expect_real(linear_width=linear_width)
    if not linear_width > 0:
        raise InputError(f"linear_width must be positive; got {linear_width!r}")
    nodes = np.arcsinh(spectrum.nodes / linear_width)
    points = np.arcsinh(numbers(grid, "grid", ndim=1) / linear_width)
    return smooth(nodes, spectrum.weights, points, bandwidth)


def smooth(
    nodes: np.ndarray, weights: np.ndarray, points: np.ndarray, bandwidth: float
) -> np.ndarray:
    """Sum of Gaussians of one standard deviation, with the nodes' weights; (*batch, n)."""
    expect_real(bandwidth=bandwidth)
    if not bandwidth > 0:
        raise InputError(f"bandwidth must be positive; got {bandwidth!r}")
    distances = (points[:, None] - nodes[..., None, :]) / bandwidth
    gaussians = np.exp(-(distances**2) / 2) / (bandwidth * np.sqrt(2 * np.pi))
    return (gaussians @ weights[..., None])[..., 0]
