r"""Low-dimensional theory: where training stalls, and what skips change.

After figure 2 of A. E. Orhan and X. Pitkow, *Skip Connections Eliminate Singularities*, ICLR 2018;
equations, manifolds and sources: ``landscape.theory``. Three systems, each with and without skips:

- two units that learn from a teacher of two, started at a distance from overlap (both alike) or
  from elimination (one of them zero), and from typical weights;
- a network of two modes, likewise;
- a chain of scalar weights, against its depth.

Each direction and each start has a task of its own, drawn at random, the same with and without
skips: a teacher whose units are turned anyhow, and skips that are turned anyhow against the modes.
So skips know nothing of what is to be learnt. They shift the weights, and the flow of shifted
weights is the plain one: near a ghost, which no start here is, they would stall as well.

Times are those until the loss has fallen to a level: for two units a tenth of what the best single
unit leaves, for two modes 0.01, for the chain 99 % of the target. Near a degenerate manifold they
grow by the same amount with each decade of the distance; the growth per decade is each direction's
slope of the time against the logarithm of the distance. Claims: without skips it takes longer from
the nearest start than from the farthest; with skips growth is less than a tenth of that without;
from typical weights, drawn from N(0, 0.5²), skips are faster. Directions have time scales of their
own that differ by orders of magnitude, and some do not arrive at the level in time and count with
the longest, which is less than they take. So logarithms are compared (of growths, sizes below 0.01
count as that), and near the manifolds the sign test decides on their median. Parameters of
teachers, skips and starts are ours.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from landscape.errors import InputError
from landscape.experiments.claims import Claim
from landscape.experiments.flows import (
    CHAIN,
    KINDS,
    LONGEST,
    PLACES,
    SKIPS,
    SYSTEMS,
    TEACHER,
    Chain,
    Times,
    Typical,
    best_single,
    two_units,
)
from landscape.experiments.inquiry import Inquiry, RunUnits
from landscape.experiments.pictures import WIDTH, one_legend
from landscape.experiments.study import Drawn
from landscape.plots import look
from landscape.plots.style import tidy
from landscape.report import Table
from landscape.runs import Unit
from landscape.theory import conserved

# Growth with skips is small beside that without them up to this share.
SMALL = 0.1
# Growths below are none, in units of time per decade.
LEAST = 0.01


def settings(scale: str, dataset: str, seeds: int | None) -> dict[str, Any]:
    """Distances, directions and starts of a scale."""
    sizes = {"smoke": (3, 2, 3, (2, 4)), "laptop": (6, 16, 60, (2, 3, 5, 10, 20, 50))}
    if scale not in ("smoke", "laptop", "paper"):
        raise InputError(f"unknown scale {scale!r}; choose one of smoke, laptop, paper")
    decades, directions, starts, depths = sizes["smoke" if scale == "smoke" else "laptop"]
    return {
        "scale": scale,
        "distances": [float(10.0**-k) for k in range(1, decades + 1)],
        "directions": directions if seeds is None else seeds,
        "starts": starts,
        "depths": list(depths),
    }


def compute(given: dict[str, Any], dataset: str, seed: int, run: RunUnits) -> xr.Dataset:
    """All times, with names on their axes."""
    distances, depths = tuple(given["distances"]), tuple(given["depths"])
    places = [(s, p, d) for s in SYSTEMS for p in PLACES for d in range(given["directions"])]
    units = []
    for system, place, direction in places:
        work = Times(system, place, distances, seed * 100_003 + direction)
        label = f"times-{system.replace(' ', '-')}-{place}-{direction:02d}"
        units.append(Unit(label, {"kind": "times", **_json(work)}, work))
    for k in range(given["starts"]):
        typical = Typical(seed * 100_003 + k)
        units.append(Unit(f"typical-{k:03d}", {"kind": "typical", **_json(typical)}, typical))
    chain = Chain(depths)
    units.append(Unit("chain", {"kind": "chain", **_json(chain), **CHAIN}, chain))
    found = run(units, f"{len(units)} sets of gradient flows")
    times = np.stack([part["time"].values for part in found[: len(places)]])
    times = times.reshape(len(SYSTEMS), len(PLACES), -1, len(KINDS), len(distances))
    typical_times = np.stack([part["typical"].values for part in found[len(places) : -1]])
    return xr.Dataset(
        {
            "time": (("system", "place", "direction", "kind", "distance"), times),
            "typical": (("start", "system", "kind"), typical_times),
            "closed": (("kind", "depth"), found[-1]["closed"].values),
            "followed": (("kind", "depth"), found[-1]["followed"].values),
        },
        coords={
            "system": list(SYSTEMS), "place": list(PLACES), "kind": list(KINDS),
            "distance": list(distances), "depth": list(depths),
        },
    )  # fmt: skip


def _json(work: Any) -> dict[str, Any]:
    record = dataclasses.asdict(work)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in record.items()}


def growth(results: xr.Dataset) -> xr.DataArray:
    """Growth of the time per decade of the distance: system, place, direction, kind."""
    decades = -np.log10(results["distance"].values)
    centred = decades - decades.mean()
    slopes = (waited(results["time"]) * xr.DataArray(centred, dims="distance")).sum("distance")
    return slopes / float(centred @ centred)


def waited(times: xr.DataArray) -> xr.DataArray:
    """Times, the longest where there was no arrival."""
    return times.where(np.isfinite(times), LONGEST)


def claims(results: xr.Dataset) -> list[Claim]:
    """Growth near each manifold of each system, and times from typical weights."""
    slopes, logs = growth(results), xr.apply_ufunc(np.log10, waited(results["time"]))
    grown, sizes = (xr.apply_ufunc(np.log10, part.clip(LEAST)) for part in (slopes, abs(slopes)))
    found = []
    for system in SYSTEMS:
        for place in PLACES:
            here = {"system": system, "place": place}
            plain = logs.sel(**here, kind="plain")
            found += [
                Claim(
                    f"{system}, {place}: plain times grow towards the manifold",
                    "logarithm of the time is larger from the nearest start than from the farthest",
                    plain.isel(distance=-1).values,
                    plain.isel(distance=0).values,
                    unit="decades of time",
                    median=True,
                ),
                Claim(
                    f"{system}, {place}: with skips they do not",
                    f"growth per decade with skips is less than {SMALL:g} of that without",
                    np.log10(SMALL) + grown.sel(**here, kind="plain").values,
                    sizes.sel(**here, kind="residual").values,
                    unit="decades of growth",
                    median=True,
                ),
            ]
        plain, skips = (
            np.log10(waited(results["typical"].sel(system=system, kind=kind)).values)
            for kind in KINDS
        )
        found.append(
            Claim(
                f"{system}: from typical weights skips are faster",
                "logarithm of the time to the level is smaller with skips",
                plain,
                skips,
                unit="decades of time",
            )
        )
    return found


def pictures(results: xr.Dataset) -> list[Drawn]:
    """Times against distance, surface and portrait with manifolds, typical starts, the chain."""
    return [
        _against_distance(results), _surface(), _portrait(), _typical(results), _chain(results)
    ]  # fmt: skip


def _against_distance(results: xr.Dataset) -> Drawn:
    figure = Figure(figsize=(WIDTH, 6), layout="constrained")
    grid = figure.subplots(len(SYSTEMS), len(PLACES))
    panels = grid.ravel()
    cases = [(system, place) for system in SYSTEMS for place in PLACES]
    for ax, (system, place) in zip(panels, cases, strict=True):
        tidy(ax)
        for kind in KINDS:
            style = look(kind)
            times = waited(results["time"]).sel(system=system, place=place, kind=kind)
            for path in times.values:
                ax.plot(results["distance"], path, color=style.color, alpha=0.3, linewidth=0.8)
            ax.plot(
                results["distance"], times.median("direction"), color=style.color,
                linestyle=style.linestyle, marker=style.marker,
                label="plain" if kind == "plain" else "with skips",
            )  # fmt: skip
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.invert_xaxis()
        ax.set_xlabel("distance from the manifold")
        ax.set_title(f"{system}: {place}")
    for ax in grid[:, 0]:
        ax.set_ylabel("time to the level")
    one_legend(figure, panels[0])
    return Drawn(
        "times",
        "How long training stalls, against the distance from the degenerate manifold",
        "Time of gradient flow until the loss falls to a level; nearer starts to the right. Thin: "
        "directions, each with a task of its own; thick: their median. Those that do not arrive in "
        f"time stand at {LONGEST:g}. Manifolds are those of the plain system.",
        figure,
    )


def _surface() -> Drawn:
    """The two-unit loss over differences of weights, with trajectories."""
    figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    panels = figure.subplots(1, 2)
    # Coordinates: how the units share the outgoing weight, and how far their weights are apart.
    shares, apart = np.linspace(-1.6, 1.6, 81), np.linspace(-1.6, 1.6, 81)
    # Along the difference of the skips, so that the ghost lies in the plane that is drawn.
    direction, middle, total = (SKIPS[0] - SKIPS[1]) / 2**0.5, np.array([0.5, 0.7]), 1.6

    def weights(z: float, u: float) -> tuple[np.ndarray, np.ndarray]:
        outgoing = total / 2 * np.array([1 + z, 1 - z])
        return outgoing, middle + np.outer([u / 2, -u / 2], direction)

    grid = [np.r_[v, np.ravel(j)] for v, j in (weights(z, u) for u in apart for z in shares)]
    surfaces = {
        kind: np.log10(two_units(kind).losses(np.array(grid)).reshape(len(apart), -1))
        for kind in KINDS
    }
    ends = [function(list(surfaces.values())) for function in (np.min, np.max)]
    for ax, kind in zip(panels, KINDS, strict=True):
        system, heights = two_units(kind), np.linspace(ends[0], ends[1], 25)
        filled = ax.contourf(shares, apart, surfaces[kind], heights, cmap="cividis")
        ghost = 0.0
        if kind == "residual":
            # The weights that undo the difference of the skips.
            ghost = float((SKIPS[1] - SKIPS[0]) @ direction)
        ax.axhline(ghost, color="white", linestyle="--", linewidth=1.5)
        for edge in (-1, 1):
            ax.axvline(edge, color="white", linestyle=":", linewidth=1.5)
        for z, u in ((-0.5, 0.05), (0.5, -0.05), (0.9, 0.6), (-0.9, -0.6), (0.2, 1.2)):
            outgoing, incoming = weights(z, u)
            path = system.flow(outgoing, incoming, 200.0)
            v, j = system.unpack(path.states)
            x = (v[:, 0] - v[:, 1]) / v.sum(1)
            y = (j[:, 0] - j[:, 1]) @ direction
            ax.plot(x, y, color="white", linewidth=2.4)
            ax.plot(x, y, color="black", linewidth=1.2)
            ax.plot(x[0], y[0], "o", color="black", markeredgecolor="white")
        ax.set_xlim(shares[0], shares[-1])
        ax.set_ylim(apart[0], apart[-1])
        ax.set_xlabel("z = (v₁ − v₂)/v")
        ax.set_title("plain" if kind == "plain" else "with skips")
    panels[0].set_ylabel("(J₁ − J₂) along a direction")
    figure.colorbar(filled, ax=panels, label="log₁₀ loss, other weights held", ticks=MaxNLocator(6))
    return Drawn(
        "surface",
        "The loss of two units, and where it is degenerate",
        "Logarithm of the loss over the share of the outgoing weight and the difference of the "
        "incoming weights, the other weights held. Dashed: overlap, where the units are alike, and "
        "with skips its ghost, where the weights undo the difference of the skips. Dotted: one "
        "unit is read with weight 0, which skips that go in leave as it is. Black: gradient flow "
        "of all weights, projected, from the dots. One teacher.",
        figure,
    )


def _portrait() -> Drawn:
    """The flow of two plain units near overlap, over z and h, beside the reduced flow's lines."""
    system = two_units("plain")
    v, s, _ = best_single(system)
    along = TEACHER[1][0] - TEACHER[1][1]
    along /= np.linalg.norm(along)
    figure = Figure(figsize=(6.5, 4.4), layout="constrained")
    ax = tidy(figure.subplots())
    shares, heights = np.linspace(-1.45, 1.45, 181), np.linspace(0, 2.2, 121)
    # An even number of points has none at z = 0, where the logarithm has its pole.
    grid = np.meshgrid(shares + 1e-6, heights)
    kept = conserved(grid[1], grid[0], v)
    ax.contour(
        *grid, kept, np.quantile(kept, np.linspace(0.05, 0.95, 19)), colors="0.75",
        linestyles="-", linewidths=0.7,
    )  # fmt: skip
    style = look("plain")
    for z in (-0.9, -0.6, -0.3, 0.05, 0.3, 0.6, 0.9, 1.2, -1.2):
        outgoing = v / 2 * np.array([1 + z, 1 - z])
        incoming = s + 0.4 / 2 * np.outer([1 - z, -1 - z], along)
        seen = system.coordinates(system.flow(outgoing, incoming, 300.0).states)
        ax.plot(seen.z, seen.h, color=style.color, linewidth=1.3)
        ax.plot(seen.z[0], seen.h[0], "o", color=style.color, markersize=4)
    ax.axhline(0, color="black", linestyle="--", linewidth=1.2)
    for edge in (-1, 1):
        ax.axvline(edge, color="black", linestyle=":", linewidth=1.2)
    ax.set_xlim(shares[0], shares[-1])
    ax.set_ylim(-0.05, heights[-1])
    ax.set_xlabel("z = (v₁ − v₂)/v")
    ax.set_ylabel("h = |J₁ − J₂|")
    return Drawn(
        "portrait",
        "The flow near overlap",
        "Two plain units, started near the best single unit: gradient flow of all weights over z "
        "and h, from the dots. Grey: the lines that the reduced flow near overlap keeps to, with "
        "the other weights held (H. Wei et al. 2008). Dashed: overlap; dotted: elimination. With "
        "skips the picture is the same for J + q. One teacher.",
        figure,
    )


