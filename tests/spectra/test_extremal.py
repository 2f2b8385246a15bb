import dataclasses

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from landscape._pytrees import pytree
from landscape.curvature import DenseOperator, DiagonalOperator, stack
from landscape.curvature.operators import LinearOperator
from landscape.errors import InputError, ResourceError
from landscape.spectra import extremal, extremal_eigenpairs, restarts
from landscape.spectra.tiles import block_of, rows_of


def matrix_of(values, seed=0):
    values = np.asarray(values, float)
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))
    return (q * values) @ q.T, q


def outliers(size=400, seed=0):
    rng = np.random.default_rng(seed)
    return np.sort(np.r_[rng.normal(0, 0.1, size - 9), -7, -3, -2, 2, 4, 9, 30, 31, 100])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("options", "take"),
    [
        ({"num_largest": 4}, lambda v: v[::-1][:4]),
        ({"num_smallest": 3}, lambda v: v[:3][::-1]),
        ({"num_largest": 3, "num_smallest": 2}, lambda v: np.r_[v[::-1][:3], v[1], v[0]]),
        ({"num_by_magnitude": 5}, lambda v: np.sort(v[np.argsort(-np.abs(v))[:5]])[::-1]),
    ],
    ids=["largest", "smallest", "both ends", "magnitude"],
)
def test_eigenpairs_are_those_of_the_dense_matrix(options, take, dtype, x64):
    values = outliers()
    matrix, q = matrix_of(values)
    op = DenseOperator(jnp.asarray(matrix, dtype))
    tol = 1e-5 if dtype == np.float32 else 1e-10
    pairs = extremal_eigenpairs(op, jax.random.key(0), tol=tol, **options)
    assert pairs.status == "converged"
    assert pairs.residual_norms.max() <= 2 * tol * 100
    expected = take(values)
    np.testing.assert_allclose(pairs.values, expected, atol=pairs.residual_norms.max() + 1e-13)
    for column, value in zip(np.asarray(pairs.vectors, float).T, expected, strict=True):
        exact = q[:, np.argmin(np.abs(values - value))]
        assert abs(column @ exact) == pytest.approx(1, abs=1e-4)
    residual = matrix @ pairs.vectors - pairs.vectors * pairs.values[None]
    np.testing.assert_allclose(
        np.linalg.norm(residual, axis=0), pairs.residual_norms, atol=1e-4 if tol > 1e-6 else 1e-12
    )


@pytest.mark.slow
def test_memory_is_bounded_however_long_it_takes(x64, monkeypatch):
    """An edge that converges slowly: many restarts, never more than M + 1 rows."""
    values = np.r_[np.linspace(0, 1, 600), 1.02]
    seen = []
    original = extremal.restart
    monkeypatch.setattr(
        extremal,
        "restart",
        lambda space, *rest: seen.append(space.block.shape) or original(space, *rest),
    )
    op = DiagonalOperator(jnp.asarray(values))
    pairs = extremal_eigenpairs(op, jax.random.key(0), num_largest=1, tol=1e-8, subspace=12)
    assert pairs.status == "converged"
    assert pairs.values == pytest.approx(1.02, abs=1e-10)
    assert len(seen) > 3
    assert set(seen) == {(1, 1, 13, 601)}
    assert pairs.num_matvecs > 40


def test_a_spent_budget_is_said_and_residuals_stay_honest(x64):
    op = DiagonalOperator(jnp.linspace(0, 1, 3000))
    pairs = extremal_eigenpairs(
        op, jax.random.key(0), num_largest=3, tol=1e-12, max_matvecs=50, subspace=10
    )
    assert pairs.status == "max_matvecs"
    assert 50 <= pairs.num_matvecs <= 65
    exact = np.linspace(0, 1, 3000)
    for value, norm in zip(pairs.values, pairs.residual_norms, strict=True):
        assert np.abs(exact - value).min() <= norm
        assert norm > 1e-12
    assert "max_matvecs" in repr(pairs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "count"),
    [
        (np.ones(6), 3),
        (np.zeros(40), 2),
        (np.r_[5.0, np.zeros(39)], 3),
        (np.arange(5.0), 5),
        ([3.0], 1),
        (np.r_[np.full(4, 2.0), np.zeros(60)], 4),
    ],
    ids=["identity", "zero", "rank one", "all pairs", "one parameter", "multiple"],
)
def test_awkward_matrices(values, count, x64):
    values = np.asarray(values, float)
    matrix, _ = matrix_of(values)
    pairs = extremal_eigenpairs(
        DenseOperator(jnp.asarray(matrix)), jax.random.key(0), num_largest=count
    )
    assert pairs.status == "converged"
    np.testing.assert_allclose(pairs.values, np.sort(values)[::-1][:count], atol=1e-9)
    np.testing.assert_allclose(pairs.vectors.T @ pairs.vectors, np.eye(count), atol=1e-9)


