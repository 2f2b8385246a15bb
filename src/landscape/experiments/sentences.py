"""What a page says of its claims in sentences, made from the verdicts and the results."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import xarray as xr

from landscape.experiments.claims import Verdict
from landscape.experiments.collect import EPS, WIDEST, resolved
from landscape.experiments.pictures import LINE

# A loss from this share of ln C on is that of a network that gives all classes alike.
UNTRAINED = 0.95


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
                "the order is the other way round, in the mean over seeds. At ε = "
                f"{float(last['relative'][at]):.0e} ‖H‖ {named[1]} networks have {a:.1f} % "
                f"(certified [{a_low:.1f}, {a_high:.1f}]), "
                f"{named[2]} ones {b:.1f} % ([{b_low:.1f}, {b_high:.1f}])."
            )
    return told


def at_matched_levels(fractions: xr.Dataset, verdicts: Sequence[Verdict]) -> list[str]:
    """What claims at matched training loss that are decided compare: a sentence each.

    Networks that have hardly begun to train, where the level is that of one that never does; and
    such whose norms differ: their shares relative to the norm are not kept there.
    """
    decided = [
        (verdict, named)
        for verdict in verdicts
        for named in [
            re.fullmatch(r"degenerate: (.+) > (.+), at matched training loss", verdict.claim.name)
        ]
        if named is not None and verdict.status in ("holds", "fails")
    ]
    if not decided:
        return []
    told = []
    untrained = float(np.log(fractions.attrs["num_classes"]))
    level = fractions["loss"].isel(epoch=-1).max("architecture").values
    low = level >= UNTRAINED * untrained
    if low.any():
        reached = [100 * value for value in matched_accuracy(fractions).values[:, low].ravel()]
        told.append(
            f"At matched training loss {low.sum()} of {low.size} seeds have the level of a network "
            f"that has not learned anything (within {100 * (1 - UNTRAINED):.0f} % of ln C = "
            f"{untrained:.2f} nats): there networks are compared that have hardly begun to train, "
            f"with accuracies from {min(reached):.0f} to {max(reached):.0f} %."
        )
    for verdict, named in decided:
        norms = [
            float(fractions["matched_norm"].sel(architecture=name).mean())
            for name in named.groups()
        ]
        if max(norms) > 2 * min(norms):
            told.append(
                f"“{verdict.claim.name}” is about ε = {EPS:g}, and norms differ: ‖H‖ is "
                f"{norms[0]:.3g} against {norms[1]:.3g}, in the mean. What relative to them the "
                "order is, is not known there."
            )
    return told


def matched_accuracy(results: xr.Dataset) -> xr.DataArray:
    """Training accuracy of each network at matched training loss: architecture, seed."""
    epochs = results["matched_epoch"]
    known = results["accuracy"].sel(epoch=epochs.fillna(0).astype(int), drop=True)
    return known.where(epochs.notnull()).transpose("architecture", "seed")


def how_to_read(verdicts: Sequence[Verdict]) -> list[str]:
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