def _typical(results: xr.Dataset) -> Drawn:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    panels = figure.subplots(1, len(SYSTEMS))
    for ax, system in zip(panels, SYSTEMS, strict=True):
        tidy(ax)
        for kind in KINDS:
            style = look(kind)
            times = results["typical"].sel(system=system, kind=kind).values
            times = np.sort(np.where(np.isfinite(times), times, LONGEST))
            share = 100 * np.arange(1, len(times) + 1) / len(times)
            ax.step(
                times, share, where="post", color=style.color, linestyle=style.linestyle,
                label="plain" if kind == "plain" else "with skips",
            )  # fmt: skip
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=7))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_xlabel("time to the level")
        ax.set_title(system)
    panels[0].set_ylabel("starts that are there (%)")
    one_legend(figure, panels[0])
    return Drawn(
        "typical",
        "From typical weights",
        "Share of the starts, weights drawn from N(0, 0.5²), whose loss has fallen to the level. "
        f"Those that are not there after t = {LONGEST:g} stand at the right end.",
        figure,
    )


def _chain(results: xr.Dataset) -> Drawn:
    figure = Figure(figsize=(5.5, 3.8), layout="constrained")
    ax = tidy(figure.subplots())
    for kind in KINDS:
        style = look(kind)
        label = "plain" if kind == "plain" else "with skips"
        ax.plot(
            results["depth"], results["closed"].sel(kind=kind), color=style.color,
            linestyle=style.linestyle, label=f"{label}, closed form",
        )  # fmt: skip
        ax.plot(
            results["depth"], results["followed"].sel(kind=kind), style.marker,
            color=style.color, fillstyle="none", label=f"{label}, integrated",
        )  # fmt: skip
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xticks(results["depth"].values, [str(d) for d in results["depth"].values])
    ax.minorticks_off()
    ax.set_xlabel("depth L")
    ax.set_ylabel("learning time")
    ax.legend(frameon=False, fontsize=8)
    return Drawn(
        "chain",
        "A chain of scalar weights, against its depth",
        f"Time until the chain computes 99 % of its target {CHAIN['target']:g}; weights start at "
        f"{CHAIN['start']:g}, with skips at 1 + 0. After the longest times a step is shorter than "
        "float64 tells times apart: there the closed form stands alone.",
        figure,
    )


