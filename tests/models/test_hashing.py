"""Modules with lists among their attributes, and those that can be given no hash."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape.curvature import hessian
from landscape.degeneracy import degeneracy_budget, hidden_layers, measures
from landscape.errors import InputError
from landscape.models import MLP, hashable
from landscape.training import softmax_cross_entropy


class Documented(nn.Module):
    """As in Flax's documentation: widths as a list."""

    features: list

    @nn.compact
    def __call__(self, x):
        for width in self.features[:-1]:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.features[-1])(x)


class Nested(nn.Module):
    """Modules in a dictionary, of which one is used twice."""

    parts: dict

    def __call__(self, x):
        return self.parts["out"](self.parts["again"](self.parts["again"](x)))


MODELS = [
    Documented([5, 4, 3]),
    nn.Sequential([nn.Dense(5), nn.relu, nn.Dense(3)]),
    nn.Sequential([Documented([4, 6]), nn.relu, nn.Dense(3)]),
]


@pytest.mark.parametrize("model", MODELS, ids=["documented", "sequential", "both"])
def test_lists_are_no_hindrance(model):
    x = jax.random.normal(jax.random.key(0), (20, 4))
    params = model.init(jax.random.key(1), x)["params"]
    frozen = hashable(model)
    np.testing.assert_array_equal(
        frozen.apply({"params": params}, x), model.apply({"params": params}, x)
    )
    assert hash(frozen) == hash(hashable(model))
    assert softmax_cross_entropy(model) is softmax_cross_entropy(model)
    batch = (x, jnp.arange(20) % 3)
    assert hessian(softmax_cross_entropy(model), params, batch, state={}).shape[0] > 0
    layers = hidden_layers(model, params, x)
    found = measures(model, params, x)
    assert [len(norms) for norms in found.elimination.incoming_norms] == [
        layer.kernel.of(params).shape[-1] for layer in layers
    ]


def test_a_budget_of_flaxs_own_sequential():
    model = nn.Sequential([nn.Dense(3), nn.relu, nn.Dense(2)])
    x = jax.random.normal(jax.random.key(0), (20, 3))
    params = model.init(jax.random.key(1), x)["params"]
    budget = degeneracy_budget(model, params, (x, jnp.arange(20) % 2))
    assert sum(budget.counts.values()) == budget.total
    assert budget.counts["rescaling"] == 3


def test_a_module_that_is_used_twice_stays_one():
    shared = nn.Dense(4)
    model = Nested({"again": shared, "out": nn.Dense(2)})
    x = jnp.ones((3, 4))
    variables = model.init(jax.random.key(0), x)
    assert len(variables["params"]) == 2
    np.testing.assert_array_equal(hashable(model).apply(variables, x), model.apply(variables, x))


def test_what_has_a_hash_stays_itself_and_arrays_are_refused():
    model = MLP(2, 3, 2)
    assert hashable(model) is model

    class Constant(nn.Module):
        matrix: jax.Array

        def __call__(self, x):
            return x @ self.matrix

    with pytest.raises(InputError, match="matrix among its attributes have none"):
        hashable(Constant(jnp.eye(2)))
