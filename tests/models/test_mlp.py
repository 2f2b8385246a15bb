import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from landscape.errors import InputError
from landscape.models import MLP, SkipMatrix, random_orthogonal

SKIPS = ["none", "identity", "hyper", np.eye(4)[::-1].copy()]


def variables(model, features=5, seed=0):
    return dict(model.init(jax.random.key(seed), jnp.zeros((1, features))))


def reference(model, values, x):
    """The equations of the module's docstring, one example at a time, with column vectors."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), values["params"])
    f = {"relu": lambda z: np.maximum(z, 0), "tanh": np.tanh}[model.activation]
    logits = []
    for row in np.asarray(x, np.float64):
        states = [f(p["input"]["kernel"].T @ row + p["input"]["bias"])]
        for l in range(1, model.depth):
            kernel, bias = p["hidden"]["kernel"][l - 1], p["hidden"]["bias"][l - 1]
            current = f(kernel.T @ states[-1] + bias)
            if model.skip == "identity":
                current += states[-1]
            elif model.skip == "hyper":
                current += states[-1]
                q = np.asarray(values["fixed"]["skip"], np.float64)
                if l > 1:
                    current += sum(q[k - 1] @ states[k - 1] for k in range(1, l)) / (l - 1)
            elif isinstance(model.skip, SkipMatrix):
                current += model.skip.values @ states[-1]
            states.append(current)
        logits.append(p["output"]["kernel"].T @ states[-1] + p["output"]["bias"])
    return np.array(logits)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("skip", SKIPS, ids=["none", "identity", "hyper", "matrix"])
@pytest.mark.parametrize("depth", [1, 2, 3, 6])
def test_forward_follows_the_equations(depth, skip, activation, x64):
    model = MLP(depth, 4, 3, skip=skip, activation=activation)
    values = variables(model)
    values = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), values)
    values["params"]["input"]["bias"] += 0.3
    if depth > 1:
        values["params"]["hidden"]["bias"] += 0.1 * jnp.arange(4.0)[None]
    x = jax.random.normal(jax.random.key(1), (7, 5), jnp.float64)
    np.testing.assert_allclose(model.apply(values, x), reference(model, values, x), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("unroll", [3, 7])
def test_unrolling_changes_nothing(unroll):
    x = jax.random.normal(jax.random.key(1), (3, 5))
    model = MLP(8, 4, 3, skip="hyper")
    values = variables(model)
    other = MLP(8, 4, 3, skip="hyper", unroll=unroll)
    np.testing.assert_allclose(model.apply(values, x), other.apply(values, x), rtol=1e-5)


def test_architectures_have_the_same_trainable_parameters():
    shapes = {
        str(skip): jax.tree.map(jnp.shape, variables(MLP(6, 4, 3, skip=skip))["params"])
        for skip in SKIPS
    }
    first, *others = shapes.values()
    assert all(other == first for other in others)


@pytest.mark.parametrize(
    ("depth", "width", "features", "classes", "count"),
    [(20, 16, 64, 10, 6378), (20, 32, 192, 20, 26900), (20, 128, 3072, 20, 709652)],
)
def test_parameter_counts_are_the_missions(depth, width, features, classes, count):
    model = MLP(depth, width, classes)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, features)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == count


def test_fixed_matrices_are_no_parameters():
    assert set(variables(MLP(4, 4, 3, skip="hyper"))) == {"params", "fixed"}
    assert set(variables(MLP(4, 4, 3))) == {"params"}


def test_fixed_matrices_are_arguments_not_constants():
    model = MLP(4, 4, 3, skip="hyper")
    values = variables(model)
    x = jnp.ones((2, 5))
    changed = {**values, "fixed": {"skip": jnp.zeros((3, 4, 4))}}
    residual = MLP(4, 4, 3, skip="identity").apply({"params": values["params"]}, x)
    np.testing.assert_allclose(model.apply(changed, x), residual, rtol=1e-6)


@pytest.mark.slow
def test_biases_start_at_zero_and_kernels_glorot_normal():
    params = variables(MLP(40, 64, 10), features=100)["params"]
    assert not np.any(params["hidden"]["bias"])
    assert not np.any(params["input"]["bias"])
    assert float(params["hidden"]["kernel"].std()) == pytest.approx(np.sqrt(2 / 128), rel=0.02)
    assert float(params["input"]["kernel"].std()) == pytest.approx(np.sqrt(2 / 164), rel=0.05)


def test_layers_are_drawn_independently():
    kernels = np.asarray(variables(MLP(4, 8, 3))["params"]["hidden"]["kernel"])
    assert not np.allclose(kernels[0], kernels[1])


def test_images_are_flattened():
    model = MLP(2, 4, 3)
    values = model.init(jax.random.key(0), jnp.zeros((1, 2, 3, 1)))
    x = jnp.arange(12.0).reshape(2, 2, 3, 1)
    np.testing.assert_array_equal(model.apply(values, x), model.apply(values, x.reshape(2, 6)))


def test_compiled_program_does_not_grow_with_depth():
    def size(depth):
        model = MLP(depth, 4, 3, skip="identity")
        values = variables(model)
        jaxpr = jax.make_jaxpr(jax.grad(lambda v, x: model.apply(v, x).sum()))(
            values, jnp.ones((2, 5))
        )
        return len(str(jaxpr).splitlines())

    assert size(100) == size(10)


def test_model_with_a_matrix_is_hashable_and_compares_by_value():
    assert hash(MLP(2, 4, 3, skip=np.eye(4))) == hash(MLP(2, 4, 3, skip=np.eye(4)))
    assert MLP(2, 4, 3, skip=np.eye(4)) == MLP(2, 4, 3, skip=np.eye(4))
    assert MLP(2, 4, 3, skip=np.eye(4)) != MLP(2, 4, 3, skip=2 * np.eye(4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, "depth"),
        ({"width": 0}, "width"),
        ({"skip": "skips"}, "none, identity, hyper"),
        ({"skip": np.eye(3)}, "3×3"),
        ({"skip": np.ones((4, 3))}, "square"),
        ({"skip": np.full((4, 4), np.nan)}, "finite"),
        ({"activation": "relo"}, "relu"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(InputError, match=message):
        MLP(**{"depth": 2, "width": 4, "num_classes": 3, **arguments})


def test_random_orthogonal_is_orthogonal_and_haar(x64):
    q = np.asarray(random_orthogonal(jax.random.key(0), 2000, 3, jnp.float64))
    np.testing.assert_allclose(
        q @ q.transpose(0, 2, 1), np.broadcast_to(np.eye(3), q.shape), atol=1e-13
    )
    # Haar: entries have mean 0 and variance 1/n; without the sign correction the diagonal does not.
    error = 4 / np.sqrt(3 * 2000)
    assert np.abs(q.mean(0)).max() < error
    assert np.abs((q**2).mean(0) - 1 / 3).max() < error


def test_random_orthogonal_k_depends_on_k_alone():
    key = jax.random.key(3)
    np.testing.assert_array_equal(random_orthogonal(key, 5, 4)[:2], random_orthogonal(key, 2, 4))


@pytest.mark.slow
def test_the_hessian_is_symmetric_where_a_layer_is_off_and_the_next_has_no_biases():
    """There pre-activations are exactly 0: the derivative of a ReLU at 0 has to be one number."""
    model = MLP(4, 4, 3)
    params = variables(model)["params"]
    # The first layer is off on half of the examples.
    params["input"]["kernel"] = jnp.abs(params["input"]["kernel"])
    x = jnp.concatenate([jnp.ones((3, 5)), -jnp.ones((3, 5))])
    labels = jnp.array([0, 1, 2, 0, 1, 1])

    def loss(params):
        log = jax.nn.log_softmax(model.apply({"params": params}, x))
        return -jnp.take_along_axis(log, labels[:, None], 1).mean()

    flat, unravel = jax.flatten_util.ravel_pytree(params)
    found = jax.hessian(lambda v: loss(unravel(v)))(flat)
    np.testing.assert_allclose(found, found.T, atol=1e-6)
    assert (model.apply({"params": params}, x)[3:] == 0).all()
    # NaN stays NaN.
    assert jnp.isnan(model.apply({"params": params}, x * jnp.nan)).all()
