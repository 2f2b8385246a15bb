"""``landscape`` and others on the same work: the same weights, data bytes and start vectors.

Each tool lives in a process of its own, with an environment of its own that this command makes, and
all take turns within one run: what counts is the ratio of the seconds that a tool took to those
that ``landscape`` took in the same round. PyTorch's threads are those that were fastest. Full
precision everywhere.

- ``matvec``: one product with the Hessian, and eight (residual 20×128 network, P = 709,652, batch
  500).
- ``lanczos``: Lanczos alone, on a diagonal operator.
- ``pyhessian``: PyHessian's own job: density with 100 steps and 1 probe, with 8; trace; top
  eigenvalue.
- ``eigenthings``: hessian-eigenthings' default, 80 steps and 10 probes.
- ``accuracy``: error of the degenerate fraction and of the whole distribution function against a
  dense eigendecomposition in float64, from each tool's own nodes and weights, on a network trained
  on the digits.
- ``families``: a spectrum of each of many small networks: in one program, one after the other, and
  in processes side by side.

    python benchmarks/side_by_side.py matvec lanczos --out peers.json

Rows with another orthogonality than full are labelled; their distance to the quadrature of full
reorthogonalisation is recorded.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from harness import HERE, machine
from peers.requirements import REQUIREMENTS
from peers.workers import Contender, interleaved, python_of

from landscape.curvature import hessian
from landscape.data import load
from landscape.models import MLP
from landscape.spectra import dense_spectrum
from landscape.training import TrainConfig, fit, softmax_cross_entropy

# Threads that PyTorch is tried with on a CPU.
THREADS = [1, 2]

EPS = 1e-3


def export(path: Path, params: Any, inputs: Any, labels: Any, skip: bool, count: int) -> Path:
    """A network, its batch, and start vectors of random signs, as named arrays."""
    rng = np.random.default_rng(0)
    named = {k: np.asarray(v) for k, v in flatten_dict(params, sep="/").items()}
    arrays = {f"params:{k}": v for k, v in named.items()}
    for k, v in named.items():
        signs = rng.choice(np.array([-1, 1], v.dtype), (count, *v.shape))
        arrays[f"vectors:{k}"] = signs
    batch = {
        "inputs": np.asarray(inputs).reshape(len(inputs), -1),
        "labels": np.asarray(labels, np.int32),
    }
    np.savez(path, **arrays, **batch, skip=np.asarray(skip))
    return path


def mission_network(folder: Path, depth: int = 20, width: int = 128) -> Path:
    """The residual network of the mission at its initialisation; inputs of CIFAR's size."""
    model = MLP(depth, width, 20, skip="identity")
    x = jax.random.normal(jax.random.key(0), (500, 3072))
    params = jax.jit(model.init)(jax.random.key(1), x[:1])["params"]
    return export(folder / "mission.npz", params, x, np.arange(500) % 20, True, 10)


def digits_network(folder: Path, width: int, epochs: int) -> tuple[Path, np.ndarray]:
    """A residual network trained on the digits, and all its eigenvalues."""
    data = load("digits").standardized()
    model = MLP(20, width, 10, skip="identity")
    inputs, labels = data.arrays()
    found = fit(model, data, TrainConfig(epochs, 100, 5e-4), jax.random.key(0))
    x, y = inputs[:500], labels[:500]
    path = export(folder / f"digits-{width}.npz", found.params, x, y, True, 10)
    op = hessian(softmax_cross_entropy(model), found.params, (x, y), state=found.state)
    begun = time.perf_counter()
    with jax.enable_x64(True):
        values = dense_spectrum(op, dtype=np.float64).nodes
    print(f"    dense, P = {len(values)}: {time.perf_counter() - begun:.1f} s", flush=True)
    return path, values


