"""The section of ``docs/benchmarks.md`` that shows others on the same work."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib.pyplot as plt
from compare import measured, timed_rows, verdict
from tables import OURS, THEIRS, ratio, save, table, time_in_words, times

# Answers that differ by more, relative to the first row's, are not the same.
SAME = 1e-3

# Tables of ratios to a reference.
COMPARED = ("matvec", "lanczos", "pyhessian", "eigenthings", "families")


def peers(record: dict[str, Any], figures: Path) -> list[str]:
    """Side by side."""
    lines = [
        "Every tool has a process and an environment of its own; weights and data bytes are the "
        "same, and so are the start vectors of products, densities and Lanczos runs (for traces "
        "and top eigenvalues each draws its own). Each takes turns with the first row; what counts "
        "is the ratio: its seconds over those of the first row in the same round, as median and "
        "range. PyHessian 0.1 has a stand-in for `torch.eig`, which PyTorch no longer has; matfree "
        "runs with the flags that `landscape` sets for JAX, against wrong sums in jaxlib 0.10.2.",
        "",
    ]
    lines += [_overview(record, figures)]
    for name in COMPARED:
        for title, rows in record.get(name, {}).items():
            lines += [f"### {name}: {title}", "", _measured(record, name, rows)]
            head = ["", "seconds", "ratio", "first call", "peak memory", "result"]
            if any("distance_to_full" in row.get("result", {}) for row in rows):
                lines += ["Distance to full: points may move by 10⁻⁵ of the largest node.", ""]
            if name == "matvec":
                head.append("in gradients of its framework")
                lines += table(head, [(*_peer_row(r), _in_gradients(r, rows)) for r in rows])
            else:
                lines += table(head, [_peer_row(row) for row in rows])
    if "accuracy" in record:
        lines += _accuracy(record["accuracy"], figures)
    return lines


def _overview(record: dict[str, Any], figures: Path) -> str:
    """All ratios of densities, products and Lanczos runs in one picture."""
    tables = [
        (f"{name}: {title}", [row for row in rows if "ratio" in row and row["job"] != "gradient"])
        for name in COMPARED
        for title, rows in record.get(name, {}).items()
    ]
    tables = [(title, rows) for title, rows in tables if len(rows) > 1]
    heights = [len(rows) + 1.5 for _, rows in tables]
    figure, axes = plt.subplots(
        len(tables), 1, figsize=(9, 0.2 * sum(heights)), sharex=True, layout="constrained",
        height_ratios=heights, squeeze=False,
    )  # fmt: skip
    for ax, (title, rows) in zip(axes[:, 0], tables, strict=True):
        for y, row in enumerate(rows):
            color = OURS if row["tool"] == "landscape" else THEIRS
            r = row["ratio"]
            ax.plot([r["lowest"], r["highest"]], [y, y], color=color, linewidth=1.5)
            ax.plot(r["median"], y, "o" if color == OURS else "s", color=color, markersize=4)
        ax.set_yticks(range(len(rows)), [row["label"] for row in rows], fontsize=7)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.axvline(1, color="0.6", linewidth=0.8)
        ax.set_title(title, fontsize=8, loc="left")
        ax.set_xscale("log")
        ax.spines[["top", "right"]].set_visible(False)
    ticks = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
    axes[-1, 0].set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes[-1, 0].minorticks_off()
    axes[-1, 0].set_xlabel("seconds over those of the first row, in the same round")
    return save(figure, figures, "peers")


def _measured(record: dict[str, Any], name: str, rows: list[dict[str, Any]]) -> str:
    """When and how a table was measured, and rows whose answer differs."""
    when = record.get("measured", {}).get(name, {})
    repeats = min((len(row["seconds"]) for row in rows if row.get("seconds")), default=0)
    told = [f"{repeats} repeats", f"{'quick' if when.get('quick') else 'full'} mode"]
    told += [f"revision {when['revision']}"] if "revision" in when else []
    told += [f"load {when['load']:.1f}"] if "load" in when else []
    far = [
        row["label"] for row in rows if row.get("result", {}).get("distance_to_reference", 0) > SAME
    ]
    wrong = f" Not the same answer to {SAME:g}: {', '.join(far)}." if far else ""
    # A first call compiles: what is slower afterwards was disturbed.
    slow = [row["label"] for row in rows if row.get("seconds") and _disturbed(row)]
    wrong += f" Slower than its own first call, so disturbed: {', '.join(slow)}." if slow else ""
    return f"*{', '.join(told)}.*{wrong}\n"


def _disturbed(row: dict[str, Any]) -> bool:
    return bool(median(row["seconds"]) > 1.2 * row["first_seconds"])


def _peer_row(row: dict[str, Any]) -> tuple[str, ...]:
    if "error" in row:
        return (row["label"], row["error"].splitlines()[0][:80], "", "", "", "")
    result = ", ".join(
        f"{k.replace('_', ' ')} {_number(v)}" for k, v in row.get("result", {}).items()
    )
    threads = f" ({row['threads']} threads)" if row.get("threads") else ""
    return (
        row["label"] + threads,
        times(row),
        ratio(row),
        time_in_words(row["first_seconds"]),
        f"{row['peak_bytes'] / 1e6:.0f} MB",
        result,
    )


def _in_gradients(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Cost of one product in units of one gradient of the same framework."""
    framework = "landscape" if row["tool"] in ("landscape", "matfree") else "pyhessian"
    units = [r for r in rows if r["job"] == "gradient" and r["tool"] == framework]
    if row["job"] == "gradient" or not units or "error" in row:
        return ""
    products = row["options"].get("count", 1)
    return f"{median(row['seconds']) / products / median(units[0]['seconds']):.1f}"


