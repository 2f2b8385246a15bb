"""What a loss reads outside itself is read anew whenever an operator is made of it."""

import dataclasses
import functools
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from landscape.curvature import empirical_fisher, fisher, ggn, hessian, jacobian, stack
from landscape.curvature.retracing import as_it_reads, just_read
from landscape.errors import InputError

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


@pytest.mark.parametrize("name", MAKE)
def test_what_changes_before_the_first_product_is_not_measured_in_its_place(name):
    """A program is traced at the first product: by then it may read something else."""
    GLOBAL["scale"] = 1.0
    expected = np.asarray(MAKE[name]().matvec(jnp.ones(3)))
    jax.clear_caches()
    first = MAKE[name]()
    GLOBAL["scale"] = 2.0
    second = MAKE[name]()
    with pytest.raises(InputError, match="has changed since the operator was made"):
        first.matvec(jnp.ones(3))
    assert not np.allclose(second.matvec(jnp.ones(3)), expected)
    # What is compiled stands, and what was refused has left nothing behind.
    GLOBAL["scale"] = 1.0
    np.testing.assert_array_equal(MAKE[name]().matvec(jnp.ones(3)), expected)
    GLOBAL["scale"] = 3.0
    np.testing.assert_array_equal(first.matvec(jnp.ones(3)), expected)


def test_members_of_a_family_that_read_different_things_are_told():
    GLOBAL["scale"] = 1.0
    first = hessian(loss, W, X)
    GLOBAL["scale"] = 2.0
    with pytest.raises(InputError, match="What loss reads outside itself has changed"):
        stack([first, hessian(loss, W, X)])


def test_a_function_that_reads_the_same_is_the_same():
    scale = [1.0]

    def mine(w, x):
        return scale[0] * jnp.mean((x @ w) ** 2)

    first = as_it_reads(mine, W, X)
    assert as_it_reads(mine, 2 * W, X + 1) == first
    assert hash(as_it_reads(mine, W, X)) == hash(first)
    assert as_it_reads(first, W, X) == first
    scale[0] = 2.0
    other = as_it_reads(mine, W, X)
    assert other != first
    with pytest.raises(InputError, match="mine reads outside"):
        first(W, X)
    assert float(just_read(first)(W, X)) == float(other(W, X))


def test_two_functions_of_one_object_are_two():
    module = Module()
    module.other = functools.partial(module.loss)
    first = as_it_reads(module.loss, W, X)
    assert as_it_reads(module.loss, W, X) == first
    assert as_it_reads(module.other, W, X) != first


@dataclasses.dataclass
class Unhashable:
    """A callable with a value's equality, as pytrees of modules are."""

    scale: float

    def __call__(self, w, x):
        return self.scale * jnp.mean((x @ w) ** 2)


def test_a_callable_without_a_hash_is_compared_by_identity():
    one, two = Unhashable(1.0), Unhashable(2.0)
    expected = hessian(one, W, X).to_dense()
    np.testing.assert_allclose(hessian(two, W, X).to_dense(), 2 * expected, rtol=1e-6)
    one.scale = 3.0
    np.testing.assert_allclose(hessian(one, W, X).to_dense(), 3 * expected, rtol=1e-6)


def test_types_and_precisions_of_a_product_are_no_change():
    """The loss makes arrays of its own, in the type that JAX is set to."""

    def mine(w, x):
        return jnp.mean((x @ (w * jnp.linspace(0.0, 1.0, 3) ** 3)) ** 2)

    op = hessian(mine, W, X)
    with jax.enable_x64(True), jax.default_matmul_precision("bfloat16"):
        fine = op.astype(np.float64).to_dense()
    np.testing.assert_allclose(fine, op.to_dense(), rtol=1e-4)


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
