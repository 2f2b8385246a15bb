"""The page of a study: figures, tables and verdicts from collected results."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from landscape.experiments.claims import MIN_PAIRS, Verdict
from landscape.experiments.collect import ENOUGH_DATA, EPS, WIDEST, data_ratio, resolved
from landscape.experiments.inquiry import Inquiry
from landscape.experiments.networks import MEASURED
from landscape.experiments.pictures import LINE, against_images
from landscape.experiments.scales import Group, Scale
from landscape.experiments.study import Drawn, Study
from landscape.plots import mean_interval
from landscape.report import DPI, Page, Picture, Table
from landscape.runs import write_atomically


def make_page(
    study: Study,
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
    study, scale, dataset
        What was run.
    results
        Collected results by group name, and by ``search_of`` if penalties were searched for.
    verdicts
        Of the study's claims.
    figures
        Folder for the figure files.
    environments
        Versions and machine of every start.
    seconds
        Duration of the run; None if unknown.
    """
    accuracy, fractions = results[scale.accuracy.name], results[scale.fractions.name]
    shown = [
        Picture(drawn.title, drawn.caption, _save(drawn, study, figures))
        for drawn in study.pictures(accuracy, fractions)
    ]
    groups = {group.name: results[group.name] for group in scale.groups}
    parts: list[Table | Picture] = [
        _claims_table(verdicts), *shown[:1], _networks_table(groups), *shown[1:]
    ]  # fmt: skip
    if study.spectra:
        parts.append(_fractions_table(fractions))
    if "matched_degenerate" in fractions:
        parts.append(_matched_table(fractions))
    if "penalised_degenerate" in fractions:
        parts.append(_penalised_table(fractions))
    several = study.spectra and accuracy.sizes["images"] > 1
    if several and np.isfinite(resolved(accuracy)).any():
        drawn = against_images(accuracy, judged=data_ratio(accuracy) >= ENOUGH_DATA)
        parts.append(Picture(drawn.title, drawn.caption, _save(drawn, study, figures)))
    if study.spectra and scale.accuracy != scale.fractions:
        parts.append(_fractions_table(accuracy))
    if study.tables:
        parts += study.tables(accuracy, fractions)
    if study.searches:
        parts += [_search_table(results[search_of(group)], group) for group in scale.groups]
    return Page(
        title=f"{study.title} on {dataset} ({scale.name} scale)",
        lead=_lead(study, scale, accuracy, fractions, verdicts),
        parts=parts,
        footer=_footer(study, scale, environments, seconds),
    )


def search_of(group: Group) -> str:
    """What the results of a group's search for a penalty are called."""
    return f"search-{group.name}"


def inquiry_page(
    inquiry: Inquiry,
    scale: str,
    dataset: str,
    results: xr.Dataset,
    verdicts: Sequence[Verdict],
    figures: Path,
    environments: Sequence[Mapping[str, Any]],
    seconds: float | None,
) -> Page:
    """The same of an inquiry, at a scale of that name."""
    where = f" on {dataset}" if inquiry.about else ""
    # There is nothing in these that an accelerator would be needed for.
    scale = "laptop" if scale == "paper" else scale
    parts: list[Table | Picture] = [_claims_table(verdicts)] if verdicts else []
    parts += [
        Picture(drawn.title, drawn.caption, _save(drawn, inquiry, figures))
        for drawn in inquiry.pictures(results)
    ]
    parts += inquiry.tables(results)
    return Page(
        title=f"{inquiry.title}{where} ({scale} scale)",
        lead=[
            f"{inquiry.question} {counted([verdict.status for verdict in verdicts])}.",
            *failures(verdicts),
            *(inquiry.about(results) if inquiry.about else ()),
        ],
        parts=parts,
        footer=[*inquiry.protocol, _made(environments, seconds)],
    )


def counted(statuses: Sequence[str]) -> str:
    """How many claims hold, fail, and so on."""
    counts = Counter(statuses)
    verbs = {
        "holds": ("holds", "hold"), "fails": ("fails", "fail"),
        "undecided": ("is undecided", "are undecided"),
        "no verdict": ("gets no verdict", "get no verdict"),
    }  # fmt: skip
    told = [
        f"{counts[status]} {verb[counts[status] != 1]}"
        for status, verb in verbs.items()
        if counts[status] or status != "no verdict"
    ]
    return f"Of {len(statuses)} claims, {', '.join(told)}"


