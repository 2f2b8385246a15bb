"""Networks that every tool is given: weights, data and start vectors as named arrays in a file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from landscape.models import MLP, ResNet


def export(
    path: Path,
    params: Any,
    batch: tuple[Any, Any],
    count: int,
    *,
    kind: str = "mlp",
    state: Any = None,
    **told: Any,
) -> Path:
    """A network, its batch, and start vectors of random signs, as named arrays."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {"kind": kind, **told}
    for name, leaf in _named(params).items():
        arrays[f"params:{name}"] = leaf
        signs = rng.choice(np.array([-1, 1], leaf.dtype), (count, *leaf.shape))
        arrays[f"vectors:{name}"] = signs
    arrays |= {f"state:{name}": leaf for name, leaf in _named(state or {}).items()}
    inputs, labels = batch
    np.savez(path, inputs=np.asarray(inputs), labels=np.asarray(labels, np.int32), **arrays)
    return path


def _named(tree: Any) -> dict[str, np.ndarray]:
    return {k: np.asarray(v) for k, v in flatten_dict(dict(tree), sep="/").items()}


def mlp_network(folder: Path, skip: str = "identity") -> Path:
    """The mission's 20×128 network at its initialisation; inputs of CIFAR's size."""
    model = MLP(20, 128, 20, skip=skip)
    x = jax.random.normal(jax.random.key(0), (500, 3072))
    params = jax.jit(model.init)(jax.random.key(1), x[:1])["params"]
    batch = (x, np.arange(500) % 20)
    return export(folder / f"mlp-{skip}.npz", params, batch, 10, skip=skip)


def resnet_network(folder: Path) -> Path:
    """ResNet-20 with frozen statistics, those of its own activities; images of 32×32 pixels."""
    model = ResNet(20, 10)
    x = jax.random.normal(jax.random.key(0), (50, 32, 32, 3))
    variables = jax.jit(model.init)(jax.random.key(1), x)
    train = jax.jit(partial(model.apply, train=True, mutable=["batch_stats"]))
    for _ in range(30):
        variables = {**variables, **train(variables, x)[1]}
    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
    batch = (x, np.arange(50) % 10)
    return export(
        folder / "resnet.npz", params, batch, 10, kind="resnet", state=state, skip=model.skip
    )


def transformer_network(folder: Path) -> Path:
    """Four blocks of width 64 with four heads; 32 sequences of 64 tokens out of 64."""
    width, tokens, length, rng = 64, 64, 64, np.random.default_rng(0)
    params = {
        "embed": rng.normal(size=(tokens, width)),
        "position": 0.1 * rng.normal(size=(length, width)),
    }
    for block in range(4):
        for name, fan_in, fan_out in (
            ("query", width, width), ("key", width, width), ("value", width, width),
            ("mix", width, width), ("up", width, 4 * width), ("down", 4 * width, width),
        ):  # fmt: skip
            params |= _dense(rng, f"block_{block}/{name}", fan_in, fan_out)
        for name in ("before", "between"):
            params[f"block_{block}/{name}/scale"] = np.ones(width)
            params[f"block_{block}/{name}/bias"] = np.zeros(width)
    params |= _dense(rng, "output", width, tokens)
    params = {name: leaf.astype(np.float32) for name, leaf in params.items()}
    sequences = rng.integers(0, tokens, (32, length + 1)).astype(np.int32)
    batch = (sequences[:, :-1], sequences[:, 1:])
    return export(folder / "transformer.npz", params, batch, 10, kind="transformer", heads=4)


def _dense(rng: np.random.Generator, name: str, fan_in: int, fan_out: int) -> dict[str, np.ndarray]:
    kernel = rng.normal(size=(fan_in, fan_out)) / np.sqrt(fan_in)
    return {f"{name}/kernel": kernel, f"{name}/bias": np.zeros(fan_out)}
