"""The tables of a study's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from landscape.experiments.claims import Verdict
from landscape.experiments.collect import ENOUGH_DATA, EPS, WIDEST, data_ratio, resolved
from landscape.experiments.scales import Group
from landscape.experiments.sentences import how_to_read, matched_accuracy
from landscape.plots import mean_interval
from landscape.report import Table


def claims_table(verdicts: Sequence[Verdict]) -> Table:
    """A row for each claim."""
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
        " ".join(how_to_read(verdicts)),
    )  # fmt: skip


def networks_table(results: Mapping[str, xr.Dataset]) -> Table:
    """How well each architecture trains, by group."""
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


def fractions_table(results: xr.Dataset, whose: str) -> Table:
    """Of the group of that name; empty if there is no other."""
    few = bool(data_ratio(results) < ENOUGH_DATA)
    rows = []
    for architecture in results["architecture"].values:
        for epoch in results["spectrum_epoch"].values:
            for images in results["images"].values:
                part = results.sel(architecture=architecture, spectrum_epoch=epoch, images=images)
                if np.isfinite(part["norm"].values).any():
                    rows.append((str(architecture), str(epoch), *_fraction_cells(part)))
    return Table(
        f"Fractions of the {whose} networks" if whose else "Fractions",
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
        + " No share is resolved." * (not np.isfinite(resolved(results)).any())
        + " No verdict rests on these: N(C−1) is below 2P." * few,
    )  # fmt: skip


def matched_table(results: xr.Dataset) -> Table:
    """Degenerate fractions at matched training loss."""
    reached = matched_accuracy(results)
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
                _percent(reached.sel(architecture=architecture).values),
                _percent(known[kept]) + some if kept.any() else "not resolved",
                f"[{low:.1f}, {high:.1f}]" if np.isfinite(low) else "—",
                f"{np.nanmean(part['matched_norm'].values):.3g}",
            )
        )
    return Table(
        "At matched training loss",
        ("architecture", "epochs, by seed", "training loss", "accuracy (%)", "degenerate (%)",
         "certified (%)", "‖H‖"),
        rows,
        "Each network at the first epoch that it was kept at whose training loss is no higher than "
        "the highest of its seed's final losses; as many Lanczos steps as at the last epoch.",
    )  # fmt: skip


def penalised_table(results: xr.Dataset) -> Table:
    """Fractions with the penalty on biases in the loss."""
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


def search_table(search: xr.Dataset, group: Group) -> Table:
    """The candidates of the search for a penalty."""
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


def _number(value: float, form: str) -> str:
    return format(value, form) if np.isfinite(value) else "—"


def _interval(ends: tuple[float, float] | None, factor: float, form: str) -> str:
    if ends is None or not np.isfinite(ends).all():
        return "—"
    return "[{}, {}]".format(*(format(factor * end, form) for end in ends))


def _percent(values: np.ndarray) -> str:
    return _plus_minus(100 * values, "{:.1f}")


def _plus_minus(values: np.ndarray, form: str = "{:.3g}") -> str:
    mean, half = mean_interval(np.asarray(values, float), 0)
    # From two values Student's interval is 9 standard deviations wide: it says nothing.
    enough = np.isfinite(values).sum() > 2 and np.isfinite(half)
    return form.format(mean) + (f" ± {form.format(half)}" if enough else "")
