"""Gradients with respect to the layers' outputs, against the chain rule by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape.degeneracy import activity_gradient_norms
from landscape.errors import InputError
from landscape.models import MLP, RandomSkip, ResNet

DEPTH, WIDTH, CLASSES = 4, 6, 3
MODELS = {
    "plain": MLP(DEPTH, WIDTH, CLASSES),
    "residual": MLP(DEPTH, WIDTH, CLASSES, skip="identity"),
    "matrix": MLP(DEPTH, WIDTH, CLASSES, skip=RandomSkip("repeated", num_distinct=2)),
    "hyper": MLP(DEPTH, WIDTH, CLASSES, skip="hyper"),
    "normalised": MLP(DEPTH, WIDTH, CLASSES, norm_after=2),
}


def network(model):
    x = jax.random.normal(jax.random.key(1), (5, 7))
    variables = dict(model.init(jax.random.key(0), x))
    return variables.pop("params"), variables, (x, jnp.array([0, 2, 1, 1, 0]))


def tail(model, params, state, layer, past, x):
    """Logits from the output of a layer on, by the model's equations written anew."""
    q = state.get("fixed", {}).get("skip")
    for l in range(layer, DEPTH):
        kernel, bias = params["hidden"]["kernel"][l - 1], params["hidden"]["bias"][l - 1]
        branch = jax.nn.relu(x @ kernel + bias)
        if model.skip == "hyper":
            new = branch + x + (past / (l - 1) if l > 1 else 0)
            past = past + x @ q[l - 1].T
            x = new
        else:
            x = branch + {"none": 0, "identity": x}[model.skip]
    return x @ params["output"]["kernel"] + params["output"]["bias"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "residual", "hyper"])
def test_they_are_those_of_the_rest_of_the_network(name):
    model = MODELS[name]
    params, state, (inputs, labels) = network(model)
    q = state.get("fixed", {}).get("skip")
    found = activity_gradient_norms(model, params, (inputs, labels), state=state)
    x, y = inputs[0], labels[0]
    h = jax.nn.relu(x @ params["input"]["kernel"] + params["input"]["bias"])
    past, norms = jnp.zeros(WIDTH), []
    for layer in range(1, DEPTH + 1):

        def loss(h, layer=layer, past=past):
            return -jax.nn.log_softmax(tail(model, params, state, layer, past, h))[y]

        norms.append(jnp.linalg.norm(jax.grad(loss)(h)))
        if layer == DEPTH:
            break
        kernel = params["hidden"]["kernel"][layer - 1]
        branch = jax.nn.relu(h @ kernel + params["hidden"]["bias"][layer - 1])
        if model.skip == "hyper":
            new = branch + h + (past / (layer - 1) if layer > 1 else 0)
            past = past + h @ q[layer - 1].T
            h = new
        else:
            h = branch + {"none": 0, "identity": h}[model.skip]
    each = [
        activity_gradient_norms(model, params, (inputs[i : i + 1], labels[i : i + 1]), state=state)
        for i in range(len(inputs))
    ]
    np.testing.assert_allclose(each[0], jnp.stack(norms), rtol=1e-4)
    np.testing.assert_allclose(found, np.mean(each, 0), rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_the_last_layers_is_that_of_the_readout(name):
    """∂ℓ/∂x_L = V (p − e_y), whatever the skips are."""
    model = MODELS[name]
    params, state, (inputs, labels) = network(model)
    logits = model.apply({"params": params, **state}, inputs)
    errors = jax.nn.softmax(logits) - jax.nn.one_hot(labels, CLASSES)
    expected = jnp.linalg.norm(errors @ params["output"]["kernel"].T, axis=1).mean()
    found = activity_gradient_norms(model, params, (inputs, labels), state=state)
    assert found[-1] == pytest.approx(float(expected), rel=1e-4)
    assert (found > 0).all()


@pytest.mark.slow
def test_families_are_mapped():
    model = MODELS["residual"]
    x, labels = network(model)[2]
    params = jax.vmap(lambda key: model.init(key, x)["params"])(jax.random.split(jax.random.key(0)))
    together = jax.vmap(lambda p: activity_gradient_norms(model, p, (x, labels)))(params)
    for i in range(2):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], params)
        np.testing.assert_allclose(
            together[i], activity_gradient_norms(model, one, (x, labels)), rtol=1e-5
        )


def test_other_models_are_refused():
    with pytest.raises(InputError, match="got ResNet"):
        activity_gradient_norms(ResNet(8, 10), {}, (jnp.ones((1, 8, 8, 3)), jnp.zeros(1, int)))
