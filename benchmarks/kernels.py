"""How fast the kernels are against what the machine can do, on a residual 20×128 network.

The network has CIFAR-size inputs (3,072) and CIFAR-100's 20 coarse classes, P = 709,652, at its
initialisation; the inputs are random, which costs the same. Four tables, each by name or all:

- ``matvec``: Hessian products with one and with several vectors, as a share of the matrix-product
  rate at the network's own shapes in the same run. Necessary operations of one product with the
  primal pass stored, N examples: six products of N·n² multiplications and additions for a
  hidden layer (two each for the tangents of activities, of errors, and of weights), two of N·D·n
  for the first layer (its inputs have no tangent and no error), six of N·n·C for the last.
- ``density``: Lanczos steps of each scheme in units of one product, and the largest distance of
  the distribution functions of partial and full reorthogonalisation.
- ``scaling``: seconds a step against P and against N.
- ``first``: seconds from a cold Python process to a first spectrum, without and with a persistent
  compilation cache.

    python benchmarks/kernels.py matvec density --out kernels.json
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from harness import interleaved, machine, seconds, write
from quadratures import distance

from landscape.curvature import HessianOperator, LinearOperator, hessian
from landscape.models import MLP
from landscape.spectra import lanczos_run
from landscape.training import softmax_cross_entropy

DEPTH, WIDTH, INPUTS, CLASSES, EXAMPLES = 20, 128, 3072, 20, 500

# A user's first lines, in a process of its own.
FIRST = f"""
import time
start = time.perf_counter()
import jax
import jax.numpy as jnp
from landscape.curvature import hessian
from landscape.models import MLP
from landscape.spectra import degenerate_fraction, slq
from landscape.training import softmax_cross_entropy
model = MLP({DEPTH}, {WIDTH}, {CLASSES}, skip="identity")
inputs = jax.random.normal(jax.random.key(0), ({EXAMPLES}, {INPUTS}))
params = jax.jit(model.init)(jax.random.key(1), inputs[:1])["params"]
batch = (inputs, jnp.arange({EXAMPLES}) % {CLASSES})
op = hessian(softmax_cross_entropy(model), params, batch, state={{}})
spectrum = slq(op, jax.random.key(0), num_steps=100)
print(degenerate_fraction(spectrum, 1.0))
print(time.perf_counter() - start)
"""


def operator(examples: int, width: int = WIDTH, inputs: int = INPUTS) -> HessianOperator:
    """The Hessian of the network's loss on random inputs."""
    model = MLP(DEPTH, width, CLASSES, skip="identity")
    x = jax.random.normal(jax.random.key(0), (examples, inputs))
    variables = jax.jit(model.init)(jax.random.key(1), x[:1])
    batch = (x, jnp.arange(examples) % CLASSES)
    return hessian(softmax_cross_entropy(model), variables["params"], batch, state={}, check=False)


def necessary_operations(examples: int) -> float:
    """Multiplications and additions of one Hessian product, as the module's docstring counts."""
    hidden = 6 * (DEPTH - 1) * WIDTH**2
    return 2.0 * examples * (hidden + 2 * INPUTS * WIDTH + 6 * WIDTH * CLASSES)


def products_alone(examples: int, vectors: int) -> tuple[Callable[[], Any], float]:
    """The network's own matrix products and nothing else, and their operations.

    For each layer, once each: activities times weights, errors times weights transposed, and
    activities transposed times errors; operands of all vectors in one product where they share
    the other operand.
    """
    rows = examples * vectors
    shapes = []
    for fan_in, fan_out in ((INPUTS, WIDTH), (WIDTH, WIDTH), (WIDTH, CLASSES)):
        shapes += [(rows, fan_in, fan_out), (rows, fan_out, fan_in), (fan_in, rows, fan_out)]
    counts = [1, 0, 1] + 3 * [2 * (DEPTH - 1)] + 3 * [2]
    operands = [
        (jax.random.normal(jax.random.key(i), s[:2]), jax.random.normal(jax.random.key(i), s[1:]))
        for i, s in enumerate(shapes)
    ]

    @jax.jit
    def all_products(operands: list[Any]) -> Any:
        total = jnp.zeros(())
        for count, (a, b) in zip(counts, operands, strict=True):

            def again(_: Any, carry: tuple[Any, Any], b: Any = b) -> tuple[Any, Any]:
                a, total = carry
                c = jnp.matmul(a, b, precision="highest")
                # The next product waits for this one, and no more.
                return a.at[0, 0].set(c[0, 0]), total + c[0, 0]

            _, total = jax.lax.fori_loop(0, count, again, (a, total))
        return total

    flops = sum(
        2.0 * n * a.shape[0] * a.shape[1] * b.shape[1]
        for n, (a, b) in zip(counts, operands, strict=True)
    )
    return lambda: all_products(operands), flops