def _made(environments: Sequence[Mapping[str, Any]], seconds: float | None) -> str:
    made = "; continued with ".join(
        ", ".join(f"{k} {v}" for k, v in environment.items() if isinstance(v, str) and v)
        + f"; {environment.get('cores')} cores; on {_devices(environment.get('devices', ()))}"
        for environment in environments
    )
    took = "" if seconds is None else f"; units of work took {seconds / 60:.1f} minutes in all"
    return f"Made with {made}{took}."


def _devices(names: Sequence[str]) -> str:
    return ", ".join(
        f"{names.count(name)} × {name}" if names.count(name) > 1 else name
        for name in dict.fromkeys(names)
    )


def _lead(
    study: Study,
    scale: Scale,
    accuracy: xr.Dataset,
    fractions: xr.Dataset,
    verdicts: Sequence[Verdict],
) -> list[str]:
    found = counted([verdict.status for verdict in verdicts])
    ask = f"{study.question} {found} ({scale.accuracy.seeds} seeds per architecture)."
    told = [*failures(verdicts), *(study.about(accuracy, fractions) if study.about else ())]
    if not study.spectra:
        return [ask, *told]
    ratio = data_ratio(fractions)
    enough = "enough" if ratio >= ENOUGH_DATA else "not enough"
    return [
        ask,
        *told,
        *relative_orders(fractions, verdicts),
        f"Curvature is taken over N = {int(fractions['images'].max()):,} examples of "
        f"C = {fractions.attrs['num_classes']} classes, for networks of "
        f"P = {fractions.attrs['num_parameters']:,} parameters: N(C−1)/P = {ratio:.2f}, {enough} "
        f"data for a verdict on fractions (at least {ENOUGH_DATA:g}). Everything is of this batch.",
    ]


def _footer(
    study: Study, scale: Scale, environments: Sequence[Mapping[str, Any]], seconds: float | None
) -> list[str]:
    group = scale.fractions
    deviations = "; ".join(scale.deviations) or "none"
    return [
        "Protocol: Adam, learning rate "
        f"{group.learning_rate:g}, batches of {group.batch_size}, {group.epochs} epochs, Glorot "
        "normal weights, zero biases, inputs standardised per channel. Deviations from the "
        f"standard protocol (CIFAR-100 coarse, width 128, batch 500): {deviations}.",
        *(
            [_about_spectra(group, len(scale.groups) > 1) for group in scale.groups]
            if study.spectra
            else []
        ),
        "Accuracy is that of the whole training set, mean over the epochs 1 to "
        f"{group.epochs}. Distances from singularities and gradients are taken over "
        f"{MEASURED:,} examples at most, with the statistics of these in a normalised layer.",
        "Verdicts: Student's t over seeds at 95 %, paired, or of two groups Welch's, with Holm's "
        f"correction within the figure; fewer than {MIN_PAIRS} pairs give none.",
        "After A. E. Orhan and X. Pitkow, Skip Connections Eliminate Singularities, ICLR 2018.",
        _made(environments, seconds),
    ]


def _about_spectra(group: Group, named: bool) -> str:
    whose = f" of the {group.name} networks" if named else ""
    dtype = "float64" if group.float64 else "float32"
    return (
        f"Spectra{whose}: Hessian of the training loss in {dtype}, {_listed(group.num_steps)} "
        f"Lanczos steps at epochs {_listed(group.spectrum_epochs)}, partial reorthogonalisation, "
        "one Gaussian probe. Estimates are Gauss quadrature; certified intervals bound the "
        "probe's own measure (Gauss–Radau, Chebyshev–Markov–Stieltjes); a wide one says that more "
        "steps are needed."
    )


