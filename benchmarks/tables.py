"""Pieces of the page of benchmarks: tables, numbers in words, figures in two formats."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt

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


def save(figure: Any, figures: Path, name: str) -> str:
    """Write a figure as SVG and PNG; a line that shows it on a page beside the folder's parent."""
    figures.mkdir(parents=True, exist_ok=True)
    for kind in ("svg", "png"):
        metadata = {"Date": None} if kind == "svg" else {}
        figure.savefig(figures / f"{name}.{kind}", dpi=120, metadata=metadata)
    plt.close(figure)
    return f"![{name}]({figures.parent.name}/{figures.name}/{name}.svg)\n"
