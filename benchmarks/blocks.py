"""Checkpoints side by side in one program, against one after the other.

Checkpoints of plain networks of 20 layers of 32 units on the digits, spectra of 100 steps with
their noise floors, as ``landscape spectrum`` takes them, without reading and writing. On a CPU
blocks bring nothing; an accelerator is left idle by one small network.

    python benchmarks/blocks.py --blocks 1 8 64 --out blocks.json
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from harness import interleaved, machine, spread, write
from jobs import prepare

from landscape.analysis.blocks import stack
from landscape.analysis.matrices import operator
from landscape.analysis.measurement import at_checkpoint, known_problem, lanczos_of
from landscape.analysis.options import Options
from landscape.curvature import noise_floor


def spectra(op: Any, options: Options) -> Any:
    """Nodes of one operator's quadrature, or of those of a family."""
    floor = np.asarray(noise_floor(op, jax.random.key(0)))
    run, until = lanczos_of(op, jax.random.key(1), options)
    return run.advance(until).spectrum(noise_floor=floor).nodes


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    asked = Options(num_steps=options.steps, reorthogonalize="partial")
    record: dict[str, Any] = {"environment": machine(), "steps": options.steps, "rows": []}
    with tempfile.TemporaryDirectory() as name:
        problem = prepare(Path(name), max(options.blocks))
        members = [
            operator(at_checkpoint(known_problem(problem), str(path)), asked)
            for path in sorted(Path(name).glob("*.npz"))
        ]
    families = {size: members[0] if size == 1 else stack(members[:size]) for size in options.blocks}
    ways = {str(size): partial(spectra, op, asked) for size, op in families.items()}
    first = {size: ways[str(size)]() for size in options.blocks}
    alone = interleaved(ways, options.repeats)
    base = np.asarray(alone[str(options.blocks[0])]["seconds"]) / options.blocks[0]
    for size in options.blocks:
        each = np.asarray(alone[str(size)]["seconds"]) / size
        nodes = np.atleast_2d(first[size])
        row = {
            "block": size, "seconds_a_checkpoint": each.tolist(), "gain": spread(base / each),
            "largest": float(np.nanmax(nodes.reshape(size, -1)[0])),
        }  # fmt: skip
        record["rows"].append(row)
        print(
            f"{size:3d} together: {1e3 * np.median(each):8.2f} ms a checkpoint, "
            f"{row['gain']['median']:.1f} times as fast; largest eigenvalue {row['largest']:.6g}",
            flush=True,
        )
    write(options.out, record)


if __name__ == "__main__":
    main()
