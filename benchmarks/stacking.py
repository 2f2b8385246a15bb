"""What stacking the hidden layers brings: compile and run time against depth and unrolling.

For each depth, the gradient and a linearised Hessian-vector product of a residual MLP are compiled
and timed with the hidden layers walked one at a time (``unroll=1``), four at a time, and fully
unrolled (what a Python loop over separate layers compiles to). Prints one row per case; run as
``python benchmarks/stacking.py``.
"""

from __future__ import annotations

import argparse
import time

import jax
import jax.numpy as jnp
import optax

from landscape.models import MLP


def _seconds(function, *args, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function(*args))
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def measure(depth: int, width: int, unroll: int, batch: int, repeats: int) -> dict[str, float]:
    """Compile and median run seconds of the gradient and of ten Hessian-vector products."""
    model = MLP(depth, width, 20, skip="identity", unroll=unroll)
    inputs = jax.random.normal(jax.random.key(0), (batch, 192))
    labels = jnp.arange(batch) % 20
    params = model.init(jax.random.key(1), inputs[:1])["params"]

    def loss(params, inputs, labels):
        logits = model.apply({"params": params}, inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def products(params, inputs, labels):
        _, hvp = jax.linearize(lambda p: jax.grad(loss)(p, inputs, labels), params)
        return jax.lax.fori_loop(0, 10, lambda _, v: hvp(v), params)

    row = {}
    for name, function in (("gradient", jax.grad(loss)), ("hvp×10", products)):
        start = time.perf_counter()
        compiled = jax.jit(function).lower(params, inputs, labels).compile()
        row[f"{name} compile s"] = time.perf_counter() - start
        row[f"{name} run ms"] = 1e3 * _seconds(compiled, params, inputs, labels, repeats=repeats)
    return row


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--depths", type=int, nargs="+", default=[10, 30, 100])
    options = parser.parse_args()
    for depth in options.depths:
        for unroll in (1, 4, depth):
            row = measure(depth, options.width, unroll, options.batch, options.repeats)
            cells = "  ".join(f"{name} {value:8.3f}" for name, value in row.items())
            print(f"depth {depth:3d}  unroll {unroll:3d}  {cells}", flush=True)


if __name__ == "__main__":
    main()
