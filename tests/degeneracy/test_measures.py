"""Measures against closed forms on hand-made weights, and against loops in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape.degeneracy import (
    HiddenLayer,
    Leaf,
    elimination,
    hidden_layers,
    linear_dependence,
    measures,
    overlap,
)
from landscape.errors import InputError
from landscape.models import MLP, ResNet

SKIPS = ["none", "identity", "hyper"]


def network(skip="none", depth=4, width=5, features=6, seed=0, dtype=jnp.float64):
    model = MLP(depth, width, 3, skip=skip)
    x = jax.random.normal(jax.random.key(seed), (40, features), dtype)
    variables = dict(jax.jit(model.init)(jax.random.key(seed + 1), x))
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), variables)
    params = variables.pop("params")
    for name in params:
        bias = params[name]["bias"]
        noise = jax.random.normal(jax.random.key(seed + 2), bias.shape, dtype)
        params[name]["bias"] = bias + 0.3 * noise
    return model, params, variables, x


def walked(model, params, state, x):
    """Inputs and pre-activations of each hidden layer, and its activities, by loops in numpy."""
    p = jax.tree.map(np.asarray, params)
    inputs, before, after = [np.asarray(x)], [], []
    for l in range(model.depth):
        kernel, bias = (
            (p["input"]["kernel"], p["input"]["bias"])
            if l == 0
            else (p["hidden"]["kernel"][l - 1], p["hidden"]["bias"][l - 1])
        )
        before.append(inputs[-1] @ kernel + bias)
        response = np.maximum(before[-1], 0)
        if l and model.skip != "none":
            response = response + inputs[-1]
        if l > 1 and model.skip == "hyper":
            q = np.asarray(state["fixed"]["skip"])
            response = response + sum(after[k] @ q[k].T for k in range(l - 1)) / (l - 1)
        after.append(response)
        inputs.append(response)
    return inputs[:-1], before, after


def weights_of(params, l):
    if l == 0:
        return np.asarray(params["input"]["kernel"]), np.asarray(params["input"]["bias"])
    return np.asarray(params["hidden"]["kernel"][l - 1]), np.asarray(
        params["hidden"]["bias"][l - 1]
    )


@pytest.mark.slow
@pytest.mark.parametrize("skip", SKIPS)
def test_all_measures_are_those_of_loops(skip, x64):
    model, params, state, x = network(skip)
    found = measures(model, params, x, state=state)
    inputs, before, after = walked(model, params, state, x)
    norms, zeros, shares, correlations = [], [], [], []
    for l in range(model.depth):
        w, b = weights_of(params, l)
        out = (
            np.asarray(params["hidden"]["kernel"][l])
            if l + 1 < model.depth
            else np.asarray(params["output"]["kernel"])
        )
        width = w.shape[1]
        unit = found.elimination
        for j in range(width):
            norm = np.sqrt((w[:, j] ** 2).sum())
            norms.append(norm)
            zeros.append((after[l][:, j] == 0).mean())
            assert unit.incoming_norms[l][j] == pytest.approx(norm)
            assert unit.outgoing_norms[l][j] == pytest.approx(np.sqrt((out[j] ** 2).sum()))
            assert unit.zero_probability[l][j] == pytest.approx(zeros[-1])
            assert unit.never_active[l][j] == (before[l][:, j].max() <= 0)
            away = min(
                np.hypot(norm, max(b[j], 0)),
                max(before[l][:, j].max(), 0),
                np.sqrt((out[j] ** 2).sum()),
            )
            assert unit.distances[l][j] == pytest.approx(away)
            for i in range(width):
                c = np.corrcoef(w[:, i], w[:, j])[0, 1]
                if i < j:
                    correlations.append(c)
                assert found.overlap.correlations[l][i, j] == pytest.approx(c)
                cosine = w[:, i] @ w[:, j] / np.linalg.norm(w[:, i]) / np.linalg.norm(w[:, j])
                assert found.overlap.cosines[l][i, j] == pytest.approx(cosine)
                apart = np.sqrt(((w[:, i] - w[:, j]) ** 2).sum() + (b[i] - b[j]) ** 2)
                assert found.overlap.distances[l][i, j] == pytest.approx(apart / np.sqrt(2))
        covariance = np.cov(after[l].T, bias=True)
        values = np.sort(np.linalg.eigvalsh(covariance))[::-1].clip(0)
        share = values / values.sum()
        shares.append(share[:3].sum())
        assert found.dependence.top_share[l] == pytest.approx(shares[-1])
        entropy = -sum(s * np.log(s) for s in share if s > 0)
        assert found.dependence.effective_rank[l] == pytest.approx(np.exp(entropy))
        whole = np.c_[after[l], np.ones(len(x))]
        assert found.dependence.rank[l] == np.linalg.matrix_rank(whole)
        centered = after[l] - after[l].mean(0)
        for j in range(width):
            others = np.delete(centered, j, 1)
            residual = centered[:, j] - others @ np.linalg.lstsq(others, centered[:, j])[0]
            length = np.linalg.norm(centered[:, j])
            angle = np.arcsin(np.linalg.norm(residual) / length) if length > 0 else 0
            assert found.dependence.angles[l][j] == pytest.approx(angle, abs=1e-7)
        span = np.linalg.norm(np.c_[inputs[l], np.ones(len(x))], 2)
        least = np.linalg.svd(centered, compute_uv=False)[-1]
        assert found.dependence.distances[l] == pytest.approx(least / span, abs=1e-12)
    assert found.elimination.mean_incoming_norm == pytest.approx(np.mean(norms))
    assert found.elimination.mean_zero_probability == pytest.approx(np.mean(zeros))
    assert found.overlap.mean_correlation == pytest.approx(np.mean(correlations))
    assert found.dependence.mean_top_share == pytest.approx(np.mean(shares))


def test_hand_made_weights_have_their_closed_forms(x64):
    layer = HiddenLayer("one", Leaf("w"), Leaf("b"), Leaf("v"))
    params = {
        # Unit 1 is unit 0 twice as long; unit 2 is the opposite of unit 0; unit 3 reads nothing.
        "w": jnp.array([[3.0, 6.0, -3.0, 0.0], [4.0, 8.0, -4.0, 0.0]]),
        "b": jnp.array([1.0, 1.0, 0.0, -2.0]),
        "v": jnp.array([[1.0, 0.0], [0.0, 0.0], [3.0, 4.0], [1.0, 1.0]]),
    }
    x = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    z = x @ params["w"] + params["b"][None]
    found = elimination([layer], params, [jnp.maximum(z, 0)], [z])
    np.testing.assert_allclose(found.incoming_norms[0], [5, 10, 5, 0])
    np.testing.assert_allclose(found.outgoing_norms[0], [1, 0, 5, np.sqrt(2)])
    np.testing.assert_allclose(found.zero_probability[0], [0, 0, 1, 1])
    assert found.never_active[0].tolist() == [False, False, True, True]
    # Unit 0 is nearest to losing its reader; unit 1 has none; 2 and 3 are off already.
    np.testing.assert_allclose(found.distances[0], [1, 0, 0, 0])
    assert float(found.mean_incoming_norm) == 5
    pairs = overlap([layer], params)
    np.testing.assert_allclose(
        pairs.cosines[0], [[1, 1, -1, 0], [1, 1, -1, 0], [-1, -1, 1, 0], [0, 0, 0, 0]], atol=1e-15
    )
    np.testing.assert_allclose(pairs.distances[0][0, :2], [0, 5 / np.sqrt(2)])
    assert pairs.closest(1) == [(0, 0, 1, 1.0)]
    assert len(pairs.closest(100)) == 6


@pytest.mark.slow
def test_activities_with_known_dependence(x64):
    rng = np.random.default_rng(0)
    q = np.linalg.qr(np.c_[np.ones(50), rng.normal(size=(50, 4))])[0][:, 1:]
    a, b, c, d = q.T
    # Variances 9, 4, 1, 1; the last unit is the sum of the first two and a constant.
    x = jnp.asarray(np.c_[3 * a, 2 * b, c, d])
    found = linear_dependence([x, x.at[:, 3].set(x[:, 0] + x[:, 1] + 7), x * 0 + 2.0])
    assert float(found.top_share[0]) == pytest.approx(14 / 15)
    share = np.array([9, 4, 1, 1]) / 15
    assert float(found.effective_rank[0]) == pytest.approx(np.exp(-(share * np.log(share)).sum()))
    assert found.rank.tolist() == [5, 4, 1]
    np.testing.assert_allclose(found.angles[0], np.full(4, np.pi / 2), atol=1e-7)
    np.testing.assert_allclose(found.angles[1], [0, 0, np.pi / 2, 0], atol=1e-7)
    np.testing.assert_allclose(found.smallest_angle, [np.pi / 2, 0, 0], atol=1e-7)
    assert float(found.top_share[2]) == 1
    assert float(found.effective_rank[2]) == 0
    # Two thirds of unit 0 and a bit of a new direction: the angle is the one that was made.
    tilted = np.c_[3 * a, 2 * b, np.cos(0.3) * a + np.sin(0.3) * c]
    assert float(linear_dependence([jnp.asarray(tilted)]).angles[0][2]) == pytest.approx(0.3)


def test_ghosts_of_identity_skips(x64):
    model, params, state, x = network("identity", width=5)
    at_ghost = params["hidden"]["kernel"].at[0].set(0.1).at[0, :, 2].set(-jnp.eye(5)[2])
    at_ghost = at_ghost.at[1, :, 0].set(at_ghost[1, :, 1] + jnp.eye(5)[1] - jnp.eye(5)[0])
    biases = params["hidden"]["bias"].at[0, 2].set(1e3).at[1, 0].set(params["hidden"]["bias"][1, 1])
    params["hidden"] = {"kernel": at_ghost, "bias": biases}
    found = measures(model, params, x, state=state)
    ghosts = found.elimination.ghost_distances
    assert np.isnan(ghosts[0]).all()
    assert float(ghosts[1][2]) == pytest.approx(0, abs=1e-12)
    assert float(ghosts[1][1]) > 0.5
    assert np.isnan(found.overlap.ghost_distances[0]).all()
    assert float(found.overlap.ghost_distances[2][0, 1]) == pytest.approx(0, abs=1e-12)
    assert float(found.overlap.distances[2][0, 1]) == pytest.approx(1)
    plain = measures(MLP(4, 5, 3), params, x)
    assert all(np.isnan(g).all() for g in plain.elimination.ghost_distances)


def test_ghosts_of_skip_matrices(x64):
    q = np.roll(np.eye(5), 1, axis=0) + 0.1
    model, params, state, x = network(q, width=5)
    kernel = params["hidden"]["kernel"].at[0, :, 2].set(-q[2])
    kernel = kernel.at[1, :, 0].set(kernel[1, :, 1] + q[1] - q[0])
    biases = params["hidden"]["bias"].at[0, 2].set(1e3).at[1, 0].set(params["hidden"]["bias"][1, 1])
    params["hidden"] = {"kernel": kernel, "bias": biases}
    found = measures(model, params, x, state=state)
    ghosts = found.elimination.ghost_distances
    assert np.isnan(ghosts[0]).all()
    assert float(ghosts[1][2]) == pytest.approx(0, abs=1e-12)
    assert float(ghosts[1][1]) > 0.5
    assert float(found.overlap.ghost_distances[2][0, 1]) == pytest.approx(0, abs=1e-12)
    # With the identity as a matrix they are those of the skip of that name.
    alike = measures(MLP(4, 5, 3, skip=np.eye(5)), params, x, state={"fixed": {"skip": np.eye(5)}})
    named = measures(MLP(4, 5, 3, skip="identity"), params, x)
    for one, other in zip(jax.tree.leaves(alike), jax.tree.leaves(named), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("skip", SKIPS)
def test_vmapped_and_compiled_equal_looped(skip, x64):
    model, params, state, x = network(skip)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf, leaf - 0.1]), params)

    def every(params):
        return measures(model, params, x, state=state)

    together = jax.jit(jax.vmap(every))(stacked)
    for i in range(3):
        alone = every(jax.tree.map(lambda leaf, i=i: leaf[i], stacked))
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_channels_are_units(x64):
    model = ResNet(8, 4, width=2)
    x = jax.random.normal(jax.random.key(0), (3, 8, 8, 3), jnp.float64)
    variables = jax.jit(model.init)(jax.random.key(1), x)
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)
    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
    # A channel is off behind its normalisation, whatever the convolution gives.
    norm = params["block_1"]["first_norm"]
    norm["bias"] = norm["bias"].at[1].set(-1e3)
    layers = hidden_layers(model, params, x[:1], state=state)
    assert [layer.name for layer in layers][:3] == ["stem", "block_0/first", "block_0/second"]
    found = measures(model, params, x, state=state)
    kernel = np.asarray(params["block_1"]["second"]["kernel"])
    np.testing.assert_allclose(
        found.elimination.incoming_norms[4], np.sqrt((kernel**2).sum((0, 1, 2)))
    )
    following = np.asarray(params["block_2"]["first"]["kernel"])
    np.testing.assert_allclose(
        found.elimination.outgoing_norms[4], np.sqrt((following**2).sum((0, 1, 3)))
    )
    readout = np.asarray(params["output"]["kernel"])
    np.testing.assert_allclose(found.elimination.outgoing_norms[-1], np.sqrt((readout**2).sum(1)))
    assert found.dependence.rank.shape == (7,)
    assert found.elimination.never_active[3].tolist() == [False, True, False, False]
    assert float(found.elimination.zero_probability[3][1]) == 1
    assert float(found.elimination.distances[3][1]) == 0


def test_smooth_units_are_active_and_biases_that_are_none_cannot_be_moved():
    model = MLP(2, 4, 2, activation="tanh")
    x = jax.random.normal(jax.random.key(0), (30, 3))
    params = model.init(jax.random.key(1), x)["params"]
    params["input"]["bias"] = params["input"]["bias"] - 100
    found = measures(model, params, x).elimination
    assert not any(np.any(never) for never in found.never_active)
    # The network is the same with the signs of a unit's weights, bias and readers turned.
    turned = jax.tree.map(jnp.copy, params)
    turned["input"] = {k: v.at[..., 0].multiply(-1) for k, v in params["input"].items()}
    turned["hidden"]["kernel"] = params["hidden"]["kernel"].at[:, 0].multiply(-1)
    again = measures(model, turned, x).elimination
    np.testing.assert_allclose(again.distances[0], found.distances[0], rtol=1e-6)
    # The bias of a ReLU without one is no way to switch it off.
    layer = HiddenLayer("one", Leaf("w"), None, Leaf("v"))
    weights = {"w": jnp.ones((1, 2)), "v": 3 * jnp.ones((2, 1))}
    z = jnp.array([[0.1, -0.1], [-0.2, -0.2]])
    moved = elimination([layer], weights, [jnp.maximum(z, 0)], [z])
    np.testing.assert_allclose(moved.distances[0], [1, 0])


def test_layers_of_other_models_are_found_or_described_by_hand():
    import flax.linen as nn

    class Sequential(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(4, (3, 3), padding="VALID")(x))
            x = nn.relu(nn.Dense(6)(x.reshape(len(x), -1)))
            return nn.Dense(2)(x)

    x = jnp.ones((2, 5, 5, 1))
    params = Sequential().init(jax.random.key(0), x)["params"]
    first, second = hidden_layers(Sequential(), params, x)
    assert (first.name, second.name) == ("Conv_0", "Dense_0")
    # Nine places with four channels each were flattened, channels last.
    rows = np.asarray(params["Dense_0"]["kernel"]).reshape(9, 4, 6)
    np.testing.assert_allclose(
        jnp.linalg.norm(first.outgoing_weights(params), axis=1),
        np.sqrt((rows**2).sum((0, 2))),
        rtol=1e-6,
    )
    found = measures(Sequential(), params, x)
    assert [len(norms) for norms in found.elimination.incoming_norms] == [4, 6]
    assert found.dependence.rank.shape == (2,)
    equinox = {"layers": [{"weight": jnp.arange(6.0).reshape(2, 3)}]}
    layer = HiddenLayer("mine", Leaf("layers/0/weight", transposed=True))
    np.testing.assert_allclose(layer.incoming_weights(equinox), np.arange(6.0).reshape(2, 3).T)
    np.testing.assert_allclose(layer.biases(equinox), [0, 0])


def test_layers_that_read_more_than_the_units_before_are_no_sequence_unless_flattened():
    import flax.linen as nn

    class Joined(nn.Module):
        @nn.compact
        def __call__(self, x):
            first = nn.relu(nn.Dense(4)(x))
            second = nn.relu(nn.Dense(4)(first))
            return nn.Dense(2)(nn.relu(nn.Dense(4)(jnp.concatenate([first, second], 1))))

    class ChannelsFirst(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(4, (3, 3))(x)).transpose(0, 3, 1, 2)
            return nn.Dense(2)(x.reshape(len(x), -1))

    def joined(params, x):
        first = jax.nn.relu(x @ params["a"])
        second = jax.nn.relu(first @ params["b"])
        return jnp.concatenate([first, second], 1) @ params["c"]

    x, images = jnp.ones((2, 3)), jnp.ones((2, 5, 5, 1))
    for model, inputs in ((Joined(), x), (ChannelsFirst(), images)):
        params = model.init(jax.random.key(0), inputs)["params"]
        with pytest.raises(InputError, match="no sequence, in which each reads"):
            measures(model, params, inputs)
    weights = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 4)), "c": jnp.ones((8, 2))}
    with pytest.raises(InputError, match="c does not read what b gives, unit by unit"):
        hidden_layers(joined, weights, x)


def test_structures_that_are_not_understood_are_refused():
    import flax.linen as nn

    class Shared(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(3)
            return nn.Dense(2)(layer(layer(x)))

    class Scaled(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Dense(3)(x)) * self.param("w", nn.initializers.ones, (1, 3))
            return nn.Dense(2)(x)

    class Convolution(nn.Module):
        options: tuple

        @nn.compact
        def __call__(self, x):
            x = nn.Conv(3, **dict(self.options))(x)
            return nn.Dense(2)(x.mean(tuple(range(1, x.ndim - 1))))

    def convolution(**options):
        return Convolution(tuple(options.items()))

    class Attention(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(nn.MultiHeadDotProductAttention(1)(x, x).mean(1))

    x = jnp.ones((2, 3))
    for model, inputs, message in (
        (Shared(), x, "called twice"),
        (Attention(), jnp.ones((2, 4, 3)), "by hand as HiddenLayer"),
        (Scaled(), x, "w belong to no dense layer, convolution or normalisation"),
        (convolution(kernel_size=(3,)), jnp.ones((2, 4, 3)), "goes along 1 axes"),
        (
            convolution(kernel_size=(3, 3), padding="CIRCULAR"),
            jnp.ones((2, 4, 4, 3)),
            "pads by CIRCULAR",
        ),
        (
            convolution(kernel_size=(3, 3), kernel_dilation=(2, 1)),
            jnp.ones((2, 6, 6, 3)),
            "is dilated",
        ),
        (lambda params, x: x, x, "does not end in a dense layer"),
    ):
        params = model.init(jax.random.key(0), inputs)["params"] if hasattr(model, "init") else {}
        with pytest.raises(InputError, match=message):
            hidden_layers(model, params, inputs)
    with pytest.raises(InputError, match="one example"):
        hidden_layers(Shared(), {})
    layer = HiddenLayer("one", Leaf("w"))
    with pytest.raises(InputError, match="no leaf 'w'; they have a, b"):
        overlap([layer], {"a": jnp.ones(2), "b": jnp.ones(2)})
    with pytest.raises(InputError, match="sequence of HiddenLayer"):
        overlap([], {})
    with pytest.raises(InputError, match="one array for each of 1 layers"):
        elimination([layer], {"w": jnp.ones((2, 3))}, [jnp.ones((4, 2))], [jnp.ones((4, 3))])
    with pytest.raises(InputError, match="at least one layer"):
        linear_dependence([])
    wide = HiddenLayer("one", Leaf("w"), None, Leaf("v"))
    with pytest.raises(InputError, match="has 3 units, but 'v' reads 4"):
        wide.outgoing_weights({"w": jnp.ones((2, 3)), "v": jnp.ones((4, 1))})
    stacked = HiddenLayer("one", Leaf("w", 7))
    with pytest.raises(InputError, match="no entry 7 along its leading axis"):
        overlap([stacked], {"w": jnp.ones((2, 3, 3))})
    with pytest.raises(InputError, match="one for each of 2 layers; got 1"):
        linear_dependence([jnp.ones((4, 2))] * 2, inputs=[jnp.ones((4, 2))])
    with pytest.raises(InputError, match=r"skip of layer 'one' is \(2, 2\)"):
        overlap([layer], {"w": jnp.ones((3, 3))}, skips=[jnp.eye(2)])
    model, params, _, x = network(dtype=jnp.float32)
    for given, told in (((x, x), "a tuple"), (x[:0], r"shape \(0, 6\)")):
        with pytest.raises(InputError, match=f"N ≥ 1 examples, .* got .*{told}"):
            measures(model, params, given)
    several = jax.vmap(lambda p: measures(model, p, x))(
        jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), params)
    )
    with pytest.raises(InputError, match="the measures of several"):
        several.overlap.closest()
