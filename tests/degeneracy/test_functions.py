"""Functions that know nothing of this package: their layers, measures and budgets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

from landscape.degeneracy import (
    check_directions,
    degeneracy_budget,
    hidden_layers,
    measures,
    null_directions,
)
from landscape.degeneracy.describe import describe
from landscape.errors import InputError

CAUSES = ("elimination", "constant input", "overlap", "dependence", "dependence from above")


def flat(params):
    """An ``MLP``'s parameters as a list of (kernel, bias)."""
    hidden = params["hidden"]
    stack = list(zip(hidden["kernel"], hidden["bias"], strict=True))
    ends = [(params[name]["kernel"], params[name]["bias"]) for name in ("input", "output")]
    return [ends[0], *stack, ends[1]]


def plain(params, x):
    """Weights as in Flax."""
    for kernel, bias in params[:-1]:
        x = jax.nn.relu(x @ kernel + bias[None])
    return x @ params[-1][0] + params[-1][1][None]


def one_by_one(params, x):
    """Weights as in Equinox: (n, fan_in), an example at a time."""

    def one(row):
        for layer in params[:-1]:
            row = jax.nn.relu(layer["weight"] @ row + layer["bias"])
        return params[-1]["weight"] @ row + params[-1]["bias"]

    return jax.vmap(one)(x)


@jax.jit
def compiled(params, x):
    """Layers inside programs of their own; the activation is custom; checkpointed."""

    @jax.checkpoint
    def layer(x, kernel, bias):
        return jax.nn.relu(jnp.einsum("ni,ij->nj", x, kernel) + bias[None, :])

    for kernel, bias in params[:-1]:
        x = layer(x, kernel, bias)
    return jnp.dot(x, params[-1][0]) + params[-1][1][None]


def transposed(params):
    return [{"weight": kernel.T, "bias": bias} for kernel, bias in params]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "one by one", "compiled"])
def test_a_function_has_the_budget_of_the_network_that_it_computes(kind, planted, x64):
    model, params, state, (x, y) = planted.network("none", 7)
    params = planted.changed(params, 1, bias={0: -1e3})
    w, b = planted.column(params, 0, 3)
    params = planted.changed(params, 0, columns={4: w}, bias={4: b})
    expected = degeneracy_budget(model, params, (x, y), state=state)
    function = {"plain": plain, "one by one": one_by_one, "compiled": compiled}[kind]
    theirs = transposed(flat(params)) if kind == "one by one" else flat(params)
    found = degeneracy_budget(function, theirs, (x, y))
    assert found.total == expected.total
    for cause in (*CAUSES, "softmax"):
        assert found.counts[cause] == expected.counts[cause], cause
    # Rescaling is found by trying; others are not known by name, but relations of neighbours.
    assert found.counts["rescaling"] == expected.counts["rescaling"] > 0
    known = ("translation", "mixing", "compensation", "neighbours")
    assert found.counts["neighbours"] == sum(expected.counts[cause] for cause in known)
    assert found.counts["unexplained"] == expected.counts["unexplained"] == 0
    assert any("unit 0 without effect" in finding for finding in found.findings)
    ours, others = measures(model, params, x, state=state), measures(function, theirs, x)
    np.testing.assert_allclose(others.overlap.mean_correlation, ours.overlap.mean_correlation)
    families = null_directions(function, theirs, (x, y))
    assert sum(len(f) for f in families if f.cause in CAUSES) == sum(
        found.counts[cause] for cause in CAUSES[:4]
    )
    for check in check_directions(families, function, theirs, (x, y)):
        assert check.gauss_newton_norms.max() < 1e-9 * check.scale


def test_layers_of_functions_are_their_leaves(x64):
    params = transposed([(np.ones((3, 4)), np.zeros(4)), (np.ones((4, 2)), np.zeros(2))])
    (layer,) = hidden_layers(one_by_one, params, np.zeros((1, 3)))
    assert (layer.name, layer.kernel.path, layer.kernel.transposed) == ("0", "0/weight", True)
    assert layer.bias.path == "0/bias"
    assert layer.outgoing.path == "1/weight"
    assert layer.incoming_weights(params).shape == (3, 4)


class Perceptron(nnx.Module):
    """Two hidden layers, normalised."""

    def __init__(self, rngs):
        self.first = nnx.Linear(6, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, use_running_average=True, rngs=rngs)
        self.second = nnx.Linear(8, 5, rngs=rngs)
        self.out = nnx.Linear(5, 3, use_bias=False, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.first(x)))
        return self.out(nnx.relu(self.second(x)))


class Convolutional(nnx.Module):
    """Two convolutions, pooled."""

    def __init__(self, rngs):
        self.first = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.second = nnx.Conv(4, 3, (3, 3), strides=2, rngs=rngs)
        self.out = nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.second(nnx.relu(self.first(x))))
        return self.out(x.mean((1, 2)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Perceptron, Convolutional])
