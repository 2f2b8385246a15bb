"""hessian-eigenthings' jobs: products, its spectral density, its trace, its top eigenvalue.

Its start vectors come from a backend object that it lets its user pass: here they are the
benchmark's.
"""

from __future__ import annotations

from typing import Any

import torch
from hessian_eigenthings import (
    HessianOperator,
    LambdaOperator,
    hutch_plus_plus,
    hutchinson,
    lanczos,
    spectral_density,
    supervised_loss,
)
from hessian_eigenthings.linalg import SingleDeviceBackend
from protocol import Job, Result, looped, serve
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
    return lambda: _density(operator, vectors, options["steps"])


def diagonal(arrays: Any, options: dict[str, Any]) -> Any:
    """``spectral_density`` of a diagonal operator."""
    device = options.get("device", "cpu")
    if device == "cpu":
        torch.set_num_threads(options["threads"])
    values, start = (torch.from_numpy(arrays[k]).to(device) for k in ("eigenvalues", "start"))
    operator = LambdaOperator(lambda v: values * v, len(values), device)
    return lambda: _density(operator, [start], options["steps"])


def _density(operator: Any, starts: list[torch.Tensor], steps: int) -> Result:
    found = spectral_density(
        operator,
        num_runs=len(starts),
        lanczos_steps=steps,
        backend=Given(starts),
        # The density on a grid is drawn, not computed with: of the nodes no more is needed.
        num_grid_points=2,
    )
    return {"nodes": found.raw_eigenvalues.cpu(), "weights": found.raw_weights.cpu()}


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
    """``lanczos`` with as few steps as bring its value to 10⁻³; it does not end by itself."""
    problem = Problem(arrays, options)
    operator = _opened(problem)

    def with_steps(steps: int) -> torch.Tensor:
        count = options.get("count", 1)
        return lanczos(operator, k=count, max_iter=steps, tol=1e-3, seed=0).eigenvalues.cpu()

    steps, values = 2, with_steps(2)
    truth = with_steps(40)
    while float(abs(values - truth).max() / abs(truth).max()) > 1e-3 and steps < 40:
        steps += 1
        values = with_steps(steps)

    def run() -> Result:
        return {"values": with_steps(steps), "steps": steps}

    return run


JOBS: dict[str, Job] = {
    "family": looped(density),
    "matvec": matvec,
    "density": density,
    "trace": trace,
    "top": top,
    "diagonal": diagonal,
}

if __name__ == "__main__":
    serve(JOBS, "torch", "hessian-eigenthings")
