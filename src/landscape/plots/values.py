"""Pictures of numbers, with what is known of each: shares, estimates, eigenvalues, ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from landscape.degeneracy import Rank
from landscape.errors import InputError
from landscape.plots.curves import asinh_ticks, power
from landscape.plots.style import (
    COLORS,
    expect,
    grey,
    look,
    named,
    new_axes,
    rows_before,
    series,
    series_before,
    tidy,
    widen,
)
from landscape.spectra import EigenPairs, Estimate, Fraction, ResolvedFraction

# What intervals are drawn of.
_SHARE, _ESTIMATE = "share of the eigenvalues (%)", "estimate"


def plot_shares(
    fraction: Fraction, *, label: str = "", ax: Any | None = None, **options: Any
) -> Any:
    """Draw shares of many intervals as a curve, or those of many networks as marks.

    Parameters
    ----------
    fraction
        From ``fraction_curve``, ``distribution_function``, or of a family.
    label
        For a legend, and of the look of an architecture of that name.
    ax
        Matplotlib axes; new ones by default.
    **options
        Matplotlib's properties of the line, or the marks, such as ``color`` or ``linewidth``.

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
    expect("plot_shares", fraction, Fraction)
    if np.ndim(fraction.estimate) == 0:
        return plot_intervals({label: fraction}, ax=ax, **options)
    ax = tidy(new_axes(ax))
    kept = series(label, series_before(ax), options)
    arrays = (fraction.estimate, fraction.lower, fraction.upper)
    if fraction.curve:
        ends = np.asarray(fraction.interval[1], float)
        middle, low, high = (100 * np.reshape(x, (-1, len(ends))).mean(0) for x in arrays)
        ax.plot(ends, middle, **kept)
        ax.fill_between(ends, low, high, color=kept["color"], alpha=0.2, linewidth=0)
        around_zero = np.all(np.asarray(fraction.interval[0], float) == -ends)
        if np.all(ends > 0):
            ax.set_xscale("log")
        ax.set_xlabel("ε" if around_zero else "upper end of the interval")
    else:
        middle, low, high = (100 * np.ravel(x) for x in arrays)
        places = np.arange(len(middle))
        bars = ax.bar(places, high - low, 0.6, low, color=kept["color"], alpha=0.25, linewidth=0)
        for bar in bars:
            # Else the axes end at the lowest share, and cut its mark.
            bar.sticky_edges.y.clear()
        marks = {"marker": look(label, series_before(ax)).marker, "markersize": 3, "linestyle": ""}
        ax.plot(places, middle, **{**kept, **marks, **named(options)})
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_xlabel("network")
    ax.set_ylabel("share of the eigenvalues (%)")
    return ax


def plot_values(estimate: Estimate, *, ax: Any | None = None, **options: Any) -> Any:
    """Draw how the entries of an estimated vector are distributed, such as a diagonal's.

    Parameters
    ----------
    estimate
        From ``diagonal``.
    ax
        Matplotlib axes; new ones by default.
    **options
        Matplotlib's properties of the histogram, such as ``color`` or ``bins``.

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
    expect("plot_values", estimate, Estimate)
    ax = tidy(new_axes(ax))
    # A histogram knows bars' properties, and no short names.
    kept = {"bins": 60, "color": look("residual").color, "alpha": 0.8, **named(options)}
    ax.hist(np.ravel(estimate.value), **kept)
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
    **options: Any,
) -> Any:
    """Draw numbers with what is known of them, one below the other.

    Parameters
    ----------
    results
        By name, or one: shares of eigenvalues, or estimates of one number each.
    ax
        Matplotlib axes; new ones by default.
    **options
        Matplotlib's properties of the marks and whiskers, such as ``color`` or ``markersize``.

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
        expect("plot_intervals", one, Fraction, ResolvedFraction, Estimate)
        one = one.fraction if isinstance(one, ResolvedFraction) else one
        if np.ndim(one.estimate if isinstance(one, Fraction) else one.value):
            raise InputError(
                "an interval is drawn of one number; plot_shares takes many shares, plot_values an "
                "estimated vector"
            )
        kinds.add(_SHARE if isinstance(one, Fraction) else _ESTIMATE)
        style = look(name, place)
        kept = {"color": style.color, "marker": style.marker, "capsize": 4, **named(options)}
        low, high = (float(end) for end in one.confidence_interval())
        if isinstance(one, Fraction):
            middle, low, high = 100 * float(one.estimate), 100 * low, 100 * high
            left, right = 100 * float(one.lower), 100 * float(one.upper)
            ax.barh(place, right - left, 0.5, left, color=kept["color"], alpha=0.25, linewidth=0)
        else:
            middle = float(one.value)
        reach = [[max(middle - low, 0)], [max(high - middle, 0)]]
        ax.errorbar(middle, place, xerr=reach, **kept)
    names += list(results)
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(axis="y", length=3 if any(names) else 0)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlabel(kinds.pop() if len(kinds) == 1 else "shares in %, and estimates")
    return ax


