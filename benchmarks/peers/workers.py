"""The processes that hold the tools, and their environments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from peers.requirements import REQUIREMENTS

HERE = Path(__file__).parent


def python_of(tool: str, folder: Path, given: dict[str, str]) -> str:
    """The interpreter of a tool's environment, which is made if there is none.

    A machine without a package index names an interpreter that has the tool (``--python``).
    """
    if tool == "landscape":
        return sys.executable
    if tool in given:
        return given[tool]
    place = folder / tool
    python = place / "bin" / "python"
    if not (place / ".installed").exists():
        print(f"making an environment for {tool} in {place} ...", flush=True)
        venv.create(place, with_pip=True, clear=True)
        # One after the other: what is there already satisfies the later ones.
        for requirement in REQUIREMENTS[tool]:
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, requirement], check=True)
        (place / ".installed").touch()
    return str(python)


class Worker:
    """One process that holds one tool."""

    def __init__(self, tool: str, python: str) -> None:
        self.tool = tool
        environment = {**os.environ, "PYTHONPATH": str(HERE)}
        # JAX would take three quarters of an accelerator for itself.
        environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        self.process = subprocess.Popen(
            [python, str(HERE / f"{tool}_worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if not os.environ.get("BENCH_DEBUG") else None,
            text=True,
            env=environment,
        )

    def ask(self, **message: Any) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Raises
        ------
        RuntimeError
            With what the tool has raised.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of {self.tool} has ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self.tool}: {answer['error']}")
        return answer

    def result(self) -> dict[str, np.ndarray]:
        """What the last run gave."""
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/result.npz"
            self.ask(save=path)
            with np.load(path) as found:
                return dict(found)

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


class Contender:
    """A tool with settings, as it is named in a table."""

    def __init__(self, label: str, tool: str, job: str, **options: Any) -> None:
        self.label, self.tool, self.job, self.options = label, tool, job, options


def interleaved(
    contenders: Sequence[Contender],
    problem: Path,
    repeats: int,
    python: Callable[[str], str],
    read: Callable[[Contender, dict[str, np.ndarray]], dict[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """Rows of one table: everyone in turn, as often as asked; ratios to the first.

    Parameters
    ----------
    contenders
        The first is the reference. One with ``threads`` as a list is tried with each, and goes on
        with the fastest.
    problem
        Exported arrays.
    repeats
        Timed runs of each, after those that compile and choose.
    python
        Interpreter of a tool.
    read
        What to record of a result, with the contender it came from.
    """
    workers: list[tuple[Contender, Worker, dict[str, Any]]] = []
    rows: list[dict[str, Any]] = []
    for contender in contenders:
        row: dict[str, Any] = {
            "label": contender.label,
            "tool": contender.tool,
            "job": contender.job,
            "options": dict(contender.options),
        }
        try:
            worker, chosen = _prepared(contender, problem, python)
        except RuntimeError as error:
            if not workers:
                raise
            rows.append({**row, "error": str(error)})
            print(f"    {contender.label}: {error}", flush=True)
            continue
        rows.append({**row, **chosen, "seconds": []})
        workers.append((contender, worker, rows[-1]))
    for _ in range(repeats):
        for _, worker, row in workers:
            row["seconds"] += worker.ask(run=1)["seconds"]
    for contender, worker, row in workers:
        if read:
            row["result"] = read(contender, worker.result())
        described = worker.ask(describe=True)
        row["versions"], row["peak_bytes"] = described["versions"], described["peak_bytes"]
        worker.close()
    for _, _, row in workers:
        ratios = np.asarray(row["seconds"]) / np.asarray(workers[0][2]["seconds"])
        row["ratio"] = {
            "median": float(np.median(ratios)),
            "lowest": float(ratios.min()),
            "highest": float(ratios.max()),
        }
        print(
            f"    {row['label']:42s} {np.median(row['seconds']):9.4f} s  "
            f"{row['ratio']['median']:6.2f}x  [{row['ratio']['lowest']:.2f}, "
            f"{row['ratio']['highest']:.2f}]  first {row['first_seconds']:.1f} s  "
            f"{row['peak_bytes'] / 1e6:.0f} MB",
            flush=True,
        )
    return rows


def _prepared(
    contender: Contender, problem: Path, python: Callable[[str], str]
) -> tuple[Worker, dict[str, Any]]:
    """A worker that has done the job once, and with what settings."""
    threads = contender.options.get("threads")
    choices = threads if isinstance(threads, list) else [threads]
    tried: dict[Any, float] = {}
    best: tuple[Worker, dict[str, Any]] | None = None
    for choice in choices:
        worker = Worker(contender.tool, python(contender.tool))
        options = {**contender.options, "threads": choice} if choice else contender.options
        answer = worker.ask(prepare=contender.job, problem=str(problem), options=options)
        if len(choices) == 1:
            return worker, answer
        tried[choice] = min(worker.ask(run=1)["seconds"])
        if best is None or tried[choice] < min(t for c, t in tried.items() if c != choice):
            if best:
                best[0].close()
            best = worker, {**answer, "threads": choice}
        else:
            worker.close()
    assert best is not None
    return best[0], {**best[1], "seconds_by_threads": {str(c): t for c, t in tried.items()}}
