"""Products of a block of Lanczos vectors with one vector: in tiles, and as whole rows.

The rows are Lanczos vectors of a 20×128 network at its initialisation (P = 709,652). For each
number of rows: milliseconds of the overlaps and of the update, and the largest error of an overlap,
against float64, in units of rounding.

    python benchmarks/tiling.py --out tiling.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from kernels import EXAMPLES, operator

from landscape.runs import environment
from landscape.spectra import lanczos_run
from landscape.spectra.tiles import block_of, combination, overlaps, tiled


def milliseconds(function: Callable[..., Any], *arguments: Any, repeats: int = 20) -> float:
    """Median of some calls, after one that compiles."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))


@jax.jit
def whole_overlaps(rows: Any, vector: Any) -> Any:
    """Whole rows at once."""
    return jnp.matmul(rows, vector, precision="highest")


@jax.jit
def whole_update(coefficients: Any, rows: Any) -> Any:
    """Whole rows at once."""
    return jnp.matmul(coefficients, rows, precision="highest")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", type=int, default=[16, 32, 64])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    count = max(options.rows)
    run = lanczos_run(operator(EXAMPLES), jax.random.key(0), capacity=count).advance(count)
    basis, vector = run.state.rows()[0], run.state.current[0]
    table = []
    for number in options.rows:
        rows = basis[:number]
        exact = np.asarray(rows, float) @ np.asarray(vector, float)
        block, tiles = block_of(rows[None]), tiled(vector[None])
        ways = {
            "whole": (
                whole_overlaps(rows, vector),
                milliseconds(whole_overlaps, rows, vector),
                milliseconds(whole_update, jnp.ones(number), rows),
            ),
            "tiles": (
                jax.jit(overlaps)(block, tiles)[0],
                milliseconds(jax.jit(overlaps), block, tiles),
                milliseconds(jax.jit(combination), jnp.ones((1, number)), block),
            ),
        }
        for way, (found, first, second) in ways.items():
            error = float(np.abs(np.asarray(found, float) - exact).max() * 2**24)
            row = {"rows": number, "way": way, "overlaps_ms": first, "update_ms": second}
            table.append({**row, "error_in_units": error})
            print(
                f"{number:3d} rows {way:6s} overlaps {first:5.2f} ms, update {second:5.2f} ms, "
                f"error {error:6.1f} units",
                flush=True,
            )
    if options.out:
        record = {"environment": environment(), "rows": table}
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
