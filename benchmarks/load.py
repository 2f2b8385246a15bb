"""Whether numbers depend on what else the machine does: the same work alone, and beside itself.

A process of its own walks so many Lanczos steps of the residual 20×128 network (P = 709,652) with
each scheme and reads the certified fraction; a digest of T and the bounds tells two runs apart. It
runs once alone, then several times at once, so that every core is fought for.

    python benchmarks/load.py --out load.json

Exits with 1 if any digest differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from harness import busy, machine, write
from kernels import EXAMPLES, operator

from landscape.spectra import degenerate_fraction, lanczos_run

SCHEMES = ("full", "partial", "none")


def digests(steps: int) -> dict[str, str]:
    """By scheme, of all numbers that a spectrum has."""
    op, found = operator(EXAMPLES), {}
    for scheme in SCHEMES:
        run = lanczos_run(op, jax.random.key(3), reorthogonalize=scheme, capacity=steps)
        spectrum = run.advance(steps).spectrum()
        fraction = degenerate_fraction(spectrum, 1e-2, force=True)
        numbers = [spectrum.alphas, spectrum.betas, fraction.lower, fraction.upper]
        parts = (np.asarray(x).tobytes() for x in numbers)
        found[scheme] = hashlib.sha256(b"".join(parts)).hexdigest()[:16]
    return found


def processes(number: int, steps: int) -> tuple[list[dict[str, str]], float, float]:
    """What so many at once find, their seconds, and how busy the cores were in the midst of it."""
    command = [sys.executable, __file__, "--digests", "--steps", str(steps)]
    start = time.perf_counter()
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
        for _ in range(number)
    ]
    time.sleep(10)
    load = busy(1.0)
    outputs = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        sys.exit("a process failed")
    return [json.loads(output) for output in outputs], time.perf_counter() - start, load


def main() -> None:
    """Run, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--digests", action="store_true", help="of this process, as JSON")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.digests:
        print(json.dumps(digests(options.steps)))
        return
    record: dict[str, Any] = {"environment": machine(), "steps": options.steps, "rows": []}
    for number in (1, options.processes):
        found, seconds, load = processes(number, options.steps)
        row = {"processes": number, "seconds": seconds, "busy": load, "digests": found}
        record["rows"].append(row)
        print(f"{number} at once: {seconds:.0f} s, cores {load:.0%} busy; {found}", flush=True)
    write(options.out, record)
    every = [one for row in record["rows"] for one in row["digests"]]
    if any(one != every[0] for one in every):
        sys.exit("the numbers depend on the load")
    print("identical")


if __name__ == "__main__":
    main()
