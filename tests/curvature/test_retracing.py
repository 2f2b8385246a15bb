"""What a loss reads outside itself is read anew whenever an operator is made of it."""

import functools
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from landscape.curvature import empirical_fisher, fisher, ggn, hessian, jacobian
from landscape.curvature.retracing import as_it_reads

X = jax.random.normal(jax.random.key(0), (6, 3))
W = jnp.arange(1.0, 4.0)
GLOBAL = {"scale": 1.0}


def loss(w, x):
    return GLOBAL["scale"] * jnp.mean((x @ w) ** 2)


def model(w, x):
    return GLOBAL["scale"] * x @ w[:, None]


def square(outputs, batch):
    return GLOBAL["scale"] * jnp.mean(outputs**2)


MAKE = {
    "hessian": lambda: hessian(loss, W, X),
    "chunks": lambda: hessian(loss, W, X, chunk_size=2),
    "state": lambda: hessian(loss_with_state, W, X, state=jnp.ones(())),
    "ggn": lambda: ggn(model, square, W, X),
    "fisher": lambda: empirical_fisher(model, square, W, X),
    "drawn": lambda: fisher(model, W, X, jax.random.key(0), distribution="gaussian"),
    "jacobian": lambda: jacobian(model, W, X),
}


def loss_with_state(w, state, x):
    return loss(w, x) * state


def product(make, scale):
    GLOBAL["scale"] = scale
    op = make()
    return np.asarray(jax.jit(lambda op: op.matvec(jnp.ones(3)))(op))


@pytest.mark.parametrize("name", MAKE)
def test_a_changed_global_is_seen_and_the_first_one_again(name):
    once, twice, again = (product(MAKE[name], scale) for scale in (1.0, 2.0, 1.0))
    assert not np.allclose(twice, once)
    np.testing.assert_array_equal(again, once)


class Module(nnx.Module):
    def __init__(self):
        self.weight = nnx.Param(W)
        self.scale = 1.0

    def loss(self, w, x):
        return self.scale * jnp.mean((x @ w) ** 2)


def test_attributes_of_the_object_whose_method_it_is_are_seen():
    module = Module()
    once = hessian(module.loss, W, X).to_dense()
    module.scale = 3.0
    np.testing.assert_allclose(hessian(module.loss, W, X).to_dense(), 3 * once, rtol=1e-6)


def test_a_function_that_reads_the_same_stays_itself():
    scale = [1.0]

    def mine(w, x):
        return scale[0] * jnp.mean((x @ w) ** 2)

    assert as_it_reads(mine, W, X) is mine
    assert as_it_reads(mine, 2 * W, X + 1) is mine
    assert as_it_reads(mine, W, X[:4]) is mine
    scale[0] = 2.0
    other = as_it_reads(mine, W, X)
    assert other is not mine
    # The same one each time: programs are found by it. For new shapes too, but where known before.
    assert as_it_reads(mine, W, X) is other
    assert as_it_reads(mine, W, X[:2]) is other
    scale[0] = 1.0
    assert as_it_reads(mine, W, X[:4]) is mine


def test_two_functions_of_one_object_are_two():
    module = Module()
    module.other = functools.partial(module.loss)
    assert as_it_reads(module.loss, W, X) == module.loss
    assert as_it_reads(module.other, W, X) is module.other


def test_nothing_is_done_under_a_tracer():
    def trace(w):
        assert as_it_reads(loss, w, X) is loss
        return w

    jax.eval_shape(trace, W)


def test_what_functions_close_over_is_not_kept():
    def make():
        scale, data = [1.0], Data()

        def mine(w, x):
            return scale[0] * data.value * jnp.mean((x @ w) ** 2)

        for scale[0] in (1.0, 2.0, 1.0):
            as_it_reads(mine, W, X)
        return weakref.ref(data)

    reference = make()
    gc.collect()
    assert reference() is None


class Data:
    value = 2.0
