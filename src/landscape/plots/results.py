"""Pictures of single results: a spectrum, a share, eigenvalues, moments, a rank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from landscape.degeneracy import (
    Rank,
)
from landscape.errors import InputError
from landscape.plots.curves import (
    asinh_ticks,
    labelled,
    plot_density,
    plot_fraction_curve,
    power,
)
from landscape.plots.style import COLORS, look, new_axes, rows_before, tidy, widen
from landscape.spectra import (
    EigenPairs,
    Estimate,
    Fraction,
    MixtureFit,
    Moments,
    ResolvedFraction,
    Spectrum,
    asinh_density,
    fraction_curve,
)

# What intervals are drawn of.
_SHARE, _ESTIMATE = "share of the eigenvalues (%)", "estimate"

# Standard deviation of the smoothing, in units of asinh(λ/ε).
BANDWIDTH = 0.25


def plot_spectrum(
    spectrum: Spectrum | ResolvedFraction,
    *,
    eps: float = 1e-3,
    bandwidth: float = BANDWIDTH,
    label: str = "",
    ax: Any | None = None,
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
    if isinstance(spectrum, ResolvedFraction):
        spectrum = spectrum.spectrum
    if not eps > 0:
        raise InputError(f"eps must be positive; got {eps!r}")
    grid = asinh_grid(float(np.abs(spectrum.nodes).max()), eps)
    mass = asinh_density(spectrum, grid, linear_width=eps, bandwidth=bandwidth)
    return plot_density(labelled(mass, "eigenvalue", grid, label), linear_width=eps, eps=eps, ax=ax)


def plot_fraction_of_eps(
    spectrum: Spectrum | ResolvedFraction,
    *,
    eps: float | None = None,
    label: str = "",
    ax: Any | None = None,
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
    if isinstance(spectrum, ResolvedFraction):
        spectrum = spectrum.spectrum
    ax = tidy(new_axes(ax))
    fresh = not ax.has_data()
    floor = float(np.max(spectrum.noise_floor))
    top = float(np.abs(spectrum.nodes).max())
    lowest = max(floor, 1e-9 * top, 1e-30)
    epsilons = np.geomspace(lowest, 2 * max(top, lowest))
    ax = plot_fraction_curve(fraction_curve(spectrum, epsilons), ax=ax, label=label)
    if floor > 0:
        # Shares of an ε below it are refused: a decade of it is shown.
        ax.axvspan(floor / 10, floor, color="0.85", zorder=0, label="below the noise floor")
        widen(ax, fresh, (floor / 10, epsilons[-1]))
    if eps is not None:
        ax.axvline(eps, color="0.3", linestyle=":", linewidth=1)
    return ax


def plot_shares(fraction: Fraction, *, label: str = "", ax: Any | None = None) -> Any:
    """Draw shares of many intervals as a curve, or those of many networks as marks.

    Parameters
    ----------
    fraction
        From ``fraction_curve``, ``distribution_function``, or of a family.
    label
        For a legend, and of the look of an architecture of that name.
    ax
        Matplotlib axes; new ones by default.

    Returns
    -------
    The axes: shares in percent. Bands, or light bars, are the certified bounds; of the curves of a
    family means are drawn.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from landscape.curvature import DiagonalOperator
    >>> from landscape.spectra import slq
    >>> op = DiagonalOperator(jnp.linspace(-1.0, 9.0, 100))
    >>> spectrum = slq(op, jax.random.key(0), num_steps=20)
    >>> from landscape.spectra import distribution_function
    >>> import numpy as np
    >>> plot_shares(distribution_function(spectrum, np.linspace(-2, 10, 50))).get_xlabel()
    'upper end of the interval'
    """
    if np.ndim(fraction.estimate) == 0:
        return plot_intervals({label: fraction}, ax=ax)
    ax = tidy(new_axes(ax))
    style = look(label, len(ax.lines))
    arrays = (fraction.estimate, fraction.lower, fraction.upper)
    if fraction.curve:
        ends = np.asarray(fraction.interval[1], float)
        middle, low, high = (100 * np.reshape(x, (-1, len(ends))).mean(0) for x in arrays)
        ax.plot(ends, middle, color=style.color, linestyle=style.linestyle, label=label or None)
        ax.fill_between(ends, low, high, color=style.color, alpha=0.2, linewidth=0)
        if np.all(ends > 0):
            ax.set_xscale("log")
        ax.set_xlabel("upper end of the interval")
    else:
        middle, low, high = (100 * np.ravel(x) for x in arrays)
        places = np.arange(len(middle))
        ax.bar(places, high - low, 0.6, low, color=style.color, alpha=0.25, linewidth=0)
        ax.plot(places, middle, style.marker, color=style.color, markersize=3, label=label or None)
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_xlabel("network")
    ax.set_ylabel("share of the eigenvalues (%)")
    return ax


def plot_values(estimate: Estimate, *, ax: Any | None = None) -> Any:
    """Draw how the entries of an estimated vector are distributed, such as a diagonal's.

    Parameters
    ----------
    estimate
        From ``diagonal``.
    ax
        Matplotlib axes; new ones by default.

    Returns
    -------
    The axes: a histogram, its counts on a logarithmic scale.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from landscape.curvature import DiagonalOperator
    >>> from landscape.spectra import slq
    >>> op = DiagonalOperator(jnp.linspace(-1.0, 9.0, 100))
    >>> spectrum = slq(op, jax.random.key(0), num_steps=20)
    >>> from landscape.spectra import diagonal
    >>> plot_values(diagonal(op, jax.random.key(0), num_matvecs=10)).get_xlabel()
    'value of an entry'
    """
    ax = tidy(new_axes(ax))
    ax.hist(np.ravel(estimate.value), bins=60, color=look("residual").color, alpha=0.8)
    ax.set_yscale("log")
    ax.set_xlabel("value of an entry")
    ax.set_ylabel("entries")
    return ax


def plot_intervals(
    results: Mapping[str, Fraction | ResolvedFraction | Estimate]
    | Fraction
    | ResolvedFraction
    | Estimate,
    *,
    ax: Any | None = None,
) -> Any:
    """Draw numbers with what is known of them, one below the other.

    Parameters
    ----------
    results
        By name, or one: shares of eigenvalues, or estimates of one number each.
    ax
        Matplotlib axes; new ones by default.

    Returns
    -------
    The axes. Of a share: light bar, the certified bounds; whiskers, the 95 % confidence interval;
    in percent. Of another estimate the whiskers alone.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from landscape.curvature import DiagonalOperator
    >>> from landscape.spectra import slq
    >>> op = DiagonalOperator(jnp.linspace(-1.0, 9.0, 100))
    >>> spectrum = slq(op, jax.random.key(0), num_steps=20)
    >>> from landscape.spectra import degenerate_fraction, negative_fraction
    >>> shares = {"flat": degenerate_fraction(spectrum, 0.1), "below": negative_fraction(spectrum)}
    >>> [label.get_text() for label in plot_intervals(shares).get_yticklabels()]
    ['flat', 'below']
    """
    if not isinstance(results, Mapping):
        results = {"": results}
    if not results:
        raise InputError("there is nothing to draw")
    ax = tidy(new_axes(ax))
    names = rows_before(ax)
    kinds = {ax.get_xlabel()} if names else set()
    for place, (name, one) in enumerate(results.items(), len(names)):
        one = one.fraction if isinstance(one, ResolvedFraction) else one
        if np.ndim(one.estimate if isinstance(one, Fraction) else one.value):
            raise InputError("an interval is drawn of one number; plot_shares takes many")
        kinds.add(_SHARE if isinstance(one, Fraction) else _ESTIMATE)
        style = look(name, place)
        low, high = (float(end) for end in one.confidence_interval())
        if isinstance(one, Fraction):
            middle, low, high = 100 * float(one.estimate), 100 * low, 100 * high
            left, right = 100 * float(one.lower), 100 * float(one.upper)
            ax.barh(place, right - left, 0.5, left, color=style.color, alpha=0.25, linewidth=0)
        else:
            middle = float(one.value)
        ax.errorbar(
            middle, place, xerr=[[max(middle - low, 0)], [max(high - middle, 0)]],
            color=style.color, marker=style.marker, capsize=4,
        )  # fmt: skip
    names += list(results)
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(axis="y", length=3 if any(names) else 0)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlabel(kinds.pop() if len(kinds) == 1 else "shares in %, and estimates")
    return ax


def plot_eigenpairs(pairs: EigenPairs, *, ax: Any | None = None) -> Any:
    """Draw the eigenvalues at the ends of a spectrum, each with the norm of its residual.

    Parameters
    ----------
    pairs
        From ``extremal_eigenpairs``.
    ax
        Matplotlib axes; new ones by default.

    Returns
    -------
    The axes, largest first and by rank: 1 for the largest eigenvalue, −1 for the smallest.
    Logarithmic on both sides of zero if they differ by much.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from landscape.curvature import DiagonalOperator
    >>> from landscape.spectra import slq
    >>> op = DiagonalOperator(jnp.linspace(-1.0, 9.0, 100))
    >>> spectrum = slq(op, jax.random.key(0), num_steps=20)
    >>> from landscape.spectra import extremal_eigenpairs
    >>> pairs = extremal_eigenpairs(op, jax.random.key(1), num_largest=2, num_smallest=1)
    >>> len(plot_eigenpairs(pairs).containers)
    1
    """
    ax = tidy(new_axes(ax))
    fresh = not ax.has_data()
    values = np.asarray(pairs.values)
    # A gap where both ends meet.
    places = np.arange(1, len(values) + 1) + (pairs.ranks < 0) * (pairs.num_smallest < len(values))
    ax.errorbar(
        places,
        values,
        pairs.residual_norms,
        color=COLORS[len(ax.containers) % len(COLORS)],
        marker="o",
        linestyle="",
        capsize=4,
    )
    ax.axhline(0, color="0.3", linewidth=0.8)
    size = np.abs(values[values != 0])
    if size.size and size.max() > 30 * size.min():
        width = float(size.min())
        ax.set_yscale("asinh", linear_width=width)
        low, high = min(2 * float(values.min()), 0.0), max(2 * float(values.max()), 0.0)
        ticks = asinh_ticks(width / 10, low, high)
        ax.set_yticks(ticks, [power(tick) for tick in ticks])
        ax.minorticks_off()
        widen(ax, fresh, y=(low, high))
    if pairs.num_smallest:
        every = -(-len(places) // 12)
        told = [f"{rank}".replace("-", "−") for rank in pairs.ranks]
        ax.set_xticks(places[::every], told[::every])
        ax.set_xlabel("rank: 1 is the largest eigenvalue, −1 the smallest")
    else:
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_xlabel("eigenvalues, largest first")
    ax.set_ylabel("λ")
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
            grid, mass.reshape(-1, len(grid)).mean(0), color="0.4", linewidth=1, label="spectrum"
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


def plot_moments(moments: Moments, *, ax: Any | None = None) -> Any:
    """Draw the raw moments of a spectrum with their standard errors.

    Parameters
    ----------
    moments
        From ``spectral_moments``.
    ax
        Matplotlib axes; new ones by default.

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
    ax = tidy(new_axes(ax))
    orders = np.arange(1, moments.num_moments + 1)
    values, errors = moments.moments, np.nan_to_num(moments.stderr)
    roots = np.abs(values) ** (1 / orders)
    lowest, highest = (
        np.maximum(np.abs(values) + sign * errors, 0) ** (1 / orders) for sign in (-1, 1)
    )
    for negative, face in ((False, "#0072B2"), (True, "none")):
        kept = (values < 0) == negative
        ax.errorbar(
            orders[kept], roots[kept], [(roots - lowest)[kept], (highest - roots)[kept]],
            color="#0072B2", markerfacecolor=face, marker="o", linestyle="", capsize=4,
        )  # fmt: skip
    ax.set_yscale("log")
    ax.set_xticks(orders)
    ax.set_xlabel("order j")
    ax.set_ylabel("|mean of λʲ|^(1/j)")
    return ax


