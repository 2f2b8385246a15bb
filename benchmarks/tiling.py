"""Products of a block of Lanczos vectors with one vector: in tiles, and as whole rows.

The rows are Lanczos vectors of a 20×128 network at its initialisation (P = 709,652). For each
number of rows: milliseconds of the inner products and of the update, for one vector and for two,
and the largest error of an inner product, against float64, in units of rounding.

    python benchmarks/tiling.py --out tiling.json
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from harness import machine, write
from kernels import EXAMPLES, operator

from landscape.spectra import lanczos_run
from landscape.spectra.tiles import block_of, combination, inner_products, tiled

# Columns of the table.
TIMES = ("products_ms", "update_ms", "products_with_two_ms", "update_of_two_ms")


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


@jax.jit
def products_with_two(block: Any, two: Any) -> Any:
    """Both vectors as the columns of one matrix."""
    return jnp.einsum("ltrp,itp->litr", block, two, precision="highest").sum(2)


@jax.jit
def combinations_of_two(coefficients: Any, block: Any) -> Any:
    """Both rows of coefficients in one product."""
    spread = jnp.broadcast_to(coefficients, (*block.shape[:2], *coefficients.shape))
    return jnp.einsum("ltir,ltrp->ltip", spread, block, precision="highest")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", type=int, default=[16, 32, 64])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    count = max(options.rows)
    run = lanczos_run(operator(EXAMPLES), jax.random.key(0), capacity=count).advance(count)
    basis, vector = run.state.rows()[0], run.state.current[0]
    two = jnp.stack([vector, run.state.previous[0]])
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
                milliseconds(whole_overlaps, rows, two.T),
                milliseconds(whole_update, jnp.ones((2, number)), rows),
            ),
            "tiles": (
                jax.jit(inner_products)(block, tiles)[0],
                milliseconds(jax.jit(inner_products), block, tiles),
                milliseconds(jax.jit(combination), jnp.ones((1, number)), block),
                milliseconds(products_with_two, block, tiled(two)),
                milliseconds(combinations_of_two, jnp.ones((2, number)), block),
            ),
        }
        for way, (found, *times) in ways.items():
            error = float(np.abs(np.asarray(found, float) - exact).max() * 2**24)
            row = {"rows": number, "way": way, **dict(zip(TIMES, times, strict=True))}
            table.append({**row, "error_in_units": error})
            told = ", ".join(f"{name} {row[name]:5.2f}" for name in TIMES)
            print(f"{number:3d} rows {way:6s} {told}, error {error:6.1f} units", flush=True)
    if options.out:
        record = {"environment": machine(), "rows": table}
        write(options.out, record)


if __name__ == "__main__":
    main()
