"""Every direction that symmetries give is null for the Jacobian of the logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape.curvature import jacobian
from landscape.degeneracy.compensation import compensated
from landscape.degeneracy.describe import describe
from landscape.degeneracy.symmetries import (
    activity_patterns,
    flattened,
    host_weights,
    mixing,
    rescaling,
    translation,
)
from landscape.models import MLP

BLOCKS = np.kron(np.eye(2), [[0.0, 1.0], [1.0, 0.0]])
SKIPS = {
    "none": "none",
    "identity": "identity",
    "hyper": "hyper",
    "blocks": BLOCKS,
    "dense": np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0],
}


@pytest.fixture(params=SKIPS)
def case(request, x64):
    """A network with some units that are always active, everything in float64."""
    model = MLP(4, 4, 3, skip=SKIPS[request.param])
    x = jax.random.normal(jax.random.key(0), (25, 6), jnp.float64)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.float64), dict(model.init(jax.random.key(1), x))
    )
    params = variables.pop("params")
    params["input"]["bias"] += jnp.array([0.2, 9.0, 9.0, -0.1])
    params["hidden"]["bias"] += jnp.asarray([[50.0, 50, 0, 50], [0, 0, 90, 0], [0, 90, 90, 0]])
    network = describe(model, params, x[:1], state=variables)
    weights = host_weights(network, params, variables)
    walk = network.run(params, variables, x, None)
    patterns = activity_patterns(walk)
    op = jacobian(lambda p, s, x: model.apply({"params": p, **s}, x), params, x, state=variables)
    inputs = [np.asarray(x) for x in walk.inputs]
    return request.param, weights, patterns, np.asarray(op.to_dense()), params, inputs


def places(params, maps):
    """Entries of the kernels and biases in the flat vector, which goes by names."""
    numbered, start = {}, 0
    for name in sorted(params):
        for kind in sorted(params[name]):
            leaf = params[name][kind]
            numbered[name, kind] = start + np.arange(leaf.size).reshape(leaf.shape)
            start += leaf.size
    found = [(numbered["input", "kernel"], numbered["input", "bias"])]
    found += list(zip(numbered["hidden", "kernel"], numbered["hidden", "bias"], strict=True))
    return [*found, (numbered["output", "kernel"], numbered["output", "bias"])], start


@pytest.mark.parametrize("family", ["rescaling", "translation", "mixing"])
def test_directions_are_null_and_as_many_as_counted(case, family):
    name, weights, patterns, dense, params, _ = case
    where, size = places(params, len(weights.kernels))
    active = [int(a.all(0).sum()) for a in patterns]
    assert sum(active) > 4
    if family == "rescaling":
        made = list(rescaling(weights))
        expected = {"none": 16, "identity": 4, "hyper": 1, "blocks": 2, "dense": 1}[name]
    elif family == "translation":
        made, expected = list(translation(weights, patterns)), sum(active)
    else:
        made = list(mixing(weights, patterns))
        expected = sum(k * (k - 1) for k in active) if name == "none" else 0
    vectors = np.array([flattened(change, where, size) for _, change in made]).reshape(-1, size)
    assert len(made) == len({label for label, _ in made}) == expected
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1)
    assert np.linalg.matrix_rank(vectors) == expected if expected else True
    scale = np.linalg.norm(dense, 2)
    assert np.abs(dense @ vectors.T).max(initial=0) < 1e-13 * scale
    # A direction that no symmetry gives is not null.
    other = np.random.default_rng(0).normal(size=size)
    assert np.abs(dense @ other).max() > 1e-3


def test_compensations_are_null_and_hold_the_symmetries(case):
    name, weights, patterns, dense, params, inputs = case
    where, size = places(params, len(weights.kernels))
    counts = [np.ones(len(inputs[0]), bool)] * len(patterns)
    made = list(compensated(weights, inputs, patterns, counts))
    if name not in ("none", "identity"):
        assert not made
        return

    def vectors(family):
        return np.array([flattened(change, where, size) for _, change in family])

    found = vectors(made)
    assert np.abs(dense @ found.T).max() < 1e-11 * np.linalg.norm(dense, 2)
    known = [*rescaling(weights), *translation(weights, patterns), *mixing(weights, patterns)]
    both = np.concatenate([found, vectors(known)])
    assert np.linalg.matrix_rank(both, tol=1e-9) == np.linalg.matrix_rank(found, tol=1e-9)
    # Branches that are active on every example take up their own skips.
    if name == "identity":
        assert np.linalg.matrix_rank(found, tol=1e-9) > len(known)
