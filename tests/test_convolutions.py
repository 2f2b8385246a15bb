"""Convolutions in a CPU's order of axes: the same numbers, wherever they stand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape._convolutions import channels_last, convolves
from landscape.curvature import ggn, hessian, jacobian
from landscape.curvature.programs import equations
from landscape.training.epoch import adam, compile_program

ORDERS = [
    ("NCHW", "OIHW", "NCHW"),
    ("NHWC", "HWIO", "NHWC"),
    ("HWNC", "IOHW", "CNHW"),
    ("CNHW", "HOWI", "WHCN"),
]
OPTIONS = {
    "plain": {},
    "strides": {"window_strides": (2, 1)},
    "dilated": {"lhs_dilation": (1, 2), "rhs_dilation": (2, 1)},
    "groups": {"feature_group_count": 2},
    "groups of the batch": {"batch_group_count": 2},
}
SIZES = {"N": 4, "C": 6, "H": 8, "W": 7, "O": 4, "I": 6}


def operands(order, options):
    """Of one convolution, with three axes alike in none."""
    images, kernel, _ = order
    sizes = SIZES | {"I": 6 // options.get("feature_group_count", 1)}
    window = sizes | {"H": 3, "W": 2}
    keys = jax.random.split(jax.random.key(0))
    return (
        jax.random.normal(keys[0], [sizes[axis] for axis in images]),
        jax.random.normal(keys[1], [window[axis] for axis in kernel]),
    )


def orders(program):
    """Axes of all convolutions of a program: of images, kernels and results, as numbers."""
    return {
        tuple(equation.params["dimension_numbers"])
        for equation in equations(program)
        if equation.primitive.name == "conv_general_dilated"
    }


# (batch, feature, places), (out, in, places), as lax has them.
CHANNELS_LAST = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_a_convolution_of_any_order_gives_the_same(order, options):
    x, kernel = operands(order, options)

    def function(x, kernel):
        given = {"window_strides": (1, 1), "padding": ((1, 0), (2, 1))} | options
        return jax.lax.conv_general_dilated(x, kernel, dimension_numbers=order, **given)

    expected = function(x, kernel)
    found = channels_last(function)(x, kernel)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert orders(jax.make_jaxpr(channels_last(function))(x, kernel)) == {CHANNELS_LAST}


def deep(x, kernels):
    """Convolutions in the bodies of loops, branches, calls and rematerialised parts."""

    def layer(x, kernel):
        y = jax.lax.conv(x, kernel, (1, 1), "SAME")
        return jnp.tanh(
            x + jax.jit(lambda y: y * jax.lax.cond(y.sum() > 0, jnp.cos, jnp.sin, y))(y)
        )

    x, _ = jax.lax.scan(lambda x, kernel: (jax.checkpoint(layer)(x, kernel), None), x, kernels)
    turns = jnp.argmax(kernels[:, 0, 0, 0, 0]) + 1
    x = jax.lax.fori_loop(0, turns, lambda _, x: layer(1.5 * x, kernels[0]), x)
    return {"x": x, "mean": x.mean()}


@pytest.mark.slow
def test_programs_inside_programs_are_reordered_too(x64):
    x = jax.random.normal(jax.random.key(0), (2, 3, 6, 5))
    kernels = jax.random.normal(jax.random.key(1), (4, 3, 3, 3, 3)) / 5
    expected, found = deep(x, kernels), jax.jit(channels_last(deep))(x, kernels)
    assert expected.keys() == found.keys()
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9, atol=1e-9)
    program = jax.make_jaxpr(channels_last(deep))(x, kernels)
    assert convolves(program)
    assert orders(program) == {CHANNELS_LAST}
    assert CHANNELS_LAST not in orders(jax.make_jaxpr(deep)(x, kernels))


@pytest.mark.slow
def test_second_derivatives_of_what_has_been_reordered_are_the_same():
    x = jax.random.normal(jax.random.key(0), (2, 3, 6, 5))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 3)) / 3

    def loss(kernel):
        return (jnp.tanh(jax.lax.conv(x, kernel, (1, 1), "SAME")) ** 3).sum()

    def product(loss):
        return jax.jvp(jax.grad(loss), (kernel,), (jnp.ones_like(kernel),))[1]

    expected = product(loss)
    for function in (channels_last(loss), jax.checkpoint(channels_last(loss))):
        np.testing.assert_allclose(product(function), expected, rtol=1e-4, atol=1e-4)
    after = channels_last(lambda: product(loss))
    np.testing.assert_allclose(after(), expected, rtol=1e-4, atol=1e-4)
    assert orders(jax.make_jaxpr(after)()) == {CHANNELS_LAST}


def test_a_function_without_convolutions_keeps_its_program():
    def function(x):
        return {"y": jnp.sin(x) @ x, "z": (x, x.sum())}

    x = jnp.eye(3)
    before, after = (str(jax.make_jaxpr(f)(x)) for f in (function, channels_last(function)))
    assert before == after
    assert not convolves(jax.make_jaxpr(function)(x))


class Convolutional(nn.Module):
    """Two strided convolutions, batch statistics and a dense layer."""

    @nn.compact
    def __call__(self, x, train=False):
        for features in (3, 4):
            x = nn.relu(nn.Conv(features, (3, 3), 2)(x))
            x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(3)(x.reshape(len(x), -1))


MODEL = Convolutional()


def outputs(params, state, batch):
    return MODEL.apply({"params": params, **state}, batch[0])


def output_loss(z, batch):
    return ((z - batch[1]) ** 2).mean()


def loss(params, state, batch):
    return output_loss(outputs(params, state, batch), batch)


def operators():
    """Every kind of operator of a convolutional network, whole and by chunks."""
    keys = jax.random.split(jax.random.key(0), 3)
    batch = (jax.random.normal(keys[0], (6, 8, 7, 2)), jax.random.normal(keys[1], (6, 3)))
    variables = MODEL.init(keys[2], batch[0])
    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
    given = {"state": state}
    model = jacobian(outputs, params, batch, **given)
    return {
        "hessian": hessian(loss, params, batch, **given),
        "hessian by chunks": hessian(loss, params, batch, chunk_size=4, **given),
        "ggn": ggn(outputs, output_loss, params, batch, **given),
        "ggn by chunks": ggn(outputs, output_loss, params, batch, chunk_size=4, **given),
        "jacobian": model,
        "transpose": model.T,
        "gram": model.gram(),
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", operators())
def test_products_with_several_vectors_have_no_other_convolutions(kind):
    """Nor grouped ones: a vector of several at a time would need them."""
    op = operators()[kind]
    vectors = jax.random.normal(jax.random.key(1), (op.shape[1], 3))
    program = jax.make_jaxpr(lambda op, v: op._lanes()(v.T).T)(op, vectors)
    inside = [
        part
        for equation in equations(program)
        if equation.primitive.name == "scan"
        for part in [equation.params["jaxpr"]]
        if convolves(part)
    ]
    assert inside
    for part in inside:
        assert orders(part) == {CHANNELS_LAST}
        groups = {
            equation.params["feature_group_count"]
            for equation in equations(part)
            if equation.primitive.name == "conv_general_dilated"
        }
        assert groups == {1}
    one_by_one = jnp.stack([op.matvec(v) for v in vectors.T], 1)
    np.testing.assert_allclose(op.matmat(vectors), one_by_one, rtol=1e-4, atol=1e-5)


def test_an_epoch_has_no_other_convolutions():
    program = compile_program(MODEL, adam(1e-3), 4, False)
    key = jax.random.key_data(jax.random.key(0))
    x, labels = jnp.ones((8, 8, 7, 2)), jnp.zeros(8, int)
    train = program.init(key, x[:1])
    assert orders(program.run.trace(train, x, labels, jnp.uint32(1)).jaxpr) == {CHANNELS_LAST}
