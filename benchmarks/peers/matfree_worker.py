"""matfree's jobs: its tridiagonalisation on the network and on a diagonal, its trace.

matfree takes a function v ↦ Av and leaves it to its user: here forward over reverse, the usual one,
or the gradient linearised once and all vectors at once, the best. Images of single vectors are put
together by updates in place: XLA's concatenation takes, by chance, many times as long on some
processors (``landscape.curvature.sides`` says why).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax_network import cross_entropy, logits_of, named
from matfree import decomp, stochtrace
from protocol import Job, Result, serve

jax.config.update("jax_default_matmul_precision", "highest")


def _opened(arrays: dict[str, np.ndarray]) -> tuple[jax.Array, Any, Any]:
    """Flat parameters, a loss of their pytree, and the map from the former to the latter."""
    state, logits = named(arrays, "state:"), logits_of(arrays)
    x, y = jnp.asarray(arrays["inputs"]), jnp.asarray(arrays["labels"])
    flat, unflatten = ravel_pytree(named(arrays, "params:"))

    def loss(params: Any) -> jax.Array:
        return cross_entropy(logits(params, state, x), y)

    return flat, loss, unflatten


def _vectors(arrays: dict[str, np.ndarray], count: int) -> list[jax.Array]:
    named = {k.split(":")[1]: v for k, v in arrays.items() if k.startswith("vectors:")}
    return [ravel_pytree({k: v[i] for k, v in named.items()})[0] for i in range(count)]


def matvec(arrays: Any, options: dict[str, Any]) -> Any:
    """Forward over reverse, each vector in turn, or linearised, all vectors at once."""
    flat, of_tree, unflatten = _opened(arrays)
    loss = _flat(of_tree, unflatten)
    vectors = _vectors(arrays, options["count"])
    if options.get("linearized"):
        _, linear = jax.linearize(jax.grad(loss), flat)
        every = jax.jit(lambda linear, columns: jax.vmap(linear)(columns))
        columns = jnp.stack(vectors)

        def at_once() -> Result:
            images = jax.block_until_ready(every(linear, columns))
            return lambda: {f"image:{k}": v for k, v in unflatten(images[-1]).items()}

        return at_once
    product = jax.jit(lambda flat, v: jax.jvp(jax.grad(loss), (flat,), (v,))[1])

    def run() -> Result:
        for vector in vectors:
            image = product(flat, vector)
        jax.block_until_ready(image)
        return lambda: {f"image:{k}": v for k, v in unflatten(image).items()}

    return run


def _flat(loss: Any, unflatten: Any) -> Any:
    return lambda flat: loss(unflatten(flat))


def _in_place(leaves: list[jax.Array]) -> jax.Array:
    """Leaves as one vector."""
    flat, start = jnp.zeros(sum(leaf.size for leaf in leaves), leaves[0].dtype), 0
    for leaf in leaves:
        flat = jax.lax.dynamic_update_slice(flat, leaf.ravel(), (start,))
        start += leaf.size
    return flat


def density(arrays: Any, options: dict[str, Any]) -> Any:
    """``tridiag_sym`` on the linearised gradient, and the quadrature it gives."""
    flat, loss, unflatten = _opened(arrays)
    starts = jnp.stack(_vectors(arrays, options["probes"]))
    reortho = {"full": "full", "none": "none"}[options["scheme"]]
    tridiagonal = decomp.tridiag_sym(options["steps"], reortho=reortho, materialize=True)

    @jax.jit
    def decompose(flat: jax.Array, starts: jax.Array) -> jax.Array:
        _, linear = jax.linearize(jax.grad(loss), unflatten(flat))

        def product(v: jax.Array) -> jax.Array:
            return _in_place(jax.tree.leaves(linear(unflatten(v))))

        return jax.lax.map(lambda v: tridiagonal(product, v).J_small, starts)

    def run() -> Result:
        matrices = np.asarray(decompose(flat, starts), float)
        nodes, s = np.linalg.eigh(matrices)
        return {"nodes": nodes, "weights": s[:, 0] ** 2}

    return run


def family(arrays: Any, options: dict[str, Any]) -> Any:
    """``tridiag_sym`` of all networks in one program, side by side in ``vmap``."""
    stacked = {k: v for k, v in arrays.items() if ":" in k}
    tridiagonal = decomp.tridiag_sym(options["steps"], reortho=options["scheme"], materialize=True)

    def one(network: dict[str, jax.Array]) -> jax.Array:
        flat, loss, unflatten = _opened({**arrays, **network})
        _, product = jax.linearize(jax.grad(_flat(loss, unflatten)), flat)
        return tridiagonal(product, _vectors(network, 1)[0]).J_small

    every = jax.jit(jax.vmap(one))

    def run() -> Result:
        nodes, s = np.linalg.eigh(np.asarray(every(stacked), float))
        return {"nodes": nodes, "weights": s[:, 0] ** 2}

    return run


def trace(arrays: Any, options: dict[str, Any]) -> Any:
    """Hutchinson's estimate with its standard error."""
    flat, of_tree, unflatten = _opened(arrays)
    loss = _flat(of_tree, unflatten)
    sampler = stochtrace.sampler_signs(flat, num=options["probes"])
    estimator = stochtrace.estimator_monte_carlo_mean_and_sem(
        stochtrace.monte_carlo_trace(), sampler
    )

    @jax.jit
    def estimate(flat: jax.Array, key: jax.Array) -> Any:
        _, product = jax.linearize(jax.grad(loss), flat)
        return estimator(product, key)

    def run() -> Result:
        found = jax.block_until_ready(estimate(flat, jax.random.key(0)))
        return {"estimate": found[0], "standard_error": found[1]}

    return run


def diagonal(arrays: Any, options: dict[str, Any]) -> Any:
    """``tridiag_sym`` alone, on a diagonal operator."""
    values, start = jnp.asarray(arrays["eigenvalues"]), jnp.asarray(arrays["start"])
    reortho = {"full": "full", "none": "none"}[options["scheme"]]
    tridiagonal = decomp.tridiag_sym(options["steps"], reortho=reortho, materialize=False)

    @jax.jit
    def decompose(values: jax.Array, start: jax.Array) -> Any:
        return tridiagonal(lambda v: values * v, start).J_small

    def run() -> Result:
        alphas, betas = jax.block_until_ready(decompose(values, start))
        return {"alphas": alphas, "betas": betas}

    return run


JOBS: dict[str, Job] = {
    "family": family,
    "matvec": matvec,
    "density": density,
    "trace": trace,
    "diagonal": diagonal,
}

if __name__ == "__main__":
    serve(JOBS, "matfree", "jax")
