"""Training many small networks: one after the other, or side by side in ``vmap``.

Prints seconds per network and epoch for networks of several widths on the digits, the ratio of each
way to the plain loop, and the machine. Threads are left out on purpose: two that drive XLA's CPU
client at once can wait for each other for ever. Run as ``python benchmarks/families.py``.
"""

from __future__ import annotations

import argparse
import os
import platform
import time

import jax

from landscape.data import load
from landscape.models import MLP
from landscape.training import TrainConfig, fit_many


def seconds(function, repeats: int) -> float:
    """Median seconds of a call, after one that compiles."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 128])
    options = parser.parse_args()
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {os.cpu_count()} cores, "
          f"{platform.machine()}")  # fmt: skip
    data = load("digits").standardized()
    config = TrainConfig(epochs=options.epochs, batch_size=18)
    keys = jax.random.split(jax.random.key(0), options.networks)
    networks = options.networks
    for width in options.widths:
        model = MLP(20, width, 10, skip="identity")

        def train(keys, block, model=model):
            fit_many(model, data, config, keys, block_size=block)

        ways = {
            "loop": lambda: train(keys, 1),
            "vmap": lambda: train(keys, options.networks),
        }
        times = {name: seconds(way, options.repeats) for name, way in ways.items()}
        cells = "  ".join(
            f"{name} {1e3 * t / networks / options.epochs:7.2f} ms ({times['loop'] / t:.2f}×)"
            for name, t in times.items()
        )
        print(f"20×{width:<4d} per network and epoch: {cells}", flush=True)


if __name__ == "__main__":
    main()
