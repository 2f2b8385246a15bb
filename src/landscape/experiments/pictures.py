"""The pictures that studies share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from landscape.experiments.collect import EPS, WIDEST, resolved
from landscape.experiments.study import Drawn
from landscape.plots import (
    look,
    mean_interval,
    plot_density,
    plot_fraction_curve,
    plot_fractions,
    plot_through_training,
)
from landscape.plots.style import tidy

# Inches of a page's column: a wider figure would be shown with smaller letters.
WIDTH = 10

# Certified bounds of f(ε) up to so far apart have a line between them.
LINE = 0.2

# A gradient's norm, relative to the largest of its network, below which it has vanished: there it
# is drawn, and counts, as so large.
VANISHED = 1e-12

# What each of the measures is the distance from, or the nearness to.
MEASURE_LABELS = {
    "incoming_norm": "norm of incoming weights",
    "correlation": "correlation of incoming weights",
    "top_share": "variance in three directions (%)",
    "zero_probability": "responses that are 0 (%)",
}


def standard(accuracy: xr.Dataset, fractions: xr.Dataset) -> list[Drawn]:
    """Through training, f(ε), densities, distances: of studies that compare architectures."""
    return [
        overview(accuracy, fractions),
        *fraction_curves(fractions),
        densities(fractions),
        distances(accuracy),
    ]


def overview(accuracy: xr.Dataset, fractions: xr.Dataset) -> Drawn:
    """Accuracy and both fractions through training."""
    spectra = "degenerate" in fractions
    figure = Figure(figsize=(WIDTH if spectra else 5.5, 3.6), layout="constrained")
    panels = figure.subplots(1, 3 if spectra else 1, squeeze=False)[0]
    plot_through_training(accuracy["accuracy"], ax=panels[0])
    panels[0].set_ylabel("training accuracy (%)")
    panels[0].set_ylim(-3, 103)
    panels[0].set_title("accuracy")
    told = "Accuracy is that of the whole training set."
    # Of two groups of networks; the smaller ones are those with the spectra.
    sizes = [results.attrs["num_parameters"] for results in (accuracy, fractions)]
    if spectra and sizes[0] != sizes[1]:
        panels[0].set_title(f"accuracy (P = {sizes[0]:,})")
        told += f" Fractions are of smaller networks (P = {sizes[1]:,}), which reach less."
    if spectra:
        for ax, kind in zip(panels[1:], ("degenerate", "negative"), strict=True):
            draw_fractions(fractions.isel(images=-1), kind, ax)
            ax.set_title(kind)
        told += (
            " Fractions are of the Hessian of the training loss; broad light bars are the "
            "certified intervals of the same networks, and where these are wider than "
            f"{100 * WIDEST:.0f} points no estimate is drawn. What belongs to one epoch stands "
            "side by side."
        )
    one_legend(figure, panels[0])
    return Drawn(
        "through-training",
        "Through training",
        "Mean over seeds; bands and thin bars: 95 % intervals of the mean, cut at 0 and 100 %. "
        f"{told}",
        figure,
    )


def fraction_curves(fractions: xr.Dataset) -> list[Drawn]:
    """f(ε) at the last epoch; no picture where no line would be drawn."""
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    last = fractions.isel(spectrum_epoch=-1, images=-1)
    absolute = resolved(last, "curve", LINE), last["curve_lower"], last["curve_upper"]
    plot_fraction_curve(*absolute, ax=left, noise_floor=float(last["noise_floor"].min()))
    _mark_judged(last, left)
    bounds = last["relative_curve_lower"], last["relative_curve_upper"]
    arrays = resolved(last, "relative_curve", LINE), *bounds
    plot_fraction_curve(*(array.rename(relative="eps") for array in arrays), ax=right)
    if not any(np.isfinite(line.get_ydata()).any() for ax in (left, right) for line in ax.lines):
        return []
    left.axvline(EPS, color="0.3", linestyle=":", linewidth=1)
    right.set_xlabel("ε / ‖H‖")
    right.set_ylabel("eigenvalues with |λ| ≤ ε  (%)")
    one_legend(figure, left)
    drawn = Drawn(
        "fraction-curves",
        "How many eigenvalues lie within ε of zero, at the last epoch",
        "Left: ε absolute. Right: ε relative to the Hessian's norm, which moves with architecture "
        "and loss. Lines: mean over seeds; bands: certified bounds, means over seeds; where these "
        f"are more than {100 * LINE:.0f} points apart no line is drawn. The dotted line is "
        "ε = 10⁻³; beside it the shares of the table, with their tighter intervals. Shaded: below "
        "the noise floor of every network; a line begins above the floors of its own.",
        figure,
    )
    return [drawn]


def _mark_judged(last: xr.Dataset, ax: Any) -> None:
    """The shares at ε = 10⁻³ with their tighter certified intervals, as the table has them."""
    for index, name in enumerate(str(name) for name in last["architecture"].values):
        part = last.isel(architecture=index)
        known = np.isfinite(resolved(part).values)
        if known.any():
            estimate, lower, upper = (
                100 * part[f"degenerate{end}"].values[known].mean()
                for end in ("", "_lower", "_upper")
            )
            style = look(name, index)
            # A small shift keeps the bars of different architectures apart.
            reach = [[max(estimate - lower, 0)], [max(upper - estimate, 0)]]
            ax.errorbar(
                EPS * 1.3**index, estimate, reach,
                color=style.color, marker=style.marker, capsize=3,
            )  # fmt: skip


def densities(fractions: xr.Dataset) -> Drawn:
    """Spectral densities at each epoch."""
    epochs = fractions["spectrum_epoch"].values
    figure = Figure(figsize=(min(WIDTH, 4.3 * len(epochs)), 3.6), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(epochs), sharey=True))
    for ax, epoch in zip(panels, epochs, strict=True):
        part = fractions["density"].sel(spectrum_epoch=epoch).isel(images=-1)
        plot_density(part, linear_width=EPS, eps=EPS, ax=ax)
        ax.set_title(f"epoch {epoch}")
        if ax is not panels[0]:
            ax.set_ylabel("")
    one_legend(figure, panels[0])
    return Drawn(
        "densities",
        "Spectral densities",
        "Mean over seeds, smoothed with a Gaussian of 0.25 in asinh(λ/ε), ε = 10⁻³: linear "
        "about zero, logarithmic beyond. Shaded: the degenerate band |λ| ≤ ε. After few "
        "Lanczos steps the mass near zero stands at a few nodes: where fractions are not "
        "resolved, neither is the peak there, nor are those far out that stand apart.",
        figure,
    )


def against_images(results: xr.Dataset, *, judged: bool) -> Drawn:
    """Fractions against the number of examples that curvature is taken over.

    Parameters
    ----------
    results
        Of a group with several numbers.
    judged
        Whether the largest is enough for a verdict.
    """
    last = results.isel(spectrum_epoch=-1)
    sizes = [int(size) for size in last["images"].values]
    figure = Figure(figsize=(min(WIDTH, 4.3 * (len(sizes) + 1)), 3.6), layout="constrained")
    *curves, degenerate = figure.subplots(1, len(sizes) + 1)
    for ax, size in zip(curves, sizes, strict=True):
        part = last.sel(images=size)
        plot_fraction_curve(
            resolved(part, "curve", LINE), part["curve_lower"], part["curve_upper"],
            ax=ax, noise_floor=float(part["noise_floor"].min()),
        )  # fmt: skip
        ax.set_title(f"N = {size:,}")
    draw_fractions(last, "degenerate", degenerate)
    one_legend(figure, curves[0])
    return Drawn(
        "against-images",
        "Against the number of examples N",
        (
            ""
            if judged
            else "No verdict: N(C−1) is below 2P, so that the lack of data alone makes many "
            "directions of the Gauss–Newton matrix null, whatever the architecture. "
        )
        + "Left: f(ε) between its certified "
        "bounds for each N. Right: at ε = 10⁻³, what belongs to one N side by side.",
        figure,
    )


def draw_fractions(results: xr.Dataset, kind: str, ax: Any) -> None:
    """Shares of a kind, ``"degenerate"`` or ``"negative"``, with their intervals."""
    bounds = results[f"{kind}_lower"], results[f"{kind}_upper"]
    plot_fractions(resolved(results, kind), *bounds, ax=ax)
    condition = {"degenerate": "|λ| ≤ 10⁻³", "negative": "λ < −10⁻³"}[kind]
    ax.set_ylabel(f"eigenvalues with {condition} (%)")


def distances(results: xr.Dataset) -> Drawn:
    """How near the networks are to each singularity, through training."""
    figure = Figure(figsize=(WIDTH, 6.4), layout="constrained")
    panels = figure.subplots(2, 2).ravel()
    for ax, (name, label) in zip(panels, MEASURE_LABELS.items(), strict=True):
        along = results[name].rename(measure_epoch="epoch")
        plot_through_training(along, ax=ax, percent=label.endswith("(%)"))
        ax.set_ylabel(label)
    one_legend(figure, panels[0])
    return Drawn(
        "distances",
        "How near the singularities",
        "Mean over seeds; bands: 95 % intervals. Elimination: small incoming weights. Overlap: "
        "correlated incoming weights of units of one layer. Linear dependence: much of a layer's "
        "variance in three directions. Means over all layers.",
        figure,
    )


def gradients_by_layer(results: xr.Dataset, epochs: Sequence[int]) -> Drawn:
    """Norms of the gradients with respect to each layer's activities."""
    figure = Figure(figsize=(min(WIDTH, 4.3 * len(epochs)), 3.6), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(epochs), sharey=True))
    for ax, epoch in zip(panels, epochs, strict=True):
        logs = log_gradients(results).sel(measure_epoch=epoch)
        for index, name in enumerate(str(name) for name in logs["architecture"].values):
            style = look(name, index)
            networks = logs.isel(architecture=index).transpose("layer", "seed")
            tidy(ax).plot(logs["layer"], networks, color=style.color, linewidth=0.5, alpha=0.4)
            ax.plot(
                logs["layer"], networks.mean("seed"), color=style.color,
                linestyle=style.linestyle, label=name,
            )  # fmt: skip
        ax.set_xlabel("layer")
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
        ax.yaxis.set_major_formatter("$10^{{{x:.0f}}}$")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_title(f"epoch {epoch}")
    panels[0].set_ylabel("norm of ∂ℓ/∂x")
    one_legend(figure, panels[0])
    return Drawn(
        "gradients",
        "Gradients by layer",
        "Norm of the gradient of an example's loss with respect to what a layer passes on: mean "
        "over examples. Thin: networks; thick: their geometric mean. Layers are counted from the "
        f"input. {_vanished(results, epochs)}",
        figure,
    )


