"""The benchmark's networks as plain JAX functions of named arrays: nothing but jax is needed.

The names are those of the exported weights, ``hidden/kernel`` for example, without ``params:``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Named = Mapping[str, Any]


def mlp(p: Named, state: Named, x: jax.Array, skip: str) -> jax.Array:
    """Hidden layers of equal width; ``benchmarks/peers/torch_network.py`` has the same."""
    h = jax.nn.relu(x @ p["input/kernel"] + p["input/bias"])
    layers = p["hidden/bias"].shape[0]
    matrices = state.get("fixed/skip", jnp.zeros((layers, 0, 0)))
    factors = jnp.asarray([1.0] + [1.0 / l for l in range(1, layers)])

    def layer(carry: Any, parameters: Any) -> tuple[Any, None]:
        h, past = carry
        kernel, bias, matrix, factor = parameters
        branch = jax.nn.relu(h @ kernel + bias)
        if skip == "none":
            return (branch, past), None
        if skip == "identity":
            return (branch + h, past), None
        return (branch + h + factor * past, past + h @ matrix.T), None

    stacks = (p["hidden/kernel"], p["hidden/bias"], matrices, factors)
    (h, _), _ = jax.lax.scan(layer, (h, jnp.zeros_like(h)), stacks)
    return h @ p["output/kernel"] + p["output/bias"]


def resnet(p: Named, state: Named, x: jax.Array, skip: str) -> jax.Array:
    """Convolutions in blocks of two, normalised by given statistics."""

    def layer(x: jax.Array, name: str, stride: int) -> jax.Array:
        x = jax.lax.conv_general_dilated(
            x,
            p[f"{name}/kernel"],
            (stride, stride),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        mean, var = (state[f"batch_stats/{name}_norm/{part}"] for part in ("mean", "var"))
        scale = p[f"{name}_norm/scale"] / jnp.sqrt(var + 1e-5)
        return (x - mean) * scale + p[f"{name}_norm/bias"]

    x = jax.nn.relu(layer(x, "stem", 1))
    blocks = len({name.split("/")[0] for name in p if name.startswith("block")})
    for i in range(blocks):
        stride = 2 if p[f"block_{i}/first/kernel"].shape[3] > x.shape[-1] else 1
        branch = layer(jax.nn.relu(layer(x, f"block_{i}/first", stride)), f"block_{i}/second", 1)
        if skip != "none":
            short = x[:, ::stride, ::stride]
            added = branch.shape[-1] - short.shape[-1]
            branch = branch + jnp.pad(short, ((0, 0), (0, 0), (0, 0), (0, added)))
        x = jax.nn.relu(branch)
    return x.mean((1, 2)) @ p["output/kernel"] + p["output/bias"]


def transformer(p: Named, _: Named, tokens: jax.Array, heads: int) -> jax.Array:
    """A causal transformer with normalisation before each part; logits (N, T, tokens)."""

    def dense(x: jax.Array, name: str) -> jax.Array:
        return x @ p[f"{name}/kernel"] + p[f"{name}/bias"]

    def normalised(x: jax.Array, name: str) -> jax.Array:
        x = x - x.mean(-1, keepdims=True)
        scale = p[f"{name}/scale"] / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5)
        return x * scale + p[f"{name}/bias"]

    x = p["embed"][tokens] + p["position"]
    count, length, width = x.shape
    mask = jnp.tril(jnp.ones((length, length), bool))
    for block in sorted({name.split("/")[0] for name in p if name.startswith("block")}):
        y = normalised(x, f"{block}/before")
        q, k, v = (
            dense(y, f"{block}/{name}").reshape(count, length, heads, -1)
            for name in ("query", "key", "value")
        )
        scores = jnp.einsum("nthd,nshd->nhts", q, k) / np.sqrt(width / heads)
        scores = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf))
        y = jnp.einsum("nhts,nshd->nthd", scores, v).reshape(count, length, width)
        x = x + dense(y, f"{block}/mix")
        y = jax.nn.gelu(dense(normalised(x, f"{block}/between"), f"{block}/up"))
        x = x + dense(y, f"{block}/down")
    return dense(x, "output")


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean over all labels."""
    rows = jax.nn.log_softmax(logits)
    return -jnp.mean(jnp.take_along_axis(rows, labels[..., None], -1))


def logits_of(arrays: dict[str, np.ndarray]) -> Callable[[Named, Named, jax.Array], jax.Array]:
    """The network of a problem."""
    kind = str(arrays["kind"])
    if kind == "transformer":
        heads = int(arrays["heads"])
        return lambda p, state, x: transformer(p, state, x, heads)
    network, skip = {"mlp": mlp, "resnet": resnet}[kind], str(arrays["skip"])
    return lambda p, state, x: network(p, state, x, skip)


def named(arrays: dict[str, np.ndarray], kind: str) -> dict[str, jax.Array]:
    """The arrays of one kind, ``params:`` or ``state:``, by name."""
    return {k.split(":")[1]: jnp.asarray(v) for k, v in arrays.items() if k.startswith(kind)}