def distance(result: dict[str, np.ndarray], truth: np.ndarray, slack: float = 0.0) -> float:
    """Largest distance of two distribution functions, points allowed to move by so much.

    ``truth``: eigenvalues of equal weight, or nodes and weights as two rows.
    """
    theirs = _measure(result["nodes"], result["weights"])
    mine = _measure(truth, np.ones_like(truth)) if truth.ndim == 1 else _measure(*truth)
    points = np.unique(np.concatenate([theirs[0], mine[0]]))

    def at(measure: Any, x: np.ndarray) -> np.ndarray:
        return measure[1][np.searchsorted(measure[0], x, "right")]

    above = at(theirs, points) - at(mine, points + slack)
    below = at(mine, points) - at(theirs, points + slack)
    return float(max(above.max(), below.max(), 0))


def _measure(nodes: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted nodes, and the mass up to each with a 0 in front; pooled over probes."""
    nodes, weights = np.ravel(nodes).astype(float), np.ravel(weights).astype(float)
    kept = np.isfinite(nodes)
    order = np.argsort(nodes[kept], kind="stable")
    mass = np.concatenate([[0], np.cumsum(weights[kept][order])])
    return nodes[kept][order], mass / mass[-1]


def contenders(
    job: str, options: dict[str, Any], tools: list[str], torch: dict[str, Any]
) -> list[Contender]:
    """Who takes part in a density or a Lanczos run, reference first."""
    mine = [Contender("landscape, full", "landscape", job, scheme="full", **options)]
    mine += [
        Contender(f"landscape, {scheme}", "landscape", job, scheme=scheme, **options)
        for scheme in ("partial", "none")
    ]
    theirs = {
        "pyhessian": [Contender("PyHessian, full", "pyhessian", job, **options, **torch)],
        "hessian_eigenthings": [
            Contender("hessian-eigenthings, full", "hessian_eigenthings", job, **options, **torch)
        ],
        "curvlinops": [Contender("curvlinops, none", "curvlinops", job, **options, **torch)],
        "matfree": [
            Contender(f"matfree, {scheme}", "matfree", job, scheme=scheme, **options)
            for scheme in ("full", "none")
        ],
    }
    if job == "diagonal":
        theirs = {k: v for k, v in theirs.items() if k in ("pyhessian", "matfree")}
    return mine + [c for tool in tools for c in theirs.get(tool, [])]


class Bench:
    """What the tables share: folders, interpreters, repeats, and the problem."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        given = dict(pair.split("=", 1) for pair in options.python)
        self.python = partial(python_of, folder=options.environments, given=given)
        self.repeats = options.repeats or (3 if options.quick else 10)
        on_gpu = jax.default_backend() == "gpu"
        self.torch: dict[str, Any] = {"device": "cuda"} if on_gpu else {"threads": THREADS}
        self.tools = options.tools

    def turns(self, who: list[Contender], problem: Path, **more: Any) -> list[dict[str, Any]]:
        """``interleaved`` among the tools that were asked for."""
        who = [c for c in who if c.tool in (*self.tools, "landscape")]
        repeats = more.pop("repeats", self.repeats)
        return interleaved(who, problem, repeats, self.python, **more)

    def matvec(self) -> dict[str, Any]:
        """Products."""
        problem = mission_network(self.folder)
        tables = {}
        for count in (1, 8):
            print(f"  matvec, {count} vector(s)", flush=True)
            names = {
                "landscape": "landscape, linearised",
                "pyhessian": "PyHessian, graph retained",
                "hessian_eigenthings": "hessian-eigenthings",
                "curvlinops": "curvlinops",
                "matfree": "forward over reverse, as for matfree",
            }
            who = [
                Contender(name, tool, "matvec", count=count, **self._settings(tool))
                for tool, name in names.items()
            ]
            if count == 1:
                who.append(Contender("landscape, one gradient", "landscape", "gradient"))
                who.append(
                    Contender("PyTorch, one gradient", "pyhessian", "gradient", **self.torch)
                )
            tables[f"{count} vectors"] = self.turns(
                who, problem, read=_images, repeats=8 * self.repeats // count
            )
            _compare_images(tables[f"{count} vectors"])
        return tables

    def _settings(self, tool: str) -> dict[str, Any]:
        return {} if tool in ("landscape", "matfree") else self.torch

    def lanczos(self) -> dict[str, Any]:
        """Lanczos alone."""
        tables = {}
        for size, steps in ((10**6, 100),) if self.options.quick else ((10**6, 100), (10**7, 20)):
            print(f"  Lanczos on a diagonal, P = {size}, {steps} steps", flush=True)
            rng = np.random.default_rng(0)
            path = self.folder / "diagonal.npz"
            values = rng.normal(size=size).astype(np.float32)
            start = rng.choice(np.array([-1, 1], np.float32), size)
            np.savez(path, eigenvalues=values, start=start)
            who = contenders("diagonal", {"steps": steps}, self.tools, self.torch)
            # The last diagonal of T tells whether the same has been computed.
            tables[f"P = {size}, {steps} steps"] = self.turns(who, path, read=_last_alpha)
        return tables

    def pyhessian(self) -> dict[str, Any]:
        """PyHessian's own job."""
        problem = mission_network(self.folder)
        tables = {}
        for probes in (1,) if self.options.quick else (1, 8):
            print(f"  density, 100 steps, {probes} probe(s)", flush=True)
            who = contenders("density", {"steps": 100, "probes": probes}, self.tools, self.torch)
            repeats = self.repeats if probes == 1 else max(2, self.repeats // 5)
            tables[f"density 100 x {probes}"] = self._densities(who, problem, repeats)
        print("  trace, 100 products", flush=True)
        names = ("landscape", "pyhessian", "hessian_eigenthings", "curvlinops", "matfree")
        who = [
            Contender(f"{tool}, Hutchinson", tool, "trace", probes=100, **self._settings(tool))
            for tool in names
        ]
        tables["trace"] = self.turns(who, problem, read=_scalars, repeats=max(2, self.repeats // 3))
        print("  top eigenvalue", flush=True)
        who = [Contender(tool, tool, "top", steps=40, **self._settings(tool)) for tool in names[:3]]
        tables["top"] = self.turns(who, problem, read=_scalars)
        return tables

    def _densities(self, who: list[Contender], problem: Path, repeats: int) -> list[dict[str, Any]]:
        """Densities, and how far each is from that of full reorthogonalisation."""
        found: dict[str, dict[str, np.ndarray]] = {}

        def keep(contender: Contender, result: dict[str, np.ndarray]) -> dict[str, Any]:
            found[contender.label] = result
            return {}

        rows = self.turns(who, problem, read=keep, repeats=repeats)
        full = found[who[0].label]
        truth = np.stack([np.ravel(full["nodes"]), np.ravel(full["weights"])])
        slack = 1e-5 * float(np.abs(full["nodes"]).max())
        for row in rows:
            if row["label"] in found:
                row["result"] = {"distance_to_full": distance(found[row["label"]], truth, slack)}
        return rows

    def eigenthings(self) -> dict[str, Any]:
        """hessian-eigenthings' default job."""
        print("  density, 80 steps, 10 probes", flush=True)
        who = contenders("density", {"steps": 80, "probes": 10}, self.tools, self.torch)
        problem = mission_network(self.folder)
        return {"density 80 x 10": self._densities(who, problem, max(2, self.repeats // 4))}

    def families(self) -> dict[str, Any]:
        """Many small networks."""
        count = 6 if self.options.quick else 30
        tables = {}
        for width in (16, 64):
            print(f"  {count} networks 20x{width}, 100 steps each", flush=True)
            problem = self._networks(width, count)
            options = {"steps": 100, "probes": 1}
            who = [
                Contender(f"landscape, one program, {scheme}", "landscape", "family", scheme=scheme,
                          **options)
                for scheme in ("full", "partial")
            ]  # fmt: skip
            who += [
                Contender("PyHessian, looped", "pyhessian", "family", **options, **self.torch),
                Contender("PyHessian, a process a core", "pyhessian", "family", **options,
                          processes=os.cpu_count()),
                Contender("matfree, one program, full", "matfree", "family", scheme="full",
                          **options),
            ]  # fmt: skip
            repeats = max(2, self.repeats // 3)
            tables[f"{count} networks 20x{width}"] = self.turns(who, problem, repeats=repeats)
        return tables

    def _networks(self, width: int, count: int) -> Path:
        """Networks of one shape on the digits, at their initialisation."""
        data = load("digits").standardized()
        inputs, labels = data.arrays()
        model = MLP(20, width, 10, skip="identity")
        every: dict[str, list[np.ndarray]] = {}
        for seed in range(count):
            path = self.folder / "one.npz"
            params = jax.jit(model.init)(jax.random.key(seed), inputs[:1])["params"]
            export(path, params, inputs[:500], labels[:500], True, 1)
            with np.load(path) as arrays:
                for name in arrays:
                    every.setdefault(name, []).append(arrays[name])
        stacked = {k: np.stack(v) if ":" in k else v[0] for k, v in every.items()}
        np.savez(self.folder / "family.npz", **stacked)
        return self.folder / "family.npz"

    def accuracy(self) -> dict[str, Any]:
        """Errors against dense truth."""
        width, epochs = (12, 30) if self.options.quick else (25, 60)
        problem, values = digits_network(self.folder, width, epochs)
        inside = float(np.mean(np.abs(values) <= EPS))
        zeros = float(np.mean(np.abs(values) <= 1e-6 * np.abs(values).max()))

        def errors(_: Contender, result: dict[str, np.ndarray]) -> dict[str, Any]:
            nodes, weights = np.ravel(result["nodes"]), np.ravel(result["weights"])
            kept = np.isfinite(nodes)
            near = np.abs(nodes[kept]) <= EPS
            fraction = float(weights[kept][near].sum() / weights[kept].sum())
            return {"fraction_error": abs(fraction - inside), "distance": distance(result, values)}

        tables: dict[str, Any] = {
            "truth": {"parameters": len(values), "fraction": inside, "null": zeros, "eps": EPS}
        }
        for steps in (20, 50, 100, 200):
            print(f"  accuracy, P = {len(values)}, {steps} steps, 1 probe", flush=True)
            who = contenders("density", {"steps": steps, "probes": 1}, self.tools, self.torch)
            tables[f"{steps} steps"] = self.turns(who, problem, read=errors, repeats=3)
        return tables


def _images(_: Contender, result: dict[str, np.ndarray]) -> dict[str, Any]:
    return {k: v for k, v in result.items() if k.startswith("image:")}


def _compare_images(rows: list[dict[str, Any]]) -> None:
    """Replace images by their relative distance to the first, or to the first gradient."""
    first: dict[str, Any] = {}
    for row in rows:
        images = row.pop("result", None)
        if not images:
            continue
        reference = first.setdefault(row["job"], images)
        difference = sum(float(np.sum((images[k] - v) ** 2)) for k, v in reference.items())
        size = sum(float(np.sum(v**2)) for v in reference.values())
        row["result"] = {"distance_to_reference": float(np.sqrt(difference / size))}


def _last_alpha(_: Contender, result: dict[str, np.ndarray]) -> dict[str, Any]:
    return {"last_alpha": float(result["alphas"][-1])} if "alphas" in result else {}


def _scalars(_: Contender, result: dict[str, np.ndarray]) -> dict[str, Any]:
    if "samples" in result:
        samples = np.asarray(result["samples"], float)
        return {"estimate": float(samples.mean())}
    return {k: np.asarray(v, float).tolist() for k, v in result.items()}


TABLES = ("matvec", "lanczos", "pyhessian", "eigenthings", "families", "accuracy")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], help="default all")
    parser.add_argument("--tools", nargs="*", default=list(REQUIREMENTS), choices=REQUIREMENTS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeats", type=int)
    parser.add_argument(
        "--environments", type=Path, default=HERE.parent / ".venv-peers", help="folder"
    )
    parser.add_argument(
        "--python", nargs="*", default=[], metavar="TOOL=PATH", help="interpreters that have a tool"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    record: dict[str, Any] = {}
    if options.out and options.out.exists():
        # Tables that are not measured now stay as they are.
        record = json.loads(options.out.read_text())
    record["environment"] = machine()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        for name in options.tables or TABLES:
            print(name, flush=True)
            when = {"quick": options.quick, "repeats": bench.repeats, **machine()}
            record[name] = getattr(bench, name)()
            record.setdefault("measured", {})[name] = when
            if options.out:
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
