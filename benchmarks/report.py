"""``docs/benchmarks.md`` and its figures, from the committed results: no number is typed by hand.

    python benchmarks/report.py

Every table names the file that it comes from, and every file holds the machine, the versions and
the revision that it was made with.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import matplotlib as mpl
from compare import measured, timed_rows, verdict

mpl.use("agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"

# Answers that differ by more, relative to the first row's, are not the same.
SAME = 1e-3

# Tables of ratios to a reference.
COMPARED = ("matvec", "lanczos", "pyhessian", "eigenthings", "families")

# Blue and vermilion of M. Okabe and K. Ito's palette, distinct to colour-blind readers.
OURS, THEIRS = "#0072B2", "#D55E00"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return [*lines, ""]


def time_in_words(seconds: float) -> str:
    """Three digits, in s or ms."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def times(row: dict[str, Any]) -> str:
    """Median of the repeats, and the fastest."""
    found = row["seconds"]
    return f"{time_in_words(median(found))} (fastest {time_in_words(min(found))})"


def ratio(row: dict[str, Any]) -> str:
    """Median ratio to the reference, and its range."""
    r = row["ratio"]
    return f"{r['median']:.2f} [{r['lowest']:.2f}, {r['highest']:.2f}]"


def about(record: dict[str, Any], path: Path) -> str:
    """The machine, in a line."""
    where = record["environment"]
    parts = [
        where.get("processor") or ", ".join(where["devices"]),
        f"{where['cores']} cores",
        f"jax {where['jax']}",
        f"Python {where['python']}",
    ]
    if "revision" in where:
        parts.append(f"revision {where['revision']}")
    source = path.relative_to(HERE.parent)
    return f"*[`{source}`](../{source}): {', '.join(parts)}.*\n"


def kernels(record: dict[str, Any], _: Path) -> list[str]:
    """Rates and steps."""
    lines = []
    if "matvec" in record:
        lines += ["### Hessian products against the machine's matrix products", ""]
        lines += [
            "Residual 20×128 network, P = 709,652, batch 500. Counted are the necessary operations "
            "alone (`benchmarks/kernels.py` says which); the rate beside them is that of the same "
            "matrix products and nothing else.",
            "",
        ]
        lines += table(
            ["vectors", "one product", "GFLOP/s", "matrix products", "share"],
            [
                (
                    r["vectors"],
                    f"{r['milliseconds']:.1f} ms",
                    f"{r['gflops']:.0f}",
                    f"{r['matrix_product_gflops']:.0f}",
                    f"{r['share']:.0%}",
                )
                for r in record["matvec"]
            ],
        )
    if "density" in record:
        lines += ["### A density with 100 steps and one probe", ""]
        lines += table(
            ["scheme", "a step", "products a step", "distance to full's distribution function"],
            [
                (
                    r["scheme"],
                    f"{r['milliseconds_a_step']:.1f} ms",
                    f"{r['products_a_step']:.2f}",
                    "" if r["distance_to_full"] is None else f"{r['distance_to_full']:.1e}",
                )
                for r in record["density"]
            ],
        )
    if "scaling" in record:
        lines += ["### Time of a step against N and P", ""]
        lines += table(
            ["varies", "N", "P", "a step", "a step, per million N·P"],
            [
                (
                    r["varies"],
                    r["examples"],
                    r["parameters"],
                    f"{r['milliseconds_a_step']:.1f} ms",
                    f"{1e6 * r['milliseconds_a_step'] / r['examples'] / r['parameters']:.2f} ms",
                )
                for r in record["scaling"]
            ],
        )
    if "first" in record:
        lines += ["### First result from a cold Python process", ""]
        lines += table(
            ["compilation cache", "seconds"],
            [(r["cache"], f"{r['seconds']:.1f}") for r in record["first"]],
        )
    return lines


