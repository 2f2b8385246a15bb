"""Sections of ``docs/benchmarks.md`` on answers: how narrow, right and soon; see ``report``."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import NullFormatter
from tables import save, table

# By scheme; M. Okabe and K. Ito's palette.
COLOURS = {"full": "#D55E00", "partial": "#0072B2", "none": "#009E73", "none-20": "#CC79A7"}


def resolve(record: dict[str, Any], _: Path) -> list[str]:
    """Certified answers."""
    dense = {
        row["architecture"]: row["seconds"]
        for row in record.get("small", [])
        if row["route"].startswith("dense")
    }
    lines = [
        "Bounds hold up to the rounding beside them, with ends of the band moved by the noise "
        "floor; the width is that of the bounds and twice the rounding. Seconds of the large "
        "networks begin before the first product.",
        "",
    ]
    for name, title in (
        ("small", "A certified degenerate fraction beside a dense eigendecomposition"),
        ("large", "The narrowest certified interval within five minutes, 0.71 M parameters"),
    ):
        if name in record:
            lines += [f"### {title}", ""]
            lines += table(
                [
                    "network",
                    "P",
                    "ε",
                    "route",
                    "seconds",
                    "dense takes",
                    "steps",
                    "share in",
                    "rounding",
                    "width",
                    "95 %",
                    "status",
                ],
                [
                    (
                        r["architecture"],
                        f"{r['parameters']:,}",
                        f"{r['eps']:g}",
                        r["route"],
                        *(
                            [*[""] * 7, f"refused: {r['refused']}"]
                            if "refused" in r
                            else [
                                f"{r['seconds']:.1f}",
                                _times_as_long(dense.get(r["architecture"]), r)
                                if name == "small"
                                else "",
                                r["steps"],
                                f"[{r['lower']:.4f}, {r['upper']:.4f}]",
                                f"{float(np.max(r['rounding'])):.1e}",
                                f"{r['upper'] - r['lower'] + 2 * float(np.max(r['rounding'])):.4f}",
                                "[{:.4f}, {:.4f}]".format(*r["confidence"]),
                                r["status"],
                            ]
                        ),
                    )
                    for r in (record[name] if name == "small" else _some(record[name]))
                ],
            )
    return lines


def _some(rows: list[dict[str, Any]], each: int = 4) -> list[dict[str, Any]]:
    """Of every network the last look, and every fourth before."""
    kept = []
    for name in dict.fromkeys(row["architecture"] for row in rows):
        mine = [row for row in rows if row["architecture"] == name]
        kept += mine[::-1][::each][::-1]
    return kept


def _times_as_long(dense: float | None, row: dict[str, Any]) -> str:
    if dense is None or row["route"].startswith("dense"):
        return ""
    return f"{dense / row['seconds']:.1f}x"


def certify(record: dict[str, Any], _: Path) -> list[str]:
    """Bounds against exact spectra."""
    groups = record["certified"]
    by_scheme: dict[str, list[dict[str, Any]]] = {}
    for group in groups:
        by_scheme.setdefault(group["scheme"], []).append(group)
    coverage = record["coverage"]
    return [
        "### Certified bounds against exact spectra",
        "",
        f"{record['cases']} cases with known spectra: a matrix or a network with a start vector of "
        "its own. A bound holds with its ends moved by the noise floor and up to the rounding that "
        f"is stated with it, {median(g['rounding'] for g in groups):.0e} in the middle and "
        f"{max(g['largest_rounding'] for g in groups):.1g} at most. Answers that the library "
        "refuses, below the noise floor, are forced and counted too "
        f"({sum(g['checks'] for g in groups if g['refused']):,}); float32 networks are held "
        "against the float64 matrix and their own.",
        "",
        *table(
            ["scheme", "bounds checked", "exceptions", "largest error before rounding",
             "median width"],
            [
                (
                    f"{scheme} (empirical)" if scheme == "none" else scheme,
                    f"{sum(g['checks'] for g in rows):,}",
                    sum(g["exceptions"] for g in rows),
                    f"{max(g['largest_error'] for g in rows):.1e}",
                    f"{median(g['median_width'] for g in rows):.2f}",
                )
                for scheme, rows in by_scheme.items()
            ],
        ),
        f"Coverage of the confidence intervals over {coverage[0]['trials']} seeds each, and the p "
        "of the binomial test that it is below its level (smallest after Holm's correction: "
        f"{min(c['holm'] for c in coverage):.2f}):",
        "",
        *table(
            ["matrix", "type", "steps", "ε", "share", "probes", "level", "covered", "p",
             "median width"],
            [
                (
                    c["matrix"],
                    c["dtype"],
                    c["steps"],
                    f"{c['eps']:g}",
                    f"{c['share']:.3f}",
                    c["num_probes"],
                    f"{c['level']:.0%}",
                    f"{c['coverage']:.1%}",
                    f"{c['p_value']:.2f}",
                    f"{c['median_width']:.3f}",
                )
                for c in coverage
            ],
        ),
        *_bounds_of_schemes(record["schemes"]),
        *_distances(record["distances"]),
    ]  # fmt: skip


def load(record: dict[str, Any], _: Path) -> list[str]:
    """Whether numbers depend on the machine's load."""
    rows = record["rows"]
    every = [one for row in rows for one in row["digests"]]
    alike = all(one == every[0] for one in every)
    return [
        "### Numbers under load",
        "",
        f"{record['steps']} Lanczos steps with each scheme on the residual 20×128 network, and the "
        "certified fraction read from them: "
        + "; ".join(
            f"{row['processes']} at once took {row['seconds']:.0f} s with the cores "
            f"{row['busy']:.0%} busy"
            for row in rows
        )
        + f". Every number is {'the same to the bit' if alike else 'NOT the same'}.",
        "",
    ]


