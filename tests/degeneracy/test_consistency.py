"""Models whose structure would be misread are refused, each by what is wrong with it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape.degeneracy import degeneracy_budget, measures, null_directions
from landscape.errors import InputError


class Readout(nn.Module):
    """Its logits come from a matrix that is no layer."""

    @nn.compact
    def __call__(self, x):
        hidden = nn.relu(nn.Dense(6)(x))
        return hidden @ self.param("readout", nn.initializers.lecun_normal(), (6, 3))


class Tied(nn.Module):
    """What is encoded is decoded with the same weights before it is read."""

    @nn.compact
    def __call__(self, x):
        encoder = nn.Dense(6, name="encoder")
        hidden = nn.relu(encoder(x))
        kernel = self.variables["params"]["encoder"]["kernel"] if self.has_variable(
            "params", "encoder"
        ) else jnp.zeros((x.shape[1], 6))  # fmt: skip
        return nn.Dense(3)(jnp.tanh(hidden @ kernel.T))


class Capped(nn.Module):
    """Logits between −5 and 5."""

    @nn.compact
    def __call__(self, x):
        return 5 * jnp.tanh(nn.Dense(3)(nn.relu(nn.Dense(6)(x))) / 5)


class Pixelwise(nn.Module):
    """A readout at every place, and their mean."""

    @nn.compact
    def __call__(self, x):
        places = x.reshape(len(x), 2, -1)
        return nn.Dense(3)(nn.relu(nn.Dense(6)(places))).mean(1)


class Gated(nn.Module):
    """Two layers side by side, one times the other."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.Dense(6)(x) * nn.sigmoid(nn.Dense(6)(x)))


class Halved(nn.Module):
    """Computes in another type than its parameters have."""

    dtype: type

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.relu(nn.Dense(6, dtype=self.dtype)(x)))


class Normalised(nn.Module):
    """By the statistics of the batch, frozen or not."""

    frozen: bool

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=self.frozen)(nn.Dense(6)(x))
        return nn.Dense(3)(nn.relu(x))


X = np.random.default_rng(0).normal(size=(12, 4))
BATCH = (X, np.arange(12) % 3)


def start(model):
    """Parameters and state in float64."""
    variables = jax.tree.map(
        lambda leaf: np.asarray(leaf, float), dict(model.init(jax.random.key(0), X))
    )
    return variables.pop("params"), variables


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Readout(), "readout belong to no dense layer"),
        (Tied(), "move the logits in other ways than those that were found.*used twice"),
        (Capped(), "what its last layer 'Dense_0' gives are not the logits"),
        (Pixelwise(), "what its last layer 'Dense_0' gives are not the logits"),
        (Halved(jnp.float32), "computes in float32 inside"),
        (Halved(jnp.bfloat16), "computes in bfloat16 inside"),
    ],
)
def test_models_that_would_be_misread_are_refused(model, why, x64):
    params, state = start(model)
    with pytest.raises(InputError, match=why):
        degeneracy_budget(model, params, BATCH, state=state)
    with pytest.raises(InputError, match=why):
        null_directions(model, params, BATCH, state=state)


def test_one_bias_of_two_layers_is_refused(x64):
    def outputs(params, x):
        hidden = jnp.tanh(x @ params["in"]["w"] + params["bias"][None])
        hidden = jnp.tanh(hidden @ params["mid"]["w"] + params["bias"][None])
        return hidden @ params["out"]["w"]

    shapes = {"in": (4, 6), "mid": (6, 6), "out": (6, 3)}
    rng = np.random.default_rng(1)
    params = {name: {"w": rng.normal(size=shape)} for name, shape in shapes.items()}
    params["bias"] = rng.normal(size=6)
    with pytest.raises(InputError, match="bias belongs to two layers"):
        degeneracy_budget(outputs, params, BATCH)


def test_layers_side_by_side_have_a_budget_and_no_measures(x64):
    model = Gated()
    params, state = start(model)
    with pytest.raises(InputError, match="no sequence"):
        measures(model, params, X, state=state)
    counts = degeneracy_budget(model, params, BATCH, state=state).counts
    assert min(counts.values()) >= 0
    assert counts["softmax"] == 7


def test_statistics_of_the_batch_are_refused_and_frozen_ones_understood(x64):
    params, state = start(Normalised(frozen=True))
    frozen = degeneracy_budget(Normalised(frozen=True), params, BATCH, state=state)
    # Two of a channel's weights, bias, scale and shift are enough: the others repeat them.
    assert frozen.counts["normalisation"] >= 6
    assert frozen.counts["unexplained"] == 0

    def moving(params, state, x):
        return Normalised(frozen=False).apply(
            {"params": params, **state}, x, mutable=["batch_stats"]
        )[0]

    with pytest.raises(InputError, match="examples depend on one another"):
        degeneracy_budget(moving, params, BATCH, state=state)


def test_a_model_without_hidden_units_has_no_measures():
    model = nn.Dense(3)
    params = model.init(jax.random.key(0), X)["params"]
    with pytest.raises(InputError, match="no hidden layer"):
        measures(model, params, X)
