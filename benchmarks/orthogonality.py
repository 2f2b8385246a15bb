"""What orthogonality costs: Lanczos with full, partial and no reorthogonalisation on one network.

For each scheme and number of steps: seconds (median of repeats, compilation apart), rows of the
basis read, largest loss of orthogonality, and the certified interval of the degenerate fraction.

    python benchmarks/orthogonality.py --steps 200 600 --out orthogonality.json
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from harness import machine, write

from landscape.curvature import hessian, noise_floor
from landscape.curvature.operators import LinearOperator
from landscape.data import load
from landscape.models import MLP
from landscape.spectra import degenerate_fraction, lanczos_run
from landscape.training import TrainConfig, fit, softmax_cross_entropy

SCHEMES = ("full", "partial", "none")


def trained_operator(architecture: str, epochs: int) -> LinearOperator:
    """The Hessian of a 20×16 network trained on the digits; P = 6,378."""
    digits = load("digits").standardized()
    model = MLP(20, 16, 10, skip=architecture)
    run = fit(model, digits, TrainConfig(epochs, 18, 5e-4), jax.random.key(0))
    return hessian(softmax_cross_entropy(model), run.params, digits.arrays(), state=run.state)


def measure(
    op: LinearOperator, scheme: str, steps: int, floor: float, repeats: int
) -> dict[str, Any]:
    """One row of the table."""

    def whole() -> tuple[Any, float]:
        start = time.perf_counter()
        run = lanczos_run(op, jax.random.key(1), reorthogonalize=scheme, capacity=steps)
        run = run.advance(steps)
        jax.block_until_ready(run.state)
        return run, time.perf_counter() - start

    _, first = whole()
    runs = [whole() for _ in range(repeats)]
    run, seconds = runs[-1][0], [second for _, second in runs]
    fraction = degenerate_fraction(run.spectrum(floor), 1e-3)
    loss = float("nan")
    if scheme != "none":
        rows = np.asarray(run.state.rows()[0, : int(run.state.num_steps[0])], np.float64)
        loss = float(np.abs(rows @ rows.T - np.eye(len(rows))).max())
    return {
        "scheme": scheme,
        "steps": steps,
        "seconds": float(np.median(seconds)),
        "first_call_seconds": first,
        "rows_read": float(run.state.rows_read),
        "orthogonality_loss": loss,
        "estimate": float(fraction.estimate),
        "lower": float(fraction.lower),
        "upper": float(fraction.upper),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architectures", nargs="+", default=["none", "identity"])
    parser.add_argument("--steps", nargs="+", type=int, default=[200, 600])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    table = []
    for architecture in options.architectures:
        op = trained_operator(architecture, options.epochs)
        floor = noise_floor(op, jax.random.key(2))
        for steps in options.steps:
            for scheme in SCHEMES:
                row = measure(op, scheme, steps, floor, options.repeats)
                table.append({"architecture": architecture, "noise_floor": floor, **row})
                print(
                    f"{architecture:9s} m={steps:5d} {scheme:8s} {row['seconds']:7.2f} s  "
                    f"rows read {row['rows_read']:9.0f}  loss "
                    f"{row['orthogonality_loss']:.0e}  f(1e-3) = "
                    f"{row['estimate']:.4f} in [{row['lower']:.4f}, {row['upper']:.4f}]",
                    flush=True,
                )
    if options.out:
        record = {"environment": machine(), "rows": table}
        write(options.out, record)


if __name__ == "__main__":
    main()
