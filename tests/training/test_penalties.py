"""Targets are drawn once for each network, the penalty is what it says, and training feels it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from landscape.curvature import hessian
from landscape.data import load
from landscape.errors import InputError
from landscape.models import MLP, ResNet
from landscape.training import (
    BiasRegularization,
    TrainConfig,
    fit,
    fit_many,
    penalized,
    softmax_cross_entropy,
)

MODEL = MLP(4, 8, 10)
CONFIG = TrainConfig(epochs=3, batch_size=20, learning_rate=1e-2)


def digits():
    return load("digits").subset(100, seed=0).standardized()


def parameters(model=MODEL, shape=(1, 8, 8, 1)):
    return model.init(jax.random.key(0), jnp.ones(shape))["params"]


@pytest.mark.slow
def test_the_penalty_is_the_weighted_sum_of_squares_over_hidden_biases():
    params = parameters()
    penalty = BiasRegularization(strength=0.3, mean=-1.0, std=2.0)
    targets = penalty.draw(jax.random.key(1), params)
    assert {path: t.shape for path, t in flatten_dict(targets, sep="/").items()} == {
        "input/bias": (8,),
        "hidden/bias": (3, 8),
    }
    params = jax.tree.map(lambda leaf: leaf + 0.5, params)
    expected = 0.3 * sum(((0.5 - t) ** 2).sum() for t in jax.tree.leaves(targets))
    assert penalty(params, {"penalty": targets}) == pytest.approx(float(expected), rel=1e-5)


def test_targets_have_the_mean_and_the_spread_that_were_asked_for():
    params = parameters(MLP(40, 64, 10))
    drawn = BiasRegularization(1.0, mean=0.7, std=0.2).draw(jax.random.key(0), params)
    values = np.concatenate([np.ravel(t) for t in jax.tree.leaves(drawn)])
    assert values.mean() == pytest.approx(0.7, abs=4 * 0.2 / np.sqrt(values.size))
    assert values.std() == pytest.approx(0.2, rel=0.1)
    same = BiasRegularization(1.0).draw(jax.random.key(0), params)
    assert all((t == 0).all() for t in jax.tree.leaves(same))


@pytest.mark.slow
def test_a_strong_penalty_holds_biases_at_targets_that_differ_between_networks():
    penalty = BiasRegularization(strength=30.0, mean=0.3, std=0.1)
    keys = jax.random.split(jax.random.key(0), 2)
    longer = TrainConfig(epochs=40, batch_size=20, learning_rate=1e-2)
    run = fit_many(MODEL, digits(), longer, keys, penalty=penalty)
    targets = run.state["penalty"]["hidden"]["bias"]
    assert abs(targets[0] - targets[1]).max() > 0.1
    np.testing.assert_allclose(run.params["hidden"]["bias"], targets, atol=0.05)


@pytest.mark.slow
def test_losses_are_recorded_without_it_and_networks_start_as_without_it():
    penalty = BiasRegularization(strength=10.0, mean=1.0)
    with_it, without = (
        fit(MODEL, digits(), CONFIG, jax.random.key(0), penalty=p) for p in (penalty, None)
    )
    assert with_it.loss[0] == without.loss[0]
    assert not np.array_equal(with_it.params["hidden"]["bias"], without.params["hidden"]["bias"])
    inputs, labels = digits().arrays()
    data_loss = softmax_cross_entropy(MODEL)(with_it.params, with_it.state, (inputs, labels))
    assert with_it.loss[-1] == pytest.approx(float(data_loss), rel=1e-5)


@pytest.mark.slow
def test_a_penalty_of_no_strength_changes_nothing():
    runs = [
        fit(MODEL, digits(), CONFIG, jax.random.key(0), penalty=p)
        for p in (BiasRegularization(0.0, 1.0, 1.0), None)
    ]
    np.testing.assert_allclose(runs[0].loss, runs[1].loss, rtol=1e-6)


@pytest.mark.slow
def test_its_curvature_is_apart_from_that_of_the_data():
    penalty = BiasRegularization(strength=0.25)
    params = parameters()
    state = {"penalty": penalty.draw(jax.random.key(0), params)}
    batch = digits().arrays()
    loss = softmax_cross_entropy(MODEL)
    data, total = (
        hessian(function, params, batch, state=state)
        for function in (loss, penalized(loss, penalty))
    )
    v = jax.random.normal(jax.random.key(1), (data.shape[1],))
    hidden = data.ravel(
        {
            name: {
                kind: jnp.full(leaf.shape, kind == "bias" and name != "output", leaf.dtype)
                for kind, leaf in layer.items()
            }
            for name, layer in params.items()
        }
    )
    np.testing.assert_allclose(
        total.matvec(v) - data.matvec(v), 2 * 0.25 * hidden * v, rtol=1e-3, atol=1e-4
    )


@pytest.mark.slow
def test_a_run_is_resumed_only_under_its_own_penalty(tmp_path):
    given = {"key": jax.random.key(0), "checkpoint_dir": tmp_path}
    penalty = BiasRegularization(0.1, std=1.0)
    whole = fit(MODEL, digits(), CONFIG, penalty=penalty, **given)
    again = fit(MODEL, digits(), CONFIG, penalty=penalty, **given)
    np.testing.assert_array_equal(whole.loss, again.loss)
    np.testing.assert_array_equal(
        whole.state["penalty"]["input"]["bias"], again.state["penalty"]["input"]["bias"]
    )
    with pytest.raises(InputError):
        fit(MODEL, digits(), CONFIG, penalty=BiasRegularization(0.2, std=1.0), **given)


@pytest.mark.parametrize(
    "wrong", [{"strength": -1.0}, {"strength": np.inf}, {"strength": 1.0, "std": -0.1}]
)
def test_numbers_that_mean_nothing_are_refused(wrong):
    with pytest.raises(InputError, match="must be finite"):
        BiasRegularization(**wrong)


@pytest.mark.slow
def test_a_model_without_such_biases_is_refused():
    params = parameters(ResNet(8, 10), (1, 8, 8, 3))
    with pytest.raises(InputError, match="no hidden layer with a bias"):
        BiasRegularization(1.0).draw(jax.random.key(0), params)
