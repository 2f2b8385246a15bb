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

# By what factor medians of two runs may differ and count as the same.
NOISE = 1.15

# Tables of ratios to a reference.
COMPARED = ("matvec", "lanczos", "pyhessian", "eigenthings", "families")

# What was aimed at on a CPU with two cores: a table, a row of it, and how many times as long as
# ``landscape`` it should take.
AIMS = (
    ("pyhessian", "density 100 x 1", "PyHessian, full", 2.5),
    ("pyhessian", "density 100 x 8", "PyHessian, full", 2.5),
    ("eigenthings", "density 80 x 10", "hessian-eigenthings, full", 2.5),
    ("matvec", "residual 20x128, 1 vector", "curvlinops", 1.8),
    ("lanczos", "P = 1000000, 100 steps", "matfree, full", 6.0),
    ("lanczos", "P = 1000000, 100 steps", "PyHessian, full", 1.0),
)

WORDS = """\
Every tool has a process and an environment of its own; weights and data bytes are the same, and so
are the start vectors of products, densities and Lanczos runs (for traces and top eigenvalues each
draws its own). PyTorch runs with the number of threads that was fastest.

- *Ratio*: how many times as long as the first row, in one round, as median and range; every row
  takes turns with the first. *First row beside it*: the seconds that the ratio is relative to; they
  differ from row to row as the machine does. *Once more* is a second process of the first row: how
  far from 1 it lies is the noise of this page.
- One product is timed call by call, in turn with another process. Whether threads of that one
  still spin, and how deep the cores have slept, makes the same program take 12 to 26 ms: the range
  of a product's ratio is more telling than its median. Within densities and Lanczos runs products
  follow one another, and it does not happen (13 ms, as in the section on kernels).
- *First call* includes compilation, *preparation* what comes before it: reading, and linearising
  where that is done once. *Memory* is the most that the process had, on the accelerator where there
  is one.
- *full*, *partial*, *none*: how a Lanczos basis is kept orthogonal, against all vectors at every
  step, when it is needed, or not at all. *Distance to full* is that of the quadratures'
  distribution functions, points allowed to move by 10⁻⁵ of the largest node: `none` spends
  its steps on copies of the large eigenvalues, and the bulk, which has the mass, gets few nodes.
- matfree is given the loss of one flat vector, as in its documentation; in densities the pieces
  of the gradient are written into place, which is as fast there and never slow.
- *Linearised before*: the gradient is linearised outside the clock, as a Lanczos run does it once;
  *graph retained* is the same in PyTorch. *As it comes*: everything inside the clock.
- Top eigenvalue: `landscape` and PyHessian stop by themselves, at a residual norm and at a change
  of 10⁻³; hessian-eigenthings, which does not, is given the fewest steps that bring its value to
  10⁻³. *Verified*: missed ones are looked for.
- Traces are compared in seconds alone: 100 products, whose estimates have standard errors of the
  size of the trace here.
- PyHessian 0.1 has a stand-in for `torch.eig`, which PyTorch no longer has; matfree runs with the
  flags that `landscape` sets for JAX, against wrong sums in jaxlib 0.10.2. *torch.compile* was
  tried for products, which is where it can help.
"""


def peers(record: dict[str, Any], figures: Path) -> list[str]:
    """Side by side."""
    lines = [WORDS, *_aims(record), _overview(record, figures)]
    for name in COMPARED:
        for title, rows in record.get(name, {}).items():
            lines += [f"### {name}: {title}", "", _measured(record, name, rows)]
            head = ["", "seconds", "first row beside it", "ratio", "first call", "preparation",
                    "memory", "result"]  # fmt: skip
            if name == "matvec":
                head.append("in gradients of its framework")
                lines += table(head, [(*_peer_row(r), _in_gradients(r, rows)) for r in rows])
            else:
                lines += table(head, [_peer_row(row) for row in rows])
    if "accuracy" in record:
        lines += _accuracy(record["accuracy"], figures)
    return lines