def operators(record: dict[str, Any], figures: Path) -> list[str]:
    """Every kernel, and the sweeps."""
    lines = []
    for name, title in (
        ("operators", "One product of each operator"),
        ("readouts", "What is read from an operator"),
        ("decompositions", "What needs all of a matrix"),
        ("training", "Training"),
    ):
        if name in record:
            rows = record[name]["rows"]
            sizes = [
                f"{letter} = {record[name][key]:,}"
                for letter, key in (("P", "parameters"), ("N·C", "outputs"))
                if key in record[name]
            ]
            lines += [f"### {title}" + (f" ({', '.join(sizes)})" if sizes else ""), ""]
            lines += table(
                ["", "seconds", f"in units of {next(iter(rows))}", "first call"],
                [
                    (label, times(r), ratio(r), time_in_words(r["first_seconds"]))
                    for label, r in rows.items()
                ],
            )
    if "sweeps" in record:
        sweeps = record["sweeps"]
        figure, axes = plt.subplots(1, len(sweeps), figsize=(13, 2.8), layout="constrained")
        for ax, (name, rows) in zip(axes, sweeps.items(), strict=True):
            x = [row[name] for row in rows]
            y = [1e3 * median(row["seconds"]) for row in rows]
            ax.loglog(x, y, "o-", color=OURS)
            ax.loglog(x, [y[-1] * v / x[-1] for v in x], ":", color="0.5", label="proportional")
            ax.set_xlabel(name)
            ax.set_xticks(x, [str(v) for v in x])
            ax.minorticks_off()
            ax.set_title("a spectrum" if name == "steps" else "one Hessian product", fontsize=9)
        axes[0].set_ylabel("milliseconds")
        axes[0].legend(frameon=False)
        lines += [
            "### What a Hessian product and a spectrum grow with",
            "",
            _save(figure, figures, "sweeps"),
        ]
    return lines


def budgets(record: dict[str, Any], _: Path) -> list[str]:
    """Null directions by cause."""
    lines = []
    if "exact" in record:
        lines += ["### Null directions of trained networks, by cause", ""]
        lines += [
            f"The digits, all {record['examples']:,} images, {record['epochs']} epochs; mean and "
            "standard deviation over seeds. Exact counts in float64; `gap` is the least ratio of "
            "the two singular values at the cut of the total.",
            "",
        ]
        causes = [c for c in record["causes"] if any(r["counts"][c] for r in record["exact"])]
        rows = []
        for name in dict.fromkeys(r["network"] for r in record["exact"]):
            found = [r for r in record["exact"] if r["network"] == name]
            shares = [100 * r["explained"] for r in found]
            gaps = [r["above"] / max(r["below"], 1e-18) for r in found]
            rows.append(
                (
                    name,
                    f"{found[0]['parameters']:,}",
                    _spread([r["total"] for r in found]),
                    *(_spread([r["counts"][c] for r in found]) for c in causes),
                    f"{_spread(shares, 2)} %",
                    f"{min(gaps):.0e}",
                    time_in_words(median(r["seconds"] for r in found)),
                )
            )
        lines += table(["network", "P", "null", *causes, "with a cause", "gap", "seconds"], rows)
    if "large" in record:
        lines += ["### Budgets of large networks", ""]
        lines += table(
            ["network", "P", "N", "measures", "structure", "interval", "surely null", "at most",
             "with a cause", "peak memory"],
            [
                (
                    r["network"],
                    f"{r['parameters']:,}",
                    f"{r['examples']:,}",
                    time_in_words(r["measures_seconds"]),
                    time_in_words(r["structure_seconds"]),
                    time_in_words(r["interval_seconds"]),
                    f"{r['total']:,}",
                    f"{r['upper']:,}",
                    f"at least {r['explained']:.1%}",
                    f"{r['peak_bytes'] / 1e9:.1f} GB",
                )
                for r in record["large"]
            ],
        )  # fmt: skip
    return lines


