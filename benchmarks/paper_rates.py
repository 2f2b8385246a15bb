"""Rates of an accelerator at the paper's scale: figure 4's hundred networks together, one step.

Plain networks of 30 layers of 128 units, images of CIFAR-100's number and shape (random: they cost
the same): an epoch of all networks side by side, their evaluation, and a Lanczos step over all
images and over a fifth, linearised at once and by chunks. Training is in float32, as on a CPU: JAX
would take TF32 otherwise. ``paper_scale.py`` tells what the experiments take at such rates.

    python benchmarks/paper_rates.py --out paper_rates.json
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from harness import machine, seconds, write

from landscape.curvature import hessian
from landscape.models import MLP
from landscape.spectra import lanczos_run
from landscape.training import softmax_cross_entropy
from landscape.training.epoch import adam, compile_program

CLASSES, BATCHES = 20, 100


def matrix_rates(size: int, repeats: int) -> dict[str, float]:
    """Operations a second of a product of float32 matrices, exactly and as JAX does by default."""
    a, found = jax.random.normal(jax.random.key(0), (size, size)), {}
    for name, precision in (("float32", "highest"), ("default", None)):
        product = jax.jit(partial(jnp.matmul, precision=precision))
        _, times = seconds(partial(product, a, a), repeats)
        found[name] = 2.0 * size**3 / float(np.median(times))
    return found


def step(model: MLP, data: Any, chunk: int | None, steps: int) -> dict[str, Any]:
    """Seconds of a Lanczos step, its product with it."""
    params = jax.jit(model.init)(jax.random.key(1), data[0][:1])["params"]
    op = hessian(
        softmax_cross_entropy(model), params, data, state={}, chunk_size=chunk, check=False
    )
    run = lanczos_run(op, jax.random.key(0), capacity=steps + 2).advance(2)
    jax.block_until_ready(run.state)
    begun = time.perf_counter()
    jax.block_until_ready(run.advance(2 + steps).state)
    taken = (time.perf_counter() - begun) / steps
    return {"images": len(data[1]), "chunk_size": chunk, "step_seconds": taken}


def training(model: MLP, data: Any, networks: int, repeats: int) -> dict[str, float]:
    """Seconds of an epoch of all networks, and of the evaluation after it."""
    with jax.default_matmul_precision("highest"):
        program = compile_program(model, adam(5e-4), len(data[1]) // BATCHES, True)
        keys = jax.random.key_data(jax.random.split(jax.random.key(3), networks))
        train = program.init(keys, data[0][:1])

        def epoch() -> Any:
            nonlocal train
            train = program.run(train, *data, jnp.uint32(1))
            return train

        first, times = seconds(epoch, repeats)
        _, looks = seconds(lambda: program.evaluate(train.params, train.state, *data), repeats)
    return {
        "networks": networks, "first_epoch_seconds": first,
        "epoch_seconds": float(np.median(times)), "evaluation_seconds": float(np.median(looks)),
    }  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=30)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--networks", type=int, default=100)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    model, count = MLP(options.depth, options.width, CLASSES), options.images
    data = (
        jax.random.normal(jax.random.key(0), (count, 32, 32, 3)),
        jnp.arange(count) % CLASSES,
    )
    record: dict[str, Any] = {
        "environment": machine(), "depth": options.depth, "width": options.width,
        "matrix_rates": matrix_rates(8192 if options.width > 64 else 512, options.repeats),
        "steps": [],
    }  # fmt: skip
    print({name: f"{rate / 1e12:.3g} TFLOP/s" for name, rate in record["matrix_rates"].items()})
    for images, chunk in ((count, None), (count, count // 10), (count // 5, None)):
        part = tuple(leaf[:images] for leaf in data)
        record["steps"].append(step(model, part, chunk, options.steps))
        print(record["steps"][-1], flush=True)
        write(options.out, record)
    record["training"] = training(model, data, options.networks, options.repeats)
    print(record["training"])
    write(options.out, record)


if __name__ == "__main__":
    main()