def plot_eigenpairs(pairs: EigenPairs, *, ax: Any | None = None, **options: Any) -> Any:
    """Draw the eigenvalues at the ends of a spectrum, each with the norm of its residual.

    Parameters
    ----------
    pairs
        From ``extremal_eigenpairs``.
    ax
        Matplotlib axes; new ones by default.
    **options
        Matplotlib's properties of the marks and whiskers, such as ``color`` or ``markersize``.

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
    expect("plot_eigenpairs", pairs, EigenPairs)
    ax = tidy(new_axes(ax))
    fresh = not ax.has_data()
    values = np.asarray(pairs.values)
    # A gap where both ends meet.
    places = np.arange(1, len(values) + 1) + (pairs.ranks < 0) * (pairs.num_smallest < len(values))
    color = COLORS[len(ax.containers) % len(COLORS)]
    kept = {"color": color, "marker": "o", "linestyle": "", "capsize": 4, **named(options)}
    ax.errorbar(places, values, pairs.residual_norms, **kept)
    ax.axhline(0, color=grey(ax, 0.7), linewidth=0.8)
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


def plot_rank(rank: Rank, *, ax: Any | None = None, **options: Any) -> Any:
    """Draw singular values and the cut that decides the rank.

    Parameters
    ----------
    rank
        From ``jacobian_rank``; of a family every matrix's values are drawn.
    ax
        Matplotlib axes; new ones by default.
    **options
        Matplotlib's properties of the lines, or marks, such as ``color`` or ``linewidth``.

    Returns
    -------
    The axes. Without singular values (``"lanczos"``) the interval of the rank.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from landscape.curvature import DenseOperator
    >>> from landscape.degeneracy import jacobian_rank
    >>> ax = plot_rank(jacobian_rank(DenseOperator(jnp.diag(jnp.array([3.0, 2.0, 0.0])))))
    >>> ax.get_yscale()
    'log'
    """
    expect("plot_rank", rank, Rank)
    ax = tidy(new_axes(ax))
    kept = {"color": "#0072B2", **named(options)}
    if not rank.singular_values.shape[-1]:
        low, middle, high = (np.ravel(x) for x in (rank.lower, rank.rank, rank.upper))
        places = np.arange(len(middle))
        kept = {"marker": "o", "linestyle": "", "capsize": 4, **kept}
        ax.errorbar(middle, places, xerr=[middle - low, high - middle], **kept)
        ax.set_xlim(0, min(rank.shape))
        ax.set_yticks([])
        ax.set_ylabel("matrices" if len(middle) > 1 else "")
        ax.set_xlabel(f"singular values above {rank.rtol:g} σ₁")
        return ax
    values = rank.singular_values.reshape(-1, rank.singular_values.shape[-1])
    relative = values / np.where(values[:, :1] > 0, values[:, :1], 1)
    for row in relative:
        # What lies far below the cut stands at the bottom.
        ax.plot(np.arange(1, len(row) + 1), np.maximum(row, 1e-9 * rank.rtol), **kept)
    ax.axhline(rank.rtol, color=grey(ax, 0.7), linestyle=":", label=f"τ = {rank.rtol:.1e}")
    ax.set_yscale("log")
    ax.set_xlabel("singular values, largest first")
    ax.set_ylabel("σ / σ₁")
    ax.legend(frameon=False, fontsize="small")
    return ax
