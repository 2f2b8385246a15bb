"""What the documentation shows works: every Python block of every page, page by page."""

import re
import shlex
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape.cli import main
from landscape.cli.commands import parse
from landscape.curvature import DiagonalOperator

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

PROBLEM = """
import jax
import jax.numpy as jnp

from landscape.curvature import Problem


def loss(params, batch):
    return jnp.mean((jnp.tanh(batch @ params["w"]) - 1) ** 2)


def problem():
    x = jax.random.normal(jax.random.key(0), (20, 6))
    return Problem(loss, {"w": jnp.ones(6)}, x)
"""


def blocks(page, kind):
    return [code for found, code in BLOCK.findall(page.read_text()) if found == kind]


# Made from results, or notebooks and docstrings that are run elsewhere.
PAGES = sorted(
    page
    for page in DOCS.rglob("*.md")
    if blocks(page, "python") and not {"_build", "tutorials"} & set(page.parts)
)


def test_the_pages_are_found():
    names = {page.relative_to(DOCS).as_posix() for page in PAGES}
    assert names >= {"index.md", "howto/your-model.md", "concepts/certified.md", "coming-from.md"}


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "jobs.md"], ids=lambda p: p.stem)
def test_every_block_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": page.stem}
    # Users promote ranks as JAX does by default.
    with jax.numpy_rank_promotion("allow"):
        for number, block in enumerate(blocks(page, "python")):
            exec(compile(block, f"{page.name}, block {number + 1}", "exec"), names)


@pytest.mark.slow
def test_the_commands_and_blocks_of_batch_jobs_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mine.py", "my_model.py"):
        (tmp_path / name).write_text(PROBLEM)
    (tmp_path / "ckpts").mkdir()
    for number in range(2):
        np.savez(tmp_path / "ckpts" / f"{number}.npz", w=np.full(6, number + 0.5, np.float32))
    commands = [
        line
        for block in blocks(DOCS / "jobs.md", "sh")
        for line in block.splitlines()
        if line.startswith("landscape ")
    ]
    assert len(commands) >= 4
    for line in commands:
        assert main(shlex.split(line)[1:]) == 0, line
    names = {"op": DiagonalOperator(jnp.ones(4))}
    for block in blocks(DOCS / "jobs.md", "python"):
        exec(block, names)
    assert names["found"].sizes["checkpoint"] == 2


COMMANDS = sorted(
    {
        line.partition(" #")[0].strip()
        for page in (DOCS.parent / "README.md", *DOCS.glob("*.md"), *DOCS.glob("howto/*.md"))
        for block in blocks(page, "sh")
        for line in block.splitlines()
        if line.startswith("landscape ")
    }
)


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_that_is_shown_is_one(line):
    assert parse(shlex.split(line)[1:])


def test_commands_are_shown():
    assert {line.split()[1] for line in COMMANDS} >= {"reproduce", "analyze", "spectrum", "data"}
