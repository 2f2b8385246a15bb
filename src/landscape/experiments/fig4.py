"""Plain networks of other seeds: what sets the worst apart from the best.

After figure 4 of A. E. Orhan and X. Pitkow, *Skip Connections Eliminate Singularities*, ICLR 2018:
of many plain networks the ten that train worst are compared with the ten that train best, by mean
training accuracy. Claims: the worst are more degenerate, have smaller incoming weights, a larger
overlap and a larger share of variance in three directions. Of fewer than 40 networks a quarter
stands on each side; measures are means over the epochs at which they are taken, the first left out.
Both choices are ours.

A network at chance is never better than the commonest class: it gives one answer to everything.
Nothing sets such networks apart from one another, so where they are more than ten, all of them are
the worst. As they differ from the others by not being trained at all, the claims are then decided
once more among the networks that train: their best against their worst third, ten at most.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from landscape.errors import InputError
from landscape.experiments.claims import Claim
from landscape.experiments.collect import (
    EPS,
    at_last,
    bounds_of,
    resolved,
    through_training,
    too_few_data,
)
from landscape.experiments.pictures import (
    MEASURE_LABELS,
    WIDTH,
    distances,
    fraction_curves,
    one_legend,
    overview,
)
from landscape.experiments.study import Drawn, Study
from landscape.experiments.variants import PLAIN
from landscape.plots import look
from landscape.plots.style import tidy

MOST = 10


def at_chance(results: xr.Dataset) -> np.ndarray:
    """(S,) whether each network's mean accuracy is no better than the commonest class."""
    if "commonest_class" not in results.attrs:
        raise InputError(
            "these results were collected by an older version, and do not tell how common the "
            "commonest class is: reproduce fig4 with --resume in their folder collects them anew"
        )
    # Accuracies are float32.
    return through_training(results).values[0] <= results.attrs["commonest_class"] + 1e-6