def _aims(record: dict[str, Any]) -> list[str]:
    """What was aimed at, and what came of it."""
    rows = []
    for name, title, label, aim in AIMS:
        found = {row["label"]: row for row in record.get(name, {}).get(title, [])}
        if "ratio" not in found.get(label, {}):
            continue
        ratios = {key: row["ratio"]["median"] for key, row in found.items() if "ratio" in row}
        default = next((key for key in ratios if key == "landscape, partial"), "")
        against = ratios[label] / ratios[default] if default else None
        rows.append(
            (
                f"{title}: {label}",
                f"{aim:g}",
                f"{ratios[label]:.2f}",
                "" if against is None else f"{against:.2f}",
                "reached" if ratios[label] >= aim else "missed",
            )
        )
    if not rows:
        return []
    return [
        "### What was aimed at",
        "",
        "How many times as long as `landscape` another takes at the same orthogonality, which is "
        "what was aimed at; and beside it against the default, which reads the basis when it is "
        "needed (the ratio of two medians; for densities the distance of the two answers is "
        "below). `kernels.json` tells where the time goes: a step of full orthogonality reads the "
        "basis at the speed of the memory, and takes about as long for that as for its product.",
        "",
        *table(["", "aim", "same orthogonality", "against the default", ""], rows),
    ]


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
            ours = row["tool"] == "landscape"
            color = "0.6" if _slower(row) else OURS if ours else THEIRS
            face = "white" if row["label"].endswith((" partial", " none")) else color
            r = row["ratio"]
            ax.plot([r["lowest"], r["highest"]], [y, y], color=color, linewidth=1.5)
            ax.plot(
                r["median"], y, "o" if ours else "s", color=color, markersize=4,
                markerfacecolor=face,
            )  # fmt: skip
        ax.set_yticks(range(len(rows)), [row["label"] for row in rows], fontsize=7)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.axvline(1, color="0.6", linewidth=0.8)
        ax.set_title(title, fontsize=8, loc="left")
        ax.set_xscale("log")
        ax.spines[["top", "right"]].set_visible(False)
    ticks = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
    axes[-1, 0].set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes[-1, 0].minorticks_off()
    axes[-1, 0].set_xlabel("times as long as the first row of a table, in the same round")
    keys = [("o", OURS, OURS, "landscape"), ("s", THEIRS, THEIRS, "others"),
            ("o", OURS, "white", "hollow: other orthogonality than full")]  # fmt: skip
    if any(_slower(row) for _, rows in tables for row in rows):
        keys.append(("o", "0.6", "0.6", "slower than its own first call"))
    handles = [
        plt.Line2D([], [], marker=marker, color=color, markerfacecolor=face, label=label,
                   linestyle="", markersize=4)
        for marker, color, face, label in keys
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper center", ncols=len(keys), frameon=False,
                  fontsize=8)  # fmt: skip
    return save(figure, figures, "peers")


def _measured(record: dict[str, Any], name: str, rows: list[dict[str, Any]]) -> str:
    """When and how a table was measured, with what, and rows whose answer differs."""
    when = record.get("measured", {}).get(name, {})
    counts = [len(row["seconds"]) for row in rows if row.get("seconds")] or [0]
    fewest = f"{min(counts)} to " if min(counts) < max(counts) else ""
    told = [f"{fewest}{max(counts)} rounds", f"{'quick' if when.get('quick') else 'full'} mode"]
    told += [f"revision {when['revision']}"] if "revision" in when else []
    told += [f"{when['busy']:.0%} busy before"] if "busy" in when else []
    versions = {
        f"{package} {number}"
        for row in rows
        for package, number in row.get("versions", {}).items()
        if package not in ("python", "flags", "landscape-jax")
    }
    told += sorted(versions)
    far = [
        row["label"] for row in rows if row.get("result", {}).get("distance_to_reference", 0) > SAME
    ]
    wrong = f" Not the same answer to {SAME:g}: {', '.join(far)}." if far else ""
    slow = [row["label"] for row in rows if row.get("seconds") and _slower(row)]
    wrong += f" Slower than its own first call: {', '.join(slow)}." if slow else ""
    return f"*{', '.join(told)}.*{wrong}\n"


def _slower(row: dict[str, Any]) -> bool:
    """Whether later calls took longer than the first, which compiles: something disturbed them."""
    return bool(median(row["seconds"]) > 1.2 * row["first_seconds"])


def _peer_row(row: dict[str, Any]) -> tuple[str, ...]:
    if "error" in row:
        return (row["label"], row["error"].splitlines()[0][:160], *[""] * 6)
    result = ", ".join(
        f"{k.replace('_', ' ')} {_number(v)}" for k, v in row.get("result", {}).items()
    )
    threads = f" ({row['threads']} threads)" if row.get("threads") else ""
    on_device = row.get("device_peak_bytes")
    memory = f"{(on_device or row['peak_bytes']) / 1e6:.0f} MB"
    beside = row.get("reference_seconds")
    return (
        row["label"] + threads,
        times(row),
        time_in_words(median(beside)) if beside else "",
        ratio(row),
        time_in_words(row["first_seconds"]),
        time_in_words(row["prepare_seconds"]),
        memory + (" of the device" if on_device else ""),
        result,
    )


