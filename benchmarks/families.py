"""Training many small networks: one after the other, side by side in ``vmap``, or on threads.

Prints seconds per network and epoch for networks of several widths on the digits, the ratio of each
way to the plain loop, and the machine. Run as ``python benchmarks/families.py``.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor

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
    cores, networks = os.cpu_count() or 1, options.networks
    for width in options.widths:
        model = MLP(20, width, 10, skip="identity")

        def train(keys, block, model=model):
            fit_many(model, data, config, keys, block_size=block)

        def threads(model=model):
            with ThreadPoolExecutor(cores) as pool:
                list(
                    pool.map(
                        lambda part: train(part, 1, model), [keys[i::cores] for i in range(cores)]
                    )
                )

        ways = {
            "loop": lambda: train(keys, 1),
            "vmap": lambda: train(keys, options.networks),
            "threads": threads,
        }
        times = {name: seconds(way, options.repeats) for name, way in ways.items()}
        cells = "  ".join(
            f"{name} {1e3 * t / networks / options.epochs:7.2f} ms ({times['loop'] / t:.2f}×)"
            for name, t in times.items()
        )
        print(f"20×{width:<4d} per network and epoch: {cells}", flush=True)


if __name__ == "__main__":
    main()
