"""Skip matrices have the spectra they are made for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape.errors import InputError
from landscape.models import (
    MLP,
    RandomSkip,
    random_orthogonal,
    repeated_orthogonal,
    unit_circle,
)


@pytest.mark.parametrize("width", [1, 2, 5, 128])
def test_random_matrices_are_orthogonal(width, x64):
    for q in random_orthogonal(jax.random.key(0), 3, width, np.float64):
        np.testing.assert_allclose(q @ q.T, np.eye(width), atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 6, 128])
def test_repeated_matrices_have_so_many_distinct_orthonormal_columns(width, x64):
    key, distinct, whole = jax.random.key(3), width, None
    while distinct >= 1:
        q = np.asarray(repeated_orthogonal(key, width, distinct, np.float64))
        whole = q if whole is None else whole
        assert len({tuple(column) for column in q.T}) == distinct
        first = q[:, :distinct]
        np.testing.assert_allclose(first.T @ first, np.eye(distinct), atol=1e-8)
        assert np.linalg.matrix_rank(q) == distinct
        # Halving copies the first half of what is left onto the second.
        for start in range(0, width, distinct):
            count = min(distinct, width - start)
            np.testing.assert_array_equal(q[:, start : start + count], whole[:, :count])
        distinct //= 2


@pytest.mark.slow
@pytest.mark.parametrize("tau", [0.0, 0.01, 0.1, 0.2])
@pytest.mark.parametrize("width", [1, 2, 7, 128])
def test_eigenvalues_lie_on_the_unit_circle_and_the_covariance_decays(width, tau, x64):
    q = np.asarray(unit_circle(jax.random.key(width), width, tau, np.float64))
    np.testing.assert_allclose(abs(np.linalg.eigvals(q)), 1, atol=1e-8)
    found = np.sort(np.linalg.svd(q, compute_uv=False) ** 2)[::-1]
    wanted = np.exp(-tau * np.arange(width))
    wanted /= np.exp(np.log(wanted).mean())
    np.testing.assert_allclose(found, wanted, rtol=1e-8)
    assert abs(np.linalg.det(q)) == pytest.approx(1)


def test_without_decay_the_matrix_is_orthogonal_and_keys_differ(x64):
    first, second = (
        np.asarray(unit_circle(jax.random.key(seed), 9, 0.0, np.float64)) for seed in (0, 1)
    )
    np.testing.assert_allclose(first @ first.T, np.eye(9), atol=1e-12)
    assert abs(first - second).max() > 0.1
    # Nine angles: four pairs, and one real eigenvalue.
    assert len(set(np.angle(np.linalg.eigvals(first)).round(6))) == 9


def test_powers_neither_vanish_nor_explode(x64):
    q = np.asarray(unit_circle(jax.random.key(0), 32, 0.2, np.float64))
    norms = [np.linalg.norm(np.linalg.matrix_power(q, k), 2) for k in (1, 10, 100)]
    largest = np.exp(0.2 * 31 / 4)
    assert norms[0] == pytest.approx(largest)
    # Within a block of two, powers are bounded by its condition in the eigenvectors' basis.
    assert all(1 <= norm <= 100 * largest for norm in norms)


@pytest.mark.parametrize("tau", [-0.1, np.nan, np.inf])
def test_decays_that_mean_nothing_are_refused(tau):
    with pytest.raises(InputError, match="tau must be finite"):
        unit_circle(jax.random.key(0), 4, tau)


def test_spreads_too_wide_are_refused_with_the_largest_that_is_not():
    with pytest.raises(InputError, match=r"tau = 0\.29 is the most"):
        unit_circle(jax.random.key(0), 128, 1.0)
    unit_circle(jax.random.key(0), 128, 0.29)


@pytest.mark.parametrize("distinct", [0, 5])
def test_no_column_and_more_than_there_are_are_refused(distinct):
    with pytest.raises(InputError, match="between 1 and 4 columns"):
        repeated_orthogonal(jax.random.key(0), 4, distinct)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "dense"}, {"kind": "repeated"}, {"kind": "unit circle"}, {"tau": 0.1},
        {"num_distinct": 2}, {"kind": "repeated", "tau": 0.1},
    ],
)  # fmt: skip
def test_random_skips_say_what_they_need(wrong):
    with pytest.raises(InputError):
        RandomSkip(**wrong)


SKIPS = [RandomSkip(), RandomSkip("repeated", num_distinct=2), RandomSkip("unit circle", tau=0.5)]


@pytest.mark.slow
@pytest.mark.parametrize("skip", SKIPS, ids=lambda skip: skip.kind)
def test_networks_draw_their_own_and_have_the_kernels_of_those_without(skip):
    x = jnp.ones((3, 7))
    model, plain = MLP(3, 4, 2, skip=skip), MLP(3, 4, 2)
    drawn = [model.init(jax.random.key(seed), x) for seed in (0, 1)]
    matrices = [variables["fixed"]["skip"] for variables in drawn]
    assert abs(matrices[0] - matrices[1]).max() > 0.1
    singular = np.linalg.svd(skip.draw(jax.random.key(5), 4), compute_uv=False)
    np.testing.assert_allclose(
        np.linalg.svd(matrices[0], compute_uv=False), singular, rtol=1e-4, atol=1e-5
    )
    jax.tree.map(
        np.testing.assert_array_equal,
        drawn[0]["params"],
        plain.init(jax.random.key(0), x)["params"],
    )
    # The matrix given as a constant computes the same.
    same = MLP(3, 4, 2, skip=np.asarray(matrices[0]))
    np.testing.assert_allclose(
        same.apply(drawn[0], x), model.apply(drawn[0], x), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("skip", SKIPS, ids=lambda skip: skip.kind)
def test_initial_kernels_that_undo_a_drawn_skip(skip):
    x = jnp.ones((3, 7))
    plain, undone = (
        MLP(3, 4, 2, skip=skip, cancel_skip=cancel).init(jax.random.key(0), x)
        for cancel in (False, True)
    )
    difference = plain["params"]["hidden"]["kernel"] - undone["params"]["hidden"]["kernel"]
    q = undone["fixed"]["skip"]
    np.testing.assert_allclose(difference, jnp.broadcast_to(q.T, (2, 4, 4)), atol=1e-5)
