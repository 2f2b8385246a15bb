"""The same jobs in ``landscape``."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.flatten_util import ravel_pytree
from jax_network import cross_entropy, named, transformer
from protocol import Job, Result, serve

from landscape.curvature import DiagonalOperator, HessianOperator, hessian, stack
from landscape.models import MLP, ResNet
from landscape.spectra import LanczosRun, extremal_eigenpairs, lanczos_run, trace
from landscape.spectra.lanczos import begin
from landscape.training import softmax_cross_entropy


def _tree(arrays: dict[str, np.ndarray], kind: str) -> Any:
    named = {k.split(":")[1]: v for k, v in arrays.items() if k.startswith(kind)}
    return unflatten_dict(named, sep="/")


def _operator(arrays: dict[str, np.ndarray], precision: Any = "highest") -> HessianOperator:
    kind = str(arrays["kind"])
    batch = (jnp.asarray(arrays["inputs"]), jnp.asarray(arrays["labels"]))
    if kind == "transformer":
        return hessian(_token_loss(int(arrays["heads"])), named(arrays, "params:"), batch)
    classes, skip = len(arrays["params:output/bias"]), str(arrays["skip"])
    if kind == "mlp":
        layers, width = arrays["params:hidden/bias"].shape
        model = MLP(layers + 1, width, classes, skip=skip)
    else:
        # Two convolutions a block, one before them, one dense layer.
        convolutions = sum(k.startswith("params:block") and v.ndim == 4 for k, v in arrays.items())
        model = ResNet(convolutions + 2, classes, arrays["params:stem/kernel"].shape[-1], skip)
    params, state = (jax.tree.map(jnp.asarray, _tree(arrays, k)) for k in ("params:", "state:"))
    loss = softmax_cross_entropy(model)
    return hessian(loss, params, batch, state=state, precision=precision)


@functools.cache
def _token_loss(heads: int) -> Any:
    def loss(params: Any, batch: Any) -> jax.Array:
        return cross_entropy(transformer(params, {}, batch[0], heads), batch[1])

    return loss


def _vectors(arrays: dict[str, np.ndarray], count: int) -> jax.Array:
    """(count, P)."""
    split = named if str(arrays["kind"]) == "transformer" else _tree
    tree = jax.tree.map(lambda v: jnp.asarray(v[:count]), split(arrays, "vectors:"))
    return jax.vmap(lambda tree: ravel_pytree(tree)[0])(tree)


def _images(op: HessianOperator, flat: jax.Array) -> dict[str, np.ndarray]:
    tree = ravel_pytree(op.params)[1](flat)
    return {f"image:{k}": np.asarray(v) for k, v in flatten_dict(tree, sep="/").items()}


def _started(run: LanczosRun, start: jax.Array, capacity: int) -> LanczosRun:
    """The run with the benchmark's start vectors in place of its own.

    It has been begun with room for one step: with its basis another one would be made for nothing.
    """
    state = begin(start, capacity, run.reorthogonalize)
    norms = np.asarray(jnp.sum(start**2, -1), float)
    return dataclasses.replace(run, state=state, probe_norms=norms)


def gradient(arrays: Any, options: dict[str, Any]) -> Any:
    """One gradient in the same framework."""
    op = _operator(arrays)
    state = () if op.state is None else (op.state,)

    @jax.jit
    def model_gradient(op: HessianOperator) -> Any:
        # In the precision that products have.
        with jax.default_matmul_precision("highest"):
            return jax.grad(op.loss)(op.params, *state, op.batch)

    def run() -> Result:
        found = jax.block_until_ready(model_gradient(op))
        return lambda: _images(op, ravel_pytree(found)[0])

    return run


def matvec(arrays: Any, options: dict[str, Any]) -> Any:
    """Products with all vectors at once, on the linearised gradient or as the operator comes."""
    op = _operator(arrays, options.get("precision", "highest"))
    stored = op if options.get("plain") else op.linearized()
    columns = _vectors(arrays, options["count"]).T

    def run() -> Result:
        images = jax.block_until_ready(stored.matmat(columns))
        return lambda: _images(op, images[:, -1])

    return run


def density(arrays: Any, options: dict[str, Any]) -> Any:
    """Stochastic Lanczos quadrature, all probes in lockstep."""
    op = _operator(arrays)
    probes, steps = options["probes"], options["steps"]
    start = _vectors(arrays, probes)

    def run() -> Result:
        begun = lanczos_run(
            op,
            jax.random.key(0),
            num_probes=probes,
            reorthogonalize=options["scheme"],
            capacity=steps,
            reserve=1,
        )
        spectrum = _started(begun, start, steps).advance(steps).spectrum()
        return {"nodes": spectrum.nodes, "weights": spectrum.weights}

    return run


def family(arrays: Any, options: dict[str, Any]) -> Any:
    """All networks in one program."""
    count, steps = len(arrays["params:output/bias"]), options["steps"]
    parts = [arrays | {k: v[i] for k, v in arrays.items() if ":" in k} for i in range(count)]
    op = stack([_operator(part) for part in parts])
    start = jnp.concatenate([_vectors(part, 1) for part in parts])

    def run() -> Result:
        begun = lanczos_run(
            op, jax.random.key(0), reorthogonalize=options["scheme"], capacity=steps, reserve=1
        )
        state = begin(start, steps, begun.reorthogonalize)
        norms = np.asarray(jnp.sum(start**2, -1), float)[:, None]
        done = dataclasses.replace(begun, state=state, probe_norms=norms).advance(steps)
        spectrum = done.spectrum()
        return {"nodes": spectrum.nodes, "weights": spectrum.weights}

    return run


def trace_job(arrays: Any, options: dict[str, Any]) -> Any:
    """Hutchinson's estimate or Hutch++, with so many products."""
    op = _operator(arrays).linearized()

    def run() -> Result:
        method = options.get("method", "hutchinson")
        found = trace(op, jax.random.key(0), method=method, num_matvecs=options["probes"])
        return {"estimate": found.value, "standard_error": found.stderr}

    return run


def top(arrays: Any, options: dict[str, Any]) -> Any:
    """The eigenvalue of largest magnitude, to a relative residual of 10⁻³; verified on request."""
    op = _operator(arrays).linearized()

    def run() -> Result:
        pairs = extremal_eigenpairs(
            op,
            jax.random.key(0),
            num_by_magnitude=options.get("count", 1),
            tol=1e-3,
            verify=options.get("verify", False),
        )
        return {"values": pairs.values, "residuals": pairs.residual_norms}

    return run


def diagonal(arrays: Any, options: dict[str, Any]) -> Any:
    """Lanczos alone, on a diagonal operator."""
    op = DiagonalOperator(jnp.asarray(arrays["eigenvalues"]))
    start = jnp.asarray(arrays["start"])[None]
    steps = options["steps"]

    def run() -> Result:
        begun = lanczos_run(
            op, jax.random.key(0), reorthogonalize=options["scheme"], capacity=steps, reserve=1
        )
        done = jax.block_until_ready(_started(begun, start, steps).advance(steps).state)
        return {"alphas": done.alphas[0], "betas": done.betas[0]}

    return run


JOBS: dict[str, Job] = {
    "family": family,
    "gradient": gradient,
    "matvec": matvec,
    "density": density,
    "trace": trace_job,
    "top": top,
    "diagonal": diagonal,
}

if __name__ == "__main__":
    serve(JOBS, "landscape-jax", "jax")