def _bounds_of_schemes(rows: list[dict[str, Any]]) -> list[str]:
    """Partial's bounds beside full's."""
    return [
        "Bounds with partial reorthogonalisation less those with full, where the library answers "
        "unforced. *Eigenvalues within δ* of an end of the interval: either answer is certified, "
        "and rounding says which is given.",
        "",
        *table(
            ["type", "ends", "bound", "pairs", "median", "99 %", "largest", "above 10⁻³"],
            [
                (
                    row["dtype"],
                    row["ends"],
                    row["bound"],
                    f"{row['pairs']:,}",
                    f"{row['median']:.1e}",
                    f"{row['q99']:.1e}",
                    f"{row['max']:.1e}",
                    row["above_1e-3"],
                )
                for row in rows
            ],
        ),
    ]


def _distances(rows: list[dict[str, Any]]) -> list[str]:
    """Distances to the exact spectrum against m, a row a number of steps."""
    names = ("full", "partial", "none")
    cases = dict.fromkeys((row["matrix"], row["num_parameters"], row["steps"]) for row in rows)
    found = {(row["matrix"], row["steps"], row["scheme"]): row for row in rows}
    return [
        "How near the measure of one probe comes to the exact spectrum, in float32: "
        "Kolmogorov–Smirnov distance (points allowed to move by the noise floor) and Wasserstein-1 "
        "distance in units of the norm, by scheme. What is left at many steps is the probe's own "
        "chance.",
        "",
        *table(
            ["matrix", "P", "steps", *(f"KS, {n}" for n in names), *(f"W₁, {n}" for n in names)],
            [
                (
                    matrix,
                    size,
                    steps,
                    *(f"{found[matrix, steps, n]['ks']:.3f}" for n in names),
                    *(f"{found[matrix, steps, n]['wasserstein']:.1e}" for n in names),
                )
                for matrix, size, steps in sorted(cases)
            ],
        ),
    ]


def schemes(record: dict[str, Any], figures: Path) -> list[str]:
    """The automatic choice, and what each scheme pays."""
    # Where the first look is narrow enough for several widths, it is one case.
    cases = {json.dumps(row["seconds"], sort_keys=True): row for row in record["best"]}
    rows = [row["auto_over_best"] for row in cases.values()]
    found = [r["certified"] for r in rows if "certified" in r]
    anyone = [r["all"] for r in rows]
    return [
        "### Which scheme reaches a width first",
        "",
        f"Over {len(rows)} different widths, ε and networks, the automatic choice took "
        f"{median(found):.2f} times as long as the best scheme that certifies its bounds (worst "
        f"{max(found):.2f}), and {median(anyone):.2f} times as long as the best of all, `none` "
        f"with its empirical bounds included (worst {max(anyone):.2f}).",
        "",
        *_price_of_orthogonality(record["rows"]),
        *_curves(record, figures),
    ]


