"""Pictures of a spectrum as a whole: its density, f(ε), its moments and what is fitted to them."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np

from landscape.errors import InputError
from landscape.plots.curves import (
    asinh_ticks,
    labelled,
    plot_density,
    plot_fraction_curve,
    power,
)
from landscape.plots.style import expect, grey, mark, named, new_axes, shade, tidy, widen
from landscape.spectra import (
    LanczosSpectrum,
    MixtureFit,
    Moments,
    ResolvedFraction,
    SpectralMeasure,
    Spectrum,
    asinh_density,
    fraction_curve,
)

# Standard deviation of the smoothing, in units of asinh(λ/ε).
BANDWIDTH = 0.25


def plot_spectrum(
    spectrum: Spectrum | ResolvedFraction,
    *,
    eps: float = 1e-3,
    bandwidth: float = BANDWIDTH,
    label: str = "",
    ax: Any | None = None,
    **options: Any,
) -> Any:
    """Draw the density of a spectrum on an asinh axis: zero, tiny eigenvalues and outliers at once.

    Parameters
    ----------
    spectrum
        Dense or Lanczos, or what ``resolve_fraction`` gives; of a family the mean is drawn.
    eps
        Where the abscissa turns from linear to logarithmic; the band |λ| ≤ ε is shaded.
    bandwidth
        Standard deviation of the Gaussian that smooths it, in units of asinh(λ/ε).
    label
        For a legend, and of the look of an architecture of that name.
    ax
        Matplotlib axes; new ones by default.
    **options
        Matplotlib's properties of the line, such as ``color`` or ``linewidth``.

    Returns
    -------
    The axes.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from landscape.curvature import DiagonalOperator
    >>> from landscape.spectra import slq
    >>> op = DiagonalOperator(jnp.linspace(-1.0, 9.0, 100))
    >>> spectrum = slq(op, jax.random.key(0), num_steps=20)
    >>> plot_spectrum(spectrum, label="mine").get_xlabel()
    'eigenvalue λ'
    """
    spectrum = _measure(spectrum, "plot_spectrum")
    _positive(eps)
    grid = asinh_grid(float(np.abs(spectrum.nodes).max()), eps)
    mass = asinh_density(spectrum, grid, linear_width=eps, bandwidth=bandwidth)
    density = labelled(mass, "eigenvalue", grid, label)
    # A single eigenvalue is seen, however many there are: a fifth of its peak is.
    lowest = min(1e-4, 0.2 / (spectrum.num_parameters * bandwidth * np.sqrt(2 * np.pi)))
    return plot_density(density, linear_width=eps, eps=eps, lowest=lowest, ax=ax, **options)


def plot_fraction_of_eps(
    spectrum: Spectrum | ResolvedFraction,
    *,
    eps: float | None = None,
    label: str = "",
    ax: Any | None = None,
    **options: Any,
) -> Any:
    """Draw f(ε), the share of the eigenvalues within ε of zero, between certified bounds.

    Parameters
    ----------
    spectrum
        Dense or Lanczos, or what ``resolve_fraction`` gives; of a family the means are drawn.
    eps
        An ε to mark.
    label
        For a legend, and of the look of an architecture of that name.
    ax
        Matplotlib axes; new ones by default.
    **options
        Matplotlib's properties of the line, such as ``color`` or ``linewidth``.

    Returns
    -------
    The axes; ε from the noise floor up, what is below it shaded.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from landscape.curvature import DiagonalOperator
    >>> from landscape.spectra import slq
    >>> op = DiagonalOperator(jnp.linspace(-1.0, 9.0, 100))
    >>> spectrum = slq(op, jax.random.key(0), num_steps=20)
    >>> plot_fraction_of_eps(spectrum, eps=1e-2).get_xscale()
    'log'
    """
    spectrum = _measure(spectrum, "plot_fraction_of_eps")
    if eps is not None:
        _positive(eps)
    ax = tidy(new_axes(ax))
    fresh = not ax.has_data()
    floor = float(np.max(spectrum.noise_floor))
    top = float(np.abs(spectrum.nodes).max())
    lowest = max(floor, 1e-9 * top, 1e-30)
    epsilons = np.geomspace(lowest, 2 * max(top, lowest))
    ax = plot_fraction_curve(fraction_curve(spectrum, epsilons), ax=ax, label=label, **options)
    if floor > 0:
        # Shares of an ε below it are refused: a decade of it is shown.
        shade(ax, floor / 10, floor, "below the noise floor")
        widen(ax, fresh, (floor / 10, epsilons[-1]))
    if eps is not None:
        mark(ax, eps)
    return ax


def plot_mixture(
    fit: MixtureFit, *, spectrum: Spectrum | None = None, ax: Any | None = None
) -> Any:
    """Draw the two components of a mixture, and beside them a spectrum.

    Parameters
    ----------
    fit
        From ``fit_mixture``.
    spectrum
        Of the same operator, for comparison; smoothed.
    ax
        Matplotlib axes; new ones by default.

    Returns
    -------
    The axes: share per unit of asinh(λ/σ). A component that is a point is a dotted line.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from landscape.curvature import DiagonalOperator
    >>> from landscape.spectra import slq
    >>> op = DiagonalOperator(jnp.linspace(-1.0, 9.0, 100))
    >>> spectrum = slq(op, jax.random.key(0), num_steps=20)
    >>> from landscape.spectra import fit_mixture, spectral_moments
    >>> fit = fit_mixture(spectral_moments(op, jax.random.key(0)))
    >>> plot_mixture(fit, spectrum=spectrum).get_legend() is not None
    True
    """
    expect("plot_mixture", fit, MixtureFit)
    ax = tidy(new_axes(ax))
    fresh = not ax.has_data()
    from scipy.stats import norm, skewnorm

    reach = abs(fit.location) + 6 * max(fit.scale, fit.sigma)
    if spectrum is not None:
        reach = max(reach, float(np.abs(spectrum.nodes).max()))
    grid = asinh_grid(reach, fit.sigma)
    # dλ of a unit of t = asinh(λ/σ).
    per_unit = np.hypot(grid, fit.sigma)
    narrow = fit.weight * norm.pdf(grid, scale=fit.sigma) * per_unit
    ax.plot(grid, narrow, color="#D55E00", label=f"narrow component, w = {fit.weight:.3f}")
    if fit.scale > 0 and fit.weight < 1:
        broad = (1 - fit.weight) * skewnorm.pdf(grid, fit.shape, fit.location, fit.scale)
        ax.plot(grid, broad * per_unit, color="#0072B2", linestyle=(0, (5, 2)), label="skew-normal")
    elif fit.weight < 1:
        ax.axvline(fit.location, color="#0072B2", linestyle=":", label="point mass")
    if spectrum is not None:
        mass = asinh_density(spectrum, grid, linear_width=fit.sigma, bandwidth=BANDWIDTH)
        ax.plot(
            grid,
            mass.reshape(-1, len(grid)).mean(0),
            color=grey(ax, 0.6),
            linewidth=1,
            label="spectrum",
        )
    ax.set_xscale("asinh", linear_width=fit.sigma, base=10)
    ticks = asinh_ticks(fit.sigma, float(grid.min()), float(grid.max()))
    ax.set_xticks(ticks, [power(tick) for tick in ticks])
    ax.minorticks_off()
    widen(ax, fresh, (float(grid.min()), float(grid.max())))
    ax.set_yscale("log")
    # Room for the legend above the curves.
    ax.set_ylim(1e-4, 30)
    ax.set_xlabel("eigenvalue λ")
    ax.set_ylabel("share per unit of asinh(λ/σ)")
    ax.legend(frameon=False, fontsize="small")
    return ax


def plot_moments(moments: Moments, *, ax: Any | None = None, **options: Any) -> Any:
    """Draw the raw moments of a spectrum with their standard errors.

    Parameters
    ----------
    moments
        From ``spectral_moments``.
    ax
        Matplotlib axes; new ones by default.
    **options
        Matplotlib's properties of the marks and whiskers, such as ``color`` or ``markersize``.

    Returns
    -------
    The axes: the j-th root of the size of the j-th moment, in units of the eigenvalues; open
    markers for negative ones.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from landscape.curvature import DiagonalOperator
    >>> from landscape.spectra import slq
    >>> op = DiagonalOperator(jnp.linspace(-1.0, 9.0, 100))
    >>> spectrum = slq(op, jax.random.key(0), num_steps=20)
    >>> from landscape.spectra import spectral_moments
    >>> plot_moments(spectral_moments(op, jax.random.key(0))).get_xlabel()
    'order j'
    """
    expect("plot_moments", moments, Moments)
    ax = tidy(new_axes(ax))
    orders = np.arange(1, moments.num_moments + 1)
    values, errors = moments.moments, np.nan_to_num(moments.stderr)
    roots = np.abs(values) ** (1 / orders)
    lowest, highest = (
        np.maximum(np.abs(values) + sign * errors, 0) ** (1 / orders) for sign in (-1, 1)
    )
    kept = {"color": "#0072B2", "marker": "o", "linestyle": "", "capsize": 4, **named(options)}
    for negative, face in ((False, kept["color"]), (True, "none")):
        there = (values < 0) == negative
        reach = [(roots - lowest)[there], (highest - roots)[there]]
        ax.errorbar(orders[there], roots[there], reach, **{"markerfacecolor": face, **kept})
    if values.any():
        ax.set_yscale("log")
    ax.set_xticks(orders)
    ax.set_xlabel("order j")
    ax.set_ylabel("|mean of λʲ|^(1/j)")
    return ax


def asinh_grid(reach: float, linear_width: float) -> np.ndarray:
    """Points for a density, evenly spaced in asinh(λ/width), to twice the reach."""
    end = np.arcsinh(2 * max(reach, linear_width) / linear_width)
    return np.asarray(linear_width * np.sinh(np.linspace(-end, end, 401)))


def _positive(eps: Any) -> None:
    if not (isinstance(eps, numbers.Real) and float(eps) > 0):
        raise InputError(f"eps must be a positive number; got {eps!r}")


def _measure(spectrum: Any, function: str) -> Spectrum:
    expect(function, spectrum, SpectralMeasure, LanczosSpectrum, ResolvedFraction)
    return spectrum.spectrum if isinstance(spectrum, ResolvedFraction) else spectrum