def extremes(results: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the networks that train worst, and of those that train best.

    Those at chance are the worst together, and never the best.
    """
    order = np.argsort(through_training(results).values[0], kind="stable")
    count = min(MOST, max(1, len(order) // 4))
    chance = int(at_chance(results).sum())
    return order[: max(count, chance)], order[chance:][::-1][:count]


def trained_extremes(results: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The same among the networks that are not at chance: a third on each side, ten at most."""
    order = np.argsort(through_training(results).values[0], kind="stable")
    order = order[int(at_chance(results).sum()) :]
    count = min(MOST, len(order) // 3)
    return order[:count], order[::-1][:count]


def claims(accuracy: xr.Dataset, fractions: xr.Dataset) -> list[Claim]:
    """Worst against best; fractions by the accuracy of the networks they belong to."""
    shares = at_last(fractions).isel(architecture=0)
    last = shares["estimate"].expand_dims("architecture")
    measured = accuracy.isel(measure_epoch=slice(1, None)).mean("measure_epoch")
    compared = (
        ("degenerate fraction", fractions, last, "worst", too_few_data(fractions), "points"),
        ("incoming norm", accuracy, measured["incoming_norm"], "best", "", "norm"),
        ("overlap", accuracy, measured["correlation"], "worst", "", "correlation"),
        ("top-three share", accuracy, measured["top_share"], "worst", "", "points"),
    )
    groups = [("", extremes)]
    if at_chance(accuracy).any() or at_chance(fractions).any():
        groups.append((", of those that train", trained_extremes))
    found = []
    for among, choose in groups:
        for name, results, values, more, obstacle, unit in compared:
            worst, best = (values.values[0][side] for side in choose(results))
            larger, smaller = (worst, best) if more == "worst" else (best, worst)
            less = "best" if more == "worst" else "worst"
            text = f"{name} of the {more} networks{among} is larger than that of the {less}"
            bounds: list[np.ndarray | None] = [None, None]
            if values is last:
                # More of them is claimed of the worst.
                bounds = [bounds_of(shares)[:, side] for side in choose(results)]
            found.append(
                Claim(
                    f"{name}: {more} > {less}{among}", text, larger, smaller, obstacle,
                    paired=False, unit=unit, larger_bounds=bounds[0], smaller_bounds=bounds[1],
                )
            )  # fmt: skip
    return found


def about(accuracy: xr.Dataset, fractions: xr.Dataset) -> list[str]:
    """Where the worst are networks that never trained, what the claims then compare."""
    count, worst = int(at_chance(accuracy).sum()), len(extremes(accuracy)[0])
    if count < worst:
        return []
    return [
        f"The {worst} worst networks never do better than the commonest class: with them the "
        "claims compare weights that have hardly been trained with trained ones. “Of those that "
        "train” leaves them out."
    ]


def sides(results: xr.Dataset) -> xr.Dataset:
    """The same with the worst and the best as two architectures, their seeds renumbered."""
    parts = [
        results.isel(seed=side).assign_coords(seed=np.arange(len(side)))
        for side in extremes(results)
    ]
    whole = xr.concat(parts, "architecture")
    return whole.assign_coords(architecture=["worst", "best"]).assign_attrs(results.attrs)


def pictures(accuracy: xr.Dataset, fractions: xr.Dataset) -> list[Drawn]:
    """Worst and best through training, all networks one by one, and f(ε)."""
    return [
        overview(sides(accuracy), sides(fractions)),
        distances(sides(accuracy)),
        _one_by_one(accuracy, fractions),
        *fraction_curves(sides(fractions)),
    ]


def _one_by_one(accuracy: xr.Dataset, fractions: xr.Dataset) -> Drawn:
    """Every network: its accuracy against its fraction and its distances."""
    measured = accuracy.isel(measure_epoch=slice(1, None)).mean("measure_epoch")
    last = resolved(fractions).isel(images=-1, spectrum_epoch=-1)
    columns = [
        (fractions, 100 * last.values[0], f"eigenvalues with |λ| ≤ {EPS:g} (%)"),
        (accuracy, measured["incoming_norm"].values[0], MEASURE_LABELS["incoming_norm"]),
        (accuracy, measured["correlation"].values[0], MEASURE_LABELS["correlation"]),
        (accuracy, 100 * measured["top_share"].values[0], MEASURE_LABELS["top_share"]),
    ]
    figure = Figure(figsize=(WIDTH, 6), layout="constrained")
    grid = figure.subplots(2, 2, sharey=True)
    panels = grid.ravel()
    for ax, (results, values, label) in zip(panels, columns, strict=True):
        tidy(ax)
        reached = 100 * through_training(results).values[0]
        worst, best = extremes(results)
        middle = np.setdiff1d(np.arange(len(reached)), np.concatenate([worst, best]))
        for index, (name, side) in enumerate((("worst", worst), ("best", best))):
            style = look(name, index)
            ax.plot(values[side], reached[side], style.marker, color=style.color, label=name)
        if len(middle):
            ax.plot(values[middle], reached[middle], ".", color="0.6", label="others")
        # Of small numbers labels are long.
        ax.xaxis.get_major_locator().set_params(nbins=5)
        ax.set_xlabel(label)
        if not np.isfinite(values).any():
            ax.set_xticks([])
            ax.text(0.5, 0.5, "not resolved", transform=ax.transAxes, ha="center", color="0.4")
    for ax in grid[:, 0]:
        ax.set_ylabel("training accuracy, mean (%)")
    one_legend(figure, panels[0])
    return Drawn(
        "networks",
        "Network by network",
        "Mean training accuracy against the degenerate fraction at the last epoch and against the "
        f"means of the measures through training; each point is a network. {_of_chance(accuracy)}",
        figure,
    )


def _of_chance(results: xr.Dataset) -> str:
    count, worst = int(at_chance(results).sum()), len(extremes(results)[0])
    if not count:
        return "None is at chance."
    told = f"{count} of {results.sizes['seed']} are at chance, no better than the commonest class"
    return f"{told}; the {worst} worst are these alone." if count == worst else f"{told}."


STUDY = Study(
    name="fig4",
    summary="many plain networks: the worst against the best",
    title="The worst and the best of many plain networks",
    question="Are plain networks that train badly nearer to singularities than those that train "
    "well?",
    variants=lambda group, penalty: {"plain": PLAIN},
    claims=claims,
    pictures=pictures,
    depth=30,
    seeds={"smoke": 8, "laptop": 40, "paper": 100},
    about=about,
)
