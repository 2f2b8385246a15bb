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
from peers.requirements import requirements

HERE = Path(__file__).parent

# No more rounds of two contenders once they have taken so many seconds, but so many at least.
ENOUGH, FEWEST = 30.0, 5

# The reference beside itself: what a ratio is off by when nothing differs. Not of jobs that take
# longer than so many seconds.
AGAIN, QUICK = "once more", 10.0


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
    note, wanted = place / ".installed", "\n".join(requirements(tool))
    if not note.exists() or note.read_text() != wanted:
        print(f"making an environment for {tool} in {place} ...", flush=True)
        venv.create(place, with_pip=True, clear=True)
        # Together, so that the versions that are asked for stay as they are.
        pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
        try:
            subprocess.run([*pip, "install", "--quiet", *requirements(tool)], check=True)
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"{tool} cannot be installed: {error}") from error
        note.write_text(wanted)
    return str(python)


class Worker:
    """One process that holds one tool."""

    def __init__(self, tool: str, python: str) -> None:
        self.tool = tool
        # Of this checkout, wherever another one is installed.
        paths = [str(HERE), str(HERE.parent.parent / "src")][: 2 if tool == "landscape" else 1]
        paths += filter(None, [os.environ.get("PYTHONPATH")])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        # JAX would take three quarters of an accelerator for itself.
        environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        # PyTorch's compiler would leave processes behind.
        environment["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
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
    """Rows of one table: each in turn with the first, as often as asked; ratios to that.

    No more than two processes hold their data at a time, so that memory is not what is measured;
    who begins a round is drawn anew for each.

    Parameters
    ----------
    contenders
        The first is the reference. One with ``threads`` as a list is tried with each, and goes on
        with the fastest.
    problem
        Exported arrays.
    repeats
        Timed runs of each, after those that compile and choose; fewer of those that take many
        seconds, but no fewer than ``FEWEST``.
    python
        Interpreter of a tool.
    read
        What to record of a result, with the contender it came from.
    """
    order = np.random.default_rng(0)
    reference, row = _row(contenders[0], problem, python)
    if reference is None:
        raise RuntimeError(row["error"])
    rows, others = [row], list(contenders[1:])
    if row["first_seconds"] < QUICK:
        first = contenders[0]
        others.insert(
            0, Contender(f"{first.label}, {AGAIN}", first.tool, first.job, **first.options)
        )
    for contender in others:
        worker, row = _row(contender, problem, python)
        rows.append(row)
        if worker is None:
            print(f"    {contender.label}: {row['error']}", flush=True)
            continue
        row["reference_seconds"] = []
        try:
            for number in range(repeats):
                spent = sum(row["seconds"]) + sum(row["reference_seconds"])
                if number >= FEWEST and spent > ENOUGH:
                    break
                pair = [(reference, row["reference_seconds"]), (worker, row["seconds"])]
                for who, seconds in pair if order.random() < 0.5 else pair[::-1]:
                    seconds += who.ask(run=1)["seconds"]
            _finish(contender, worker, row, read)
        except RuntimeError as error:
            # The reference still answers, or its next round says that it does not.
            row |= {"error": str(error), "seconds": []}
            print(f"    {contender.label}: {error}", flush=True)
    alone = len(rows) == 1
    beside = next((r["reference_seconds"] for r in rows if r.get("reference_seconds")), None)
    rows[0]["seconds"] = (
        reference.ask(run=repeats)["seconds"] if alone or beside is None else beside
    )
    rows[0]["reference_seconds"] = rows[0]["seconds"]
    _finish(contenders[0], reference, rows[0], read)
    for row in rows:
        if row.get("seconds"):
            _report(row)
    return rows


def _row(
    contender: Contender, problem: Path, python: Callable[[str], str]
) -> tuple[Worker | None, dict[str, Any]]:
    """A worker that is ready, if the tool can do the job, and its row."""
    row: dict[str, Any] = {
        "label": contender.label,
        "tool": contender.tool,
        "job": contender.job,
        "options": dict(contender.options),
    }
    try:
        worker, chosen = _prepared(contender, problem, python)
    except RuntimeError as error:
        return None, {**row, "error": str(error)}
    return worker, {**row, **chosen, "seconds": []}


def _finish(contender: Contender, worker: Worker, row: dict[str, Any], read: Any) -> None:
    """Result, versions and memory; ends the process."""
    if read:
        row["result"] = read(contender, worker.result())
    row |= worker.ask(describe=True)
    row.pop("jobs")
    worker.close()


def _report(row: dict[str, Any]) -> None:
    """Ratios to the reference of the same round, and a line."""
    ratios = np.asarray(row["seconds"]) / np.asarray(row["reference_seconds"])
    row["ratios"] = ratios.tolist()
    row["ratio"] = {
        "median": float(np.median(ratios)),
        "lowest": float(ratios.min()),
        "highest": float(ratios.max()),
    }
    # The first call compiles: where it is faster than those after it something else was at work.
    disturbed = np.median(row["seconds"]) > 1.2 * row["first_seconds"]
    print(
        f"    {row['label']:42s} {np.median(row['seconds']):9.4f} s  "
        f"{row['ratio']['median']:6.2f}x  [{row['ratio']['lowest']:.2f}, "
        f"{row['ratio']['highest']:.2f}]  first {row['first_seconds']:.1f} s  "
        f"{row['peak_bytes'] / 1e6:.0f} MB{'  DISTURBED?' if disturbed else ''}",
        flush=True,
    )


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
        # Of short jobs the best of three.
        tried[choice] = min(worker.ask(run=3 if answer["first_seconds"] < 3 else 1)["seconds"])
        if best is None or tried[choice] < min(t for c, t in tried.items() if c != choice):
            if best:
                best[0].close()
            best = worker, {**answer, "threads": choice}
        else:
            worker.close()
    assert best is not None
    return best[0], {**best[1], "seconds_by_threads": {str(c): t for c, t in tried.items()}}
