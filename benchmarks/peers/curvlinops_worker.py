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
from protocol import Job, Result, serve
from torch_network import Problem


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
    operator = _opened(problem)
    vectors = _flat(problem, options["probes"])

    def run() -> Result:
        nodes, weights = [], []
        draws = [v.clone() for v in vectors]
        with mock.patch.object(lanczos, "randn", side_effect=draws):
            for _ in vectors:
                values, s = lanczos.fast_lanczos(operator, options["steps"])
                nodes.append(values.cpu())
                weights.append(s[0].cpu() ** 2)
        return {"nodes": torch.stack(nodes), "weights": torch.stack(weights)}

    return run


def trace(arrays: Any, options: dict[str, Any]) -> Any:
    """``hutchinson_trace``, or ``hutchpp_trace``, with so many products."""
    problem = Problem(arrays, options)
    operator = _opened(problem)
    estimate = hutchpp_trace if options.get("method") == "hutch++" else hutchinson_trace

    def run() -> Result:
        torch.manual_seed(0)
        return {"estimate": float(estimate(operator, options["probes"]))}

    return run


JOBS: dict[str, Job] = {"matvec": matvec, "density": density, "trace": trace}

if __name__ == "__main__":
    serve(JOBS, "torch", "curvlinops-for-pytorch")