def _in_gradients(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Cost of one product in units of one gradient of the same framework.

    Both are taken beside the first row of the table, in their own rounds.
    """
    framework = "landscape" if row["tool"] in ("landscape", "matfree") else "pyhessian"
    units = [r for r in rows if r["job"] == "gradient" and r["tool"] == framework]
    if row["job"] == "gradient" or not units or "ratio" not in row or "ratio" not in units[0]:
        return ""
    products = row["options"].get("count", 1)
    return f"{row['ratio']['median'] / products / units[0]['ratio']['median']:.1f}"


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
    factors = [verdict(old[p], new[p])[1] for p in shared]
    near = [factor for factor in factors if 1 / NOISE <= factor <= NOISE]
    typical = math.exp(median(abs(math.log(factor)) for factor in factors))
    far = [
        (" / ".join(p), *(_spread(rows[p]) for rows in (old, new)), f"{factor:.2f}", word)
        for p, factor in zip(shared, factors, strict=True)
        for word in ("ranges overlap" if _overlap(old[p], new[p]) else "",)
        if not 1 / NOISE <= factor <= NOISE
    ]
    return [
        f"Of {len(shared)} median ratios to the reference {len(near)} are within {NOISE - 1:.0%} "
        f"of those of the first run, which is the noise of these pages; typically they differ by "
        f"a factor of {typical:.2f}." + (" The others:" if far else ""),
        "",
        *(table(["", "first run", "second run", "second over first", ""], far) if far else []),
    ]


def _spread(row: dict[str, Any]) -> str:
    found, unit = measured(row)
    return f"{median(found):.3g}{unit} [{min(found):.3g}, {max(found):.3g}]"


def _overlap(first: dict[str, Any], second: dict[str, Any]) -> bool:
    (a, _), (b, _) = measured(first), measured(second)
    return min(a) <= max(b) and min(b) <= max(a)


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
                if not title.startswith("mostly") and "once more" not in row["label"]:
                    steps = row["options"]["steps"]
                    by_label.setdefault(row["label"], []).append(
                        (spent, steps, error, told["distance"])
                    )
                rows.append(
                    (title, row["label"], time_in_words(spent), f"{told['fraction']:.4f}",
                     f"{told['fraction_error']:.3f}", f"{share:.4f}", f"{error:.1e}",
                     f"{told['distance']:.3f}")
                )  # fmt: skip
    for label, points in by_label.items():
        ours = label.startswith("landscape")
        style = {"color": OURS if ours else THEIRS, "marker": "os^v<>DP"[len(axes[0].lines) % 8]}
        for ax, (x, y) in zip(axes, ((0, 2), (0, 3), (1, 3)), strict=True):
            ax.loglog([p[x] for p in points], [p[y] for p in points], label=label, **style)
    axes[0].set_xlabel("seconds")
    axes[1].set_xlabel("seconds")
    axes[2].set_xlabel("products")
    counts = sorted({point[1] for points in by_label.values() for point in points})
    axes[2].set_xticks(counts, [f"{count:g}" for count in counts])
    axes[2].minorticks_off()
    share = truth["relative_fraction"]
    spread = math.sqrt(2 * share * (1 - share) / truth["parameters"])
    axes[0].axhline(spread, color="0.6", linestyle=":", linewidth=1)
    axes[0].text(
        1, spread, "one probe", transform=axes[0].get_yaxis_transform(), fontsize=7, color="0.4",
        ha="right", va="bottom",
    )  # fmt: skip
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
        f"{mostly['null']:.1%} of them zero. One probe, the same for all: the share within ε‖A‖ "
        f"has a standard error of {spread:.1e} (dotted), and smaller errors are luck. Within ε "
        "itself no tool's nodes resolve the share in so few steps: hardly any lies there, though a "
        "third of the eigenvalues does ([certified answers](#certified-answers) say so by their "
        "bounds). Distance: of distribution functions, points allowed to move by 10⁻⁵ of the "
        "norm. Three rounds.",
        "",
        save(figure, figures, "accuracy"),
        *table(
            [
                "",
                "tool",
                "seconds",
                "share within ε",
                "its error",
                "within ε‖A‖",
                "its error",
                "distance",
            ],
            rows,
        ),
    ]
