"""Where the null directions of trained networks come from, and what it takes to know.

- ``exact``: plain, residual and hyper-residual networks on the digits, some seeds each: counts by
  cause, the gap at the cut of the total, the share with a cause.
- ``large``: 20×128 networks with inputs of CIFAR's size: seconds of the measures, of the structural
  counts and of the certified interval for the total, and the process's peak memory.

    python benchmarks/budgets.py exact --shapes 10x16 --seeds 5 --out budgets.json
    LANDSCAPE_DATA=~/data python benchmarks/budgets.py large

``--inputs random`` needs no data.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import jax
import numpy as np
from harness import kept, machine, write
from peers.protocol import peak_memory

from landscape.curvature import jacobian
from landscape.data import load
from landscape.degeneracy import degeneracy_budget, jacobian_rank, measures
from landscape.degeneracy.budget import CAUSES
from landscape.models import MLP
from landscape.training import TrainConfig, fit
from landscape.training.losses import logits_of

SKIPS = {"plain": "none", "residual": "identity", "hyper-residual": "hyper"}


def exact(options: argparse.Namespace, record: dict[str, Any]) -> list[dict[str, Any]]:
    """Counts by cause of small networks, seed by seed; those that are there already stay."""
    wanted = [
        (name, shape, seed, options.epochs, options.rtol)
        for shape in options.shapes
        for name in SKIPS
        for seed in range(options.seeds)
    ]
    kept = [
        row
        for row in record.get("exact", [])
        if row["epochs"] == options.epochs and row.get("asked_rtol") == options.rtol
    ]
    found = {(row["network"], row["seed"]): row for row in kept}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=context) as pool:
        missing = [case for case in wanted if (f"{case[0]} {case[1]}", case[2]) not in found]
        for future in as_completed([pool.submit(exact_row, *case) for case in missing]):
            row = future.result()
            found[row["network"], row["seed"]] = row
            print(
                f"{row['network']:22s} seed {row['seed']}: {row['total']:,} null, "
                f"{row['explained']:.2%} with a cause, {row['seconds']:.0f} s",
                flush=True,
            )
            record["exact"] = sorted(found.values(), key=_place)
            write(options.out, record)
    return record["exact"]


def _place(row: dict[str, Any]) -> tuple[str, int, int]:
    """Where a row stands in the table."""
    name, shape = row["network"].split()
    return shape, list(SKIPS).index(name), row["seed"]


def exact_row(name: str, shape: str, seed: int, epochs: int, rtol: float | None) -> dict[str, Any]:
    """One network, trained and taken apart."""
    data = load("digits").standardized()
    depth, width = map(int, shape.split("x"))
    model = MLP(depth, width, 10, skip=SKIPS[name])
    run = fit(model, data, TrainConfig(epochs, 100, 5e-4), jax.random.key(seed))
    begun = time.perf_counter()
    budget = degeneracy_budget(
        model, run.params, data.arrays(), state=run.state, method="exact", rtol=rtol
    )
    return {
        "network": f"{name} {shape}",
        "seed": seed,
        "epochs": epochs,
        "parameters": budget.num_parameters,
        "loss": float(run.loss[-1]),
        "total": budget.total,
        "counts": budget.counts,
        "explained": budget.explained,
        "above": float(budget.rank.above),
        "below": float(budget.rank.below),
        "rtol": budget.rank.rtol,
        "asked_rtol": rtol,
        "status": str(budget.rank.status),
        "left_out": budget.left_out,
        "close": budget.close,
        "nearly_null": budget.nearly_null,
        "seconds": time.perf_counter() - begun,
        "revision": machine()["revision"],
    }


def large(options: argparse.Namespace, _: dict[str, Any]) -> list[dict[str, Any]]:
    """Structural budgets at P = 0.71 M, each in a process of its own, whose memory is told."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        arguments = (options.inputs, options.examples, options.epochs)
        return [pool.submit(large_row, name, *arguments).result() for name in options.networks]


def large_row(name: str, inputs: str, count: int, epochs: int) -> dict[str, Any]:
    """One network, taken apart by its structure."""
    if inputs == "random":
        x = np.asarray(jax.random.normal(jax.random.key(0), (count, 32, 32, 3)))
        batch, data = (x, np.arange(count) % 20), None
    else:
        data = load("cifar100").standardized()
        images, labels = data.arrays()
        batch = (np.asarray(images)[:count], np.asarray(labels)[:count])
    model = MLP(20, 128, 20, skip=SKIPS[name])
    if data is None or not epochs:
        variables = dict(jax.jit(model.init)(jax.random.key(0), batch[0][:1]))
        params, state = variables.pop("params"), variables
    else:
        run = fit(model, data, TrainConfig(epochs, 500, 5e-4), jax.random.key(0))
        params, state = run.params, run.state
    begun = [time.perf_counter()]
    jax.block_until_ready(measures(model, params, batch[0], state=state))
    begun.append(time.perf_counter())
    budget = degeneracy_budget(model, params, batch, state=state, method="structural")
    begun.append(time.perf_counter())
    peak = peak_memory()
    # Of the budget's seconds those of its interval, which is taken once more.
    op = jacobian(logits_of(model), params, batch[0], state=state)
    options_of_rank = {"rtol": budget.rank.rtol, "key": jax.random.key(0), "num_probes": 2}
    jacobian_rank(op, centered=True, method="lanczos", **options_of_rank)
    begun.append(time.perf_counter())
    told, whole, interval = np.diff(begun)
    print(budget, flush=True)
    return {
        "network": name,
        "parameters": budget.num_parameters,
        "examples": count,
        "epochs": epochs,
        "measures_seconds": float(told),
        "structure_seconds": float(whole - interval),
        "interval_seconds": float(interval),
        "total": budget.total,
        "upper": budget.upper,
        "explained": budget.explained,
        "counts": budget.counts,
        "rtol": budget.rank.rtol,
        "status": str(budget.rank.status),
        "peak_bytes": peak,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", choices=["exact", "large", []], help="default both")
    parser.add_argument("--shapes", nargs="+", default=["10x16", "20x16"], help="DEPTHxWIDTH")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--networks", nargs="+", default=list(SKIPS), choices=SKIPS)
    parser.add_argument("--inputs", choices=["cifar100", "random"], default="cifar100")
    parser.add_argument("--examples", type=int, default=2000, help="of the large networks")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--rtol", type=float, help="cut of the exact counts, default rounding")
    parser.add_argument("--workers", type=int, default=1, help="networks at a time, of the small")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    # What is not counted now stays as it is.
    record = kept(options.out)
    record |= {
        "causes": CAUSES,
        "examples": len(load("digits").arrays()[0]),
    }
    for name, function in (("exact", exact), ("large", large)):
        if not options.tables or name in options.tables:
            record[name] = function(options, record)
            write(options.out, record)


if __name__ == "__main__":
    main()
