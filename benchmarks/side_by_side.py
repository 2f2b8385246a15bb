"""``landscape`` and others on the same work: the same weights, data bytes and start vectors.

Each tool lives in a process of its own, with an environment of its own that this command makes, and
all take turns within one run: what counts is the ratio of the seconds that a tool took to those
that ``landscape`` took in the same round. PyTorch's threads are those that were fastest. Full
precision everywhere.

- ``matvec``: one product with the Hessian, and eight, of the residual 20×128 network (P = 709,652,
  batch 500); one of ResNet-20 (P = 269,722, 50 images) and of a transformer (P = 213,056).
- ``lanczos``: Lanczos alone, on a diagonal operator.
- ``pyhessian``: PyHessian's own job: density with 100 steps and 1 probe, with 8; trace; top
  eigenvalue.
- ``eigenthings``: hessian-eigenthings' default, 80 steps and 10 probes.
- ``accuracy``: error of the degenerate fraction and of the whole distribution function against a
  dense eigendecomposition in float64, from each tool's own nodes and weights, on a network trained
  on the digits.
- ``families``: a spectrum of each of many small networks, three architectures with some seeds at
  two moments of training: in one program, one after the other, and in processes side by side.

    python benchmarks/side_by_side.py matvec lanczos --out peers.json

Rows with another orthogonality than full are labelled; their distance to the quadrature of full
reorthogonalisation is recorded.
"""

from __future__ import annotations

import argparse
import os

# Before JAX is used: the tools share an accelerator with this process.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from harness import HERE, device, kept, machine, write
from networks import export, mlp_network, resnet_network, transformer_network
from peers.requirements import REQUIREMENTS
from peers.workers import Contender, interleaved, python_of
from quadratures import distance, errors, quadrature, truth_of

from landscape.curvature import hessian
from landscape.data import load
from landscape.models import MLP
from landscape.spectra import dense_spectrum
from landscape.training import TrainConfig, fit, fit_many, softmax_cross_entropy