def matvec(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Products as a share of the matrix-product rate."""
    rows, steps = [], 20
    # The primal pass is no part of what is counted.
    op = operator(EXAMPLES).linearized()
    for vectors in options.vectors:
        v = jax.random.normal(jax.random.key(2), (vectors, op.shape[0]))

        alone, flops = products_alone(EXAMPLES, vectors)
        pair = {"alone": alone, "products": partial(_products, op, v, steps)}
        times = interleaved(pair, options.repeats)
        apart, reference = (np.asarray(times[k]["seconds"]) for k in ("products", "alone"))
        needed = necessary_operations(EXAMPLES) * vectors
        rate, best = needed * steps / np.median(apart), flops / np.median(reference)
        rows.append(
            {
                "label": f"{vectors} vector{'s' if vectors > 1 else ''}",
                "vectors": vectors,
                "milliseconds": 1e3 * float(np.median(apart)) / steps,
                "operations": needed,
                "gflops": rate / 1e9,
                "matrix_product_gflops": best / 1e9,
                "share": float(np.median(reference / apart) * needed * steps / flops),
                "seconds": apart.tolist(),
                "ratios": (apart / reference).tolist(),
            }
        )
        print(
            f"matvec   k={vectors:2d}  {rows[-1]['milliseconds']:8.1f} ms  {rate / 1e9:6.1f} of "
            f"{best / 1e9:6.1f} GF/s: {rows[-1]['share']:.0%}",
            flush=True,
        )
    return rows


@partial(jax.jit, static_argnums=2)
def _products(op: LinearOperator, rows: Any, count: int) -> Any:
    """So many products one after the other, scaled so that nothing overflows."""
    product = op._lanes()
    return jax.lax.fori_loop(0, count, lambda _, rows: product(rows) / 100, rows)


def density(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Lanczos steps in units of a product."""
    op, steps = operator(EXAMPLES), options.steps
    spectra: dict[str, Any] = {}
    times: dict[str, list[float]] = {}

    v = jax.random.normal(jax.random.key(2), (1, op.shape[0]))
    for repeat in range(options.repeats + 1):
        for scheme in ("product", "none", "partial", "full"):
            run = None
            if scheme != "product":
                run = lanczos_run(op, jax.random.key(3), reorthogonalize=scheme, capacity=steps)
                jax.block_until_ready(run.state)
            start = time.perf_counter()
            if run is None:
                jax.block_until_ready(_products(op, v, steps))
            else:
                run = run.advance(steps)
                jax.block_until_ready(run.state)
                spectra[scheme] = run.spectrum()
            if repeat:
                times.setdefault(scheme, []).append(time.perf_counter() - start)
    rows = []
    for scheme, taken in times.items():
        ratio = float(np.median(np.array(taken) / np.array(times["product"])))
        far = None if scheme == "product" else _distance(spectra[scheme], spectra["full"])
        rows.append(
            {
                "label": scheme,
                "scheme": scheme,
                "milliseconds_a_step": 1e3 * float(np.median(taken)) / steps,
                "products_a_step": ratio,
                "distance_to_full": far,
                "seconds": taken,
                "ratios": (np.array(taken) / np.array(times["product"])).tolist(),
            }
        )
        print(
            f"density  {scheme:8s} {rows[-1]['milliseconds_a_step']:7.1f} ms a step, {ratio:.2f} "
            f"products a step, distribution function within {far} of full's",
            flush=True,
        )
    return rows


def _distance(spectrum: Any, other: Any) -> float:
    """Largest distance of two distribution functions, points allowed to move by 10⁻⁵‖A‖."""
    truth = np.stack([other.nodes, other.weights])
    return distance((spectrum.nodes, spectrum.weights), truth, slack=1e-5 * float(other.norm))


def scaling(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds a step over two decades of P (width 128, more inputs) and of N."""
    rows = []
    cases = [("N", n, INPUTS) for n in (100, 300, 1000, 3000, 10000)]
    cases += [("P", EXAMPLES, inputs) for inputs in (12, 120, 1200, 12000, 50000)]
    for varies, examples, inputs in cases:
        op = operator(examples, inputs=inputs)
        steps = 10
        _, times = seconds(partial(_walk, op, steps), options.repeats)
        taken = float(np.median(times)) / steps
        rows.append({"varies": varies, "examples": examples, "parameters": op.shape[0]})
        rows[-1] |= {"milliseconds_a_step": 1e3 * taken, "seconds": times}
        print(
            f"scaling  {varies}  N = {examples:6d}  P = {op.shape[0]:8d}  {1e3 * taken:8.1f} ms a "
            "step",
            flush=True,
        )
    return rows


def _walk(op: HessianOperator, steps: int) -> Any:
    run = lanczos_run(op, jax.random.key(0), reorthogonalize="none", capacity=steps)
    return run.advance(steps).state.alphas


def first(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds from a cold process to a first spectrum: no cache, a new cache, a filled cache.

    In rounds of one process each, one after the other.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as folder:
            cached = {
                "JAX_COMPILATION_CACHE_DIR": folder,
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            }
            for name, extra in (("no cache", {}), ("new cache", cached), ("filled cache", cached)):
                found.setdefault(name, []).append(_first_process(extra))
    rows = []
    for name, times in found.items():
        whole, inside = np.transpose(times)
        rows.append(
            {
                "cache": name,
                "seconds": float(np.median(whole)),
                "fastest": float(whole.min()),
                "slowest": float(whole.max()),
                "seconds_in_process": float(np.median(inside)),
            }
        )
        print(
            f"first    {name:12s} {np.median(whole):5.1f} s ({whole.min():.1f} to "
            f"{whole.max():.1f}; 100 steps, 1 probe)",
            flush=True,
        )
    return rows


def _first_process(extra: dict[str, str]) -> tuple[float, float]:
    """Seconds of a process, and those that it tells itself."""
    start = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-c", FIRST],
        env={**os.environ, **extra, "PYTHONPATH": _paths()},
        capture_output=True,
        text=True,
        check=True,
    )
    return time.perf_counter() - start, float(result.stdout.split()[-1])


def _paths() -> str:
    return os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])


TABLES = {"matvec": matvec, "density": density, "scaling": scaling, "first": first}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], help="default all")
    parser.add_argument("--vectors", nargs="+", type=int, default=[1, 4, 10])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    record: dict[str, Any] = {"environment": machine()}
    for name in options.tables or TABLES:
        record[name] = TABLES[name](options)
    write(options.out, record)


if __name__ == "__main__":
    main()
