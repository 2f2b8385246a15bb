"""The benchmark suite: every script here, or some, in processes of their own.

    python benchmarks/run.py                      # quick: minutes
    python benchmarks/run.py kernels resolve      # these
    python benchmarks/run.py --full               # as in the committed results: hours
    python benchmarks/run.py --list

Results are JSON files in ``runs/bench/<device>/``, or in ``--out``; ``report.py`` makes
``docs/benchmarks.md`` from those in ``benchmarks/results/<device>/``. Run this script in the
environment whose JAX knows the accelerator: ``make bench`` makes one with a CPU's. Quick mode
needs nothing but the repository and its packages; some of what only full mode runs needs CIFAR-100
(``LANDSCAPE_DATA``). Each script also runs by itself, with more options.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
from harness import HERE, device

# By script: what it shows, and its arguments in quick and in full mode. None leaves it out.
SUITE: dict[str, tuple[str, list[str] | None, list[str]]] = {
    "kernels": (
        "share of the machine's rate, steps in products, first result",
        ["matvec", "density", "first", "--repeats", "5"],
        [],
    ),
    "operators": (
        "every operator and read-out, sweeps",
        ["operators", "readouts", "decompositions", "training", "--repeats", "5"],
        ["--repeats", "10"],
    ),
    "resolve": (
        "a certified answer beside dense",
        ["small", "--epochs", "10", "--no-dense", "--max-steps", "2000"],
        [],
    ),
    "budgets": (
        "where null directions come from, on trained networks",
        ["large", "--inputs", "random", "--examples", "500", "--epochs", "0"],
        [],
    ),
    "blocks": ("checkpoints side by side in one program", None, []),
    "limits": (
        "precision of products, memory, the largest network",
        ["--max-parameters", "3e7"],
        [],
    ),
    "tiling": ("rounding and speed of products in tiles", [], []),
    "orthogonality": ("what orthogonality costs", None, []),
    "certify": ("bounds against exact spectra, coverage", ["--quick"], []),
    "load": ("whether numbers depend on the machine's load", None, []),
    "schemes": ("which scheme reaches a width first (CIFAR)", None, []),
    "stacking": ("layers in one stack or one by one", None, []),
    "families": ("many small networks side by side", None, []),
    "paper_rates": ("an accelerator's rates on the paper's networks", None, []),
    "paper_scale": ("what the experiments cost at the paper's scale (CIFAR)", None, []),
    "jobs": (
        "what a batch job takes beside its steps",
        ["--checkpoints", "40", "--seconds", "5"],
        [],
    ),
    "kill_and_resume": ("training that is killed again and again", None, []),
    "kill_spectra": ("a batch job that is killed, shared and broken", None, []),
}

# Print only: they have no file of results.
_SILENT = ("stacking", "families", "kill_and_resume")


def main() -> None:
    """Run and say how long each took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*SUITE, []], help="default all of the mode")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--repeats", type=int, help="of the scripts that time")
    parser.add_argument("--out", type=Path, help="folder, default runs/bench/DEVICE")
    options = parser.parse_args()
    if options.list:
        for name, (what, quick, _) in SUITE.items():
            print(f"{name:16s} {what}{'' if quick is not None else '  (full mode only)'}")
        return
    out = options.out or HERE.parent / "runs" / "bench" / device()
    # Of this checkout, wherever another one is installed; and what the caller has.
    more = filter(None, [os.environ.get("PYTHONPATH")])
    paths = os.pathsep.join([str(HERE), str(HERE.parent / "src"), *more])
    if jax.default_backend() == "cpu" and shutil.which("nvidia-smi"):
        print("there is an NVIDIA card that this JAX does not use: the CPU is measured", flush=True)
    failed = []
    for name in options.names or SUITE:
        _, quick, full = SUITE[name]
        arguments = full if options.full or (options.names and quick is None) else quick
        if arguments is None:
            continue
        command = [sys.executable, str(HERE / f"{name}.py"), *arguments]
        if name not in _SILENT:
            command += ["--out", str(out / f"{name}.json")]
        if options.repeats and "--repeats" in (HERE / f"{name}.py").read_text():
            command += ["--repeats", str(options.repeats)]
        print(f"== {name}: {SUITE[name][0]}", flush=True)
        start = time.perf_counter()
        result = subprocess.run(command, check=False, env={**os.environ, "PYTHONPATH": paths})
        print(f"== {name}: {time.perf_counter() - start:.0f} s", flush=True)
        if result.returncode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
