"""Sections of ``docs/benchmarks.md`` on answers: how narrow, right and soon; see ``report``."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from tables import table


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
        f"is stated with it, at most {max(g['rounding'] for g in groups):g}. Answers that the "
        "library refuses, below the noise floor, are forced and counted too "
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
    ]  # fmt: skip


def schemes(record: dict[str, Any], _: Path) -> list[str]:
    """The automatic choice."""
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
    ]