def test_an_operator_driven_from_the_host_gives_the_same_pairs(x64):
    class FromHost(LinearOperator):
        shape, dtype, traceable = (400, 400), np.dtype(np.float64), False

        def _products(self):
            raise AssertionError("not to be traced")

        def _matmat(self, vectors):
            return jnp.asarray(outliers())[:, None] * vectors

    options = {"num_largest": 2, "num_smallest": 1, "tol": 1e-10}
    found = extremal_eigenpairs(FromHost(), jax.random.key(0), **options)
    op = DiagonalOperator(jnp.asarray(outliers()))
    expected = extremal_eigenpairs(op, jax.random.key(0), **options)
    np.testing.assert_allclose(found.values, expected.values, atol=1e-9)
    assert found.num_matvecs == expected.num_matvecs


@pytest.mark.slow
def test_another_operator_of_the_same_shape_does_not_recompile():
    options = {"num_largest": 1, "subspace": 9}
    extremal_eigenpairs(DiagonalOperator(jnp.arange(31.0)), jax.random.key(0), **options)
    before = restarts._extend_compiled._cache_size()
    extremal_eigenpairs(DiagonalOperator(jnp.arange(31.0) ** 2), jax.random.key(1), **options)
    assert restarts._extend_compiled._cache_size() == before


def wrong_together(diagonal):
    """A diagonal operator whose products with several vectors at once have a wrong last entry."""

    @pytree
    @dataclasses.dataclass(frozen=True, repr=False)
    class Wrong(DiagonalOperator):
        def _matmat(self, vectors):
            return super()._matmat(vectors).at[-1].multiply(0.9)

    return Wrong(diagonal)


