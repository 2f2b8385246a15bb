"""One page of many runs: every verdict first, then each run's figures and tables."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from landscape.errors import InputError
from landscape.experiments.reproduce import report
from landscape.experiments.study_page import counted
from landscape.report import DPI, Page, Table
from landscape.runs import read_run_folder, write_atomically

_HEAD = """# Results

Made from run folders by `landscape results`; nothing here is typed by hand. What the experiments
are, how claims are decided, what differs from the paper: [experiments](experiments.md)."""


def write_gallery(folders: Sequence[Path], out: Path, console: Any) -> None:
    """Write the page and its pictures.

    Parameters
    ----------
    folders
        Finished run folders.
    out
        Markdown file; pictures go into a folder beside it that has its name.
    console
        For the progress of the reports, which are written anew.

    Raises
    ------
    InputError
        If there are none, or one is no finished run.
    """
    if not folders:
        raise InputError("name at least one run folder")
    verdicts, sections, statuses = [], [], []
    for number, path in enumerate(folders):
        page = report(path, console)
        text, files = page.to_markdown(f"{out.stem}/{number:02d}-{path.name}", level=2)
        for name, content in files.items():
            write_atomically(out.parent / name, _smaller(content))
        claims = json.loads((path / "claims.json").read_text())
        verdicts += [_verdict(read_run_folder(path).config["request"], one) for one in claims]
        statuses += [one["status"] for one in claims]
        finished = json.loads((path / "timing.json").read_text()).get("finished", "unknown")
        sections.append(f"{text.strip()}\n\n*Finished: {finished}.*")
    columns = ("run", "claim", "pairs", "effect", "95 % interval", "verdict")
    note = "Effects in the unit of the claim; accuracies and fractions in points of a hundred."
    summary = Page(
        "Every claim", [f"{counted(statuses)}."], [Table("Verdicts", columns, verdicts, note)], []
    )
    lines = [_HEAD, summary.to_markdown("", level=2)[0], *sections]
    write_atomically(out, "\n\n".join(line.strip() for line in lines).encode() + b"\n")


def _smaller(png: bytes) -> bytes:
    """The picture in 128 colours: a third of the bytes, and figures have no more."""
    stream = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        few = picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)
        few.save(stream, "png", optimize=True, dpi=(DPI, DPI))
    return min(png, stream.getvalue(), key=len)


def _verdict(request: dict[str, Any], claim: dict[str, Any]) -> tuple[str, ...]:
    factor = 100 if claim["unit"] == "points" else 1

    def told(value: float | None) -> str:
        return "—" if value is None else f"{factor * value:+.3g}"

    low, high = (told(value) for value in claim["interval"])
    data = [] if request["experiment"] == "fig2" else [request["dataset"]]
    return (
        ", ".join([request["experiment"], *data, request["scale"]]),
        claim["claim"],
        str(claim["pairs"]),
        told(claim["effect"]),
        "—" if low == "—" else f"[{low}, {high}]",
        claim["status"] + (f" ({claim['obstacle']})" if claim["obstacle"] else ""),
    )
