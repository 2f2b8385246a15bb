"""Small networks in float64, generic or with singularities planted in them."""

import functools
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from landscape.models import MLP

DEPTH, WIDTH, FEATURES, CLASSES, EXAMPLES = 3, 5, 4, 3, 120


def network(skip="none", seed=0, always=(), examples=EXAMPLES, depth=DEPTH):
    """Model, parameters, state, (inputs, labels) in numpy; ``always``: pairs (layer, unit)."""
    model = MLP(depth, WIDTH, CLASSES, skip=skip)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(examples, FEATURES))
    variables = dict(initialised(model)(jax.random.key(seed), x[:1]))
    variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
    params = variables.pop("params")
    for layer in range(depth):
        # Biases such that each unit is active on about half of the examples.
        z = responses(model, params, variables, x)[0][layer]
        active = rng.uniform(0.4, 0.7, WIDTH)
        bias = [1e-3 - np.quantile(z[:, unit], 1 - active[unit]) for unit in range(WIDTH)]
        for number, unit in always:
            if number == layer:
                bias[unit] = 1.0 - z[:, unit].min()
        params = changed(params, layer, bias=dict(enumerate(bias)))
    return model, params, variables, (x, rng.integers(0, CLASSES, examples))


@functools.cache
def initialised(model):
    """Compiled once."""
    return jax.jit(model.init)


def changed(params, layer, columns=None, bias=None, rows=None):
    """Columns of a layer's kernel, entries of its bias, rows of the kernel that reads it."""
    params = {name: {k: v.copy() for k, v in leaves.items()} for name, leaves in params.items()}

    def place(number):
        if number == 0:
            return params["input"]
        if number > len(params["hidden"]["bias"]):
            return params["output"]
        return {name: leaf[number - 1] for name, leaf in params["hidden"].items()}

    for unit, entries in (columns or {}).items():
        place(layer)["kernel"][:, unit] = entries
    for unit, value in (bias or {}).items():
        place(layer)["bias"][unit] = value
    for unit, row in (rows or {}).items():
        place(layer + 1)["kernel"][unit] = row
    return params


def column(params, layer, unit):
    """Incoming weights and bias of a unit."""
    if layer == 0:
        return params["input"]["kernel"][:, unit], params["input"]["bias"][unit]
    return (
        params["hidden"]["kernel"][layer - 1, :, unit],
        params["hidden"]["bias"][layer - 1, unit],
    )


def responses(model, params, state, x):
    """z and x of every hidden layer, in numpy."""
    before, after = [], []
    for layer in range(model.depth):
        pairs = [column(params, layer, unit) for unit in range(model.width)]
        kernel = np.stack([np.asarray(w) for w, _ in pairs], 1)
        z = (np.asarray(x) if layer == 0 else after[-1]) @ kernel + np.array([b for _, b in pairs])
        response = np.maximum(z, 0)
        if layer and model.skip != "none":
            response = response + after[-1]
        if layer > 1 and model.skip == "hyper":
            q = np.asarray(state["fixed"]["skip"])
            response += sum(after[k] @ q[k].T for k in range(layer - 1)) / (layer - 1)
        before.append(z)
        after.append(response)
    return before, after


def is_generic(before, dead=(), always=()):
    """Whether units are active on some examples and not on others, but for those named.

    Any two that are not dead, of one layer and the next, are active together on some examples, and
    one without the other on some: a skip could trade between units that are always active together.
    """
    for layer, z in enumerate(before):
        active = z > 0
        for unit in range(z.shape[1]):
            share = active[:, unit].mean()
            wanted = 0 if (layer, unit) in dead else 1 if (layer, unit) in always else None
            if (share != wanted) if wanted is not None else not 0.2 < share < 0.9:
                return False
        if layer:
            earlier = before[layer - 1] > 0
            together = earlier.T.astype(float) @ active / len(z)
            same = (earlier[:, :, None] == active[:, None, :]).all(0)
            alive = [
                [(l, unit) not in dead for unit in range(z.shape[1])] for l in (layer - 1, layer)
            ]
            bound = [(l, unit) in always for l in (layer - 1, layer) for unit in range(z.shape[1])]
            if (together[np.ix_(*alive)] < 0.1).any():
                return False
            if not any(bound) and same[np.ix_(*alive)].any():
                return False
    return True


@pytest.fixture(scope="session")
def planted():
    """These functions."""
    return SimpleNamespace(
        network=network,
        changed=changed,
        column=column,
        responses=responses,
        is_generic=is_generic,
        depth=DEPTH,
        width=WIDTH,
        features=FEATURES,
        classes=CLASSES,
        examples=EXAMPLES,
    )