def _last(rows: list[dict[str, Any]]) -> dict[tuple[str, str, int], dict[str, dict[str, Any]]]:
    """By network and batch size: each scheme's row with the most steps."""
    table: dict[tuple[str, str, int], dict[str, dict[str, Any]]] = {}
    for row in rows:
        key = (row["architecture"], row["state"], row["examples"])
        best = table.setdefault(key, {}).setdefault(row["scheme"], row)
        if row["steps"] > best["steps"]:
            table[key][row["scheme"]] = row
    return table


def _price_of_orthogonality(rows: list[dict[str, Any]]) -> list[str]:
    lines = []
    for (architecture, state, examples), found in _last(rows).items():
        steps = found["full"]["steps"]
        each = {s: 1e3 * (r["seconds"] - r["seconds_to_begin"]) / steps for s, r in found.items()}
        price = (each["partial"] - each["none"]) / (each["full"] - each["none"])
        told = f"{price:.2f}" if each["full"] > 1.25 * each["none"] else "within noise"
        moved = found["partial"]["bytes_moved"] / found["full"]["bytes_moved"]
        lines.append(
            (
                f"{architecture}, {state}",
                f"{examples:,}",
                steps,
                *(f"{each[s]:.1f} ms" for s in ("none", "partial", "full")),
                told,
                f"{moved:.2f}",
            )
        )
    return [
        "What orthogonality costs: milliseconds a step, and the time of partial beside that of "
        "full, each less `none`'s; where N is large all three are the product's.",
        "",
        *table(
            ["network", "N", "steps", "none", "partial", "full", "partial / full",
             "bytes of basis read, partial / full"],
            lines,
        ),
    ]  # fmt: skip


def _curves(record: dict[str, Any], figures: Path) -> list[str]:
    """Width and error of the answers against what they cost, at each network's middle ε."""
    which = record["epsilons"].index(1e-3)
    keys = [key for key in _last(record["rows"]) if key[2] == min(r["examples"] for r in
                                                                  record["rows"])]  # fmt: skip
    costs = {
        "seconds": "seconds",
        "matvecs": "products",
        "bytes_moved": "bytes of basis read",
    }
    figure, grid = plt.subplots(
        len(keys), 3, figsize=(9, 2.3 * len(keys)), sharey=True, squeeze=False
    )
    for line, key in zip(grid, keys, strict=True):
        mine = [r for r in record["rows"] if (r["architecture"], r["state"], r["examples"]) == key]
        for ax, (cost, words) in zip(line, costs.items(), strict=True):
            for scheme, colour in COLOURS.items():
                rows = [r for r in mine if r["scheme"] == scheme]
                if not rows or (cost == "bytes_moved" and not rows[-1][cost]):
                    continue
                x = [r[cost] for r in rows]
                width = [r["upper"][which] - r["lower"][which] for r in rows]
                error = [r["error"][which] for r in rows]
                ax.plot(x, width, color=colour, label=scheme)
                # The longest run is the reference itself.
                ax.plot(x[:-1], error[:-1], color=colour, linestyle=":")
            ax.set(xscale="log", yscale="log", ylim=(1e-5, 1.5), xlabel=words)
            ax.xaxis.set_minor_formatter(NullFormatter())
        line[0].set_ylabel(f"{key[0]}, {key[1]}")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    figure.set_layout_engine("constrained")
    shown = save(figure, figures, "schemes")
    return [
        f"Width of the certified interval (line) and error of the estimate (dotted) for ε = "
        f"{record['epsilons'][which]:g}‖H‖, N = {keys[0][2]:,}, against what was paid. The error "
        "is against the longest run with full reorthogonalisation.",
        "",
        shown,
    ]