def _claims_table(verdicts: Sequence[Verdict]) -> Table:
    rows = []
    bounded = any(verdict.certified is not None for verdict in verdicts)
    for verdict in verdicts:
        points = verdict.claim.unit == "points"
        factor, form = (100.0, ".2f") if points else (1.0, ".3g")
        left, right = (_number(factor * side, form) for side in verdict.sides)
        certified = _interval(verdict.certified, factor, f"+{form}") if bounded else ""
        rows.append(
            (
                verdict.claim.name,
                left,
                right,
                _number(factor * verdict.effect, f"+{form}"),
                _interval((verdict.lower, verdict.upper), factor, f"+{form}"),
                *([certified] if bounded else []),
                verdict.claim.unit,
                _number(verdict.p_value, ".2g"),
                verdict.counted,
                verdict.status + (f" ({verdict.claim.obstacle})" if verdict.claim.obstacle else ""),
            )
        )
    return Table(
        "Claims",
        ("claim", "left", "right", "effect", "95 % interval", *(["certified"] if bounded else []),
         "unit", "p (Holm)", "pairs", "verdict"),
        rows,
        " ".join(_how_to_read(verdicts)),
    )  # fmt: skip


def _number(value: float, form: str) -> str:
    return format(value, form) if np.isfinite(value) else "—"


def _interval(ends: tuple[float, float] | None, factor: float, form: str) -> str:
    if ends is None or not np.isfinite(ends).all():
        return "—"
    return "[{}, {}]".format(*(format(factor * end, form) for end in ends))


def failures(verdicts: Sequence[Verdict]) -> list[str]:
    """What was measured instead, of each claim that fails: a sentence each."""
    return [_failure(verdict) for verdict in verdicts if verdict.status == "fails"]


def _failure(verdict: Verdict) -> str:
    claim = verdict.claim
    factor, form, unit = (100.0, ".1f", " %") if claim.unit == "points" else (1.0, ".3g", "")
    left, right = (format(factor * side, form) for side in verdict.sides)
    if not np.any(claim.smaller):
        # A statement about one quantity.
        told = f"{left}{unit or f' {claim.unit}'} is measured"
    else:
        told = f"{left}{unit} stands against {right}{unit}"
    why = (
        "and their difference is larger than the margin" if claim.margin else "the other way round"
    )
    if not np.any(claim.smaller):
        why = f"beyond {claim.margin:g}" if claim.margin else "on the other side of 0"
    return f"“{claim.name}” fails: {told}, {why}."


def relative_orders(fractions: xr.Dataset, verdicts: Sequence[Verdict]) -> list[str]:
    """Where an order of shares at ε is certainly the other way round at ε/‖H‖: a sentence each."""
    last = fractions.isel(spectrum_epoch=-1, images=-1)
    whole = resolved(last, "relative_curve", LINE)
    told = []
    for verdict in verdicts:
        named = re.fullmatch(r"degenerate: (.+) > (.+), at the last epoch", verdict.claim.name)
        if named is None or not verdict.effect > 0:
            continue
        more, less = (
            [
                array.sel(architecture=name).transpose("seed", ...).values.mean(0)
                for array in (whole, last["relative_curve_lower"], last["relative_curve_upper"])
            ]
            for name in named.groups()
        )
        beyond = np.nan_to_num(less[1] - more[2], nan=-1.0)
        beyond[~np.isfinite(more[0] + less[0])] = -1.0
        at = int(np.argmax(beyond))
        # By more than a point: far out every share is nearly all.
        if beyond[at] > 0.01:
            (a, a_low, a_high), (b, b_low, b_high) = (
                [100 * value[at] for value in side] for side in (more, less)
            )
            told.append(
                f"“{verdict.claim.name}” is about ε = {EPS:g}, and norms differ: relative to them "
                f"the order is the other way round. At ε = {float(last['relative'][at]):.0e} ‖H‖ "
                f"{named[1]} networks have {a:.1f} % (certified [{a_low:.1f}, {a_high:.1f}]), "
                f"{named[2]} ones {b:.1f} % ([{b_low:.1f}, {b_high:.1f}])."
            )
    return told


