"""Curves of labelled results, one line per architecture with 95 % intervals over seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from landscape.errors import InputError
from landscape.plots.style import (
    expect,
    look,
    mean_interval,
    new_axes,
    series,
    series_before,
    shade,
    tidy,
    widen,
)
from landscape.spectra import Fraction


def plot_through_training(
    results: xr.DataArray, *, ax: Any | None = None, percent: bool = True, **options: Any
) -> Any:
    """Draw a quantity against epochs.

    Parameters
    ----------
    results
        Dimensions ``epoch`` (or another one along the abscissa), and architecture and seed if there
        are several. A fraction of 1, drawn in percent unless ``percent`` is False.
    ax
        Matplotlib axes; new ones by default.
    percent
        Multiply by 100.
    **options
        Matplotlib's properties of the lines, such as ``linewidth``.

    Returns
    -------
    The axes. Mean over seeds; bands are 95 % Student intervals of the mean, from three seeds on,
    cut at 0 and 100 %.

    Raises
    ------
    InputError
        If the array has other dimensions; as all pictures of this kind.

    Examples
    --------
    >>> import xarray as xr
    >>> shares = xr.DataArray(
    ...     [[[0.9, 0.8], [0.7, 0.8]]],
    ...     dims=("architecture", "seed", "epoch"),
    ...     coords={"architecture": ["plain"], "epoch": [0, 10]},
    ... )
    >>> plot_through_training(shares).get_lines()[0].get_ydata().tolist()
    [80.0, 80.0]
    """
    results, along = completed("plot_through_training", results)
    ax = tidy(new_axes(ax))
    factor = 100.0 if percent else 1.0
    names = [str(name) for name in results["architecture"].values]
    epochs = results[along].values
    for index, name in enumerate(names):
        kept = series(name, index, options)
        values = factor * results.isel(architecture=index).transpose("seed", along).values
        mean, half = mean_interval(values, 0)
        half = np.where(np.isfinite(values).sum(0) > 2, half, np.nan)
        ax.plot(epochs, mean, **kept)
        low, high = mean - half, mean + half
        if percent:
            # Student's interval knows nothing of the ends.
            low, high = np.clip(low, 0, 100), np.clip(high, 0, 100)
        ax.fill_between(epochs, low, high, color=kept["color"], alpha=0.2, linewidth=0)
    ax.set_xlabel(along.replace("_", " "))
    return ax


def plot_fractions(
    estimate: xr.DataArray, lower: xr.DataArray, upper: xr.DataArray, *, ax: Any | None = None
) -> Any:
    """Draw shares of a spectrum at a few epochs, or for a few N, with their certified intervals.

    Parameters
    ----------
    estimate
        Dimensions architecture, seed (if there are several), and one along the abscissa; fractions
        of 1. NaN where the share is not resolved.
    lower, upper
        Certified bounds, same dimensions; NaN where nothing is known.
    ax
        Matplotlib axes; new ones by default.

    Returns
    -------
    The axes. Markers: mean over the seeds with an estimate, with its 95 % Student interval from
    three seeds on, cut at 0 and 100 %. Light bars: means of the bounds over the same seeds, or over
    all where none has an estimate. What belongs to one place stands side by side.

    Examples
    --------
    >>> import xarray as xr
    >>> shares = xr.DataArray(
    ...     [[[0.9, 0.8], [0.7, 0.8]]],
    ...     dims=("architecture", "seed", "epoch"),
    ...     coords={"architecture": ["plain"], "epoch": [0, 10]},
    ... )
    >>> plot_fractions(shares, shares - 0.05, shares + 0.05).get_xlabel()
    'epoch'
    """
    (estimate, along), (lower, _), (upper, _) = (
        completed("plot_fractions", array) for array in (estimate, lower, upper)
    )
    ax = tidy(new_axes(ax))
    names = [str(name) for name in estimate["architecture"].values]
    places = estimate[along].values
    for index, name in enumerate(names):
        style = look(name, index)
        values, low, high = (
            100 * array.isel(architecture=index).transpose("seed", along).values
            for array in (estimate, lower, upper)
        )
        # A small shift keeps the bars of different architectures apart.
        x = np.arange(len(places)) + 0.14 * (index - (len(names) - 1) / 2)
        taken = np.isfinite(values) | ~np.isfinite(values).any(0)
        bottom, top = (mean_interval(np.where(taken, side, np.nan), 0)[0] for side in (low, high))
        ax.bar(x, top - bottom, 0.1, bottom, color=style.color, alpha=0.25, linewidth=0)
        mean, half = mean_interval(values, 0)
        half = np.where(np.isfinite(values).sum(0) > 2, half, np.nan)
        reach = np.minimum(half, mean), np.minimum(half, 100 - mean)
        ax.errorbar(
            x, mean, reach, color=style.color, linestyle=style.linestyle, marker=style.marker,
            capsize=3, label=name or None,
        )  # fmt: skip
    ax.set_xticks(np.arange(len(places)), [f"{place:,}" for place in places])
    ax.set_ylim(-3, 103)
    ax.set_xlabel("examples N" if along == "images" else "epoch")
    return ax


def plot_fraction_curve(
    estimate: xr.DataArray | Fraction,
    lower: xr.DataArray | None = None,
    upper: xr.DataArray | None = None,
    *,
    ax: Any | None = None,
    noise_floor: float | None = None,
    label: str = "",
    **options: Any,
) -> Any:
    """Draw f(ε), the share of eigenvalues within ε of zero, against ε, between certified bounds.

    Parameters
    ----------
    estimate
        From ``fraction_curve``; or with dimensions architecture, seed (if there are several), eps:
        fractions of 1, NaN where they are not resolved.
    lower, upper
        Of the latter, certified bounds, same dimensions; NaN where nothing is known. Seeds that
        have none at all are left aside.
    ax
        Matplotlib axes; new ones by default.
    noise_floor
        Below this ε eigenvalues are rounding; that side is shaded.
    label
        Of a curve: for a legend, and of the look of an architecture of that name.
    **options
        Matplotlib's properties of the lines, such as ``linewidth``.

    Returns
    -------
    The axes. Lines: mean over seeds, where every seed's share is resolved. Bands: means over
    seeds of the bounds.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, numpy as np
    >>> from landscape.curvature import DiagonalOperator
    >>> from landscape.spectra import fraction_curve, slq
    >>> op = DiagonalOperator(jnp.linspace(-1.0, 9.0, 100))
    >>> spectrum = slq(op, jax.random.key(0), num_steps=20)
    >>> curve = fraction_curve(spectrum, np.array([0.1, 1.0, 10.0]))
    >>> plot_fraction_curve(curve, label="mine").get_xscale()
    'log'
    """
    expect("plot_fraction_curve", estimate, xr.DataArray, Fraction)
    ax = tidy(new_axes(ax))
    if isinstance(estimate, Fraction):
        estimate, lower, upper = labelled_curve(estimate, label)
    if lower is None or upper is None:
        raise InputError("bounds are needed: give lower and upper, or what fraction_curve gives")
    estimate, lower, upper = (
        completed("plot_fraction_curve", array, "eps")[0] for array in (estimate, lower, upper)
    )
    fresh, before = not ax.has_data(), series_before(ax)
    epsilons = estimate["eps"].values
    for index, name in enumerate(str(name) for name in estimate["architecture"].values):
        kept = series(name, index + before, options)
        rows = [
            100 * array.isel(architecture=index).transpose("seed", "eps").values
            for array in (estimate, lower, upper)
        ]
        there = np.isfinite(rows[1]).any(1)
        middle, low, high = (
            row[there].mean(0) if there.any() else np.full(len(epsilons), np.nan) for row in rows
        )
        ax.plot(epsilons, middle, **kept)
        ax.fill_between(epsilons, low, high, color=kept["color"], alpha=0.2, linewidth=0)
    ax.set_xscale("log")
    if noise_floor is not None and noise_floor > epsilons[0]:
        shade(ax, epsilons[0], noise_floor, "below the noise floor")
    widen(ax, fresh, (epsilons[0], epsilons[-1]))
    ax.set_ylim(0, 100)
    ax.set_xlabel("ε")
    ax.set_ylabel("eigenvalues with |λ| ≤ ε  (%)")
    return ax


def plot_density(
    results: xr.DataArray,
    *,
    linear_width: float,
    eps: float,
    lowest: float = 1e-4,
    ax: Any | None = None,
    **options: Any,
) -> Any:
    """Draw spectral densities on an asinh axis: zero, tiny eigenvalues and outliers in one picture.

    Parameters
    ----------
    results
        Dimensions architecture, seed (if there are several), eigenvalue: mass per unit of
        asinh(λ / linear_width).
    linear_width
        Where the abscissa turns from linear to logarithmic.
    eps
        The degenerate band |λ| ≤ ε is shaded.
    lowest
        Where the ordinate begins.
    ax
        Matplotlib axes; new ones by default.
    **options
        Matplotlib's properties of the lines, such as ``linewidth``.

    Returns
    -------
    The axes. The mean over seeds, on a logarithmic ordinate.

    Raises
    ------
    InputError
        If densities of another linear width are on these axes.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> values = np.sinh(np.linspace(-3, 3, 61))
    >>> density = xr.DataArray(
    ...     np.exp(-(values**2))[None, None],
    ...     dims=("architecture", "seed", "eigenvalue"),
    ...     coords={"architecture": ["plain"], "eigenvalue": values},
    ... )
    >>> plot_density(density, linear_width=1.0, eps=0.1).get_xlabel()
    'eigenvalue λ'
    """
    results, _ = completed("plot_density", results, "eigenvalue")
    ax = tidy(new_axes(ax))
    fresh, before = not ax.has_data(), series_before(ax)
    # The ordinate is per unit of asinh(λ/ε): of another ε it would be another.
    drawn = getattr(ax.xaxis.get_transform(), "linear_width", linear_width)
    if not (fresh or np.isclose(drawn, linear_width, rtol=1e-6)):
        raise InputError(f"these axes show a density for eps={drawn:g}; got eps={linear_width:g}")
    grid = results["eigenvalue"].values
    for index, name in enumerate(str(name) for name in results["architecture"].values):
        mean = results.isel(architecture=index).mean("seed").values
        ax.plot(grid, mean, **series(name, index + before, options))
    ax.set_xscale("asinh", linear_width=linear_width, base=10)
    ax.set_yscale("log")
    widen(ax, fresh, y=(lowest, 3))
    shade(ax, -eps, eps)
    widen(ax, fresh, (float(grid.min()), float(grid.max())))
    places = asinh_ticks(linear_width, *ax.get_xlim())
    ax.set_xticks(places, [power(place) for place in places])
    ax.minorticks_off()
    ax.set_xlabel("eigenvalue λ")
    ax.set_ylabel("share per unit of asinh(λ/ε)")
    return ax


def completed(
    function: str, results: xr.DataArray, along: str | None = None
) -> tuple[xr.DataArray, str]:
    """What is to be drawn with all its dimensions, and the one along the abscissa.

    Parameters
    ----------
    function
        Who draws, for messages.
    results
        One without architectures is of a single one, without a name; one without seeds of one seed.
    along
        What the abscissa must be; by default what else there is.

    Raises
    ------
    InputError
        If it is no ``xarray.DataArray``, or has other dimensions.
    """
    expect(function, results, xr.DataArray)
    others = [str(dim) for dim in results.dims if dim not in ("architecture", "seed")]
    if len(others) != 1 or along not in (None, others[0]):
        wanted = repr(along) if along else "one along the abscissa"
        raise InputError(
            f"{function} draws arrays of dimensions 'architecture', 'seed' (or neither) and "
            f"{wanted}; got {', '.join(map(repr, results.dims)) or 'a number'}"
        )
    if "architecture" not in results.dims:
        results = results.drop_vars("architecture", errors="ignore")
        results = results.expand_dims(architecture=[""])
    if "seed" not in results.dims:
        results = results.drop_vars("seed", errors="ignore").expand_dims("seed")
    return results, others[0]


def labelled_curve(curve: Fraction, label: str) -> list[xr.DataArray]:
    """Estimate and bounds of a curve as of one architecture; networks of a family as its seeds.

    Raises
    ------
    InputError
        If it is no curve, or none of ε.
    """
    epsilons = np.asarray(curve.interval[1], float)
    if not curve.curve or not (np.isfinite(epsilons).all() and (epsilons > 0).all()):
        raise InputError("f(ε) is drawn of what fraction_curve gives")
    return [labelled(v, "eps", epsilons, label) for v in (curve.estimate, curve.lower, curve.upper)]


def labelled(values: np.ndarray, dim: str, points: np.ndarray, label: str) -> xr.DataArray:
    """One architecture; networks of a family as its seeds."""
    rows = np.asarray(values).reshape(1, -1, len(points))
    coords = {"architecture": [label], "seed": np.arange(rows.shape[1]), dim: points}
    return xr.DataArray(rows, dims=("architecture", "seed", dim), coords=coords)


def asinh_ticks(linear_width: float, low: float, high: float) -> list[float]:
    """Zero, and at most three powers of ten on each side of it."""
    # Nearer to zero than two decades above the linear width, labels would touch the zero's.
    lowest = np.round(np.log10(linear_width)) + 2
    decades = np.arange(lowest, np.ceil(np.log10(max(high, -low))) + 1)
    ticks = 10.0 ** decades[:: -(-len(decades) // 3) or 1]
    return [*(-t for t in ticks[::-1] if -t >= low), 0.0, *(t for t in ticks if t <= high)]


def power(value: float) -> str:
    """A power of ten, or 0, as a label."""
    if value == 0:
        return "0"
    return f"${'-' if value < 0 else ''}10^{{{round(np.log10(abs(value)))}}}$"