def log_gradients(results: xr.Dataset) -> xr.DataArray:
    """log₁₀ of the norms, those that have vanished at ``VANISHED``; dimensions as the norms."""
    norms = results["gradient_norm"]
    largest = norms.max("layer")
    with np.errstate(divide="ignore"):
        logs = np.log10(np.maximum(norms, VANISHED * largest))
    # Of a network none of whose gradients is above 0 nothing is known.
    return xr.DataArray(logs).where(largest > 0).transpose(*norms.dims)


def _vanished(results: xr.Dataset, epochs: Sequence[int]) -> str:
    """Of which networks a gradient is below ``VANISHED``."""
    norms = results["gradient_norm"].sel(measure_epoch=list(epochs))
    none = (norms < VANISHED * norms.max("layer")).any("layer").sum("seed")
    seeds = results.sizes["seed"]
    told = [
        f"{name} {', '.join(str(count) for count in row)} of {seeds}"
        for name, row in zip(
            results["architecture"].values, none.transpose("architecture", ...).values, strict=True
        )
        if row.any()
    ]
    if not told:
        return "No network's gradient vanishes."
    listed = "; ".join(told)
    return (
        "Norms below 10⁻¹² of a network's largest, zeros among them, are drawn as that; networks "
        f"with such, by epoch: {listed}."
    )


