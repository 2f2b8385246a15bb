"""Pictures of a network: its units, its null directions, its training."""

from __future__ import annotations

from typing import Any

import numpy as np

from landscape.degeneracy import (
    Check,
    DirectionFamily,
    Elimination,
    LinearDependence,
    Measures,
    Overlap,
)
from landscape.errors import InputError
from landscape.plots.style import COLORS, expect, grey, look, named, new_axes, series, tidy
from landscape.training import TrainingRun


def plot_measures(
    found: Measures | Elimination | Overlap | LinearDependence, *, ax: Any | None = None
) -> Any:
    """Draw how near each layer is to each singularity, in numbers that are 1 when it is reached.

    Parameters
    ----------
    found
        From ``measures``, or one of its parts; of a family the means are drawn.
    ax
        Matplotlib axes; new ones by default.

    Returns
    -------
    The axes: probability of a zero response (elimination), each unit's largest cosine with another,
    mean over units (overlap), and the share of the variance in the largest eigenvalues (linear
    dependence).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from landscape.degeneracy import measures
    >>> from landscape.models import MLP
    >>> model = MLP(depth=2, width=3, num_classes=2)
    >>> batch = jax.random.normal(jax.random.key(0), (50, 4)), jnp.zeros(50, int)
    >>> params = model.init(jax.random.key(1), batch[0])["params"]
    >>> plot_measures(measures(model, params, batch[0])).get_xlabel()
    'hidden layer'
    """
    expect("plot_measures", found, Measures, Elimination, Overlap, LinearDependence)
    ax = tidy(new_axes(ax))
    parts = (
        (found.elimination, found.overlap, found.dependence)
        if isinstance(found, Measures)
        else (found,)
    )
    for part in parts:
        if isinstance(part, Elimination):
            rows = [float(np.mean(one)) for one in part.zero_probability]
            name, style = "zero responses", look("plain")
        elif isinstance(part, Overlap):
            rows = [_nearest_cosines(np.asarray(one)) for one in part.cosines]
            name, style = "cosine with the nearest unit", look("residual")
        else:
            shares = np.asarray(part.top_share)
            rows = list(shares.reshape(-1, shares.shape[-1]).mean(0))
            name, style = "variance in the largest eigenvalues", look("hyper-residual")
        ax.plot(
            np.arange(1, len(rows) + 1), rows, color=style.color, linestyle=style.linestyle,
            marker=style.marker, label=name,
        )  # fmt: skip
    ax.set_ylim(-0.03, 1.03)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_xlabel("hidden layer")
    ax.set_ylabel("1: the singularity is reached")
    ax.legend(frameon=False, fontsize="small")
    return ax


def plot_checks(checks: Check | list[Check] | tuple[Check, ...], *, ax: Any | None = None) -> Any:
    """Draw what the Gauss–Newton matrix and the Hessian make of null directions.

    Parameters
    ----------
    checks
        From ``check_directions``, one or several.
    ax
        Matplotlib axes; new ones by default.

    Returns
    -------
    The axes: ‖Gd‖ and ‖Hd‖ over the length that a random direction's image has, by cause.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from landscape.degeneracy import check_directions, null_directions
    >>> from landscape.models import MLP
    >>> model = MLP(depth=2, width=3, num_classes=2)
    >>> batch = jax.random.normal(jax.random.key(0), (50, 4)), jnp.zeros(50, int)
    >>> params = model.init(jax.random.key(1), batch[0])["params"]
    >>> families = null_directions(model, params, batch)
    >>> ax = plot_checks(check_directions(families, model, params, batch))
    >>> [text.get_text() for text in ax.get_xticklabels()]
    ['rescaling', 'compensation', 'softmax']
    """
    ax = tidy(new_axes(ax))
    checks = list(checks) if isinstance(checks, list | tuple) else [checks]
    if not checks:
        raise InputError("there is nothing to draw")
    for check in checks:
        expect("plot_checks", check, Check)
    for place, check in enumerate(checks):
        for shift, name, norms in (
            (-0.15, "plain", check.gauss_newton_norms),
            (0.15, "residual", check.hessian_norms),
        ):
            style = look(name)
            sizes = np.maximum(np.asarray(norms) / max(check.scale, 1e-300), 1e-18)
            matrix = "‖Gd‖" if name == "plain" else "‖Hd‖"
            ax.plot(
                np.full(len(sizes), place + shift), sizes, style.marker, color=style.color,
                markersize=3, alpha=0.6, label=f"{matrix}" if not place else None,
            )  # fmt: skip
    ax.axhline(1, color=grey(ax, 0.7), linestyle=":", linewidth=1)
    ax.set_yscale("log")
    ax.set_xticks(range(len(checks)), [check.cause for check in checks], rotation=30, ha="right")
    ax.set_xlim(-0.5, len(checks) - 0.5)
    ax.set_ylabel("relative to a random direction")
    ax.legend(frameon=False, fontsize="small")
    return ax


