"""One page of many runs: every verdict first, then each run's figures and tables."""

from __future__ import annotations

import io
import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.spatial import cKDTree

from landscape.data.registry import SOURCES
from landscape.errors import InputError
from landscape.experiments.reproduce import EXPERIMENTS, expect_finished, report
from landscape.experiments.sentences import counted
from landscape.report import DPI, Page, Table
from landscape.runs import read_run_folder, write_atomically

_HEAD = """# Results

Made from run folders by `landscape results`; nothing here is typed by hand. What the experiments
are, how claims are decided, what differs from the paper, and what was done by hand to a run:
[experiments](experiments.md)."""
_MARK = "<!-- run: {} -->"


def write_gallery(folders: Sequence[Path], out: Path, console: Any) -> None:
    """Write the page and its pictures, or add runs to the page.

    Runs that the page shows already stay: a run's section is replaced by naming its folder again.
    What a report is made from is kept beside the pictures, in a folder for each run, together with
    its claims and their values: so a page outlives the run folders, and can be drawn anew by naming
    those instead.

    Parameters
    ----------
    folders
        Finished run folders, each with a name of its own.
    out
        Markdown file; pictures go into a folder beside it that has its name.
    console
        For the progress of the reports, which are written anew.

    Raises
    ------
    InputError
        If there are none, two have one name, one is no finished run, or the values of a run that
        the page shows cannot be read.
    """
    if not folders:
        raise InputError("name at least one run folder")
    names = [path.resolve().name for path in folders]
    if len(set(names)) < len(names):
        raise InputError("two run folders have one name, and the page calls runs by it; rename one")
    beside = out.parent / out.stem
    sections = _sections(out)
    records = {name: _record(beside / f"{name}.json") for name in sections if name not in names}
    for path in folders:
        expect_finished(path)
    for name, path in zip(names, folders, strict=True):
        kept = _read_kept(path)
        with tempfile.TemporaryDirectory() as place:
            # The folder's own report stays as it was.
            for file, content in kept.items():
                write_atomically(Path(place) / file, content)
            page = report(Path(place), console)
            claims_of_it = json.loads((Path(place) / "claims.json").read_text())
        text, files = page.to_markdown(f"{out.stem}/{name}", level=2)
        timing = json.loads(kept["timing.json"])
        sections[name] = f"{text.strip()}\n\n*Finished: {timing.get('finished', 'unknown')}.*"
        records[name] = {
            "request": read_run_folder(path).config["request"],
            "claims": claims_of_it,
        }
        for file, content in kept.items():
            write_atomically(beside / name / file, content)
        pictures = re.compile(re.escape(name) + r"-\d+\.png")
        for old in beside.glob("*.png"):
            if pictures.fullmatch(old.name):
                old.unlink()
        for file, content in files.items():
            write_atomically(out.parent / file, _smaller(content))
        record = json.dumps(records[name], indent=1, ensure_ascii=False)
        write_atomically(beside / f"{name}.json", f"{record}\n".encode())
    order = sorted(sections, key=lambda name: (*_place(records[name]["request"]), name))
    claims = [(records[name]["request"], one) for name in order for one in records[name]["claims"]]
    verdicts = [_verdict(request, one) for request, one in claims]
    columns = ("run", "claim", "pairs", "effect", "95 % interval", "verdict")
    note = "Effects in the unit of the claim; accuracies and fractions in points of a hundred."
    summary = Page(
        "Every claim",
        tally(claims),
        [Table("Verdicts", columns, verdicts, note)],
        [],
    )
    lines = [_HEAD, summary.to_markdown("", level=2)[0]]
    lines += [f"{_MARK.format(name)}\n\n{sections[name]}" for name in order]
    write_atomically(out, "\n\n".join(line.strip() for line in lines).encode() + b"\n")


def _read_kept(path: Path) -> dict[str, bytes]:
    """The files of a run folder that its report is made from."""
    names = ["config.json", "timing.json", *(file.name for file in path.glob("results*.*"))]
    return {name: (path / name).read_bytes() for name in sorted(names)}


def _sections(page: Path) -> dict[str, str]:
    """The text of each run on a page made before, by the run's name."""
    if not page.exists() or not page.stat().st_size:
        return {}
    head, *parts = re.split(_MARK.format("(.+?)") + r"\s*", page.read_text(encoding="utf-8"))
    if not head.startswith(_HEAD.splitlines()[0]):
        raise InputError(f"{page} is no page of results, and would be lost: choose another --out")
    return {name: text.strip() for name, text in zip(parts[::2], parts[1::2], strict=True)}


def _record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        _place(record["request"])
        [one["status"] for one in record["claims"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"the values of a run on the page cannot be read from {path}: name its run folder "
            "again, or write another page"
        ) from error
    return dict(record)


def _place(request: dict[str, Any]) -> tuple[int, int]:
    """Where a run stands on the page: by data set, then by figure."""
    return list(SOURCES).index(request["dataset"]), list(EXPERIMENTS).index(request["experiment"])


def _smaller(png: bytes) -> bytes:
    """The picture in its 256 commonest colours: a third of the bytes.

    Those are kept as they are, lines' and markers' among them; a rarer one, of a soft edge or where
    bands lie over one another, becomes the nearest.
    """
    with Image.open(io.BytesIO(png)) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    colors, where, counts = np.unique(
        pixels.reshape(-1, 3), axis=0, return_inverse=True, return_counts=True
    )
    kept = colors[np.argsort(-counts, kind="stable")[:256]].astype(float)
    nearest = cKDTree(kept).query(colors)[1].astype(np.uint8)
    few = Image.fromarray(nearest[where.ravel()].reshape(pixels.shape[:2]), mode="P")
    few.putpalette(kept.astype(np.uint8).tobytes())
    stream = io.BytesIO()
    few.save(stream, "png", optimize=True, dpi=(DPI, DPI))
    return min(png, stream.getvalue(), key=len)


def tally(claims: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> list[str]:
    """How many claims hold, and how many of those that were decided again with other networks."""
    first = [one["status"] for request, one in claims if not request.get("seed")]
    again = [one["status"] for request, one in claims if request.get("seed")]
    more = ""
    if again:
        count = counted(again)
        more = f" Decided again with other networks: {count[:1].lower()}{count[1:]}."
    return [f"{counted(first)}.{more}"]


def _verdict(request: dict[str, Any], claim: dict[str, Any]) -> tuple[str, ...]:
    factor = 100 if claim["unit"] == "points" else 1

    def told(value: float | None) -> str:
        return "—" if value is None else f"{factor * value:+.3g}"

    low, high = (told(value) for value in claim["interval"])
    data = [] if request["experiment"] == "fig2" else [request["dataset"]]
    seed = [f"seed {request['seed']}"] if request.get("seed") else []
    return (
        ", ".join([request["experiment"], *data, request["scale"], *seed]),
        claim["claim"],
        claim.get("counted", str(claim["pairs"])),
        told(claim["effect"]),
        "—" if low == "—" else f"[{low}, {high}]",
        claim["status"] + (f" ({claim['obstacle']})" if claim["obstacle"] else ""),
    )
