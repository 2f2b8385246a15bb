"""``docs/benchmarks.md`` and its figures, from the committed results: no number is typed by hand.

    python benchmarks/report.py

Every table names the file that it comes from, and every file holds the machine, the versions and
the revision that it was made with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from answers_page import certify, load, resolve, schemes
from costs_page import blocks, jobs, paper_rates, paper_scale, survival
from peers_page import again, peers
from tables import OURS, ratio, save, table, time_in_words, times

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"


def about(record: dict[str, Any], path: Path) -> str:
    """The machine, in a line."""
    where = record["environment"]
    parts = [
        *(name for name in where["devices"] if "cpu" not in name.lower()),
        where.get("processor") or ", ".join(where["devices"]),
        f"{where['cores']} cores",
        f"jax {where['jax']}",
        f"Python {where['python']}",
    ]
    parts.append(f"revision {where.get('revision', 'not recorded')}")
    parts += [f"note: {record['made']}"] if "made" in record else []
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
            ["compilation cache", "seconds", "fastest to slowest"],
            [
                (r["cache"], f"{r['seconds']:.1f}", f"{r['fastest']:.1f} to {r['slowest']:.1f}")
                for r in record["first"]
            ],
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
            save(figure, figures, "sweeps"),
        ]
    return lines


def budgets(record: dict[str, Any], _: Path) -> list[str]:
    """Null directions by cause."""
    lines = []
    if "exact" in record:
        lines += ["### Null directions of trained networks, by cause", ""]
        lines += [
            f"The digits, all {record['examples']:,} images, {record['exact'][0]['epochs']} "
            "epochs; mean and standard deviation over seeds. Exact counts in float64; `gap` is "
            "the least ratio of the two singular values at the cut of the total. *Nearly null* are "
            "those of the null directions that rounding does not explain, σ/σ₁ between 10⁻¹⁴ and "
            "the cut: where there are any, the total and what is unexplained depend on the cut. "
            "*Left out* are directions across layers that are null by algebra and not by singular "
            "values. Revisions of the rows: "
            + ", ".join(sorted({str(r.get("revision")) for r in record["exact"]}))
            + ".",
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
                    _spread([r["nearly_null"] for r in found]),
                    *(_spread([r["counts"][c] for r in found]) for c in causes),
                    f"{_spread(shares, 2)} %",
                    sum(r.get("left_out", 0) for r in found),
                    f"{min(gaps):.0e}",
                    time_in_words(median(r["seconds"] for r in found)),
                )
            )
        lines += table(
            [
                "network",
                "P",
                "null",
                "nearly null",
                *causes,
                "with a cause",
                "left out",
                "gap",
                "seconds",
            ],
            rows,
        )
    if "large" in record:
        causes = [
            c
            for c in record["causes"]
            if c != "few data" and any(r["counts"][c] for r in record["large"])
        ]
        lines += [
            "### Budgets of large networks",
            "",
            "20 layers of 128 units on images of CIFAR's size. *Surely null* are the counts by "
            "structure and, where these are fewer, P − N (C − 1): the same for all networks. What "
            "tells them apart is on the right. *At most* is the certified (95 %) number of "
            "singular values up to τ σ₁.",
            "",
        ]
        lines += table(
            ["network", "P", "N", "measures", "structure", "interval", "peak memory",
             "surely null", "at most", "τ", "few data", *causes],
            [
                (
                    r["network"],
                    f"{r['parameters']:,}",
                    f"{r['examples']:,}",
                    time_in_words(r["measures_seconds"]),
                    time_in_words(r["structure_seconds"]),
                    time_in_words(r["interval_seconds"]),
                    f"{r['peak_bytes'] / 1e9:.1f} GB",
                    f"{r['total']:,}",
                    f"{r['upper']:,}",
                    f"{r.get('rtol', 1e-3):g}",
                    f"{r['counts']['few data']:,}",
                    *(f"{r['counts'][c]:,}" for c in causes),
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
                    f"{r['peak_bytes'] / 1e9:.1f} GB" if r.get("peak_bytes") else "",
                )
                for r in record["largest"]
            ],
        )
    if "long" in record:
        r = record["long"]
        peak = f", {r['peak_bytes'] / 1e9:.1f} GB at most" if r["peak_bytes"] else ""
        lines += [
            f"### {r['steps']} Lanczos steps at P = {r['parameters']:,}",
            "",
            f"N = {r['examples']}, reorthogonalisation `{r['scheme']}`, in a process of its own: "
            f"{time_in_words(r['seconds'])}{peak}.",
            "",
        ]
    if "devices" in record:
        r = record["devices"][0]
        lines += [
            f"### What one of several devices holds (P = {r['parameters']:,}, "
            f"{r['steps']} steps, `{r['scheme']}`)",
            "",
        ]
        lines += table(
            ["devices", "arrays", "in work besides", "both"],
            [
                (
                    r["devices"],
                    *(
                        f"{size / 1e6:,.0f} MB"
                        for size in (
                            r["held_bytes"],
                            r["temporary_bytes"],
                            r["held_bytes"] + r["temporary_bytes"],
                        )
                    ),
                )
                for r in record["devices"]
            ],
        )
    return lines


SECTIONS: dict[str, tuple[str, Callable[[dict[str, Any], Path], list[str]]]] = {
    "kernels": ("The kernels", kernels),
    "operators": ("Every operator", operators),
    "budgets": ("Why it is degenerate", budgets),
    "limits": ("Limits", limits),
    "resolve": ("Certified answers", resolve),
    "schemes": ("Schemes", schemes),
    "jobs": ("Batch jobs", jobs),
    "blocks": ("Many checkpoints in one program", blocks),
    "kill_spectra": ("Batch jobs that are killed, shared and broken", survival),
    "paper_scale": ("The experiments at the paper's scale", paper_scale),
    "paper_rates": ("Rates on the paper's networks", paper_rates),
    "certify": ("Correctness", certify),
    "load": ("Under load", load),
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
    folders = sorted((HERE / "results").iterdir())
    if all(folder.name == "cpu" for folder in folders):
        lines += [
            "No accelerator has been measured yet. `python benchmarks/run.py` is the command there "
            "too: on a CPU it ran from its beginning to its end in the same form.",
            "",
        ]
    for folder in folders:
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
    # One title; sections are written as if their device had a page of its own.
    deeper = [f"#{line}" if line.startswith("#") else line for line in lines[1:]]
    DOCS.mkdir(exist_ok=True)
    (DOCS / "benchmarks.md").write_text("\n".join([lines[0], *deeper]).rstrip() + "\n")


if __name__ == "__main__":
    main()