def plot_rank(rank: Rank, *, ax: Any | None = None) -> Any:
    """Draw singular values and the cut that decides the rank.

    Parameters
    ----------
    rank
        From ``jacobian_rank``; of a family every matrix's values are drawn.
    ax
        Matplotlib axes; new ones by default.

    Returns
    -------
    The axes. Without singular values (``"lanczos"``) the interval of the rank.
    """
    ax = tidy(new_axes(ax))
    if not rank.singular_values.shape[-1]:
        low, middle, high = (np.ravel(x) for x in (rank.lower, rank.rank, rank.upper))
        places = np.arange(len(middle))
        ax.errorbar(
            middle, places, xerr=[middle - low, high - middle], color="#0072B2", marker="o",
            linestyle="", capsize=4,
        )  # fmt: skip
        ax.set_xlim(0, min(rank.shape))
        ax.set_yticks([])
        ax.set_ylabel("matrices" if len(middle) > 1 else "")
        ax.set_xlabel(f"singular values above {rank.rtol:g} σ₁")
        return ax
    values = rank.singular_values.reshape(-1, rank.singular_values.shape[-1])
    relative = values / np.where(values[:, :1] > 0, values[:, :1], 1)
    for row in relative:
        # What lies far below the cut stands at the bottom.
        ax.plot(np.arange(1, len(row) + 1), np.maximum(row, 1e-9 * rank.rtol), color="#0072B2")
    ax.axhline(rank.rtol, color="0.3", linestyle=":", label=f"τ = {rank.rtol:.1e}")
    ax.set_yscale("log")
    ax.set_xlabel("singular values, largest first")
    ax.set_ylabel("σ / σ₁")
    ax.legend(frameon=False, fontsize="small")
    return ax


def asinh_grid(reach: float, linear_width: float) -> np.ndarray:
    """Points for a density, evenly spaced in asinh(λ/width), to twice the reach."""
    end = np.arcsinh(2 * max(reach, linear_width) / linear_width)
    return np.asarray(linear_width * np.sinh(np.linspace(-end, end, 401)))