def tables(results: xr.Dataset) -> list[Table]:
    """Growth per decade, and the chain's closed form against integration."""
    slopes = growth(results)
    rows = []
    for system in SYSTEMS:
        for place in PLACES:
            part = slopes.sel(system=system, place=place)
            times = results["time"].sel(system=system, place=place)
            for kind in KINDS:
                values, nearest = part.sel(kind=kind), times.sel(kind=kind).isel(distance=-1)
                arrived = int(np.isfinite(times.sel(kind=kind).values).all(-1).sum())
                rows.append(
                    (system, place, kind, f"{float(values.median()):.3g}",
                     _longest(nearest), f"{arrived} of {values.size}")
                )  # fmt: skip
    ratio = np.nanmax(np.abs(results["followed"].values / results["closed"].values - 1), 1)
    return [
        Table(
            "Growth of the time towards each manifold",
            (
                "system",
                "manifold",
                "skips",
                "growth per decade",
                "longest at the nearest start",
                "directions that arrive",
            ),
            rows,
            "Growth: median over directions. Those that do not arrive from every distance within "
            f"t = {LONGEST:g} count with that; residual stands for the system with skips.",
        ),
        Table(
            "The chain's closed form",
            ("chain", "largest relative difference to integration"),
            [(kind, f"{difference:.1e}") for kind, difference in zip(KINDS, ratio, strict=True)],
        ),
    ]