def _how_to_read(verdicts: Sequence[Verdict]) -> list[str]:
    """What a reader of these claims must know."""
    claims = [verdict.claim.name for verdict in verdicts]
    paired = all(verdict.claim.paired for verdict in verdicts)
    over = "over seeds" if paired else "between two groups, whose sizes stand for the pairs"
    told = [f"Effect: mean difference of the left and the right side {over}."]
    if any(verdict.certified is not None for verdict in verdicts):
        told.append(
            "Certified: what the certified bounds of the same shares leave for the effect; where "
            "that holds zero, they do not separate the sides, and the verdict rests on the "
            "estimates."
        )
    if any(verdict.claim.median for verdict in verdicts):
        told = [
            "Effect: mean difference of the left and the right side over starts; near manifolds "
            "their median over directions, by the sign test."
        ]
    if any("matched training loss" in name for name in claims):
        told.append(
            "At matched training loss: each network at the first epoch that it was kept at whose "
            "loss is no higher than the highest of its seed's final losses."
        )
    if any(name.startswith("degenerate") and "mixture" not in name for name in claims):
        told.append(
            "A pair counts if both fractions are resolved: above the noise floor, certified to "
            f"within {100 * WIDEST:.0f} points."
        )
    told.append(
        "Intervals are each claim's own; verdicts go by Holm's p, so an interval without zero may "
        "be undecided."
    )
    if any("≥" in name for name in claims):
        told.append("“≥” holds if “>” does.")
    return told


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
        ("architecture", "epoch", "N", "degenerate (%)", "certified (%)", "mixture (%)",
         "negative (%)", "certified (%)", "mixture (%)", "it fits", "‖H‖", "noise floor"),
        rows,
        f"Degenerate: |λ| ≤ {EPS:g}; negative: λ < −{EPS:g}. Mean over seeds ± half-width of its "
        "95 % interval (from three seeds); certified: means over the same networks of the bounds, "
        "over all if none is resolved. Not "
        f"resolved: a certified interval wider than {100 * WIDEST:.0f} points, or a noise floor "
        f"above {EPS:g}; (k of S) says how many networks remain. More steps, or float64, would "
        "resolve them. Sampling error of one probe: at most "
        f"{100 / np.sqrt(2 * results.attrs['num_parameters'] + 4):.2f} points. Mixture: the "
        "shares by Skilling's moments and the mixture that has them, mean over seeds; it fits: of "
        "how many networks one mixture alone has them; of the others its shares are no estimates. "
        "Noise floor: largest over seeds."
        + (" No share is resolved." * (not np.isfinite(resolved(results)).any())),
    )  # fmt: skip


def _matched_table(results: xr.Dataset) -> Table:
    rows = []
    for architecture in results["architecture"].values:
        part = results.sel(architecture=architecture)
        known = resolved(part, "matched_degenerate").values
        kept = np.isfinite(known)
        some = "" if kept.all() else f" ({kept.sum()} of {kept.size})"
        low, high = _certified(part, "matched_degenerate", kept)
        rows.append(
            (
                str(architecture),
                ", ".join(f"{epoch:.0f}" for epoch in part["matched_epoch"].values),
                _plus_minus(part["matched_loss"].values),
                _percent(known[kept]) + some if kept.any() else "not resolved",
                f"[{low:.1f}, {high:.1f}]" if np.isfinite(low) else "—",
            )
        )
    return Table(
        "At matched training loss",
        ("architecture", "epochs, by seed", "training loss", "degenerate (%)", "certified (%)"),
        rows,
        "Each network at the first epoch that it was kept at whose training loss is no higher than "
        "the highest of its seed's final losses; as many Lanczos steps as at the last epoch.",
    )


def _penalised_table(results: xr.Dataset) -> Table:
    kinds = ("degenerate", "negative")
    rows = []
    for architecture in results["architecture"].values:
        part = results.sel(architecture=architecture)
        if np.isfinite(part["penalised_norm"].values).any():
            cells = [cell for kind in kinds for cell in _estimate_cells(part, f"penalised_{kind}")]
            rows.append((str(architecture), *cells, f"{part['penalised_norm'].values.mean():.3g}"))
    return Table(
        "With the penalty in the loss",
        ("architecture", "degenerate (%)", "certified (%)", "negative (%)", "certified (%)", "‖H‖"),
        rows,
        "At the last epoch, from as many Lanczos steps: the penalty adds 2λ to the curvature along "
        "each bias of a hidden layer. No claim is about these; all other fractions are those of "
        "the data alone.",
    )


