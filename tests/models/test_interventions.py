"""Malicious initialisation undoes the skip; a normalisation in the middle normalises."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from landscape.curvature import hessian
from landscape.degeneracy import measures
from landscape.degeneracy.describe import describe
from landscape.errors import InputError
from landscape.models import MLP, repeated_orthogonal
from landscape.training import softmax_cross_entropy
from landscape.training.epoch import compile_program

DEPTH, WIDTH, CLASSES = 6, 5, 3


def data(dtype=np.float64):
    keys = jax.random.split(jax.random.key(7))
    x = jax.random.normal(keys[0], (12, 4), dtype)
    return x, jax.random.randint(keys[1], (12,), 0, CLASSES)


def double(**options):
    return MLP(DEPTH, WIDTH, CLASSES, activation="identity", param_dtype=jnp.float64, **options)


SKIPS = {
    "identity": "identity",
    "matrix": np.asarray(repeated_orthogonal(jax.random.key(4), WIDTH, 2)),
}


@pytest.mark.slow
@pytest.mark.parametrize("skip", SKIPS.values(), ids=SKIPS)
def test_with_linear_units_it_is_the_plain_network_at_the_start_and_through_training(skip, x64):
    x, labels = data()
    models = {
        "plain": double(),
        "malicious": double(skip=skip, cancel_skip=True),
        "residual": double(skip=skip),
    }
    programs = {n: compile_program(m, optax.adam(1e-2), 4, False) for n, m in models.items()}
    key = jax.random.key_data(jax.random.key(0))
    states = {name: program.init(key, x[:1]) for name, program in programs.items()}
    for epoch in range(6):
        logits = {
            name: models[name].apply({"params": state.params, **state.state}, x)
            for name, state in states.items()
        }
        np.testing.assert_allclose(logits["malicious"], logits["plain"], rtol=0, atol=1e-10)
        assert abs(logits["residual"] - logits["plain"]).max() > 0.1
        states = {
            name: program.run(states[name], x, labels, jnp.uint32(epoch))
            for name, program in programs.items()
        }
    moved = (
        states["plain"].params["hidden"]["kernel"]
        - programs["plain"].init(key, x[:1]).params["hidden"]["kernel"]
    )
    assert abs(moved).max() > 0.01


@pytest.mark.slow
def test_only_hidden_kernels_are_changed():
    x = jnp.ones((1, 4))
    plain, malicious = (
        MLP(DEPTH, WIDTH, CLASSES, **options).init(jax.random.key(0), x)["params"]
        for options in ({}, {"skip": "identity", "cancel_skip": True})
    )
    np.testing.assert_allclose(
        plain["hidden"]["kernel"] - malicious["hidden"]["kernel"],
        np.broadcast_to(np.eye(WIDTH), (DEPTH - 1, WIDTH, WIDTH)),
        atol=1e-6,
    )
    for layer, kind in (("input", "kernel"), ("output", "kernel"), ("hidden", "bias")):
        np.testing.assert_array_equal(plain[layer][kind], malicious[layer][kind])


@pytest.mark.parametrize("skip", ["none", "hyper"])
def test_there_must_be_a_skip_to_undo(skip):
    with pytest.raises(InputError, match="cancel_skip undoes"):
        MLP(3, 4, 2, skip=skip, cancel_skip=True)


@pytest.mark.parametrize("skip", ["none", *SKIPS.values()], ids=["none", *SKIPS])
@pytest.mark.parametrize("after", [1, 3, DEPTH])
def test_what_is_normalised_is_the_output_of_that_layer(after, skip):
    x, _ = data(np.float32)
    model = MLP(DEPTH, WIDTH, CLASSES, skip=skip, norm_after=after)
    variables = model.init(jax.random.key(0), x)
    logits, updated = model.apply(variables, x, train=True, mutable=["batch_stats"])

    # By hand, layer by layer, with the batch's own statistics.
    params = jax.tree.map(np.asarray, variables["params"])
    x = np.asarray(x)
    h = np.maximum(x @ params["input"]["kernel"] + params["input"]["bias"], 0)
    for l in range(DEPTH):
        if l:
            kernel, bias = params["hidden"]["kernel"][l - 1], params["hidden"]["bias"][l - 1]
            branch = np.maximum(h @ kernel + bias, 0)
            past = {"none": 0 * h, "identity": h}.get(skip) if isinstance(skip, str) else h @ skip.T
            h = branch + past
        if l + 1 == after:
            np.testing.assert_allclose(
                updated["batch_stats"]["norm"]["mean"], 0.1 * h.mean(0), rtol=1e-4, atol=1e-6
            )
            h = (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5)
    expected = h @ params["output"]["kernel"] + params["output"]["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)


def test_without_a_norm_nothing_is_split_and_the_parameters_are_those_of_before():
    x = jnp.ones((2, 4))
    variables = MLP(3, 4, 2).init(jax.random.key(0), x)
    assert set(variables) == {"params"}
    assert set(variables["params"]) == {"input", "hidden", "output"}


@pytest.mark.parametrize("after", [0, 4])
def test_a_norm_must_stand_behind_a_hidden_layer(after):
    with pytest.raises(InputError, match="norm_after must be an integer from 1 to 3"):
        MLP(3, 4, 2, norm_after=after)
    with pytest.raises(InputError, match="hyper-residual"):
        MLP(3, 4, 2, skip="hyper", norm_after=2)


@pytest.mark.slow
def test_curvature_and_measures_take_normalised_networks_at_frozen_statistics():
    x, labels = data(np.float32)
    model = MLP(DEPTH, WIDTH, CLASSES, norm_after=3)
    variables = model.init(jax.random.key(0), x)
    _, updated = model.apply(variables, x, train=True, mutable=["batch_stats"])
    params, state = variables["params"], dict(updated)
    op = hessian(softmax_cross_entropy(model), params, (x, labels), state=state)
    assert np.isfinite(op.matvec(jnp.ones(op.shape[1]))).all()
    walk = describe(model, params, x[:1], state=state).run(params, state, x, None)
    np.testing.assert_allclose(
        walk.logits, model.apply({"params": params, **state}, x), rtol=1e-4, atol=1e-5
    )
    found = measures(model, params, x, state=state)
    assert np.isfinite(found.elimination.mean_incoming_norm)
