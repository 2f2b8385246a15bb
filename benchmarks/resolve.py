"""How long a certified answer takes: the degenerate fraction at ε = 10⁻³ of trained networks.

- ``small``: 20×25 networks trained on the digits (P = 14,235).
  Lanczos steps until the certified interval is 0.04 wide, in float32 and in float64, beside a dense
  eigendecomposition of the same matrix (every product, then LAPACK in float64).
- ``large``: 20×128 networks trained on CIFAR-100's coarse classes (P = 709,652; the data must be
  there, ``LANDSCAPE_DATA``): the narrowest interval within a time.

    python benchmarks/resolve.py small --out resolve.json
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from harness import machine, write

from landscape.curvature import LinearOperator, hessian
from landscape.data import load
from landscape.errors import InputError
from landscape.models import MLP
from landscape.spectra import (
    Fraction,
    degenerate_fraction,
    dense_spectrum,
    lanczos_run,
    resolve_fraction,
)
from landscape.spectra.schemes import auto_scheme
from landscape.training import TrainConfig, fit, softmax_cross_entropy

EPS = 1e-3
ARCHITECTURES = {"plain": "none", "residual": "identity"}


def trained(dataset: str, width: int, skip: str, epochs: int, examples: int) -> Any:
    """The Hessian of a trained network, and the loss it has reached."""
    options = {"labels": "coarse"} if dataset == "cifar100" else {}
    data = load(dataset, **options)
    if examples < data.num_examples and dataset != "digits":
        data = data.subset(10_000, seed=0)
    data = data.standardized()
    model = MLP(20, width, data.num_classes, skip=skip)
    run = fit(model, data, TrainConfig(epochs, 100 if width < 64 else 500, 5e-4), jax.random.key(0))
    inputs, labels = data.arrays()
    batch = (inputs[:examples], labels[:examples])
    loss = softmax_cross_entropy(model)
    op = hessian(loss, run.params, batch, state=run.state, check=False)
    return op, float(run.loss[-1])


def ends(fraction: Fraction) -> dict[str, Any]:
    """What a fraction says, as numbers."""
    low, high = fraction.confidence_interval()
    return {
        "estimate": float(fraction.estimate),
        "lower": float(fraction.lower),
        "upper": float(fraction.upper),
        "confidence": [float(low), float(high)],
        "noise_floor": float(fraction.noise_floor),
        "rounding": float(fraction.rounding),
    }


def small(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A wanted width, beside dense."""
    rows = []
    for name, skip in ARCHITECTURES.items():
        op, loss = trained("digits", 25, skip, options.epochs, 1797)
        case = {"architecture": name, "parameters": op.shape[0], "loss": loss, "eps": EPS}
        for dtype in ("float32", "float64"):
            with jax.enable_x64(dtype == "float64"):
                try:
                    found = _certified(op.astype(np.dtype(dtype)), case, dtype, options)
                except InputError as error:
                    # The norm of a trained network can be so large that ε is rounding in float32.
                    found = [{**case, "route": f"certified, {dtype}", "refused": str(error)}]
                    print(f"{name}: {error}", flush=True)
            rows += found
        # In the coarsest type that answers, as the fastest certified answer.
        refused = any("refused" in row for row in rows if row["architecture"] == name)
        dtype = "float64" if refused else "float32"
        if options.dense:
            with jax.enable_x64(refused):
                start = time.perf_counter()
                spectrum = dense_spectrum(op, dtype=np.dtype(dtype))
                row = {**case, "route": f"dense, {dtype} products", "status": "exact"}
                row |= {"seconds": time.perf_counter() - start, "steps": op.shape[0]}
            rows.append({**row, **ends(degenerate_fraction(spectrum, EPS))})
            _say(rows[-1])
    return rows


def _certified(
    op: LinearOperator, case: dict[str, Any], dtype: str, options: argparse.Namespace
) -> list[dict[str, Any]]:
    rows = []
    for attempt in ("with compilation", "again"):
        start = time.perf_counter()
        found = resolve_fraction(
            op, jax.random.key(1), eps=EPS, width=0.04, max_steps=options.max_steps
        )
        rows.append(
            {
                **case,
                "route": f"certified, {dtype}, {attempt}",
                "seconds": time.perf_counter() - start,
                "status": str(found.status),
                "steps": found.spectrum.alphas.shape[-1],
                **ends(found.fraction),
            }
        )
        _say(rows[-1])
    return rows


def large(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The narrowest interval within a time."""
    rows = []
    # The residual network's largest eigenvalue is so large that ε is rounding in float32.
    for name, dtype in (("plain", "float32"), ("residual", "float64")):
        op, loss = trained("cifar100", 128, ARCHITECTURES[name], options.epochs, 500)
        with jax.enable_x64(dtype == "float64"):
            op = op.astype(np.dtype(dtype))
            limit = options.capacity or _most_steps(op)
            start, steps = time.perf_counter(), 50
            run = lanczos_run(op, jax.random.key(1), capacity=limit)
            while run.num_steps < limit:
                run = run.advance(min(steps, limit))
                found = ends(degenerate_fraction(run.spectrum(), EPS))
                if time.perf_counter() - start > options.seconds:
                    rows[-1]["status"] = "time"
                    break
                row = {
                    "architecture": name,
                    "parameters": op.shape[0],
                    "loss": loss,
                    "eps": EPS,
                    "route": f"certified, {dtype}",
                    "seconds": time.perf_counter() - start,
                    "status": "memory" if run.num_steps == limit else "",
                    "steps": run.num_steps,
                    **found,
                }
                rows.append(row)
                _say(row)
                # Between looks, a fifth of the time at most is lost when it ends.
                steps = int(np.ceil(1.25 * steps))
    return rows


def _most_steps(op: LinearOperator) -> int:
    """As many as half of the memory holds the vectors of."""
    steps = 10_000
    while auto_scheme(op.shape[0], op.dtype.itemsize, 1, steps) == "none":
        steps -= 100
    return steps


def _say(row: dict[str, Any]) -> None:
    print(
        f"{row['architecture']:9s} P = {row['parameters']:7d}  {row['route']:36s} "
        f"{row['seconds']:7.1f} s  {row['steps']:6d} steps  [{row['lower']:.4f}, "
        f"{row['upper']:.4f}]  {row['status']}",
        flush=True,
    )


TABLES = {"small": small, "large": large}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], help="default all")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--max-steps", type=int, default=4000)
    parser.add_argument(
        "--capacity", type=int, help="steps for the large one; default what memory holds"
    )
    parser.add_argument("--seconds", type=float, default=300, help="for the large one")
    parser.add_argument("--dense", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    record: dict[str, Any] = {"environment": machine(), "epochs": options.epochs}
    for name in options.tables or TABLES:
        record[name] = TABLES[name](options)
        write(options.out, record)


if __name__ == "__main__":
    main()