def _longest(times: xr.DataArray) -> str:
    known = bool(np.isfinite(times).all())
    return f"{float(times.max()):.4g}" if known else f"> {LONGEST:g}"


INQUIRY = Inquiry(
    name="fig2",
    summary="low-dimensional theory: two units, two modes, a chain, each with and without skips",
    title="Where small systems stall, and what skips change",
    question="Does gradient flow stall near the degenerate manifolds, and do skips prevent it?",
    settings=settings,
    compute=compute,
    claims=claims,
    pictures=pictures,
    tables=tables,
    protocol=(
        "Gradient flow of all weights in float64 by LSODA, relative error of a step 10⁻⁹. Two "
        "units learn from a teacher of two by the closed form of their loss; skips are the two "
        "unit vectors. Each direction and start has a task of its own: outgoing weights of the "
        "teacher uniform on [0.7, 1.3], incoming ones of lengths on [0.8, 1.4], turned anyhow, 45° "
        "to 135° apart; modes of strengths 3 and 1.5, skips rotated anyhow in and out. "
        "Claims: logarithms of times and of growths (per decade, by least squares over the "
        "distances), their median by the sign test over directions; Student's t over starts.",
        "After A. E. Orhan and X. Pitkow, Skip Connections Eliminate Singularities, ICLR 2018; "
        "H. Wei et al., Neural Computation 20, 2008; A. M. Saxe et al., ICLR 2014.",
    ),
)
