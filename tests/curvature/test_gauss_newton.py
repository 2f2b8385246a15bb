"""Gauss–Newton and Fisher matrices against sums over explicit Jacobians in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from landscape.curvature import empirical_fisher, fisher, ggn, hessian
from landscape.errors import InputError

N, D, C = 23, 4, 3


def model(params, batch):
    return jnp.tanh(batch["x"] @ params["first"]) @ params["second"]


def cross_entropy(outputs, batch):
    return optax.softmax_cross_entropy_with_integer_labels(outputs, batch["y"]).mean()


def squared_error(outputs, batch):
    return (((outputs - batch["y"][:, None]) ** 2) / 2).sum(-1).mean()


@pytest.fixture
def case(x64):
    rng = np.random.default_rng(0)
    params = {"first": rng.normal(size=(D, 5)), "second": rng.normal(size=(5, C))}
    batch = {"x": rng.normal(size=(N, D)), "y": rng.integers(0, C, N)}
    return jax.tree.map(jnp.asarray, (params, batch))


def jacobian(params, batch):
    """(N, C, P), and the softmax of the outputs."""
    flat, unflatten = ravel_pytree(params)
    slopes = np.asarray(jax.jacobian(lambda v: model(unflatten(v), batch))(flat))
    return slopes, np.asarray(jax.nn.softmax(model(params, batch)))


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [None, 1, 7, 50])
def test_ggn_is_the_sum_over_explicit_jacobians(case, chunk_size):
    J, p = jacobian(*case)
    curvature = np.einsum("ic,cd->icd", p, np.eye(C)) - np.einsum("ic,id->icd", p, p)
    expected = np.einsum("icp,icd,idq->pq", J, curvature, J) / N
    op = ggn(model, cross_entropy, *case, chunk_size=chunk_size)
    np.testing.assert_allclose(op.to_dense(), expected, atol=1e-13)
    v = jax.random.normal(jax.random.key(0), (op.shape[0], 2))
    np.testing.assert_allclose(op.linearized().matmat(v), expected @ v, atol=1e-12)


def test_ggn_of_a_squared_error_needs_no_output_curvature(case):
    J, _ = jacobian(*case)
    expected = np.einsum("icp,icq->pq", J, J) / N
    np.testing.assert_allclose(ggn(model, squared_error, *case).to_dense(), expected, atol=1e-12)


def test_ggn_is_the_hessian_where_the_targets_are_the_models_own(case):
    """The residuals vanish, and with them what the Hessian has besides."""
    params, batch = case
    batch = {**batch, "own": jax.nn.softmax(model(params, batch))}

    def loss(outputs, batch):
        return optax.softmax_cross_entropy(outputs, batch["own"]).mean()

    first = ggn(model, loss, params, batch).to_dense()
    second = hessian(lambda p, b: loss(model(p, b), b), params, batch).to_dense()
    np.testing.assert_allclose(first, second, atol=1e-12)


@pytest.mark.parametrize("chunk_size", [None, 5])
def test_empirical_fisher_is_the_mean_outer_product_of_gradients(case, chunk_size):
    J, p = jacobian(*case)
    gradients = np.einsum("icp,ic->ip", J, p - np.eye(C)[np.asarray(case[1]["y"])])
    op = empirical_fisher(model, cross_entropy, *case, chunk_size=chunk_size)
    np.testing.assert_allclose(op.to_dense(), gradients.T @ gradients / N, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("make", [ggn, empirical_fisher])
def test_a_mask_with_its_weight_leaves_the_examples_out(case, make):
    params, batch = case
    mask = jnp.asarray(np.arange(N) % 3 != 0, jnp.float64)

    def masked(outputs, batch):
        each = optax.softmax_cross_entropy_with_integer_labels(outputs, batch["y"])
        return (each * batch["mask"]).sum() / batch["mask"].sum()

    def weight(batch):
        return batch["mask"].sum()

    batch_with_mask = {**batch, "mask": mask}
    whole = make(model, masked, params, batch_with_mask, weight=weight, chunk_size=9)
    kept = jax.tree.map(lambda leaf: leaf[mask > 0], batch)
    part = make(model, cross_entropy, params, kept)
    np.testing.assert_allclose(whole.to_dense(), part.to_dense(), atol=1e-13)


@pytest.mark.parametrize("chunk_size", [None, 6])
def test_monte_carlo_fisher_tends_to_the_fisher_matrix(case, chunk_size):
    exact = np.asarray(ggn(model, cross_entropy, *case).to_dense())
    errors = []
    for count in (30, 3000):
        op = fisher(model, *case, jax.random.key(0), num_samples=count, chunk_size=chunk_size)
        dense = np.asarray(op.to_dense())
        np.testing.assert_allclose(dense, dense.T, atol=1e-12)
        assert np.linalg.eigvalsh(dense).min() > -1e-12
        errors.append(np.linalg.norm(dense - exact) / np.linalg.norm(exact))
    assert errors[1] < 0.03
    assert errors[1] < errors[0] / 3


def test_gaussian_fisher_tends_to_that_of_half_the_squared_error(case):
    exact = np.asarray(ggn(model, squared_error, *case).to_dense())
    op = fisher(model, *case, jax.random.key(1), distribution="gaussian", num_samples=4000)
    error = np.linalg.norm(np.asarray(op.to_dense()) - exact) / np.linalg.norm(exact)
    assert error < 0.05


def test_the_draws_follow_the_key(case):
    first, again, other = (
        np.asarray(fisher(model, *case, jax.random.key(k)).to_dense()) for k in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_a_frozen_part_may_be_left_out_or_be_state(case):
    params, batch = case

    def with_state(params, state, batch):
        return model({"first": params["first"], "second": state["second"]}, batch)

    part = ggn(model, cross_entropy, params, batch, wrt=lambda path: path == "first")
    first, state = {"first": params["first"]}, {"second": params["second"]}
    moved = ggn(with_state, cross_entropy, first, batch, state=state)
    np.testing.assert_allclose(part.to_dense(), moved.to_dense(), atol=1e-14)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p, b: ggn(lambda p, b: model(p, b).sum(), cross_entropy, p, b), "first axis"),
        (lambda p, b: ggn(lambda p, b: (model(p, b),), cross_entropy, p, b), "first axis"),
        (lambda p, b: ggn(model, lambda z, b: len(z) * cross_entropy(z, b), p, b), "mean over the"),
        (lambda p, b: ggn(model, cross_entropy, p, b, chunk_size=0), "chunk_size"),
        (lambda p, b: fisher(model, p, b, jax.random.key(0), num_samples=0), "num_samples"),
        (lambda p, b: fisher(model, p, b, jax.random.key(0), distribution="beta"), "gaussian"),
        (lambda p, b: fisher(lambda p, b: model(p, b)[:, 0], p, b, jax.random.key(0)), "shape"),
    ],
    ids=["no axis", "no array", "sum", "chunk", "samples", "distribution", "vector"],
)
def test_what_cannot_be_used_is_refused(case, make, message):
    with pytest.raises(InputError, match=message):
        make(*case)


def biased_outputs(params, batch):
    hidden = jnp.tanh(batch["x"] @ params["first"] + params["shift"][None])
    return hidden @ params["second"] + params["bias"][None]


@pytest.mark.parametrize("kind", ["hessian", "ggn", "empirical", "monte carlo"])
def test_many_vectors_at_once_are_the_products_one_by_one(kind):
    rng = np.random.default_rng(0)
    shapes = {"first": (8, 6), "shift": (6,), "second": (6, 4), "bias": (4,)}
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    batch = {"x": rng.normal(size=(60, 8)), "y": rng.integers(0, 4, 60)}
    params, batch = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), (params, batch))
    make = {
        "hessian": lambda: hessian(
            lambda p, b: cross_entropy(biased_outputs(p, b), b), params, batch
        ),
        "ggn": lambda: ggn(biased_outputs, cross_entropy, params, batch),
        "empirical": lambda: empirical_fisher(biased_outputs, cross_entropy, params, batch),
        "monte carlo": lambda: fisher(
            biased_outputs, params, batch, jax.random.key(0), num_samples=20
        ),
    }
    op = make[kind]()
    vectors = rng.normal(size=(op.shape[1], 64))
    apart = np.stack([op.matvec(v) for v in vectors.T], 1)
    np.testing.assert_allclose(op.matmat(vectors), apart, atol=1e-5 * np.abs(apart).max())


def test_an_output_loss_without_a_second_derivative_is_refused():
    @jax.custom_vjp
    def once(z):
        return jnp.mean(z**2)

    def forward(z):
        return once(z), z

    def backward(z, g):
        found = jax.pure_callback(
            lambda z: 2 * z / z.size, jax.ShapeDtypeStruct(z.shape, z.dtype), z
        )
        return (g * found,)

    once.defvjp(forward, backward)
    batch = (jnp.ones((4, 2)), jnp.zeros((4, 1)))
    op = ggn(lambda w, b: b[0] @ w, lambda z, b: once(z), jnp.ones((2, 1)), batch)
    with pytest.raises(InputError, match="cannot be differentiated twice"):
        op.matvec(jnp.ones(2))
