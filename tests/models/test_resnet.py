import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate

from landscape.errors import InputError
from landscape.models import ResNet

EPSILON = 1e-5


def variables(model, size=8, seed=0):
    """Variables away from their start, so that every part of them matters."""
    found = dict(jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, size, size, 3))))
    leaves, treedef = jax.tree.flatten(found)
    rng = np.random.default_rng(1)
    shifted = [leaf + 0.1 * np.abs(rng.normal(size=leaf.shape)) for leaf in leaves]
    return jax.tree.unflatten(treedef, [jnp.asarray(x, jnp.float64) for x in shifted])


def reference(model, values, images):
    """The equations of the module's docstring, one channel at a time, with scipy's correlation."""

    def layer(x, params, stats, name, stride):
        kernel = params[name]["kernel"]
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
        y = np.stack(
            [
                sum(
                    correlate(padded[..., i], kernel[:, :, i, o], "valid")
                    for i in range(kernel.shape[2])
                )[::stride, ::stride]
                for o in range(kernel.shape[3])
            ],
            -1,
        )
        if model.norm == "none":
            return y + params[name]["bias"]
        norm, moments = params[f"{name}_norm"], stats[f"{name}_norm"]
        y = (y - moments["mean"]) / np.sqrt(moments["var"] + EPSILON)
        return y * norm["scale"] + norm["bias"]

    values = jax.tree.map(np.asarray, values)
    params, stats = values["params"], values.get("batch_stats", {})
    per_stage = (model.depth - 2) // 6
    logits = []
    for image in np.asarray(images):
        x = np.maximum(layer(image, params, stats, "stem", 1), 0)
        for i in range(3 * per_stage):
            stride = 2 if i and i % per_stage == 0 else 1
            p, s = params[f"block_{i}"], stats.get(f"block_{i}", {})
            branch = layer(np.maximum(layer(x, p, s, "first", stride), 0), p, s, "second", 1)
            if model.skip == "identity":
                skip = x[::stride, ::stride]
                branch[..., : skip.shape[-1]] += skip
            x = np.maximum(branch, 0)
        logits.append(x.mean((0, 1)) @ params["output"]["kernel"] + params["output"]["bias"])
    return np.array(logits)


@pytest.mark.slow
@pytest.mark.parametrize(("skip", "norm"), [("identity", "batch"), ("none", "none")])
def test_forward_follows_the_equations(skip, norm, x64):
    model = ResNet(8, 5, width=2, skip=skip, norm=norm)
    values = variables(model)
    images = jax.random.normal(jax.random.key(1), (3, 8, 8, 3), jnp.float64)
    found = jax.jit(model.apply)(values, images)
    np.testing.assert_allclose(found, reference(model, values, images), rtol=1e-10)


def test_twenty_layers_have_the_papers_number_of_parameters():
    # He et al. (2016), table 6: 0.27 million parameters for 20 layers, 0.85 for 56.
    for depth, millions in ((20, 0.27), (56, 0.85)):
        shapes = jax.eval_shape(
            ResNet(depth, 10).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))
        )
        count = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
        assert round(count / 1e6, 2) == millions


def test_skips_have_no_parameters():
    shapes = [
        jax.eval_shape(ResNet(14, 4, 2, skip=skip).init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
        for skip in ("identity", "none")
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.slow
def test_frozen_statistics_make_examples_independent_and_training_updates_them():
    model = ResNet(8, 4, width=2)
    images = jax.random.normal(jax.random.key(1), (6, 8, 8, 3))
    values = jax.jit(model.init)(jax.random.key(0), images[:1])
    apply = jax.jit(model.apply)
    np.testing.assert_allclose(
        apply(values, images)[:2], apply(values, images[:2]), rtol=1e-5, atol=1e-6
    )
    train = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    trained, updated = train(values, images)
    assert not np.allclose(trained[:2], apply(values, images[:2]))
    before, after = (jax.tree.leaves(v["batch_stats"]) for v in (values, updated))
    assert all(not np.allclose(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.slow
def test_without_normalisation_a_residual_network_starts_as_its_skips():
    model = ResNet(14, 4, width=2, norm="none")
    images = jnp.abs(jax.random.normal(jax.random.key(1), (2, 8, 8, 3)))
    values = jax.jit(model.init)(jax.random.key(0), images)
    blocks = [p for name, p in values["params"].items() if name.startswith("block")]
    assert all(not np.any(p["second"]["kernel"]) and np.any(p["first"]["kernel"]) for p in blocks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 18}, r"6k \+ 2"),
        ({"depth": 2}, r"6k \+ 2"),
        ({"width": 0}, "width must be an integer of at least 1; got 0"),
        ({"skip": "hyper"}, "skip must be one of identity, none"),
        ({"norm": "layer"}, "norm must be one of batch, none"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(InputError, match=message):
        ResNet(**{"depth": 20, "num_classes": 10, **options})