def against_level(
    values: Sequence[tuple[xr.DataArray, str]], levels: Sequence[float], label: str, *, log: bool
) -> Figure:
    """Quantities of each network against a level that sets the architectures apart."""
    figure = Figure(figsize=(min(WIDTH, 4.6 * len(values)), 3.6), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(values)))
    for ax, (array, name) in zip(panels, values, strict=True):
        tidy(ax)
        factor = 100 if name.endswith("(%)") else 1
        points = factor * array.transpose("architecture", "seed").values
        mean, half = mean_interval(points, 1)
        half = np.where(np.isfinite(points).sum(1) > 2, half, np.nan)
        reach = half, half
        if factor == 100:
            # Student's interval knows nothing of the ends.
            reach = np.minimum(half, mean), np.minimum(half, 100 - mean)
        style = look("residual")
        ax.plot(
            np.repeat(levels, points.shape[1]), points.ravel(), ".", color="0.6", label="networks"
        )
        ax.errorbar(
            levels, mean, reach, color=style.color, marker=style.marker, capsize=3,
            label="mean, 95 % interval",
        )  # fmt: skip
        if log:
            ax.set_xscale("log", base=2)
            ax.set_xticks(levels, [f"{level:g}" for level in levels])
            ax.minorticks_off()
        ax.set_xlabel(label)
        ax.set_ylabel(name)
    one_legend(figure, panels[0])
    return figure


def one_legend(figure: Figure, ax: Any) -> None:
    """One legend below all panels, in as many rows as its labels need."""
    handles, labels = ax.get_legend_handles_labels()
    # Inches of an entry: the line and the space around it, and letters of its longest label.
    entry = 0.7 + 0.09 * max(map(len, labels), default=0)
    fitting = max(1, int(figure.get_figwidth() / entry))
    rows = max(1, -(-len(labels) // fitting))
    columns = max(1, -(-len(labels) // rows))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
