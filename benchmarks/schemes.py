"""Which way to keep Lanczos orthogonal reaches a certified interval first, and at what price.

On 20×128 networks (P = 709,652) for CIFAR-100's 20 coarse classes, plain and residual, at their
initialisation and trained, on two batch sizes. Each scheme walks on, and at a number of stops its
seconds, products, bytes of basis moved and bytes kept are noted beside the width of the certified
interval of the degenerate fraction and the error of its estimate. The error is against the longest
full run, whose own estimate is known no better than its interval, which is recorded.

    LANDSCAPE_DATA=../shared/data python benchmarks/schemes.py --out schemes.json

The last table compares, for each width, the scheme that ``"auto"`` takes with the best of those
that certify their bounds, and of all.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from harness import machine, write

from landscape.curvature import hessian
from landscape.curvature.operators import LinearOperator
from landscape.data import load
from landscape.models import MLP
from landscape.spectra import (
    LanczosRun,
    degenerate_fraction,
    extremal_eigenpairs,
    lanczos_run,
)
from landscape.training import TrainConfig, fit, softmax_cross_entropy

ARCHITECTURES = {"plain": "none", "residual": "identity"}

# Name: scheme, eigenvalues deflated first.
SCHEMES = {
    "full": ("full", 0),
    "partial": ("partial", 0),
    "none": ("none", 0),
    "none-20": ("none", 20),
}

# Those whose bounds are certified.
CERTIFIED = ("full", "partial")

WIDTHS = (0.5, 0.2, 0.1, 0.05)


def operators(
    architecture: str, epochs: int, train_examples: int, sizes: list[int]
) -> dict[tuple[str, int], LinearOperator]:
    """Hessians by "initial" or "trained", and batch size."""
    data = load("cifar100", labels="coarse").subset(train_examples, seed=0).standardized()
    model = MLP(20, 128, data.num_classes, skip=ARCHITECTURES[architecture])
    inputs, labels = data.arrays()
    found = {}
    for state, config in (
        ("initial", TrainConfig(0, 500, 5e-4)),
        ("trained", TrainConfig(epochs, 500, 5e-4)),
    ):
        run = fit(model, data, config, jax.random.key(0))
        if state == "trained":
            print(f"{architecture}: loss {float(run.loss[-1]):.3f}", flush=True)
        for size in sizes:
            batch = (inputs[:size], labels[:size])
            loss = softmax_cross_entropy(model)
            found[state, size] = hessian(loss, run.params, batch, state=run.state, check=False)
    return found


def walk(
    op: LinearOperator, scheme: str, stops: list[int], epsilons: list[float]
) -> tuple[list[dict[str, Any]], LanczosRun]:
    """What one scheme has found, and spent, at each stop."""
    name, deflate = SCHEMES[scheme]

    def begin() -> LanczosRun:
        run = lanczos_run(
            op, jax.random.key(1), reorthogonalize=name, deflate=deflate, capacity=stops[-1]
        )
        jax.block_until_ready(run.state)
        return run

    jax.block_until_ready(begin().advance(1).state)  # compiles
    start = time.perf_counter()
    run, rows = begin(), []
    begun = time.perf_counter() - start
    spent = begun
    size = op.shape[0] * op.dtype.itemsize
    vectors = 3 + sum(block.shape[2] for block in run.state.basis) + deflate
    for stop in stops:
        start = time.perf_counter()
        run = run.advance(stop)
        jax.block_until_ready(run.state)
        spent += time.perf_counter() - start
        spectrum = run.spectrum()
        fractions = [degenerate_fraction(spectrum, e, force=True) for e in epsilons]
        rows.append(
            {
                "scheme": scheme,
                "steps": run.num_steps,
                "seconds": spent,
                "seconds_to_begin": begun,
                "matvecs": spectrum.num_matvecs,
                "bytes_moved": float(run.state.rows_read) * size + 2 * deflate * size * stop,
                "bytes_kept": vectors * size,
                "noise_floor": float(spectrum.noise_floor),
                "lower": [float(f.lower) for f in fractions],
                "estimate": [float(f.estimate) for f in fractions],
                "upper": [float(f.upper) for f in fractions],
            }
        )
    return rows, run


def first_to(width: float, rows: list[dict[str, Any]], which: int) -> dict[str, Any] | None:
    """The first stop at which an interval is that narrow."""
    narrow = (row for row in rows if row["upper"][which] - row["lower"][which] <= width)
    return next(narrow, None)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architectures", nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--states", nargs="+", default=["initial", "trained"])
    parser.add_argument("--examples", nargs="+", type=int, default=[500, 10000])
    parser.add_argument("--steps", nargs="+", type=int, default=[600, 200], help="for each size")
    parser.add_argument("--stop-every", type=int, default=20)
    parser.add_argument("--schemes", nargs="+", choices=SCHEMES, default=list(SCHEMES))
    parser.add_argument(
        "--epsilons",
        nargs="+",
        type=float,
        default=[1e-5, 1e-4, 1e-3, 1e-2],
        help="relative to the operator's norm",
    )
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    record: dict[str, Any] = {"environment": machine(), "epsilons": options.epsilons}
    record["epochs"], record["rows"], record["best"] = options.epochs, [], []
    limits = dict(zip(options.examples, options.steps, strict=True))
    for architecture in options.architectures:
        found = operators(architecture, options.epochs, max(options.examples), options.examples)
        for examples, state in itertools.product(options.examples, options.states):
            op = found[state, examples]
            stops = list(range(options.stop_every, limits[examples] + 1, options.stop_every))
            pairs = extremal_eigenpairs(op, jax.random.key(2), num_by_magnitude=1)
            norm = float(np.abs(pairs.values).max())
            case = {"architecture": architecture, "state": state, "examples": examples}
            case["norm"] = norm
            epsilons = [norm * epsilon for epsilon in options.epsilons]
            table: dict[str, list[dict[str, Any]]] = {}
            for scheme in options.schemes:
                table[scheme], run = walk(op, scheme, stops, epsilons)
                last = table[scheme][-1]
                print(
                    f"{architecture:8s} {state:7s} N = {examples:5d} {scheme:8s} m = "
                    f"{last['steps']:4d} {last['seconds']:7.1f} s  {last['matvecs']:4d} products  "
                    f"{last['bytes_moved'] / 1e9:7.1f} GB moved  {last['bytes_kept'] / 1e6:6.0f} "
                    "MB kept  f in "
                    + "  ".join(
                        f"[{low:.3f}, {high:.3f}]"
                        for low, high in zip(last["lower"], last["upper"], strict=True)
                    ),
                    flush=True,
                )
                del run
            reference = np.asarray(table[options.schemes[0]][-1]["estimate"])
            for rows in table.values():
                for row in rows:
                    row["error"] = np.abs(np.asarray(row["estimate"]) - reference).tolist()
                    record["rows"].append({**case, **row})
            auto = lanczos_run(op, jax.random.key(1), capacity=stops[-1]).reorthogonalize
            for which, epsilon in enumerate(options.epsilons):
                for width in WIDTHS:
                    times = {s: first_to(width, rows, which) for s, rows in table.items()}
                    reached = {s: row["seconds"] for s, row in times.items() if row}
                    if not reached or auto not in table:
                        continue
                    certified = [s for s in reached if s in CERTIFIED]
                    ratios = {
                        name: reached.get(auto, np.inf) / min(reached[s] for s in among)
                        for name, among in (("certified", certified), ("all", list(reached)))
                        if among
                    }
                    record["best"].append(
                        {
                            **case,
                            "epsilon": epsilon,
                            "width": width,
                            "auto": auto,
                            "seconds": reached,
                            "auto_over_best": ratios,
                        }
                    )
                    print(
                        f"    width {width} at epsilon {epsilon}: "
                        + ", ".join(f"{s} {t:.1f} s" for s, t in reached.items())
                        + f"; auto takes {auto}: "
                        + ", ".join(f"{r:.2f} of the best of {n}" for n, r in ratios.items()),
                        flush=True,
                    )
            write(options.out, record)


if __name__ == "__main__":
    main()