# Threads that PyTorch is tried with on a CPU.
_CORES = os.cpu_count() or 1
THREADS = sorted({1, 2, max(1, _CORES // 2), _CORES} & set(range(1, _CORES + 1)))


def digits_network(folder: Path, width: int, epochs: int) -> tuple[Path, np.ndarray]:
    """A residual network trained on the digits, and all its eigenvalues."""
    data = load("digits").standardized()
    model = MLP(20, width, 10, skip="identity")
    inputs, labels = data.arrays()
    found = fit(model, data, TrainConfig(epochs, 100, 5e-4), jax.random.key(0))
    x, y = inputs[:500], labels[:500]
    flat = (np.asarray(x).reshape(len(x), -1), y)
    path = export(folder / f"digits-{width}.npz", found.params, flat, 10, skip="identity")
    op = hessian(softmax_cross_entropy(model), found.params, (x, y), state=found.state)
    begun = time.perf_counter()
    with jax.enable_x64(True):
        values = dense_spectrum(op, dtype=np.float64).nodes
    print(f"    dense, P = {len(values)}: {time.perf_counter() - begun:.1f} s", flush=True)
    return path, values


def contenders(
    job: str,
    options: dict[str, Any],
    tools: list[str],
    torch: dict[str, Any],
    schemes: tuple[str, ...] = ("partial", "none"),
) -> list[Contender]:
    """Who takes part in a density or a Lanczos run, reference first."""
    mine = [Contender("landscape, full", "landscape", job, scheme="full", **options)]
    mine += [
        Contender(f"landscape, {scheme}", "landscape", job, scheme=scheme, **options)
        for scheme in schemes
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
    return mine + [c for tool in tools for c in theirs[tool]]


# Of tools, as their authors write them.
_NAMES = {"pyhessian": "PyHessian", "hessian_eigenthings": "hessian-eigenthings"}


class Bench:
    """What the tables share: folders, interpreters, repeats, and the problem."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        given = dict(pair.split("=", 1) for pair in options.python)
        self.python = partial(python_of, folder=options.environments, given=given)
        self.repeats = options.repeats or (5 if options.quick else 6)
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
        cases = {
            "residual 20x128": (mlp_network(self.folder), (1, 8)),
            "ResNet-20, 50 images": (resnet_network(self.folder), (1,)),
            "transformer, 2,048 tokens": (transformer_network(self.folder), (1,)),
        }
        return {
            f"{case}, {count} vector{'s' if count > 1 else ''}": self._products(
                case, problem, count
            )
            for case, (problem, counts) in cases.items()
            for count in counts
        }

    def _products(self, case: str, problem: Path, count: int) -> list[dict[str, Any]]:
        print(f"  matvec, {case}, {count} vector(s)", flush=True)
        names = {
            "landscape": "landscape, linearised before",
            "pyhessian": "PyHessian, graph retained",
            "hessian_eigenthings": "hessian-eigenthings",
            "curvlinops": "curvlinops",
            "matfree": "jax.jvp of jax.grad",
        }
        who = [
            Contender(name, tool, "matvec", count=count, **self._settings(tool))
            for tool, name in names.items()
        ]
        who.append(
            Contender(
                "jax.linearize before, jax.vmap", "matfree", "matvec", count=count, linearized=True
            )
        )
        who.insert(
            1, Contender("landscape, as it comes", "landscape", "matvec", count=count, plain=True)
        )
        if count == 1:
            # A graph that is retained cannot be compiled; forward over reverse mode can, at times.
            compiled = {**self.torch, "compiled": True}
            who += [
                Contender("PyHessian, torch.compile", "pyhessian", "matvec", count=1, **compiled),
                Contender(
                    "PyTorch, torch.compile of forward over reverse", "pyhessian",
                    "forward_over_reverse", **self.torch,
                ),
            ]  # fmt: skip
        if jax.default_backend() == "gpu":
            who += [
                Contender("landscape, TF32", "landscape", "matvec", count=count,
                          precision="default"),
                Contender("PyHessian, TF32", "pyhessian", "matvec", count=count, tf32=True,
                          **self.torch),
            ]  # fmt: skip
        who += [
            Contender("landscape, one gradient", "landscape", "gradient"),
            Contender("PyTorch, one gradient", "pyhessian", "gradient", **self.torch),
        ]
        repeats = max(self.repeats, 4 * self.repeats // count)
        rows = self.turns(who, problem, read=_images, repeats=repeats)
        _compare_images(rows)
        return rows

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
            tables[f"P = {size}, {steps} steps"] = self.turns(who, path, read=_smallest_and_largest)
        return tables

    def pyhessian(self) -> dict[str, Any]:
        """PyHessian's own job."""
        problem = mlp_network(self.folder)
        tables = {}
        for probes in (1, 8):
            print(f"  density, 100 steps, {probes} probe(s)", flush=True)
            # Eight probes the others take one by one: of those only the job's owner.
            few = {} if probes == 1 else {"schemes": ("partial",)}
            tools = ["pyhessian"] if few else self.tools
            options = {"steps": 100, "probes": probes}
            who = contenders("density", options, tools, self.torch, **few)
            tables[f"density 100 x {probes}"] = self._densities(who, problem, self.repeats)
        print("  trace, 100 products", flush=True)
        names = ("landscape", "pyhessian", "hessian_eigenthings", "curvlinops", "matfree")
        who = [
            Contender(
                f"{_NAMES.get(tool, tool)}, Hutchinson", tool, "trace", probes=100,
                **self._settings(tool),
            )
            for tool in names
        ]  # fmt: skip
        who += [
            Contender(
                f"{_NAMES.get(tool, tool)}, Hutch++", tool, "trace", probes=99, method="hutch++",
                **self._settings(tool),
            )
            for tool in ("landscape", "hessian_eigenthings", "curvlinops")
        ]  # fmt: skip
        tables["trace"] = self.turns(who, problem, read=_scalars)
        print("  top eigenvalue", flush=True)
        who = [
            Contender(_NAMES.get(tool, tool), tool, "top", **self._settings(tool))
            for tool in names[:3]
        ]
        who.insert(1, Contender("landscape, verified", "landscape", "top", verify=True))
        tables["top"] = self.turns(who, problem, read=_scalars)
        return tables

    def _densities(self, who: list[Contender], problem: Path, repeats: int) -> list[dict[str, Any]]:
        """Densities, and how far each is from that of full reorthogonalisation."""
        found: dict[str, dict[str, np.ndarray]] = {}

        def keep(contender: Contender, result: dict[str, np.ndarray]) -> dict[str, Any]:
            found[contender.label] = result
            return {}

        rows = self.turns(who, problem, read=keep, repeats=repeats)
        truth = np.stack(quadrature(found[who[0].label]))
        slack = 1e-5 * float(np.abs(truth[0]).max())
        for row in rows:
            if row["label"] in found:
                measure = quadrature(found[row["label"]])
                row["result"] = {"distance_to_full": distance(measure, truth, slack)}
        return rows

    def eigenthings(self) -> dict[str, Any]:
        """hessian-eigenthings' default job."""
        print("  density, 80 steps, 10 probes", flush=True)
        options = {"steps": 80, "probes": 10}
        tools = ["hessian_eigenthings"]
        who = contenders("density", options, tools, self.torch, schemes=("partial",))
        problem = mlp_network(self.folder)
        return {"density 80 x 10": self._densities(who, problem, self.repeats)}

    def families(self) -> dict[str, Any]:
        """Three architectures, each with some seeds at two moments of training."""
        # A hundred in all on an accelerator, where the loops of others take minutes.
        many = jax.default_backend() != "cpu"
        seeds = 3 if self.options.quick else 50 if many else 10
        tables = {}
        for skip in ("none", "identity", "hyper"):
            problem, count = self._networks(skip, seeds)
            print(f"  {count} networks 20x16, skip {skip}, 100 steps each", flush=True)
            options = {"steps": 100, "probes": 1}
            who = [
                Contender(f"landscape, one program, {scheme}", "landscape", "family", scheme=scheme,
                          **options)
                for scheme in ("full", "partial")
            ]  # fmt: skip
            who += [
                Contender("PyHessian, looped", "pyhessian", "family", **options, **self.torch),
                Contender("PyHessian, a process a core", "pyhessian", "family",
                          **{**options, **self.torch, "threads": None}, processes=os.cpu_count()),
                Contender("matfree, one program, full", "matfree", "family", scheme="full",
                          **options),
            ]  # fmt: skip
            if skip == "none":
                # Loops as PyHessian's: of one architecture.
                who += [
                    Contender(f"{_NAMES.get(tool, tool)}, looped", tool, "family", **options,
                              **self.torch)
                    for tool in ("hessian_eigenthings", "curvlinops")
                ]  # fmt: skip
            tables[f"{count} networks 20x16, skip {skip}"] = self.turns(
                who, problem, read=_smallest_and_largest
            )
        return tables

    def _networks(self, skip: str, seeds: int) -> tuple[Path, int]:
        """Networks of one shape on the digits, at their initialisation and trained."""
        data = load("digits").standardized()
        model = MLP(20, 16, 10, skip=skip)
        inputs, labels = (np.asarray(a)[:500] for a in data.arrays())
        batch = (inputs.reshape(len(inputs), -1), labels)
        keys = jax.random.split(jax.random.key(0), seeds)
        every: dict[str, list[np.ndarray]] = {}
        for epochs in (0, 5):
            runs = fit_many(model, data, TrainConfig(epochs, 100, 5e-4), keys)
            for i in range(seeds):
                params, state = jax.tree.map(lambda leaf, i=i: leaf[i], (runs.params, runs.state))
                path = export(self.folder / "one.npz", params, batch, 1, state=state, skip=skip)
                with np.load(path) as arrays:
                    for name in arrays:
                        every.setdefault(name, []).append(arrays[name])
        stacked = {k: np.stack(v) if ":" in k else v[0] for k, v in every.items()}
        np.savez(self.folder / "family.npz", **stacked)
        return self.folder / "family.npz", 2 * seeds

    def accuracy(self) -> dict[str, Any]:
        """Errors against dense truth, and against a spectrum that is mostly zeros."""
        width, epochs = (12, 30) if self.options.quick else (25, 60)
        problem, values = digits_network(self.folder, width, epochs)
        tables: dict[str, Any] = {"truth": truth_of(values)}
        for steps in (50, 100, 200, 400):
            print(f"  accuracy, P = {len(values)}, {steps} steps, 1 probe", flush=True)
            who = contenders("density", {"steps": steps, "probes": 1}, self.tools, self.torch)
            tables[f"P = {len(values)}, {steps} steps"] = self.turns(
                who, problem, read=partial(errors, values), repeats=3
            )
        rng = np.random.default_rng(0)
        size = 10**5
        values = np.where(rng.random(size) < 0.9, 0.0, rng.normal(size=size)).astype(np.float32)
        values[:5] = [100, 50, 30, 20, 10]
        start = rng.choice(np.array([-1, 1], np.float32), size)
        np.savez(self.folder / "zeros.npz", eigenvalues=values, start=start)
        print("  a diagonal with nine zeros out of ten, 100 steps", flush=True)
        who = contenders("diagonal", {"steps": 100}, self.tools, self.torch)
        tables["truth, mostly zeros"] = truth_of(values)
        tables["mostly zeros, 100 steps"] = self.turns(
            who, self.folder / "zeros.npz", read=partial(errors, values), repeats=3
        )
        return tables


def _smallest_and_largest(_: Contender, result: dict[str, np.ndarray]) -> dict[str, Any]:
    """The ends of all spectra, by which runs are told to agree."""
    nodes = quadrature(result)[0]
    return {"smallest_node": float(np.nanmin(nodes)), "largest_node": float(np.nanmax(nodes))}


def _images(_: Contender, result: dict[str, np.ndarray]) -> dict[str, Any]:
    return {k: v for k, v in result.items() if k.startswith("image:")}


def _compare_images(rows: list[dict[str, Any]]) -> None:
    """Replace images by their relative distance to the first product, or the first gradient."""
    first: dict[bool, Any] = {}
    for row in rows:
        images = row.pop("result", None)
        if not images:
            continue
        reference = first.setdefault(row["job"] == "gradient", images)
        difference = sum(float(np.sum((images[k] - v) ** 2)) for k, v in reference.items())
        size = sum(float(np.sum(v**2)) for v in reference.values())
        row["result"] = {"distance_to_reference": float(np.sqrt(difference / size))}


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
    parser.add_argument("--out", type=Path, help="default runs/bench/DEVICE/peers.json")
    options = parser.parse_args()
    if options.out is None:
        options.out = HERE.parent / "runs" / "bench" / device() / "peers.json"
    # Tables that are not measured now stay as they are; each has its own time and revision.
    record = kept(options.out)
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        for name in options.tables or TABLES:
            print(name, flush=True)
            when = {"quick": options.quick, "repeats": bench.repeats, **machine()}
            if when["busy"] > 0.1:
                print(f"    the machine is not idle: {when['busy']:.0%} busy", flush=True)
            begun = time.perf_counter()
            try:
                record[name] = getattr(bench, name)()
            except RuntimeError as error:
                # Of the reference, without which there is no table: the other tables go on.
                print(f"    {name} was not measured: {error}", flush=True)
                failed.append(name)
                continue
            when["seconds_in_all"] = round(time.perf_counter() - begun, 1)
            record.setdefault("measured", {})[name] = when
            write(options.out, record)
    if failed:
        sys.exit(f"not measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()
