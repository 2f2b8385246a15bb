"""How the benchmark talks to a tool that lives in an environment of its own.

A worker is a process that holds one tool. It reads one JSON object a line from its standard input
and answers with one a line; what the tool prints goes to standard error. It needs numpy and what
the tool needs, nothing else.

- ``{"prepare": job, "problem": path, "options": {...}}`` sets a job up and does it once. Answer:
  the seconds of both, compilation included.
- ``{"run": count}`` does it so many times more. Answer: the seconds of each.
- ``{"save": path}`` writes what the last time gave to an npz file.
- ``{"describe": true}`` gives versions and the peak memory of the process.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

# A dictionary of arrays, or a function that makes one: what is not part of the work is left for
# later.
Result = dict[str, Any] | Callable[[], dict[str, Any]]

# Makes a job ready and returns a function that does it and waits for it.
Job = Callable[[dict[str, np.ndarray], dict[str, Any]], Callable[[], Result]]


def peak_memory() -> int:
    """Most bytes that this process has had in memory.

    ``resource.getrusage`` would count what its parent had before it became this program.
    """
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def device_memory() -> int | None:
    """Most bytes that this process has had on its accelerator; None without one."""
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    if jax is not None and jax.default_backend() != "cpu":
        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return None


def looped(job: Job) -> Job:
    """A job for each network of a stack, one after the other; results stacked."""

    def family(arrays: dict[str, np.ndarray], options: dict[str, Any]) -> Callable[[], Result]:
        runs = [job(part, options) for part in networks(arrays)]
        return lambda: stacked([dict(run()) for run in runs])

    return family


def networks(arrays: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The networks of a stack, each as it would be exported alone."""
    count = len(arrays["params:output/bias"])
    return [arrays | {k: v[i] for k, v in arrays.items() if ":" in k} for i in range(count)]


def stacked(found: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Results of the same shape as one."""
    return {name: np.stack([np.asarray(each[name]) for each in found]) for name in found[0]}


def _version(package: str) -> str:
    """Of a package, which may be used from its source without being installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def serve(jobs: dict[str, Job], *packages: str) -> None:
    """Answer until standard input closes; ``packages`` are those whose versions matter."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    run: Callable[[], Result] | None = None
    last: Result = {}
    for line in sys.stdin:
        asked = json.loads(line)
        answer: dict[str, Any] = {}
        try:
            if "prepare" in asked:
                run, last = None, {}  # frees what the job before has kept
                begun = time.perf_counter()
                with np.load(asked["problem"]) as problem:
                    arrays = dict(problem)
                run = jobs[asked["prepare"]](arrays, asked["options"])
                ready = time.perf_counter()
                last = run()
                answer = {
                    "prepare_seconds": ready - begun,
                    "first_seconds": time.perf_counter() - ready,
                }
            elif "run" in asked:
                assert run is not None
                seconds = []
                for _ in range(asked["run"]):
                    begun = time.perf_counter()
                    last = run()
                    seconds.append(time.perf_counter() - begun)
                answer = {"seconds": seconds}
            elif "save" in asked:
                found = last() if callable(last) else last
                np.savez(asked["save"], **{k: np.asarray(v) for k, v in found.items()})
            else:
                answer = {
                    "jobs": sorted(jobs),
                    "versions": {
                        "python": platform.python_version(),
                        **{name: _version(name) for name in packages},
                        "flags": os.environ.get("XLA_FLAGS", ""),
                    },
                    "peak_bytes": peak_memory(),
                    "device_peak_bytes": device_memory(),
                }
        except Exception as error:
            # Whatever a tool raises becomes its row in the table: the others go on.
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
