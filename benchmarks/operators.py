"""Seconds of every kernel, and what they grow with.

Networks are residual and at their initialisation, inputs are random. Each table is one sweep around
the mission's network (20×128, inputs of CIFAR's size, N = 500), or the small one of the digits
(20×25).

- ``operators``: one product of each operator, and of the Hessian with stored intermediate results,
  by chunks, and with eight vectors; in units of one gradient.
- ``readouts``: trace, extremal eigenpairs, a spectrum of 100 steps; the small network.
- ``decompositions``: dense spectrum, and the rank of a Jacobian by each route; smaller ones.
- ``sweeps``: one Hessian product against depth, width, examples and vectors; a spectrum against its
  steps.
- ``training``: one epoch, a network alone and eight together.

    python benchmarks/operators.py operators sweeps --out operators.json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from harness import interleaved, machine, seconds, write

from landscape.curvature import empirical_fisher, fisher, ggn, hessian, jacobian
from landscape.data import load
from landscape.degeneracy import jacobian_rank
from landscape.models import MLP
from landscape.spectra import dense_spectrum, extremal_eigenpairs, lanczos_run, slq, trace
from landscape.training import TrainConfig, fit_many, softmax_cross_entropy


class Case:
    """A network, its batch, and its operators."""

    def __init__(
        self, depth: int = 20, width: int = 128, inputs: int = 3072, examples: int = 500
    ) -> None:
        self.model = MLP(depth, width, 20, skip="identity")
        self.x = jax.random.normal(jax.random.key(0), (examples, inputs))
        self.batch = (self.x, jnp.arange(examples) % 20)
        self.params = jax.jit(self.model.init)(jax.random.key(1), self.x[:1])["params"]
        self.loss = softmax_cross_entropy(self.model)

    def hessian(self, **options: Any) -> Any:
        """The Hessian of the loss."""
        return hessian(self.loss, self.params, self.batch, state={}, check=False, **options)

    def outputs(self, params: Any, batch: Any) -> jax.Array:
        """Logits."""
        return self.model.apply({"params": params}, batch[0])

    def output_loss(self, outputs: jax.Array, batch: Any) -> jax.Array:
        """Mean cross-entropy."""
        rows = jax.nn.log_softmax(outputs)
        return -jnp.mean(jnp.take_along_axis(rows, batch[1][:, None], 1))

    def gradient(self) -> Callable[[], Any]:
        """One gradient: the unit."""

        @jax.jit
        def compiled(params: Any, batch: Any) -> Any:
            # In the precision that products have.
            with jax.default_matmul_precision("highest"):
                return jax.grad(lambda p: self.loss(p, {}, batch))(params)

        return lambda: compiled(self.params, self.batch)


def _one(op: Any, count: int = 1) -> Callable[[], Any]:
    v = jax.random.normal(jax.random.key(2), (op.shape[1], count))
    return lambda: op.matmat(v)


def operators(repeats: int) -> dict[str, Any]:
    """One product of each operator."""
    case = Case()
    op = case.hessian()
    outputs, output_loss = case.outputs, case.output_loss
    arguments = (outputs, output_loss, case.params, case.batch)
    rectangle = jacobian(outputs, case.params, case.batch)
    who = {
        "one gradient": case.gradient(),
        "hessian": _one(op),
        "hessian, linearised": _one(op.linearized()),
        "hessian, linearised, 8 vectors": _one(op.linearized(), 8),
        "hessian, chunks of 100": _one(case.hessian(chunk_size=100)),
        "ggn": _one(ggn(*arguments, check=False)),
        "ggn, linearised": _one(ggn(*arguments, check=False).linearized()),
        "empirical fisher": _one(empirical_fisher(*arguments, check=False)),
        "fisher, 1 sample": _one(fisher(outputs, case.params, case.batch, jax.random.key(3))),
        "jacobian": _one(rectangle),
        "jacobian, gram": _one(rectangle.gram()),
    }
    return {"parameters": op.shape[0], "rows": interleaved(who, repeats)}


def readouts(repeats: int) -> dict[str, Any]:
    """What is read from an operator, on a small network."""
    op, key = Case(width=25, inputs=64).hessian(), jax.random.key(0)
    who = {
        "100 products": lambda: [op.matvec(jnp.ones(op.shape[0])) for _ in range(100)],
        "slq, 100 steps": lambda: slq(op, key, num_steps=100).nodes,
        "slq, 100 steps, 10 probes": lambda: slq(op, key, num_steps=100, num_probes=10).nodes,
        "trace, hutchinson, 100 products": lambda: (
            trace(op, key, method="hutchinson", num_matvecs=100).value
        ),
        "trace, hutch++, 99 products": lambda: trace(op, key, num_matvecs=99).value,
        "five largest eigenpairs": lambda: extremal_eigenpairs(op, key, num_largest=5).values,
    }
    return {"parameters": op.shape[0], "rows": interleaved(who, repeats)}


def decompositions(repeats: int) -> dict[str, Any]:
    """What needs all of a matrix."""
    case = Case(depth=10, width=12, inputs=64, examples=100)
    op, rectangle = case.hessian(), jacobian(case.outputs, case.params, case.batch)
    lanczos = {"method": "lanczos", "rtol": 1e-2, "key": jax.random.key(0)}
    who = {
        "dense spectrum, float32": lambda: dense_spectrum(op).nodes,
        "dense spectrum, float64": lambda: dense_spectrum(op, dtype=np.float64).nodes,
        "rank, exact": lambda: jacobian_rank(rectangle).rank,
        "rank, exact, of the Gauss–Newton matrix": lambda: (
            jacobian_rank(rectangle, output_loss=case.output_loss).rank
        ),
        "rank, gram": lambda: jacobian_rank(rectangle, method="gram").rank,
        "rank, lanczos, 200 steps": lambda: jacobian_rank(rectangle, **lanczos).rank,
    }
    rows = interleaved(who, min(repeats, 3))
    return {"parameters": op.shape[0], "outputs": rectangle.shape[0], "rows": rows}


def sweeps(repeats: int) -> dict[str, Any]:
    """One Hessian product against each size."""
    found: dict[str, Any] = {}
    for name, values in {
        "depth": (5, 10, 20, 40, 80),
        "width": (16, 32, 64, 128, 256),
        "examples": (50, 150, 500, 1500, 5000),
    }.items():
        found[name] = []
        for value in values:
            op = Case(**{name: value}).hessian()
            first, times = seconds(_one(op.linearized()), repeats)
            row = {name: value, "parameters": op.shape[0], "first_seconds": first}
            found[name].append({**row, "seconds": times})
            print(f"sweeps     {name} {value}: {1e3 * np.median(times):.1f} ms", flush=True)
    op = Case().hessian().linearized()
    found["vectors"] = []
    for count in (1, 2, 4, 8, 16, 32):
        first, times = seconds(_one(op, count), repeats)
        found["vectors"].append({"vectors": count, "first_seconds": first, "seconds": times})
        print(f"sweeps     vectors {count}: {1e3 * np.median(times):.1f} ms", flush=True)
    found["steps"] = []
    for count in (25, 50, 100, 200, 400):
        first, times = seconds(partial(_walk, op, count), min(repeats, 3))
        found["steps"].append({"steps": count, "first_seconds": first, "seconds": times})
        print(f"sweeps     steps {count}: {np.median(times):.2f} s", flush=True)
    return found


def _walk(op: Any, steps: int) -> Any:
    """Lanczos as it comes: the scheme is chosen."""
    run = lanczos_run(op, jax.random.key(0), capacity=steps)
    return run.advance(steps).state.alphas


def training(repeats: int) -> dict[str, Any]:
    """One epoch on the digits."""
    data = load("digits").standardized()
    model = MLP(20, 25, 10, skip="identity")
    keys = jax.random.split(jax.random.key(0), 8)

    def epochs(keys: jax.Array, block: int) -> Any:
        return fit_many(model, data, TrainConfig(2, 100, 5e-4), keys, block_size=block).loss

    who = {
        "8 networks, 2 epochs, one by one": partial(epochs, keys, 1),
        "8 networks, 2 epochs, together": partial(epochs, keys, 8),
    }
    return {"rows": interleaved(who, repeats)}


TABLES = {
    "operators": operators,
    "readouts": readouts,
    "decompositions": decompositions,
    "sweeps": sweeps,
    "training": training,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], help="default all")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    record: dict[str, Any] = {"environment": machine()}
    for name in options.tables or TABLES:
        record[name] = TABLES[name](options.repeats)
        for label, row in record[name].get("rows", {}).items():
            print(
                f"{name:10s} {label:34s} {1e3 * np.median(row['seconds']):9.1f} ms  "
                f"{row['ratio']['median']:6.2f}x  first {row['first_seconds']:.1f} s",
                flush=True,
            )
        write(options.out, record)


if __name__ == "__main__":
    main()
