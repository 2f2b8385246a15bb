"""The page of ``fig3``: figures, tables and verdicts from collected results."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from landscape.experiments.claims import MIN_PAIRS, Verdict
from landscape.experiments.fig3 import ENOUGH_DATA, EPS, WIDEST, data_ratio, resolved
from landscape.experiments.scales import Scale
from landscape.plots import (
    look,
    mean_interval,
    plot_density,
    plot_fraction_curve,
    plot_fractions,
    plot_through_training,
)
from landscape.report import Page, Picture, Table
from landscape.runs import write_atomically


def make_page(
    scale: Scale,
    dataset: str,
    results: Mapping[str, xr.Dataset],
    verdicts: Sequence[Verdict],
    figures: Path,
    environments: Sequence[Mapping[str, Any]],
    seconds: float | None,
) -> Page:
    """Draw the figures, keep them in a folder as PNG and PDF, and compose the page.

    Parameters
    ----------
    scale, dataset
        What was run.
    results
        Collected results by group name.
    verdicts
        Of the figure's claims.
    figures
        Folder for the figure files.
    environments
        Versions and machine of every start.
    seconds
        Duration of the run; None if unknown.
    """
    accuracy, fractions = results[scale.accuracy.name], results[scale.fractions.name]
    parts: list[Table | Picture] = [
        _claims_table(verdicts),
        Picture(
            "Through training",
            "Mean over seeds; bands and thin bars: 95 % intervals of the mean. Accuracy is that of "
            "the whole training set. Fractions are of the Hessian of the training loss; broad "
            "light bars are the certified intervals, and where these are wider than "
            f"{100 * WIDEST:.0f} points no estimate is drawn.",
            _save(_overview(accuracy, fractions), figures / "fig3-through-training"),
        ),
        _networks_table(results),
        Picture(
            "How many eigenvalues lie within ε of zero, at the last epoch",
            "Left: ε absolute. Right: ε relative to the Hessian's norm, which moves with "
            "architecture and loss. Lines: mean over seeds; bands: certified bounds, means over "
            f"seeds; where these are more than {100 * WIDEST:.0f} points apart no line is drawn. "
            "The dotted line is ε = 10⁻³; beside it the shares of the table, with their tighter "
            "intervals. Shaded: below the noise floor of the arithmetic.",
            _save(_curves(fractions), figures / "fig3-fraction-curves"),
        ),
        Picture(
            "Spectral densities",
            "Mean over seeds, smoothed with a Gaussian of 0.25 in asinh(λ/ε), ε = 10⁻³: linear "
            "about zero, logarithmic beyond. Shaded: the degenerate band |λ| ≤ ε. After few "
            "Lanczos steps the mass near zero stands at a few nodes: where fractions are not "
            "resolved, neither is the peak there.",
            _save(_densities(fractions), figures / "fig3-densities"),
        ),
        _fractions_table(fractions),
    ]
    if scale.accuracy != scale.fractions:
        parts += [
            Picture(
                "The wide networks, against the number of examples N",
                "No verdict: N(C−1) is far below P, so the lack of data alone makes most "
                "directions of the Gauss–Newton matrix null, whatever the architecture. Left: f(ε) "
                "between its certified bounds for each N. Right: at ε = 10⁻³.",
                _save(_against_images(accuracy), figures / "fig3-against-images"),
            ),
            _fractions_table(accuracy),
        ]
    return Page(
        title=f"Plain, residual and hyper-residual networks on {dataset} ({scale.name} scale)",
        lead=_lead(scale, fractions, verdicts),
        parts=parts,
        footer=_footer(scale, environments, seconds),
    )


def _lead(scale: Scale, fractions: xr.Dataset, verdicts: Sequence[Verdict]) -> list[str]:
    counts = {
        status: sum(verdict.status == status for verdict in verdicts)
        for status in ("holds", "fails", "undecided", "no verdict")
    }
    ratio = data_ratio(fractions)
    enough = "enough" if ratio >= ENOUGH_DATA else "not enough"
    return [
        "Do skip connections make training easier, and the loss landscape less degenerate? "
        f"Of {len(verdicts)} claims, {counts['holds']} hold, {counts['fails']} fail, "
        f"{counts['undecided']} are undecided"
        + (f", {counts['no verdict']} get no verdict" if counts["no verdict"] else "")
        + f" ({scale.accuracy.seeds} seeds per architecture).",
        f"Curvature is taken over N = {int(fractions['images'].max()):,} examples of "
        f"C = {fractions.attrs['num_classes']} classes, for networks of "
        f"P = {fractions.attrs['num_parameters']:,} parameters: N(C−1)/P = {ratio:.2f}, {enough} "
        f"data for a verdict on fractions (at least {ENOUGH_DATA:g}). Everything is of this batch.",
    ]


def _footer(
    scale: Scale, environments: Sequence[Mapping[str, Any]], seconds: float | None
) -> list[str]:
    group = scale.fractions
    deviations = "; ".join(scale.deviations) or "none"
    made = "; continued with ".join(
        ", ".join(f"{k} {v}" for k, v in environment.items() if isinstance(v, str))
        + f"; {environment.get('cores')} cores"
        for environment in environments
    )
    return [
        "Protocol: Adam, learning rate "
        f"{group.learning_rate:g}, batches of {group.batch_size}, {group.epochs} epochs, Glorot "
        "normal weights, zero biases, inputs standardised per channel. Deviations from the "
        f"standard protocol (CIFAR-100 coarse, width 128, batch 500): {deviations}.",
        f"Spectra: Hessian of the training loss in float32, {_listed(group.num_steps)} Lanczos "
        f"steps at epochs {_listed(group.spectrum_epochs)}, partial reorthogonalisation, one "
        "Gaussian probe. Estimates are Gauss quadrature; certified intervals bound the probe's own "
        "measure (Gauss–Radau, Chebyshev–Markov–Stieltjes); a wide one says that more steps are "
        "needed.",
        "Verdicts: paired Student t over seeds at 95 %, Holm's correction within the figure; "
        f"fewer than {MIN_PAIRS} pairs give none.",
        "After A. E. Orhan and X. Pitkow, Skip Connections Eliminate Singularities, ICLR 2018.",
        f"Made with {made}"
        + (f"; {seconds / 60:.1f} minutes" if seconds is not None else "")
        + ".",
    ]


def _claims_table(verdicts: Sequence[Verdict]) -> Table:
    rows = []
    for verdict in verdicts:
        interval = (
            f"[{100 * verdict.lower:+.2f}, {100 * verdict.upper:+.2f}]"
            if np.isfinite(verdict.lower)
            else "—"
        )
        rows.append(
            (
                verdict.claim.name,
                f"{100 * verdict.effect:+.2f}" if np.isfinite(verdict.effect) else "—",
                interval,
                f"{verdict.p_value:.2g}" if np.isfinite(verdict.p_value) else "—",
                str(verdict.num_pairs),
                verdict.status + (f" ({verdict.claim.obstacle})" if verdict.claim.obstacle else ""),
            )
        )
    return Table(
        "Claims",
        ("claim", "effect (points)", "95 % interval", "p (Holm)", "pairs", "verdict"),
        rows,
        "Effect: mean difference of the left and the right architecture over seeds, in percentage "
        "points. At matched training loss: at the highest of the architectures' final losses, "
        "interpolated between the epochs with spectra. A pair counts if both fractions are "
        f"resolved: above the noise floor, certified to within {100 * WIDEST:.0f} points. "
        "Intervals are each claim's own; verdicts go by Holm's p, so an interval without zero may "
        "be undecided. “≥” holds if “>” does.",
    )


def _networks_table(results: Mapping[str, xr.Dataset]) -> Table:
    rows = []
    for name, dataset in results.items():
        for architecture in dataset["architecture"].values:
            part = dataset.sel(architecture=architecture)
            rows.append(
                (
                    name,
                    str(architecture),
                    f"{dataset.attrs['num_parameters']:,}",
                    f"{dataset.attrs['num_examples']:,}",
                    _percent(part["accuracy"].isel(epoch=slice(1, None)).mean("epoch").values),
                    _percent(part["accuracy"].isel(epoch=-1).values),
                    _plus_minus(part["loss"].isel(epoch=-1).values),
                )
            )
    return Table(
        "Training",
        ("networks", "architecture", "P", "images", "accuracy, mean through training (%)",
         "accuracy, last epoch (%)", "training loss, last epoch"),
        rows,
        "Mean over seeds ± half-width of its 95 % interval (from three seeds). Loss in nats.",
    )  # fmt: skip


def _fractions_table(results: xr.Dataset) -> Table:
    rows = []
    for architecture in results["architecture"].values:
        for epoch in results["spectrum_epoch"].values:
            for images in results["images"].values:
                part = results.sel(architecture=architecture, spectrum_epoch=epoch, images=images)
                if np.isfinite(part["norm"].values).any():
                    rows.append((str(architecture), str(epoch), *_fraction_cells(part)))
    return Table(
        "Fractions",
        ("architecture", "epoch", "N", "degenerate (%)", "certified (%)", "negative (%)",
         "certified (%)", "‖H‖", "noise floor"),
        rows,
        f"Degenerate: |λ| ≤ {EPS:g}; negative: λ < −{EPS:g}. Mean over seeds ± half-width of its "
        "95 % interval (from three seeds); certified: means over seeds of the bounds. Not "
        f"resolved: a certified interval wider than {100 * WIDEST:.0f} points, or a noise floor "
        f"above {EPS:g}; (k of S) says how many networks remain. More steps, or float64, would "
        "resolve them. Sampling error of one probe: at most "
        f"{100 / np.sqrt(2 * results.attrs['num_parameters'] + 4):.2f} points. Noise floor: "
        "largest over seeds.",
    )  # fmt: skip


def _fraction_cells(part: xr.Dataset) -> tuple[str, ...]:
    """One row of the table of fractions, from its N on."""
    images, norm = int(part["images"]), f"{np.mean(part['norm'].values):.3g}"
    floor = f"{np.max(part['noise_floor'].values):.0e}"
    if not np.isfinite(part["degenerate"].values).any():
        return (f"{images:,}", "below the noise floor", "—", "—", "—", norm, floor)
    cells = [cell for kind in ("degenerate", "negative") for cell in _estimate_cells(part, kind)]
    return (f"{images:,}", *cells, norm, floor)


def _estimate_cells(part: xr.Dataset, kind: str) -> tuple[str, str]:
    """Mean of the resolved estimates of a kind, and the mean certified interval."""
    estimates = resolved(part, kind).values
    known = np.isfinite(estimates)
    some = "" if known.all() else f" ({known.sum()} of {known.size})"
    interval = (
        f"[{100 * np.nanmean(part[f'{kind}_lower'].values):.1f}, "
        f"{100 * np.nanmean(part[f'{kind}_upper'].values):.1f}]"
    )
    return (_percent(estimates[known]) + some if known.any() else "not resolved", interval)


def _percent(values: np.ndarray) -> str:
    return _plus_minus(100 * values, "{:.1f}")


def _plus_minus(values: np.ndarray, form: str = "{:.3g}") -> str:
    mean, half = mean_interval(np.asarray(values, float), 0)
    # From two values Student's interval is 9 standard deviations wide: it says nothing.
    enough = np.isfinite(values).sum() > 2 and np.isfinite(half)
    return form.format(mean) + (f" ± {form.format(half)}" if enough else "")


def _listed(values: Sequence[int]) -> str:
    return ", ".join(str(value) for value in values)


def _overview(accuracy: xr.Dataset, fractions: xr.Dataset) -> Figure:
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    first, second, third = figure.subplots(1, 3)
    plot_through_training(accuracy["accuracy"], ax=first)
    first.set_ylabel("training accuracy (%)")
    first.set_ylim(-3, 103)
    first.legend(frameon=False)
    _draw_fractions(fractions.isel(images=-1), "degenerate", second)
    _draw_fractions(fractions.isel(images=-1), "negative", third)
    for ax, title in zip(
        (first, second, third), ("accuracy", "degenerate", "negative"), strict=True
    ):
        ax.set_title(title)
    return figure


def _curves(fractions: xr.Dataset) -> Figure:
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    last = fractions.isel(spectrum_epoch=-1, images=-1)
    floor = float(last["noise_floor"].max())
    absolute = resolved(last, "curve"), last["curve_lower"], last["curve_upper"]
    plot_fraction_curve(*absolute, ax=left, noise_floor=floor)
    _mark_judged(last, left)
    left.axvline(EPS, color="0.3", linestyle=":", linewidth=1)
    left.legend(frameon=False, loc="lower right")
    arrays = (
        resolved(last, "relative_curve"), last["relative_curve_lower"], last["relative_curve_upper"]
    )  # fmt: skip
    plot_fraction_curve(*(array.rename(relative="eps") for array in arrays), ax=right)
    right.set_xlabel("ε / ‖H‖")
    right.set_ylabel("eigenvalues with |λ| ≤ ε  (%)")
    return figure


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


def _densities(fractions: xr.Dataset) -> Figure:
    epochs = fractions["spectrum_epoch"].values
    figure = Figure(figsize=(4.3 * len(epochs), 3.8), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(epochs), sharey=True))
    for ax, epoch in zip(panels, epochs, strict=True):
        part = fractions["density"].sel(spectrum_epoch=epoch).isel(images=-1)
        plot_density(part, linear_width=EPS, eps=EPS, ax=ax)
        ax.set_title(f"epoch {epoch}")
        if ax is not panels[0]:
            ax.set_ylabel("")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def _against_images(results: xr.Dataset) -> Figure:
    last = results.isel(spectrum_epoch=-1)
    sizes = [int(size) for size in last["images"].values]
    figure = Figure(figsize=(4.3 * (len(sizes) + 1), 3.8), layout="constrained")
    *curves, degenerate = figure.subplots(1, len(sizes) + 1)
    for ax, size in zip(curves, sizes, strict=True):
        part = last.sel(images=size)
        plot_fraction_curve(
            resolved(part, "curve"), part["curve_lower"], part["curve_upper"],
            ax=ax, noise_floor=float(part["noise_floor"].max()),
        )  # fmt: skip
        ax.set_title(f"N = {size:,}")
    _draw_fractions(last, "degenerate", degenerate)
    handles, labels = curves[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def _draw_fractions(results: xr.Dataset, kind: str, ax: Any) -> None:
    bounds = results[f"{kind}_lower"], results[f"{kind}_upper"]
    plot_fractions(resolved(results, kind), *bounds, ax=ax)
    condition = {"degenerate": "|λ| ≤ 10⁻³", "negative": "λ < −10⁻³"}[kind]
    ax.set_ylabel(f"eigenvalues with {condition} (%)")


def _save(figure: Figure, stem: Path) -> bytes:
    """Keep a figure as PNG and PDF; return the PNG."""
    content = {}
    for kind, options in (("png", {"dpi": 150}), ("pdf", {})):
        stream = io.BytesIO()
        figure.savefig(stream, format=kind, **options)  # type: ignore[arg-type]
        content[kind] = stream.getvalue()
        write_atomically(stem.with_suffix(f".{kind}"), content[kind])
    return content["png"]
