"""Rescaling and normalisation of other people's networks, against the Jacobian and by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape.degeneracy import check_directions, degeneracy_budget, null_directions
from landscape.degeneracy.describe import describe, logits_function
from landscape.degeneracy.trades import Units, normalisations, rescalings, that_are_null
from landscape.models import ResNet


class Normalised(nn.Module):
    """Two convolutions, each with or without a normalisation, and a readout of means."""

    norm: bool = True
    bias: bool = False
    activation: str = "relu"
    again: bool = False

    @nn.compact
    def __call__(self, x):
        f = {"relu": nn.relu, "tanh": nn.tanh}[self.activation]
        for width in (3, 4):
            z = nn.Conv(width, (2, 2), use_bias=self.bias)(x)
            y = nn.BatchNorm(use_running_average=True)(z) if self.norm else z
            # A second reader of the pre-activations.
            x = f(y + z if self.again else y)
        return nn.Dense(3)(x.mean((1, 2)))


class Residual(nn.Module):
    """A convolution, a block with a skip that fills up channels with zeros, and a readout."""

    norm: bool = True

    @nn.compact
    def __call__(self, x):
        def layer(width, x):
            z = nn.Conv(width, (2, 2), use_bias=not self.norm)(x)
            return nn.BatchNorm(use_running_average=True)(z) if self.norm else z

        x = nn.relu(layer(3, x))
        branch = layer(4, nn.relu(layer(3, x)))
        x = nn.relu(branch + jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, 1))))
        return nn.Dense(3)(x.mean((1, 2)))


def generic(model, examples=40, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(examples, 4, 4, 2))
    variables = jax.jit(model.init)(jax.random.key(seed), x[:1])

    def drawn(leaf):
        return jnp.asarray(0.5 + rng.uniform(size=leaf.shape))

    variables = jax.tree.map(drawn, dict(variables))
    params = variables.pop("params")
    for layer in variables.get("batch_stats", {}).values():
        layer["mean"] = layer["mean"] - 1
    centered = jax.tree.map(lambda leaf: leaf - 1, params)
    for name, layer in params.items():
        if name.startswith("BatchNorm"):
            # Scales that are not 0, and units that are active here and there.
            centered[name] = {"scale": layer["scale"], "bias": centered[name]["bias"]}
    return centered, variables, (x, rng.integers(0, 3, examples))


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_every_unit_of_relus_can_be_rescaled_and_what_a_norm_undoes_is_null(norm, bias, x64):
    model = Normalised(norm=norm, bias=bias)
    params, state, (x, _) = generic(model)
    network = describe(model, params, x[:1], state=state)
    logits = logits_function(model)
    null = that_are_null(rescalings(network, params), logits, params, state, x)
    assert {units: found.tolist() for units, found in null.items()} == {
        Units((0,)): [True] * 3,
        Units((1,)): [True] * 4,
    }
    trades = normalisations(network, params, state)
    assert list(trades) == ([Units((0,)), Units((1,))] if norm else [])
    null = that_are_null(trades, logits, params, state, x)
    assert all(found.all() for found in null.values())


@pytest.mark.parametrize("options", [{"activation": "tanh"}, {"again": True}])
def test_what_is_no_symmetry_is_not_taken_for_one(options, x64):
    model = Normalised(**options)
    params, state, (x, _) = generic(model)
    network = describe(model, params, x[:1], state=state)
    logits = logits_function(model)
    null = that_are_null(rescalings(network, params), logits, params, state, x)
    assert not any(found.any() for found in null.values())
    null = that_are_null(normalisations(network, params, state), logits, params, state, x)
    assert all(found.all() != ("again" in options) for found in null.values())


@pytest.mark.slow
@pytest.mark.parametrize(("bias", "live"), [(True, 5), (False, 6)])
def test_a_structural_budget_of_convolutions_counts_them(bias, live, x64):
    model = Normalised(bias=bias)
    params, state, batch = generic(model, examples=60)
    dead = params["Conv_0"]["kernel"].at[..., 1].set(0)
    params["Conv_0"]["kernel"] = dead
    params["BatchNorm_0"]["bias"] = params["BatchNorm_0"]["bias"].at[1].set(-100)
    exact = degeneracy_budget(model, params, batch, state=state, method="exact")
    found = degeneracy_budget(model, params, batch, state=state, method="structural")
    assert found.counts["rescaling"] == exact.counts["rescaling"] == live
    # γ and β of dead units, what γ can undo of the others, and with biases what β can.
    assert found.counts["normalisation"] == 2 * (7 - live) + live * (1 + bias)
    assert exact.counts == found.counts
    assert found.total == exact.total
    assert found.counts["few data"] == 0
    assert exact.counts["unexplained"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("norm", [True, False])
def test_what_skips_add_up_is_rescaled_together(norm, x64):
    model = Residual(norm=norm)
    params, state, batch = generic(model, examples=120)
    params["Conv_1"]["kernel"] = params["Conv_1"]["kernel"].at[..., 1].set(0)
    shifted = params["BatchNorm_1" if norm else "Conv_1"]
    shifted["bias"] = shifted["bias"].at[1].set(-100)
    exact = degeneracy_budget(model, params, batch, state=state, method="exact")
    found = degeneracy_budget(model, params, batch, state=state, method="structural")
    # Two live units of the block, three channels of both sums, one that the skip fills up.
    assert found.counts["rescaling"] == exact.counts["rescaling"] == 2 + 3 + 1
    assert exact.counts["unexplained"] == 0
    assert exact.counts == found.counts
    families = {f.cause: f for f in null_directions(model, params, batch, state=state)}
    together = {label for label in families["rescaling"].labels if "+" in label}
    assert together == {f"Conv_0 + Conv_2: unit {unit}" for unit in range(3)}
    (check,) = check_directions([families["rescaling"]], model, params, batch, state=state)
    assert check.gauss_newton_norms.max() <= 1e-10 * check.scale


def test_units_that_are_added_up_are_silent_if_they_are_in_all_maps():
    silent = {0: np.array([False, True, True, True]), 2: np.array([True, False, True, True])}
    assert Units((0, 2), 1).that_are(silent, 2).tolist() == [False, True]
    assert Units((0,)).that_are(silent, 2).tolist() == [False, True]
    assert Units((2,)).that_are(silent, 2).tolist() == [True, False]


@pytest.mark.parametrize(("skip", "norm"), [("identity", "batch"), ("none", "none")])
def test_channels_of_a_residual_network_are_rescaled_in_all_its_blocks(skip, norm, x64):
    model = ResNet(8, 3, width=2, norm=norm, skip=skip)
    x = np.random.default_rng(0).normal(size=(20, 8, 8, 1))
    variables = dict(jax.jit(model.init)(jax.random.key(0), x))
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, float) + 0.3, variables)
    params = variables.pop("params")
    network = describe(model, params, x[:1], state=variables)
    trades = rescalings(network, params)
    null = that_are_null(trades, logits_function(model), params, variables, x)
    assert all(found.all() for found in null.values())
    counts = [(units.maps, units.start, len(found)) for units, found in null.items()]
    if skip == "none":
        assert counts == [((n,), 0, count) for n, count in enumerate([2, 2, 2, 4, 4, 8, 8])]
    else:
        stream = [((0, 2, 4, 6), 0, 2), ((4, 6), 2, 2), ((6,), 4, 4)]
        assert counts == [*stream, ((1,), 0, 2), ((3,), 0, 4), ((5,), 0, 8)]


@pytest.mark.slow
def test_their_directions_are_null_for_the_real_matrix(x64):
    model = Normalised(bias=True)
    params, state, batch = generic(model)
    families = null_directions(model, params, batch, state=state)
    by_cause = {family.cause: family for family in families}
    assert len(by_cause["rescaling"]) == 7
    assert len(by_cause["normalisation"]) == 7
    for check in check_directions(families, model, params, batch, state=state):
        assert check.gauss_newton_norms.max() <= 1e-10 * check.scale