def plot_directions(family: DirectionFamily, *, ax: Any | None = None, **options: Any) -> Any:
    """Draw which parameters each of a family's null directions changes.

    Parameters
    ----------
    family
        From ``null_directions``.
    ax
        Matplotlib axes; new ones by default.
    **options
        Matplotlib's properties of the marks, such as ``color`` or ``markersize``.

    Returns
    -------
    The axes: a mark for each entry that is not zero.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from landscape.degeneracy import null_directions
    >>> from landscape.models import MLP
    >>> model = MLP(depth=2, width=3, num_classes=2)
    >>> batch = jax.random.normal(jax.random.key(0), (50, 4)), jnp.zeros(50, int)
    >>> params = model.init(jax.random.key(1), batch[0])["params"]
    >>> family = null_directions(model, params, batch)[0]
    >>> plot_directions(family).get_xlabel()
    'parameter'
    """
    expect("plot_directions", family, DirectionFamily)
    ax = tidy(new_axes(ax))
    row, column = family.vectors.tocoo().coords
    kept = {"color": "#0072B2", "marker": ".", "markersize": 2, "linestyle": ""}
    ax.plot(column, row, rasterized=True, **{**kept, **named(options)})
    ax.set_xlim(0, family.vectors.shape[1])
    ax.set_ylim(len(family) - 0.5, -0.5)
    ax.set_xlabel("parameter")
    ax.set_ylabel(f"direction ({family.cause})")
    return ax


def plot_training(
    run: TrainingRun, *, label: str = "", ax: Any | None = None, **options: Any
) -> Any:
    """Draw the accuracy of a network, or of several, through training.

    Parameters
    ----------
    run
        From ``fit`` or ``fit_many``.
    label
        For a legend, and of the look of an architecture of that name. Default: colours in turn.
    ax
        Matplotlib axes; new ones by default.
    **options
        Matplotlib's properties of the lines, such as ``color`` or ``linewidth``.

    Returns
    -------
    The axes: accuracy over the training set in percent, one line for each network.

    Examples
    --------
    >>> import jax
    >>> from landscape.data import load
    >>> from landscape.models import MLP
    >>> from landscape.training import TrainConfig, fit
    >>> digits = load("digits").subset(100, seed=0).standardized()
    >>> run = fit(MLP(2, 8, 10), digits, TrainConfig(2, 50, 1e-3), jax.random.key(0))
    >>> plot_training(run, label="plain").get_xlabel()
    'epoch'
    """
    expect("plot_training", run, TrainingRun)
    ax = tidy(new_axes(ax))
    rows = run.accuracy.reshape(-1, len(run.epochs))
    known = {line.get_color() for line in ax.lines}
    look_of = series(label, len(known), {"linewidth": 1 if len(rows) > 1 else 1.5})
    if not label:
        look_of |= {"color": COLORS[len(known) % len(COLORS)], "linestyle": "-"}
    look_of |= named(options)
    name = look_of.pop("label")
    lines = ax.plot(run.epochs, 100 * rows.T, **look_of)
    if name:
        # Of several networks one stands for all in the legend.
        lines[0].set_label(name)
    ax.set_xlabel("epoch")
    ax.set_ylabel("training accuracy (%)")
    return ax


def _nearest_cosines(cosines: np.ndarray) -> float:
    """Mean over units of the largest cosine with another one, not below 0."""
    width = cosines.shape[-1]
    if width < 2:
        return 0.0
    others = np.where(np.eye(width, dtype=bool), -1.0, cosines)
    return float(np.maximum(others.max(-1), 0).mean())