def test_unusable_requests_are_refused(monkeypatch):
    op, key = DiagonalOperator(jnp.arange(10.0)), jax.random.key(0)
    for options in ({}, {"num_largest": 11}, {"num_largest": -1, "num_smallest": 3}):
        with pytest.raises(InputError, match="between 1 and P = 10"):
            extremal_eigenpairs(op, key, **options)
    with pytest.raises(InputError, match="num_by_magnitude"):
        extremal_eigenpairs(op, key, num_by_magnitude=2, num_largest=1)
    with pytest.raises(InputError, match="subspace"):
        extremal_eigenpairs(op, key, num_largest=4, subspace=4)
    with pytest.raises(InputError, match="family"):
        extremal_eigenpairs(stack([op, op]), key, num_largest=1)
    with pytest.raises(InputError, match="NaN"):
        extremal_eigenpairs(DiagonalOperator(jnp.array([1.0, jnp.nan])), key, num_largest=1)
    with pytest.raises(InputError, match="tol"):
        extremal_eigenpairs(op, key, num_largest=1, tol=float("nan"))
    with pytest.raises(InputError, match="max_matvecs"):
        extremal_eigenpairs(op, key, num_largest=1, max_matvecs=5)
    skewed = jnp.triu(jax.random.normal(key, (80, 80)))
    with pytest.raises(InputError, match="not symmetric"):
        extremal_eigenpairs(DenseOperator(skewed), key, num_largest=1)
    many = wrong_together(jnp.arange(10.0))
    with pytest.raises(InputError, match="differ among themselves"):
        extremal_eigenpairs(many, key, num_largest=1, num_smallest=1)
    monkeypatch.setattr(extremal, "device_memory", lambda: 100)
    with pytest.raises(ResourceError, match="subspace"):
        extremal_eigenpairs(op, key, num_largest=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_multiple_eigenvalues_come_as_often_as_they_are_multiple(seed, x64):
    values = np.r_[np.zeros(60), np.random.default_rng(0).uniform(1, 2, 60)]
    op, key = DiagonalOperator(jnp.asarray(values)), jax.random.key(seed)
    pairs = extremal_eigenpairs(op, key, num_smallest=5)
    assert pairs.status == "converged"
    np.testing.assert_allclose(pairs.values, 0, atol=1e-6)
    np.testing.assert_allclose(pairs.vectors.T @ pairs.vectors, np.eye(5), atol=1e-10)
    unverified = extremal_eigenpairs(op, key, num_smallest=5, verify=False)
    assert unverified.status == "unverified"
    assert unverified.num_matvecs < pairs.num_matvecs


@pytest.mark.slow
def test_a_budget_spent_before_the_check_is_told():
    op = DiagonalOperator(jnp.asarray(outliers(), jnp.float32))
    found = extremal_eigenpairs(op, jax.random.key(0), num_largest=1)
    assert found.status == "converged"
    for budget, status in ((3, "max_matvecs"), (6, "unverified")):
        short = extremal_eigenpairs(
            op, jax.random.key(0), num_largest=1, subspace=budget, max_matvecs=budget
        )
        assert short.status == status
        assert short.num_matvecs == budget + 1


def test_few_steps_are_made_where_few_are_enough():
    """A gap as wide as that needs no full basis, and no more is spent than between two looks."""
    op = DiagonalOperator(jnp.asarray(np.r_[np.linspace(-1, 1, 400), 100.0], jnp.float32))
    found = extremal_eigenpairs(op, jax.random.key(0), num_largest=1, tol=1e-3, verify=False)
    assert found.num_matvecs == 7
    assert abs(found.values[0] - 100) <= 1e-3


def test_norms_that_cannot_be_squared_are_refused_by_name():
    op = DiagonalOperator(jnp.linspace(-1, 1, 100) * 1e-20)
    with pytest.raises(InputError, match="leaves the range"):
        extremal_eigenpairs(op, jax.random.key(0), num_largest=1)


def test_no_step_takes_a_second_basis(monkeypatch):
    # What is lowered holds descriptions of arrays.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    monkeypatch.setattr(restarts, "_NUMBERS_AT_ONCE", 2**18)
    size, room = 400_000, 24
    op = DiagonalOperator(jnp.linspace(0, 1, size))
    space = restarts.begin(op, jax.random.key(0), room)
    coordinates, values = jnp.zeros((room + 1, 9)), jnp.zeros(9)
    programs = [
        restarts._extend_compiled.lower(op, space, 8),
        restarts._grow_compiled.lower(space, jnp.zeros(size)),
        restarts.restart.lower(space, coordinates, values),
        restarts.start_anew.lower(space, size),
    ]
    most = 4 * (restarts.BESIDES * size + 2 * restarts._NUMBERS_AT_ONCE)
    for program in programs:
        taken = program.compile().memory_analysis()
        assert taken.temp_size_in_bytes <= most < 4 * room * size
        assert taken.alias_size_in_bytes > 4 * room * size


@pytest.mark.parametrize("size", [7, 30_000, 500_000])
def test_combinations_take_the_place_of_the_rows(size, monkeypatch):
    monkeypatch.setattr(restarts, "_NUMBERS_AT_ONCE", 2**17)
    rows = jax.random.normal(jax.random.key(0), (1, 5, size))
    s = jax.random.normal(jax.random.key(1), (5, 2))
    block = jax.jit(restarts._combined_in_place)(block_of(rows), s)
    expected = jnp.einsum("rk,lrp->lkp", s, rows, precision="highest")
    np.testing.assert_allclose(rows_of(block, size)[:, :2], expected, atol=1e-5)
    assert not block[:, :, 2:].any()


def test_pairs_know_which_end_they_are_of():
    op = DiagonalOperator(jnp.arange(-3.0, 100.0))
    found = extremal_eigenpairs(op, jax.random.key(0), num_largest=5, num_smallest=2)
    assert found.ranks.tolist() == [1, 2, 3, 4, 5, -2, -1]
    assert repr(found).startswith("EigenPairs(7: 99, 98, 97, 96, …, -2, -3; residuals")
    assert "eigenvalue −1" in found._repr_html_()
    assert [tick.get_text() for tick in found.plot().get_xticklabels()][-2:] == ["−2", "−1"]
    upper = extremal_eigenpairs(op, jax.random.key(0), num_largest=2)
    assert upper.ranks.tolist() == [1, 2]
    assert repr(upper).startswith("EigenPairs(2: 99, 98; residuals")
    lower = extremal_eigenpairs(op, jax.random.key(0), num_smallest=1)
    assert lower.ranks.tolist() == [-1]
    assert repr(lower).startswith("EigenPairs(1: -3; residuals")
    assert lower.plot().get_xlabel().startswith("rank")


def test_ranks_of_the_largest_in_magnitude_count_from_their_own_end():
    op = DiagonalOperator(jnp.array([5.0, 4.0, -6.0] + [0.0] * 40))
    found = extremal_eigenpairs(op, jax.random.key(0), num_by_magnitude=3)
    np.testing.assert_allclose(found.values, [5, 4, -6], rtol=1e-4)
    assert found.ranks.tolist() == [1, 2, -1]
