"""What a batch job takes beside the Lanczos steps that it is made of, and what its plan foretells.

Checkpoints of plain networks of 20 layers of 32 units on the digits, spectra of 100 steps, by one
``landscape spectrum`` with a worker a core. Beside it the same steps alone: as many worker
processes at once, each with one checkpoint in memory, again and again.

    python benchmarks/jobs.py --checkpoints 300 --out jobs.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from harness import machine, write

from landscape.analysis.matrices import operator
from landscape.analysis.measurement import at_checkpoint, known_problem, lanczos_of
from landscape.analysis.options import Options
from landscape.curvature import noise_floor
from landscape.models import MLP
from landscape.runs import default_workers, executor
from landscape.runs.events import read_events

PROBLEM = '''
import jax

from landscape.curvature import Problem
from landscape.data import load
from landscape.models import MLP
from landscape.training import softmax_cross_entropy

MODEL = MLP(20, 32, 10)


def problem():
    """A plain network at its initialisation, on all digits."""
    images, labels = load("digits").standardized().arrays()
    params = MODEL.init(jax.random.key(0), images[:1])["params"]
    return Problem(softmax_cross_entropy(MODEL), params, (images, labels), {}, model=MODEL)
'''


# Seconds of computing and the most kibibytes of a process, of a command and all of its processes.
_TOLD = """
import json, resource, subprocess, sys

subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
found = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([found.ru_utime + found.ru_stime, found.ru_maxrss]))
"""


def prepare(folder: Path, count: int) -> str:
    """Write the problem and checkpoints; how the problem is called."""
    (folder / "problem.py").write_text(PROBLEM)
    model = MLP(20, 32, 10)
    init = jax.jit(lambda key: model.init(key, np.zeros((1, 64), np.float32))["params"])
    for number in range(count):
        params = flatten_dict(init(jax.random.key(number)), sep="/")
        np.savez(
            folder / f"{number:03d}.npz", **{name: np.asarray(x) for name, x in params.items()}
        )
    return f"{folder}/problem.py:problem"


def alone(problem: str, checkpoint: str, steps: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of the steps of one checkpoint, without and with the noise floor, many times."""
    options = Options(num_steps=steps, reorthogonalize="partial")
    op = operator(at_checkpoint(known_problem(problem), checkpoint), options)
    found: dict[str, list[float]] = {"steps": [], "with the noise floor": []}
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds or len(found["steps"]) < 3:
        start = time.perf_counter()
        floor = noise_floor(op, jax.random.key(0))
        middle = time.perf_counter()
        run, until = lanczos_of(op, jax.random.key(1), options)
        run.advance(until).spectrum(noise_floor=floor)
        end = time.perf_counter()
        found["steps"].append(end - middle)
        found["with the noise floor"].append(end - start)
    # The first has compiled.
    return {name: times[1:] for name, times in found.items()}


def kernel(problem: str, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Medians over all workers at once."""
    arguments = (problem, f"{folder}/000.npz", options.steps)
    with executor("processes", options.workers) as pool:
        if pool is None:
            found = [alone(*arguments, options.seconds)]
        else:
            for seconds in (1.0, options.seconds):
                # Once to start them, once together.
                futures = [pool.submit(alone, *arguments, seconds) for _ in range(options.workers)]
                found = [future.result() for future in futures]
    return {name: float(np.median(np.concatenate([f[name] for f in found]))) for name in found[0]}


def job(problem: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The command, by its own log."""
    out = folder / "out"
    command = [
        sys.executable, "-m", "landscape", "spectrum", problem,
        "--checkpoint", f"{folder}/*.npz", "--num-steps", str(options.steps),
        "--largest", "0", "--smallest", "0",
        "--workers", str(options.workers), "--out", str(out),
    ]  # fmt: skip
    start = time.perf_counter()
    # A process of its own between: of all that it waited for it tells, and this one had others.
    told = subprocess.run(
        [sys.executable, "-c", _TOLD, *command], check=True, stdout=subprocess.PIPE
    ).stdout
    wall = time.perf_counter() - start
    spent, peak = json.loads(told)
    events = read_events(out / "events")
    finished = np.sort([event["time"] for event in events if event["event"] == "finished"])
    plan = next(event for event in events if event["event"] == "estimated")
    # From when every worker has finished one: without starting, compiling and hashing.
    steady = finished[options.workers - 1 :]
    return {
        "wall_seconds": wall,
        "seconds_a_unit": float(np.diff(steady).mean() * options.workers),
        "cores_busy": spent / wall,
        "planned_seconds": plan["seconds"],
        "seconds_after_the_plan": float(finished[-1] - plan["time"]),
        "planned_bytes": plan["memory"],
        # Of the largest process.
        "peak_bytes": 1024 * peak,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoints", type=int, default=300)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--workers", type=int, default=default_workers(None))
    parser.add_argument("--seconds", type=float, default=20.0, help="that the steps are timed for")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    record: dict[str, Any] = {
        "environment": machine(), "checkpoints": options.checkpoints, "steps": options.steps,
        "workers": options.workers,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        problem = prepare(Path(name), options.checkpoints)
        # Before and after: machines get slower and faster.
        first = kernel(problem, Path(name), options)
        record.update(job(problem, Path(name), options))
        second = kernel(problem, Path(name), options)
    record["kernel"] = {name: [first[name], second[name]] for name in first}
    each = record["wall_seconds"] * options.workers / options.checkpoints
    print(
        f"a unit {record['seconds_a_unit']:.3f} s ({each:.3f} s with starting), "
        f"{record['cores_busy']:.2f} cores busy"
    )
    record["ratios"] = {}
    for name, times in record["kernel"].items():
        ratio = record["seconds_a_unit"] / np.mean(times)
        record["ratios"][name] = [ratio, each / np.mean(times)]
        print(f"  {ratio:.2f} times the {name} alone ({each / np.mean(times):.2f} with starting)")
    print(
        f"plan: {record['planned_seconds']:.0f} s, it took {record['seconds_after_the_plan']:.0f}; "
        f"{record['planned_bytes'] / 1e6:.0f} MB a worker, the largest took "
        f"{record['peak_bytes'] / 1e6:.0f}"
    )
    write(options.out, record)


if __name__ == "__main__":
    main()
