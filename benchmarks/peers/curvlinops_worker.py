"""curvlinops' jobs: products, its Lanczos density without reorthogonalisation, its trace.

Its Lanczos draws its own start vectors, by ``randn``; the first draws are replaced by the
benchmark's, in this process only.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import curvlinops.papyan2020traces.spectrum as lanczos
import torch
from curvlinops import HessianLinearOperator, hutchinson_trace, hutchpp_trace
from protocol import Job, Result, looped, serve
from torch_network import Problem


class Diagonal:
    """A diagonal matrix, with what ``fast_lanczos`` asks of an operator."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values, self.device, self.dtype = values, values.device, values.dtype
        self.shape = (len(values), len(values))

    def __matmul__(self, vector: torch.Tensor) -> torch.Tensor:
        return self.values * vector


def _opened(problem: Problem) -> HessianLinearOperator:
    return HessianLinearOperator(
        problem.model,
        problem.criterion,
        list(problem.model.parameters()),
        [(problem.inputs, problem.targets)],
        check_deterministic=False,
    )


def _flat(problem: Problem, count: int) -> list[torch.Tensor]:
    return [torch.cat([t.reshape(-1) for t in v]) for v in problem.vectors[:count]]


def matvec(arrays: Any, options: dict[str, Any]) -> Any:
    """Products with all vectors at once."""
    problem = Problem(arrays, options)
    operator = _opened(problem)
    columns = torch.stack(_flat(problem, options["count"]), 1)
    # One vector by itself: the batched route costs more for it.
    columns = columns[:, 0] if options["count"] == 1 else columns
    exported = problem.exported_flat

    def run() -> Result:
        images = operator @ columns
        problem.synchronize()
        return lambda: exported(images if images.ndim == 1 else images[:, -1])

    return run


def density(arrays: Any, options: dict[str, Any]) -> Any:
    """``fast_lanczos``, the quadrature behind its spectral density, once for each probe."""
    problem = Problem(arrays, options)
    operator, vectors = _opened(problem), _flat(problem, options["probes"])
    return lambda: _quadrature(operator, vectors, options["steps"])


def diagonal(arrays: Any, options: dict[str, Any]) -> Any:
    """``fast_lanczos`` on a diagonal operator."""
    device = options.get("device", "cpu")
    if device == "cpu":
        torch.set_num_threads(options["threads"])
    values, start = (torch.from_numpy(arrays[k]).to(device) for k in ("eigenvalues", "start"))
    operator = Diagonal(values)
    return lambda: _quadrature(operator, [start], options["steps"])


def _quadrature(operator: Any, starts: list[torch.Tensor], steps: int) -> Result:
    nodes, weights = [], []
    with mock.patch.object(lanczos, "randn", side_effect=[v.clone() for v in starts]):
        for _ in starts:
            values, s = lanczos.fast_lanczos(operator, steps)
            nodes.append(values.cpu())
            weights.append(s[0].cpu() ** 2)
    return {"nodes": torch.stack(nodes), "weights": torch.stack(weights)}


def trace(arrays: Any, options: dict[str, Any]) -> Any:
    """``hutchinson_trace``, or ``hutchpp_trace``, with so many products."""
    problem = Problem(arrays, options)
    operator = _opened(problem)
    estimate = hutchpp_trace if options.get("method") == "hutch++" else hutchinson_trace

    def run() -> Result:
        torch.manual_seed(0)
        return {"estimate": float(estimate(operator, options["probes"]))}

    return run


JOBS: dict[str, Job] = {
    "family": looped(density),
    "matvec": matvec,
    "density": density,
    "trace": trace,
    "diagonal": diagonal,
}

if __name__ == "__main__":
    serve(JOBS, "torch", "curvlinops-for-pytorch")
