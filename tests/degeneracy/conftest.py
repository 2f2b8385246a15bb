"""Small networks in float64, generic or with singularities planted in them."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape.models import MLP

DEPTH, WIDTH, FEATURES, CLASSES, EXAMPLES = 4, 5, 4, 3, 80


def network(skip="none", seed=0, always=(), examples=EXAMPLES, depth=DEPTH):
    """Model, parameters, state, (inputs, labels); ``always``: (layer, unit) pairs made active."""
    model = MLP(depth, WIDTH, CLASSES, skip=skip)
    x = jax.random.normal(jax.random.key(seed), (examples, FEATURES), jnp.float64)
    variables = dict(model.init(jax.random.key(seed + 1000), x))
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)
    params = variables.pop("params")
    rng = np.random.default_rng(seed)
    for layer in range(depth):
        # Biases such that each unit is active on about half of the examples.
        z = responses(model, params, variables, x)[0][layer]
        active = rng.uniform(0.4, 0.7, WIDTH)
        bias = [1e-3 - np.quantile(z[:, unit], 1 - active[unit]) for unit in range(WIDTH)]
        for number, unit in always:
            if number == layer:
                bias[unit] = 1.0 - z[:, unit].min()
        params = changed(params, layer, bias=dict(enumerate(bias)))
    y = jnp.asarray(rng.integers(0, CLASSES, examples))
    return model, params, variables, (x, y)


def changed(params, layer, columns=None, bias=None, rows=None):
    """Columns of a layer's kernel, entries of its bias, rows of the kernel that reads it."""
    params = {name: dict(leaves) for name, leaves in params.items()}

    def place(number):
        if number == 0:
            return "input", ()
        last = params["hidden"]["bias"].shape[0] + 1
        return ("output", ()) if number == last else ("hidden", (number - 1,))

    name, index = place(layer)
    for unit, column in (columns or {}).items():
        params[name]["kernel"] = params[name]["kernel"].at[(*index, slice(None), unit)].set(column)
    for unit, value in (bias or {}).items():
        params[name]["bias"] = params[name]["bias"].at[(*index, unit)].set(value)
    name, index = place(layer + 1)
    for unit, row in (rows or {}).items():
        params[name]["kernel"] = params[name]["kernel"].at[(*index, unit)].set(row)
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
    """Whether units are active on some examples and not on others, but for those named."""
    for layer, z in enumerate(before):
        for unit in range(z.shape[1]):
            share = (z[:, unit] > 0).mean()
            wanted = 0 if (layer, unit) in dead else 1 if (layer, unit) in always else None
            if (share != wanted) if wanted is not None else not 0.2 < share < 0.9:
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