def test_an_nnx_module_is_a_model(kind):
    model = kind(nnx.Rngs(0))
    shape = (60, 6) if kind is Perceptron else (60, 6, 6, 1)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    y = np.zeros(60, int)
    # A unit or a channel that is never active.
    last = model.second.bias
    last[...] = last[...].at[2].set(-1e3)
    params = nnx.state(model, nnx.Param)
    names = [layer.name for layer in hidden_layers(model, params, x[:1])]
    assert names == ["first", "second"]
    assert measures(model, params, x).elimination.mean_incoming_norm > 0
    budget = degeneracy_budget(model, params, (x, y), eps=1e-6)
    assert sum(budget.counts.values()) == budget.total
    assert budget.findings[0].startswith("second: unit 2 without effect on the logits")
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert budget.num_parameters == size

    def outputs(vector, unravel, definition, rest):
        return nnx.merge(definition, unravel(vector), rest)(jnp.asarray(x, jnp.float64))

    with jax.enable_x64(True):
        definition, own, rest = nnx.split(model, nnx.Param, ...)
        own, rest = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (own, rest))
        vector, unravel = ravel_pytree(own)
        rows = np.asarray(
            jax.jit(jax.jacobian(lambda v: outputs(v, unravel, definition, rest)))(vector)
        )
    rows = (rows - rows.mean(1, keepdims=True)).reshape(-1, size)
    assert budget.total == size - np.linalg.matrix_rank(rows)


def test_a_walk_gives_what_the_function_gives(x64):
    rng = np.random.default_rng(0)
    params = [(rng.normal(size=(3, 4)), rng.normal(size=4)), (rng.normal(size=(4, 2)), np.ones(2))]
    x = rng.normal(size=(7, 3))
    network = describe(compiled, params, x[:1])
    walk = network.walk(params, None, x)
    np.testing.assert_allclose(walk.logits, compiled(params, x), rtol=1e-14)
    before = x @ params[0][0] + params[0][1]
    np.testing.assert_allclose(walk.preactivations[0], before, rtol=1e-14)
    np.testing.assert_allclose(walk.inputs[1], np.maximum(before, 0), rtol=1e-14)
    # How pre-activations move the logits: of the hidden layer by the weights of active units.
    first, last = network.effects(params, None, x)
    np.testing.assert_allclose(
        first[:, :, 0], (before > 0)[:, None, :] * params[1][0].T, rtol=1e-14
    )
    np.testing.assert_allclose(last[:, :, 0], np.tile(np.eye(2), (7, 1, 1)))


def stacked(params, x):
    def layer(x, kernel):
        return jnp.tanh(x @ kernel), None

    return jax.lax.scan(layer, x, params["stack"])[0] @ params["out"]


REFUSED = {
    "used twice": (lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"], {"w": np.ones((3, 3))}),
    "stack belong to no dense layer": (
        stacked,
        {"stack": np.ones((2, 3, 3)), "out": np.ones((3, 2))},
    ),
    "does not end in a dense layer": (lambda p, x: jnp.tanh(x @ p["w"]), {"w": np.ones((3, 2))}),
    "no sequence of layers": (
        lambda p, x: (jnp.tanh(x @ p["a"]) * jnp.tanh(x @ p["b"])) @ p["c"],
        {"a": np.ones((3, 4)), "b": np.ones((3, 4)), "c": np.ones((4, 2))},
    ),
    "NHWC": (
        lambda p, x: (
            jax.lax.conv(x.reshape(-1, 1, 1, 3), p["k"], (1, 1), "SAME")[:, :, 0, 0] @ p["w"]
        ),
        {"k": np.ones((4, 1, 1, 1)), "w": np.ones((4, 2))},
    ),
}


@pytest.mark.parametrize("match", REFUSED)
def test_what_is_no_sequence_of_layers_is_refused(match):
    function, params = REFUSED[match]
    x = np.ones((5, 3), np.float32)
    params = jax.tree.map(np.float32, params)
    function(params, x)
    with pytest.raises(InputError, match=match):
        hidden_layers(function, params, x)
    with pytest.raises(InputError, match=match):
        degeneracy_budget(function, params, (x, np.zeros(5, int)))


def test_logits_have_two_axes():
    def outputs(params, x):
        return (jnp.tanh(x @ params["a"]) @ params["b"])[:, None]

    def tokens(params, x):
        return jnp.tanh(x @ params["a"]) @ params["b"]

    params = {"a": np.ones((3, 4), np.float32), "b": np.ones((4, 2), np.float32)}
    with pytest.raises(InputError, match=r"of logits \(N, C\); the model gives"):
        degeneracy_budget(outputs, params, (np.ones((5, 3), np.float32), np.zeros(5, int)))
    with pytest.raises(InputError, match=r"of logits \(N, C\); the model gives \(5, 7, 2\)"):
        degeneracy_budget(tokens, params, (np.ones((5, 7, 3), np.float32), np.zeros(5, int)))