def _spread(values: Sequence[float], digits: int = 0) -> str:
    """Mean ± standard deviation."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{mean(values):.{digits}f} ± {stdev(values):.{max(digits, 1)}f}"


def limits(record: dict[str, Any], _: Path) -> list[str]:
    """Precision, memory, size."""
    lines = []
    if "precision" in record:
        found = record["precision"]
        lines += [f"### Precision of matrix products (P = {found['parameters']:,}, trained)", ""]
        lines += table(
            ["products in", "noise floor / ‖H‖", *(f"share within {e:g}‖H‖" for e in
                                                   found["epsilons"])],
            [
                (
                    r["precision"],
                    "" if r["noise_floor"] is None else f"{r['noise_floor']:.1e}",
                    *(f"{share:.4f}" for share in r["shares"]),
                )
                for r in found["rows"]
            ],
        )  # fmt: skip
    if "bandwidth" in record:
        found = record["bandwidth"]
        moved, read = found["bytes_a_second"], found["orthogonalisation_bytes_a_second"]
        lines += [
            "### Memory",
            "",
            f"x + y/2 of long vectors moves {moved / 1e9:.1f} GB a second. Full "
            f"reorthogonalisation of {found['steps']} Lanczos steps at P = "
            f"{found['parameters']:,} reads its basis at {read / 1e9:.1f} GB a second: "
            f"{read / moved:.0%} of that.",
            "",
        ]
    if "largest" in record:
        lines += ["### One Hessian product of ever larger networks (20 layers, N = 100)", ""]
        lines += table(
            ["P", "seconds", "first call", "peak memory"],
            [
                (f"{r['parameters']:,}", f"does not fit: {r['error']}", "", "")
                if "error" in r
                else (
                    f"{r['parameters']:,}",
                    times(r),
                    time_in_words(r["first_seconds"]),
                    f"{r['peak_bytes'] / 1e9:.1f} GB" if r.get("peak_bytes") else "not told",
                )
                for r in record["largest"]
            ],
        )
    return lines


def resolve(record: dict[str, Any], _: Path) -> list[str]:
    """Certified answers."""
    lines = []
    for name, title in (
        ("small", "A certified degenerate fraction beside a dense eigendecomposition"),
        ("large", "The narrowest certified interval within five minutes, 0.71 M parameters"),
    ):
        if name in record:
            lines += [f"### {title}", ""]
            lines += table(
                ["network", "P", "ε", "route", "seconds", "steps", "share in", "95 %", "status"],
                [
                    (
                        r["architecture"],
                        f"{r['parameters']:,}",
                        f"{r['eps']:g}",
                        r["route"],
                        *(
                            ["", "", "", "", f"refused: {r['refused']}"]
                            if "refused" in r
                            else [
                                f"{r['seconds']:.1f}",
                                r["steps"],
                                f"[{r['lower']:.4f}, {r['upper']:.4f}]",
                                "[{:.4f}, {:.4f}]".format(*r["confidence"]),
                                r["status"],
                            ]
                        ),
                    )
                    for r in record[name]
                ],
            )
    return lines


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
        f"{record['cases']} matrices and networks with known spectra.",
        "",
        *table(
            ["scheme", "bounds checked", "exceptions"],
            [
                (
                    scheme,
                    f"{sum(g['checks'] for g in rows):,}",
                    sum(g["exceptions"] for g in rows),
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
    rows = [row["auto_over_best"] for row in record["best"]]
    found = [r["certified"] for r in rows if "certified" in r]
    anyone = [r["all"] for r in rows]
    return [
        "### Which scheme reaches a width first",
        "",
        f"Over {len(rows)} widths, ε and networks, the automatic choice took "
        f"{median(found):.2f} times as long as the best scheme that certifies its bounds (worst "
        f"{max(found):.2f}), and {median(anyone):.2f} times as long as the best of all, `none` "
        f"with its empirical bounds included (worst {max(anyone):.2f}).",
        "",
    ]


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
    return _save(figure, figures, "peers")


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
    return f"*{', '.join(told)}.*{wrong}\n"


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
        _save(figure, figures, "accuracy"),
        *table(
            ["", "tool", "seconds", "share within ε", "within ε‖A‖", "its error", "distance"], rows
        ),
    ]


def _save(figure: Any, figures: Path, name: str) -> str:
    figures.mkdir(parents=True, exist_ok=True)
    for kind in ("svg", "png"):
        metadata = {"Date": None} if kind == "svg" else {}
        figure.savefig(figures / f"{name}.{kind}", dpi=120, metadata=metadata)
    plt.close(figure)
    return f"![{name}]({(figures / name).relative_to(DOCS)}.svg)\n"


SECTIONS: dict[str, tuple[str, Callable[[dict[str, Any], Path], list[str]]]] = {
    "kernels": ("The kernels", kernels),
    "operators": ("Every operator", operators),
    "budgets": ("Why it is degenerate", budgets),
    "limits": ("Limits", limits),
    "resolve": ("Certified answers", resolve),
    "schemes": ("Schemes", schemes),
    "certify": ("Correctness", certify),
    "peers": ("Side by side with others", peers),
}


def main() -> None:
    """Write the page."""
    mpl.rcParams.update({"svg.hashsalt": "landscape", "font.size": 9})
    lines = [
        "# Benchmarks",
        "",
        "Made by `python benchmarks/report.py` from the files that each section names. `make "
        "bench` and `make bench-peers` measure anew, `make bench-compare BEFORE=… AFTER=…` shows "
        "two files side by side.",
        "",
    ]
    for folder in sorted((HERE / "results").iterdir()):
        lines += [f"# On {folder.name}", ""]
        for name, (title, section) in SECTIONS.items():
            path = folder / f"{name}.json"
            if path.exists():
                record = json.loads(path.read_text())
                figures = DOCS / "benchmarks" / folder.name
                lines += [f"## {title}", "", about(record, path), *section(record, figures)]
            second = folder / f"{name}-again.json"
            if second.exists():
                record = json.loads(second.read_text())
                lines += ["### A second run", "", about(record, second), *again(record, second)]
    DOCS.mkdir(exist_ok=True)
    (DOCS / "benchmarks.md").write_text("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    main()