def _fraction_cells(part: xr.Dataset) -> tuple[str, ...]:
    """One row of the table of fractions, from its N on."""
    images, norm = int(part["images"]), f"{np.nanmean(part['norm'].values):.3g}"
    floor = f"{np.nanmax(part['noise_floor'].values):.0e}"
    if not np.isfinite(part["degenerate"].values).any():
        return (f"{images:,}", "below the noise floor", *["—"] * 6, norm, floor)
    cells = [
        cell
        for kind, mixture in (("degenerate", "mixture"), ("negative", "negative_mixture"))
        for cell in (
            *_estimate_cells(part, kind), f"{100 * np.nanmean(part[mixture].values):.1f}"
        )
    ]  # fmt: skip
    fits = part["mixture_fits"].values
    taken = int(np.isfinite(part["norm"].values).sum())
    return (f"{images:,}", *cells, f"{int(np.nansum(fits))} of {taken}", norm, floor)


def _estimate_cells(part: xr.Dataset, kind: str) -> tuple[str, str]:
    """Mean of the resolved estimates of a kind, and the mean certified interval of the same."""
    estimates = resolved(part, kind).values
    known = np.isfinite(estimates)
    some = "" if known.all() else f" ({known.sum()} of {known.size})"
    interval = "[{:.1f}, {:.1f}]".format(*_certified(part, kind, known))
    return (_percent(estimates[known]) + some if known.any() else "not resolved", interval)


def _certified(part: xr.Dataset, kind: str, kept: np.ndarray) -> tuple[float, float]:
    """Means of both bounds in percent, over the resolved networks; over all if none is."""
    low, high = (part[f"{kind}_{end}"].values for end in ("lower", "upper"))
    chosen = (kept if kept.any() else np.ones_like(kept)) & np.isfinite(low)
    if not chosen.any():
        return np.nan, np.nan
    return float(100 * low[chosen].mean()), float(100 * high[chosen].mean())


def _percent(values: np.ndarray) -> str:
    return _plus_minus(100 * values, "{:.1f}")


def _plus_minus(values: np.ndarray, form: str = "{:.3g}") -> str:
    mean, half = mean_interval(np.asarray(values, float), 0)
    # From two values Student's interval is 9 standard deviations wide: it says nothing.
    enough = np.isfinite(values).sum() > 2 and np.isfinite(half)
    return form.format(mean) + (f" ± {form.format(half)}" if enough else "")


def _listed(values: Sequence[int]) -> str:
    return ", ".join(str(value) for value in values)


def _search_table(search: xr.Dataset, group: Group) -> Table:
    best = int(np.argmax(search["accuracy"].values))
    rows = [
        (
            *(f"{float(search[name][k]):.3g}" for name in ("mean", "std", "strength")),
            f"{100 * float(search['accuracy'][k]):.2f}",
            "taken" if k == best else "",
        )
        for k in range(search.sizes["candidate"])
    ]
    return Table(
        f"The search for the penalty on biases of the {group.name} networks",
        ("μ", "σ", "λ", "accuracy, mean through training (%)", ""),
        rows,
        "One network each, of another seed than those that are compared, for the same epochs.",
    )


def _save(drawn: Drawn, study: Study | Inquiry, figures: Path) -> bytes:
    """Keep a figure as PNG and PDF; return the PNG."""
    stem, figure = figures / f"{study.name}-{drawn.name}", drawn.figure
    content = {}
    for kind, options in (("png", {"dpi": DPI}), ("pdf", {})):
        stream = io.BytesIO()
        figure.savefig(stream, format=kind, **options)  # type: ignore[arg-type]
        content[kind] = stream.getvalue()
        # Laid out once: that takes as long as drawing.
        figure.set_layout_engine("none")
        write_atomically(stem.with_suffix(f".{kind}"), content[kind])
    return content["png"]