def _number(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_number(v) for v in value)
    return f"{value:.3g}"


def again(record: dict[str, Any], path: Path) -> list[str]:
    """Whether a second run's ratios lie where the first's repeats did."""
    first = json.loads(path.with_name(f"{path.stem.removesuffix('-again')}.json").read_text())
    old, new = (dict(timed_rows(r)) for r in (first, record))
    shared = [p for p in old if p in new and measured(old[p])[1] == "x"]
    if not shared:
        return ["No ratio is in both runs.", ""]
    verdicts = [verdict(old[p], new[p]) for p in shared]
    moved = [abs(math.log(factor)) for _, factor in verdicts]
    outside = [p for p, (word, _) in zip(shared, verdicts, strict=True) if word != "within noise"]
    typical, most = (math.exp(f(moved)) for f in (median, max))
    return [
        f"Of {len(shared)} ratios to the reference, {len(shared) - len(outside)} agree with those "
        f"of the first run within the noise of their repeats; medians differ by a factor of "
        f"{typical:.2f} typically and {most:.2f} at most.",
        *([f"Not within noise: {'; '.join(' / '.join(p) for p in outside)}."] if outside else []),
        "",
    ]


def _accuracy(record: dict[str, Any], figures: Path) -> list[str]:
    truth, mostly = record["truth"], record["truth, mostly zeros"]
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    by_label: dict[str, list[tuple[float, float, float, float]]] = {}
    rows = []
    for title, found in record.items():
        for row in [] if title.startswith("truth") else found:
            if "result" in row:
                spent, told = median(row["seconds"]), row["result"]
                share, error = told["relative_fraction"], told["relative_fraction_error"]
                if not title.startswith("mostly"):
                    steps = row["options"]["steps"]
                    by_label.setdefault(row["label"], []).append(
                        (spent, steps, error, told["distance"])
                    )
                rows.append(
                    (title, row["label"], time_in_words(spent), f"{told['fraction']:.4f}",
                     f"{share:.4f}", f"{error:.1e}", f"{told['distance']:.3f}")
                )  # fmt: skip
    for label, points in by_label.items():
        ours = label.startswith("landscape")
        style = {"color": OURS if ours else THEIRS, "marker": "os^v<>DP"[len(axes[0].lines) % 8]}
        for ax, (x, y) in zip(axes, ((0, 2), (0, 3), (1, 3)), strict=True):
            ax.loglog([p[x] for p in points], [p[y] for p in points], label=label, **style)
    axes[0].set_xlabel("seconds")
    axes[1].set_xlabel("seconds")
    axes[2].set_xlabel("products")
    axes[0].set_ylabel("error of the share within ε‖A‖")
    axes[1].set_ylabel("distance of distribution functions")
    axes[2].legend(frameon=False, fontsize=7, bbox_to_anchor=(1, 1))
    return [
        "### accuracy: error against dense truth",
        "",
        f"A network trained on the digits, P = {truth['parameters']:,}, norm {truth['norm']:.3g}; "
        f"{truth['fraction']:.1%} of its eigenvalues lie within {truth['eps']:g} of 0, "
        f"{truth['relative_fraction']:.1%} within {truth['eps']:g} of its norm, and "
        f"{truth['null']:.1%} within 10⁻⁶ of it. Estimates from each tool's own nodes and weights. "
        f"The last rows are of a diagonal with {mostly['parameters']:,} entries, "
        f"{mostly['null']:.1%} of them zero. One probe, the same for all: the share itself has a "
        "standard error. Distance: of distribution functions, points allowed to move by 10⁻⁵ of "
        "the norm.",
        "",
        save(figure, figures, "accuracy"),
        *table(
            ["", "tool", "seconds", "share within ε", "within ε‖A‖", "its error", "distance"], rows
        ),
    ]
