"""Jacobians, Gram matrices, sums and multiples against dense float64 matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from landscape.curvature import (
    DenseOperator,
    DiagonalOperator,
    ggn,
    hessian,
    jacobian,
    noise_floor,
    stack,
)
from landscape.errors import InputError
from landscape.spectra import degenerate_fraction, dense_spectrum, slq

N, D, C = 7, 4, 3


def model(params, batch):
    return jnp.tanh(batch @ params["first"]) @ params["second"]


@pytest.fixture
def case(x64):
    rng = np.random.default_rng(0)
    params = {"first": rng.normal(size=(D, 5)), "second": rng.normal(size=(5, C))}
    return jax.tree.map(jnp.asarray, (params, rng.normal(size=(N, D))))


@pytest.fixture
def dense(case):
    flat, unflatten = ravel_pytree(case[0])
    found = jax.jacobian(lambda v: model(unflatten(v), case[1]))(flat)
    return np.asarray(found).reshape(N * C, -1)


def test_products_with_the_jacobian_and_its_transpose(case, dense):
    op = jacobian(model, *case)
    assert op.shape == dense.shape == op.T.shape[::-1]
    rng = np.random.default_rng(1)
    v, u = rng.normal(size=dense.shape[1]), rng.normal(size=dense.shape[0])
    np.testing.assert_allclose(op.matvec(v), dense @ v, atol=1e-13)
    np.testing.assert_allclose(op.T.matvec(u), dense.T @ u, atol=1e-13)
    np.testing.assert_allclose(op.linearized().matvec(v), dense @ v, atol=1e-13)
    np.testing.assert_allclose(op.to_dense(), dense, atol=1e-13)
    np.testing.assert_allclose(op.T.to_dense(block_size=4), dense.T, atol=1e-13)
    np.testing.assert_allclose(op.T.T.to_dense(), dense, atol=1e-13)
    with pytest.raises(InputError, match="shape"):
        op.matvec(u)


def test_gram_matrices_have_the_squared_singular_values(case, dense):
    op = jacobian(model, *case)
    np.testing.assert_allclose(op.gram().to_dense(), dense @ dense.T, atol=1e-12)
    np.testing.assert_allclose(op.T.gram().to_dense(), dense.T @ dense, atol=1e-12)
    singular = np.linalg.svd(dense, compute_uv=False)
    spectrum = slq(op.gram(), jax.random.key(0), num_steps=N * C)
    assert spectrum.nodes.max() == pytest.approx(singular.max() ** 2, rel=1e-10)
    # The smaller side has no null space that the other one would add.
    null = 1 - np.linalg.matrix_rank(dense) / dense.shape[1]
    exact = degenerate_fraction(dense_spectrum(op.T.gram()), 1e-9)
    assert float(exact.estimate) == pytest.approx(null)


def test_a_jacobian_has_no_spectrum(case):
    for take in (lambda op: slq(op, jax.random.key(0), num_steps=2), dense_spectrum):
        with pytest.raises(InputError, match=r"not square.*gram"):
            take(jacobian(model, *case))


def test_part_of_the_parameters_and_a_state(case, dense):
    params, batch = case
    part = jacobian(model, params, batch, wrt=lambda path: path == "second")
    np.testing.assert_allclose(part.to_dense(), dense[:, D * 5 :], atol=1e-13)

    def with_state(params, state, batch):
        return model({"first": state, "second": params}, batch)

    moved = jacobian(with_state, params["second"], batch, state=params["first"])
    np.testing.assert_allclose(moved.to_dense(), dense[:, D * 5 :], atol=1e-13)


def test_outputs_without_the_examples_axis_are_refused(case):
    with pytest.raises(InputError, match="first axis"):
        jacobian(lambda p, b: model(p, b).sum(0), *case)


def test_sums_and_multiples(x64):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(6, 6))
    matrix = matrix + matrix.T
    diagonal = rng.normal(size=6)
    total = DenseOperator(jnp.asarray(matrix)) + 0.5 * DiagonalOperator(jnp.asarray(diagonal))
    expected = matrix + 0.5 * np.diag(diagonal)
    np.testing.assert_allclose(total.to_dense(), expected, atol=1e-14)
    np.testing.assert_allclose((total * 2.0).to_dense(), 2 * expected, atol=1e-14)
    np.testing.assert_allclose(dense_spectrum(total).nodes, np.linalg.eigvalsh(expected))
    spectrum = slq(total, jax.random.key(0), num_steps=6)
    np.testing.assert_allclose(np.sort(spectrum.nodes), np.linalg.eigvalsh(expected), atol=1e-12)
    assert noise_floor(total, jax.random.key(1)) < 1e-13


def test_a_penalty_is_a_multiple_of_the_identity(x64):
    batch = jax.random.normal(jax.random.key(0), (9, 4))

    def loss(p, b):
        return jnp.mean(jnp.tanh(b @ p) ** 2)

    p = jnp.ones(4)
    penalised = hessian(lambda p, b: loss(p, b) + 0.05 * jnp.sum(p**2), p, batch)
    apart = hessian(loss, p, batch) + 0.1 * DiagonalOperator(jnp.ones(4))
    np.testing.assert_allclose(penalised.to_dense(), apart.to_dense(), atol=1e-13)


def test_operators_of_different_shapes_do_not_add_up():
    with pytest.raises(InputError, match=r"\(2, 2\) and \(3, 3\)"):
        DiagonalOperator(jnp.ones(2)) + DiagonalOperator(jnp.ones(3))
    with pytest.raises(TypeError):
        DiagonalOperator(jnp.ones(2)) + 1.0
    with pytest.raises(TypeError):
        DiagonalOperator(jnp.ones(2)) * jnp.ones(2)


@jax.custom_vjp
def square(x):
    """Of known cotangents, and no tangents."""
    return x**2


square.defvjp(lambda x: (x**2, x), lambda x, u: (2 * x * u,))


def test_a_model_that_knows_cotangents_only_has_a_jacobian(x64):
    w, x = jnp.arange(1.0, 4.0), jax.random.normal(jax.random.key(0), (5, 3))

    def model(power):
        return lambda w, x: jax.lax.scan(lambda c, _: (c, power(x @ w)), 0.0, None, 2)[1].T

    mine, known = (model(power) for power in (square, lambda x: x**2))
    for make in (
        lambda f: jacobian(f, w, x),
        lambda f: jacobian(f, w, x).T,
        lambda f: jacobian(f, w, x).gram(),
        lambda f: ggn(f, lambda z, x: jnp.mean(z**2), w, x),
    ):
        np.testing.assert_allclose(make(mine).to_dense(), make(known).to_dense(), rtol=1e-12)


def test_transposes_of_multiples_and_sums(case, dense):
    op = jacobian(model, *case)
    np.testing.assert_allclose((2 * op).T.to_dense(), 2 * dense.T, atol=1e-13)
    np.testing.assert_allclose((op + op).T.to_dense(), 2 * dense.T, atol=1e-13)
    symmetric = op.gram()
    assert symmetric.T is symmetric
    with pytest.raises(InputError, match=r"call \.T before"):
        _ = op.linearized().T


def test_transposes_of_square_matrices_that_are_not_symmetric():
    w, x = jnp.arange(1.0, 4.0), jax.random.normal(jax.random.key(0), (3, 3))
    upper = DenseOperator(jnp.triu(x))
    np.testing.assert_array_equal(upper.T.to_dense(), jnp.triu(x).T)
    family = stack([jacobian(linear, w, scale * x) for scale in (1.0, 2.0)])
    for member, scale in zip(family.T.members(), (1.0, 2.0), strict=True):
        np.testing.assert_allclose(member.to_dense(), scale * x.T, rtol=1e-6)


def linear(w, x):
    return x @ w[:, None]
