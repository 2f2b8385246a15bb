"""hessian-eigenthings' jobs: products, its spectral density, its trace, its top eigenvalue.

Its start vectors come from a backend object that it lets its user pass: here they are the
benchmark's.
"""

from __future__ import annotations

from typing import Any

import torch
from hessian_eigenthings import (
    HessianOperator,
    hutch_plus_plus,
    hutchinson,
    lanczos,
    spectral_density,
    supervised_loss,
)
from hessian_eigenthings.linalg import SingleDeviceBackend
from protocol import Job, Result, serve
from torch_network import Problem


class Given(SingleDeviceBackend):
    """Draws the vectors it was given, one after the other."""

    def __init__(self, vectors: list[torch.Tensor]) -> None:
        super().__init__()
        self.vectors = iter(vectors)

    def rademacher_like(self, *_: Any, **__: Any) -> torch.Tensor:
        """The next vector."""
        return next(self.vectors)


def _opened(problem: Problem) -> HessianOperator:
    batches = [(problem.inputs, problem.targets)]
    return HessianOperator(problem.model, batches, supervised_loss(problem.criterion))


def _flat(problem: Problem, count: int) -> list[torch.Tensor]:
    return [torch.cat([t.reshape(-1) for t in v]) for v in problem.vectors[:count]]


def matvec(arrays: Any, options: dict[str, Any]) -> Any:
    """Products with each vector in turn."""
    problem = Problem(arrays, options)
    operator, vectors = _opened(problem), _flat(problem, options["count"])

    def run() -> Result:
        for vector in vectors:
            image = operator.matvec(vector)
        problem.synchronize()
        return lambda: problem.exported_flat(image)

    return run


def density(arrays: Any, options: dict[str, Any]) -> Any:
    """``spectral_density``."""
    problem = Problem(arrays, options)
    operator, vectors = _opened(problem), _flat(problem, options["probes"])

    def run() -> Result:
        found = spectral_density(
            operator,
            num_runs=options["probes"],
            lanczos_steps=options["steps"],
            backend=Given(vectors),
        )
        problem.synchronize()
        return {"nodes": found.raw_eigenvalues.cpu(), "weights": found.raw_weights.cpu()}

    return run


def trace(arrays: Any, options: dict[str, Any]) -> Any:
    """``hutchinson``, or ``hutch_plus_plus`` with so many products."""
    problem = Problem(arrays, options)
    operator = _opened(problem)

    def run() -> Result:
        if options.get("method") == "hutch++":
            found = hutch_plus_plus(operator, num_matvecs=options["probes"], seed=0)
        else:
            found = hutchinson(operator, num_samples=options["probes"], seed=0)
        return {"estimate": float(found.estimate), "standard_error": float(found.stderr)}

    return run


def top(arrays: Any, options: dict[str, Any]) -> Any:
    """``lanczos`` with so many steps; by default it makes two for one eigenvalue."""
    problem = Problem(arrays, options)
    operator = _opened(problem)

    def run() -> Result:
        found = lanczos(
            operator, k=options.get("count", 1), max_iter=options["steps"], tol=1e-3, seed=0
        )
        return {"values": found.eigenvalues.cpu()}

    return run


JOBS: dict[str, Job] = {"matvec": matvec, "density": density, "trace": trace, "top": top}

if __name__ == "__main__":
    serve(JOBS, "torch", "hessian-eigenthings")
