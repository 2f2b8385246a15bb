"""What the benchmarks share: the machine they ran on, timed calls, files."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from landscape.runs import environment

HERE = Path(__file__).parent


def machine() -> dict[str, Any]:
    """Everything that a number here depends on besides the work itself."""
    try:
        described = subprocess.run(
            ["git", "-C", str(HERE), "describe", "--always", "--dirty"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        revision = described.stdout.strip()
    except FileNotFoundError:
        revision = ""
    flags = ("XLA_FLAGS", "OMP_NUM_THREADS", "JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION")
    return {
        **environment(),
        "processor": _processor(),
        "busy": busy(),
        "revision": revision or "unknown",
        "flags": {name: os.environ[name] for name in flags if name in os.environ},
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def busy(wait: float = 0.5) -> float:
    """Share of the processor's time that others take while this process waits; NaN if not told."""

    def spent() -> np.ndarray:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        return np.asarray(fields[:8], float)

    try:
        before = spent()
        time.sleep(wait)
        passed = spent() - before
    except OSError:
        return float("nan")
    # Idle, and waiting for a disk.
    return float(1 - passed[3:5].sum() / max(passed.sum(), 1))


def _processor() -> str:
    """Name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def device() -> str:
    """Short name of the default device, for a folder: ``cpu``, ``h100``."""
    kind = jax.devices()[0].device_kind
    if jax.default_backend() == "cpu":
        return "cpu"
    return next((w for w in kind.lower().replace("-", " ").split() if w[1:2].isdigit()), "device")


def seconds(function: Callable[[], Any], repeats: int) -> tuple[float, list[float]]:
    """Of the first call, compilation included, and of each one after it."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return times[0], times[1:]


def interleaved(
    functions: Mapping[str, Callable[[], Any]], repeats: int
) -> dict[str, dict[str, Any]]:
    """Each in turn, as often as asked: seconds, and ratios to the first in the same round.

    Returns
    -------
    By name: ``first_seconds`` with compilation, ``seconds`` of each round, ``ratio`` with its
    median, lowest and highest.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name, function in functions.items():
        first, _ = seconds(function, 0)
        rows[name] = {"first_seconds": first, "seconds": []}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            rows[name]["seconds"].append(time.perf_counter() - start)
    reference = np.asarray(next(iter(rows.values()))["seconds"])
    for row in rows.values():
        row["ratios"] = (np.asarray(row["seconds"]) / reference).tolist()
        row["ratio"] = spread(np.asarray(row["ratios"]))
    return rows


def spread(ratios: np.ndarray) -> dict[str, float]:
    """Median, lowest and highest."""
    return {
        "median": float(np.median(ratios)),
        "lowest": float(np.min(ratios)),
        "highest": float(np.max(ratios)),
    }


def kept(path: Path | None) -> dict[str, Any]:
    """A file's record, to add to, with this machine's environment; an empty one if there is none.

    Numbers of two machines are not mixed in one file.
    """
    record: dict[str, Any] = {}
    now = machine()
    if path and path.exists():
        record = json.loads(path.read_text())
        before = record.get("environment", {})
        for what in ("processor", "devices"):
            if what in before and before[what] != now[what]:
                sys.exit(f"{path} is of another machine ({before[what]}): choose another --out")
    return record | {"environment": now}


def write(path: Path | None, record: Mapping[str, Any]) -> None:
    """A record as JSON, if there is somewhere to write it to."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")
