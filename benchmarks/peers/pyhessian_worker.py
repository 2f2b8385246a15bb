"""PyHessian's jobs: products with a retained graph, its density, its trace, its top eigenvalue.

PyHessian 0.1 calls ``torch.eig``, which current PyTorch no longer has, and draws its own vectors.
Both are replaced from outside, in this process only: the eigendecomposition of the small matrix by
``torch.linalg.eigh``, and the first draws of signs by the benchmark's start vectors.
"""

from __future__ import annotations

import multiprocessing
from typing import Any
from unittest import mock

import numpy as np
import torch
from protocol import Job, Result, looped, networks, serve, stacked
from pyhessian import hessian
from pyhessian.utils import hessian_vector_product
from torch_network import Problem


def _eig(matrix: torch.Tensor, eigenvectors: bool) -> tuple[torch.Tensor, torch.Tensor]:
    values, vectors = torch.linalg.eigh(matrix)
    return torch.stack([values, torch.zeros_like(values)], 1), vectors


torch.eig = _eig


def _opened(problem: Problem) -> hessian:
    data = (problem.inputs, problem.targets)
    return hessian(problem.model, problem.criterion, data=data, cuda=problem.device == "cuda")


def gradient(arrays: Any, options: dict[str, Any]) -> Any:
    """One gradient in the same framework."""
    problem = Problem(arrays, options)

    def run() -> Result:
        found = problem.gradient()
        problem.synchronize()
        return lambda: problem.exported(found)

    return run


def matvec(arrays: Any, options: dict[str, Any]) -> Any:
    """Products with each vector in turn, the graph of the gradient retained."""
    problem = Problem(arrays, options)
    opened = _opened(problem)

    def run() -> Result:
        for vector in problem.vectors[: options["count"]]:
            image = hessian_vector_product(opened.gradsH, opened.params, vector)
        problem.synchronize()
        return lambda: problem.exported(list(image))

    return run


def forward_over_reverse(arrays: Any, options: dict[str, Any]) -> Any:
    """What PyTorch can compile: a product by forward over reverse mode, no graph retained."""
    problem = Problem(arrays, options)
    names = [name for name, _ in problem.model.named_parameters()]
    params = {name: p.detach() for name, p in problem.model.named_parameters()}
    vector = dict(zip(names, problem.vectors[0], strict=True))

    def loss(params: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = torch.func.functional_call(problem.model, params, (problem.inputs,))
        return problem.criterion(logits, problem.targets)

    @torch.compile
    def product(params: Any, vector: Any) -> Any:
        return torch.func.jvp(torch.func.grad(loss), (params,), (vector,))[1]

    def run() -> Result:
        image = product(params, vector)
        problem.synchronize()
        return lambda: problem.exported([image[name] for name in names])

    return run


def density(arrays: Any, options: dict[str, Any]) -> Any:
    """``hessian(...).density``."""
    problem = Problem(arrays, options)
    opened = _opened(problem)

    def run() -> Result:
        # The first draws give the benchmark's signs, as zeros and ones.
        vectors = problem.vectors[: options["probes"]]
        draws = iter([(t > 0).to(t.dtype) for vector in vectors for t in vector])
        with mock.patch.object(torch, "randint_like", side_effect=draws):
            nodes, weights = opened.density(iter=options["steps"], n_v=options["probes"])
        return {"nodes": nodes, "weights": weights}

    return run


def trace(arrays: Any, options: dict[str, Any]) -> Any:
    """``hessian(...).trace`` with so many probes and no early end."""
    problem = Problem(arrays, options)
    opened = _opened(problem)

    def run() -> Result:
        torch.manual_seed(0)
        return {"samples": opened.trace(maxIter=options["probes"], tol=float("-inf"))}

    return run


def top(arrays: Any, options: dict[str, Any]) -> Any:
    """``hessian(...).eigenvalues`` as it comes: at most 100 iterations, tolerance 10⁻³."""
    problem = Problem(arrays, options)
    opened = _opened(problem)

    def run() -> Result:
        torch.manual_seed(0)
        values, _ = opened.eigenvalues(top_n=options.get("count", 1))
        return {"values": values}

    return run


def diagonal(arrays: Any, options: dict[str, Any]) -> Any:
    """The Lanczos loop of ``density`` alone, its products replaced by those with a diagonal."""
    device = options.get("device", "cpu")
    if device == "cpu":
        torch.set_num_threads(options["threads"])
    values = torch.from_numpy(arrays["eigenvalues"]).to(device)
    signs = torch.from_numpy((arrays["start"] > 0).astype(arrays["start"].dtype)).to(device)
    opened = object.__new__(hessian)
    opened.model, opened.full_dataset, opened.device = torch.nn.Identity(), False, device
    opened.params, opened.gradsH = [torch.zeros_like(values)], None

    def product(_: Any, __: Any, v: list[torch.Tensor]) -> list[torch.Tensor]:
        return [values * v[0]]

    def run() -> Result:
        with (
            mock.patch.object(torch, "randint_like", return_value=signs.clone()),
            mock.patch("pyhessian.hessian.hessian_vector_product", product),
        ):
            nodes, weights = opened.density(iter=options["steps"], n_v=1)
        return {"nodes": nodes, "weights": weights}

    return run


def family(arrays: Any, options: dict[str, Any]) -> Any:
    """``density`` of one network after the other, or in processes with one thread each."""
    processes = options.get("processes")
    if not processes:
        return looped(density)(arrays, options)
    # A fork before this process has used a thread of PyTorch's: they do not survive one, nor does
    # the context of an accelerator.
    on_cpu = options.get("device", "cpu") == "cpu"
    context = multiprocessing.get_context("fork" if on_cpu else "spawn")
    parts = networks(arrays)
    # Each process has every network ready, as the loop has: whichever is free takes the next.
    pool = context.Pool(processes, _make_ready, (parts, {**options, "threads": 1}))
    return lambda: stacked(pool.map(_density_of, range(len(parts)), chunksize=1))


# Of a process of a pool.
_READY: list[Any] = []


def _make_ready(parts: list[dict[str, np.ndarray]], options: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    _READY[:] = [density(part, options) for part in parts]


def _density_of(number: int) -> dict[str, Any]:
    return dict(_READY[number]())


JOBS: dict[str, Job] = {
    "family": family,
    "diagonal": diagonal,
    "gradient": gradient,
    "matvec": matvec,
    "forward_over_reverse": forward_over_reverse,
    "density": density,
    "trace": trace,
    "top": top,
}

if __name__ == "__main__":
    serve(JOBS, "torch", "pyhessian")
