"""The page of a study: figures, tables and verdicts from collected results."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from landscape.experiments.claims import MIN_PAIRS, Verdict
from landscape.experiments.collect import ENOUGH_DATA, data_ratio, resolved
from landscape.experiments.inquiry import Inquiry
from landscape.experiments.networks import MEASURED
from landscape.experiments.pictures import against_images
from landscape.experiments.scales import Group, Scale
from landscape.experiments.sentences import at_matched_levels, counted, failures, relative_orders
from landscape.experiments.study import Drawn, Study
from landscape.experiments.study_tables import (
    claims_table,
    fractions_table,
    matched_table,
    networks_table,
    penalised_table,
    search_table,
)
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
        claims_table(verdicts), *shown[:1], networks_table(groups), *shown[1:]
    ]  # fmt: skip
    apart = study.spectra and scale.accuracy != scale.fractions
    if study.spectra:
        parts.append(fractions_table(fractions, scale.fractions.name if apart else ""))
    if "matched_degenerate" in fractions:
        parts.append(matched_table(fractions))
    if "penalised_degenerate" in fractions:
        parts.append(penalised_table(fractions))
    several = study.spectra and accuracy.sizes["images"] > 1
    if several and np.isfinite(resolved(accuracy)).any():
        drawn = against_images(accuracy, judged=data_ratio(accuracy) >= ENOUGH_DATA)
        parts.append(Picture(drawn.title, drawn.caption, _save(drawn, study, figures)))
    if apart:
        parts.append(fractions_table(accuracy, scale.accuracy.name))
    if study.tables:
        parts += study.tables(accuracy, fractions)
    if study.searches:
        parts += [search_table(results[search_of(group)], group) for group in scale.groups]
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
    parts: list[Table | Picture] = [claims_table(verdicts)] if verdicts else []
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
    named = [
        f"Accuracy, gradients and distances from singularities are those of the "
        f"{scale.accuracy.name} networks, fractions those of the {scale.fractions.name} ones, "
        "unless a title says otherwise."
    ]
    return [
        ask,
        *told,
        *(named if scale.accuracy != scale.fractions else ()),
        *relative_orders(fractions, verdicts),
        *at_matched_levels(fractions, verdicts),
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


def _listed(values: Sequence[int]) -> str:
    return ", ".join(str(value) for value in values)


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
