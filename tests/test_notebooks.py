"""Notebooks: text and notebook are pairs, outputs are there and small. CI executes them."""

import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
TEXTS = sorted(FOLDER.glob("*.py"))
LARGEST = 600_000


def cells(text):
    """Kinds and sources of the cells of a percent script."""
    body = text.split("# ---\n", 2)[2]
    parts = re.split(r"^# %%(.*)\n", body, flags=re.MULTILINE)[1:]
    found = []
    for kind, source in zip(parts[::2], parts[1::2], strict=True):
        lines = source.strip("\n").split("\n")
        if "[markdown]" in kind:
            found.append(("markdown", "\n".join(line[2:] for line in lines)))
        else:
            found.append(("code", "\n".join(lines)))
    return found


def test_there_are_six_and_each_is_a_pair():
    assert len(TEXTS) == 6
    assert [path.stem for path in TEXTS] == [path.stem for path in sorted(FOLDER.glob("*.ipynb"))]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_text_and_notebook_say_the_same(path):
    notebook = json.loads(path.with_suffix(".ipynb").read_text())
    theirs = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
    assert theirs == cells(path.read_text())


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_outputs_are_there_without_errors_and_small(path):
    notebook = path.with_suffix(".ipynb")
    assert notebook.stat().st_size < LARGEST
    outputs = [o for c in json.loads(notebook.read_text())["cells"] for o in c.get("outputs", [])]
    assert not [o for o in outputs if o["output_type"] == "error"]
    assert any("image/png" in o.get("data", {}) for o in outputs)
    text = json.dumps(outputs)
    # No file of the machine that they were executed on, but in its folder for temporary ones.
    places = re.findall(r"(?<![\w./])/(?!tmp/)[\w.-]+/[\w./-]*\.(?:py|ipynb|npz|nc|png)\b", text)
    assert not places
    assert "Traceback" not in text


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_each_begins_with_a_badge_and_ends_with_what_comes_next(path):
    said = [source for kind, source in cells(path.read_text()) if kind == "markdown"]
    assert f"blob/main/notebooks/{path.stem}.ipynb" in said[0]
    assert "**Next:**" in said[-1]
