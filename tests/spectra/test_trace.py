import functools
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from landscape.curvature import DenseOperator, DiagonalOperator, LinearOperator, hessian, jacobian
from landscape.errors import InputError, ResourceError
from landscape.spectra import diagonal, frobenius_norm, trace

# One width of block for the budgets here, so that few programs are compiled.
trace, diagonal, frobenius_norm = (
    partial(estimator, block_size=10) for estimator in (trace, diagonal, frobenius_norm)
)
METHODS = ["hutch++", "hutchinson"]
SIZE = 120


@functools.cache
def prescribed(kind):
    """A matrix with given eigenvalues and random eigenvectors, in float64."""
    rng = np.random.default_rng(0)
    values = {
        "decaying": 100.0 * np.arange(1, SIZE + 1) ** -2.0,
        "flat": rng.normal(1, 0.3, SIZE),
        "outliers": np.r_[1e3, 300, -50, rng.normal(0, 1, SIZE - 3)],
        "zeros and negative": np.r_[np.zeros(SIZE // 2), rng.normal(0, 2, SIZE - SIZE // 2)],
    }[kind]
    vectors, _ = np.linalg.qr(rng.normal(size=(SIZE, SIZE)))
    matrix = (vectors * values) @ vectors.T
    return (matrix + matrix.T) / 2


KINDS = ["decaying", "flat", "outliers", "zeros and negative"]


class OnTheHost(LinearOperator):
    """Products that no compiled function can make, and a record of how they were asked for."""

    def __init__(self, matrix):
        self.matrix, self.columns = matrix, []

    shape = property(lambda self: self.matrix.shape)
    dtype = property(lambda self: np.dtype(np.float32))

    def _products(self):
        raise AssertionError("not to be traced")

    def _matmat(self, vectors):
        self.columns.append(vectors.shape[1])
        return jnp.asarray(self.matrix @ np.asarray(vectors), jnp.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_estimates_agree_with_the_matrix_within_their_own_errors(kind, method, dtype, x64):
    matrix = prescribed(kind)
    op = DenseOperator(jnp.asarray(matrix, dtype))
    # Rounding of the products, that no error bar covers.
    rounding = 100 * np.finfo(dtype).eps * np.linalg.norm(matrix)
    for seed in range(3):
        key = jax.random.key(seed)
        estimate = trace(op, key, method=method, num_matvecs=60)
        assert abs(estimate.value - np.trace(matrix)) <= 4.5 * estimate.stderr + rounding
        entries = diagonal(op, key, method=method, num_matvecs=60)
        # Of 120 entries, with Student's tail at 19 degrees of freedom and more.
        assert (abs(entries.value - np.diag(matrix)) <= 6 * entries.stderr + rounding).all()
        assert entries.value.shape == entries.stderr.shape == (SIZE,)
        norm = frobenius_norm(op, key, num_matvecs=60)
        assert abs(norm.value - np.linalg.norm(matrix)) <= 4.5 * norm.stderr + rounding
        assert estimate.num_matvecs == entries.num_matvecs == norm.num_matvecs == 60


@pytest.mark.parametrize(
    ("quantity", "method"),
    [
        ("trace", "hutch++"),
        ("trace", "hutchinson"),
        ("diagonal", "hutch++"),
        ("diagonal", "hutchinson"),
        ("frobenius norm", "hutchinson"),
    ],
)
def test_estimates_have_no_bias_and_intervals_the_coverage_they_should(quantity, method, x64):
    matrix = prescribed("flat" if method == "hutchinson" else "outliers")
    estimator, truth = {
        "trace": (partial(trace, method=method), np.trace(matrix)),
        "diagonal": (partial(diagonal, method=method), np.diag(matrix)),
        "frobenius norm": (frobenius_norm, np.linalg.norm(matrix)),
    }[quantity]
    op = DenseOperator(jnp.asarray(matrix))
    num_matvecs, num_probes = (30, 10) if method == "hutch++" else (20, 20)
    estimates = [
        estimator(op, jax.random.key(seed), num_matvecs=num_matvecs) for seed in range(200)
    ]
    values, stderrs = (
        np.array([getattr(estimate, name) for estimate in estimates])
        for name in ("value", "stderr")
    )
    errors = values - truth
    covered = np.abs(errors) <= 2 * stderrs
    expected = 1 - 2 * stats.t(num_probes - 1).sf(2)
    # Three standard deviations of a binomial, and two points for what is not quite normal.
    tolerance = 3 * np.sqrt(expected * (1 - expected) / 200) + 0.02
    assert np.mean(covered) == pytest.approx(expected, abs=tolerance)
    spread = values.std(0, ddof=1)
    assert np.mean(np.sqrt(np.mean(stderrs**2, 0)) / spread) == pytest.approx(1, abs=0.2)
    # In units of the mean's own error; the norm's bias is second order, and below it here.
    standardised = errors.mean(0) / (spread / np.sqrt(200))
    assert np.abs(standardised).max() < (4.5 if quantity == "diagonal" else 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rank", [1, 2, 7])
def test_hutch_plus_plus_is_exact_up_to_a_third_of_the_budget(rank, dtype, x64):
    rng = np.random.default_rng(rank)
    for factor in (rng.normal(size=(SIZE, rank)), np.eye(SIZE)[:, -rank:]):
        matrix = (factor * rng.normal(0, 3, rank)) @ factor.T
        op = DenseOperator(jnp.asarray(matrix, dtype))
        rounding = 100 * np.finfo(dtype).eps * np.linalg.norm(matrix)
        for seed in range(4):
            key = jax.random.key(seed)
            estimate = trace(op, key, num_matvecs=max(4, 3 * rank))
            assert estimate.value == pytest.approx(np.trace(matrix), abs=rounding)
            assert estimate.stderr <= rounding
            entries = diagonal(op, key, num_matvecs=max(4, 3 * rank))
            np.testing.assert_allclose(entries.value, np.diag(matrix), atol=rounding)
            assert entries.stderr.max() <= rounding


@pytest.mark.parametrize("estimator", [trace, diagonal])
def test_hutch_plus_plus_beats_hutchinson_on_a_decaying_spectrum(estimator, x64):
    matrix = prescribed("decaying")
    op = DenseOperator(jnp.asarray(matrix))
    truth = np.trace(matrix) if estimator is trace else np.diag(matrix)
    errors = {
        method: [
            np.linalg.norm(
                estimator(op, jax.random.key(seed), method=method, num_matvecs=60).value - truth
            )
            for seed in range(10)
        ]
        for method in METHODS
    }
    # Σλ² past the twentieth eigenvalue against the whole: 10⁻² of the norm, and √3 in probes.
    assert np.mean(errors["hutch++"]) < 0.1 * np.mean(errors["hutchinson"])


def test_the_basis_biases_nothing_even_where_it_is_rounded(x64):
    """One eigenvalue is 10⁶ times the rest: what float32 leaves of it in ΠAΠ must not count."""
    rng = np.random.default_rng(0)
    vector = rng.normal(size=SIZE)
    vector /= np.linalg.norm(vector)
    matrix = np.asarray(np.diag(rng.normal(size=SIZE)) + 1e6 * np.outer(vector, vector), np.float32)
    truth = np.diag(matrix).astype(float)
    op = DenseOperator(jnp.asarray(matrix))
    rounding = 8 * np.finfo(np.float32).eps * 1e6
    for seed in range(5):
        estimate = trace(op, jax.random.key(seed), num_matvecs=30)
        assert abs(estimate.value - truth.sum()) <= 4.5 * estimate.stderr + rounding
        entries = diagonal(op, jax.random.key(seed), num_matvecs=30)
        assert (abs(entries.value - truth) <= 6 * entries.stderr + rounding).all()


@pytest.mark.parametrize("num_matvecs", [SIZE, SIZE + 1, 10**9])
@pytest.mark.parametrize("method", METHODS)
def test_a_budget_of_p_products_is_spent_on_the_exact_answer(method, num_matvecs, x64):
    matrix = prescribed("outliers")
    op, key = DenseOperator(jnp.asarray(matrix)), jax.random.key(0)
    exact = [
        (trace(op, key, method=method, num_matvecs=num_matvecs), np.trace(matrix)),
        (diagonal(op, key, method=method, num_matvecs=num_matvecs), np.diag(matrix)),
        (frobenius_norm(op, key, num_matvecs=num_matvecs), np.linalg.norm(matrix)),
    ]
    for estimate, truth in exact:
        np.testing.assert_allclose(estimate.value, truth, rtol=1e-12)
        assert not estimate.stderr.any()
        assert estimate.stderr.shape == np.shape(truth)
        assert (estimate.num_matvecs, estimate.method) == (SIZE, "exact")


@pytest.mark.slow
@pytest.mark.parametrize(
    "values",
    [np.zeros(SIZE), np.ones(SIZE), np.r_[-3.0, np.zeros(SIZE - 1)], [2.5]],
    ids=["zero", "identity", "rank one", "one parameter"],
)
@pytest.mark.parametrize("method", METHODS)
def test_awkward_matrices_have_exact_answers(values, method):
    """Diagonal ones, on which random signs make no error."""
    op, key = DiagonalOperator(jnp.asarray(values, jnp.float32)), jax.random.key(0)
    for num_matvecs in (4, 30):
        estimate = trace(op, key, method=method, num_matvecs=num_matvecs)
        entries = diagonal(op, key, method=method, num_matvecs=num_matvecs)
        norm = frobenius_norm(op, key, num_matvecs=num_matvecs)
        assert norm.value == pytest.approx(np.linalg.norm(values), rel=1e-6)
        assert norm.stderr == pytest.approx(0, abs=1e-6)
        if method == "hutch++" and np.count_nonzero(values) == SIZE:
            # Off the captured directions the identity is a projection, and no longer diagonal.
            student = stats.t(num_matvecs - 2 * (num_matvecs // 3) - 1).isf(1e-3)
            assert abs(estimate.value - SIZE) <= student * estimate.stderr
            continue
        assert estimate.value == pytest.approx(np.sum(values), abs=1e-5)
        assert estimate.stderr == pytest.approx(0, abs=1e-5)
        np.testing.assert_allclose(entries.value, values, atol=1e-5)
        np.testing.assert_allclose(entries.stderr, 0, atol=1e-5)


def test_the_spread_of_large_entries_does_not_cancel(x64):
    matrix = 1e8 * np.eye(SIZE)
    matrix[0, 1] = matrix[1, 0] = 1e-4
    entries = diagonal(
        DenseOperator(jnp.asarray(matrix)), jax.random.key(0), method="hutchinson", num_matvecs=20
    )
    # Each probe's entry is 10⁸ ± 10⁻⁴, for the two that are coupled, to rounding.
    assert entries.stderr[:2] == pytest.approx(1e-4 / np.sqrt(20), rel=0.3)
    assert not entries.stderr[2:].any()


def test_error_bars_are_those_of_the_probes(x64):
    """Against the variances that random signs have by theory."""
    matrix = prescribed("flat")
    off = matrix - np.diag(np.diag(matrix))
    op, key = DenseOperator(jnp.asarray(matrix)), jax.random.key(1)
    budget = SIZE - 1
    estimate = trace(op, key, method="hutchinson", num_matvecs=budget)
    assert estimate.stderr == pytest.approx(np.sqrt(2 * (off**2).sum() / budget), rel=0.25)
    entries = diagonal(op, key, method="hutchinson", num_matvecs=budget)
    expected = np.sqrt((off**2).sum(1) / budget)
    assert np.median(entries.stderr / expected) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_the_trace_is_the_sum_of_the_diagonal_from_the_same_key(method, x64):
    # Up to Πv in place of v, which for Hutchinson is v itself.
    op, key = DenseOperator(jnp.asarray(prescribed("outliers"))), jax.random.key(0)
    whole = trace(op, key, method=method, num_matvecs=30)
    entries = diagonal(op, key, method=method, num_matvecs=30)
    assert entries.value.sum() == pytest.approx(float(whole.value), rel=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_blocks_change_nothing(method, x64):
    op, key = DenseOperator(jnp.asarray(prescribed("outliers"))), jax.random.key(2)
    for num_matvecs, estimator in ((30, trace), (30, diagonal), (SIZE, trace)):
        expected = estimator(op, key, method=method, num_matvecs=num_matvecs)
        for block_size in (1, 7, None):
            found = estimator(
                op, key, method=method, num_matvecs=num_matvecs, block_size=block_size
            )
            np.testing.assert_allclose(found.value, expected.value, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(found.stderr, expected.stderr, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("num_matvecs", [61, 200])
def test_products_may_be_made_on_the_host_and_come_in_bounded_blocks(num_matvecs):
    matrix = np.asarray(prescribed("flat"), np.float32)
    for estimator in (trace, diagonal, frobenius_norm):
        op = OnTheHost(matrix)
        estimate = estimator(op, jax.random.key(0), num_matvecs=num_matvecs)
        compiled = estimator(
            DenseOperator(jnp.asarray(matrix)), jax.random.key(0), num_matvecs=num_matvecs
        )
        np.testing.assert_allclose(estimate.value, compiled.value, atol=1e-3)
        # One width, so one compiled program; what fills up the last blocks is little.
        assert len(set(op.columns)) == 1
        assert op.columns[0] <= 10
        assert estimate.num_matvecs <= sum(op.columns) <= 1.3 * estimate.num_matvecs


def test_long_vectors_come_in_smaller_blocks(monkeypatch):
    module = sys.modules["landscape.spectra.trace"]
    for bound, widths in ((10 * SIZE * 4 + 3, [8, 8, 8]), (1, [1] * 24)):
        monkeypatch.setattr(module, "_BLOCK_BYTES", bound)
        op = OnTheHost(np.eye(SIZE, dtype=np.float32))
        trace(op, jax.random.key(0), method="hutchinson", num_matvecs=24, block_size=None)
        assert op.columns == widths


def test_numbers_depend_on_the_key_and_on_nothing_else():
    op = DenseOperator(jnp.asarray(prescribed("outliers"), jnp.float32))
    for estimator in (trace, diagonal, frobenius_norm):
        first, again, other = (
            estimator(op, jax.random.key(seed), num_matvecs=30) for seed in (0, 0, 1)
        )
        np.testing.assert_array_equal(first.value, again.value)
        np.testing.assert_array_equal(first.stderr, again.stderr)
        assert not np.array_equal(first.value, other.value)


def test_a_networks_hessian_is_estimated_as_its_products_with_the_identity_say():
    def loss(params, batch):
        inputs, targets = batch
        hidden = jnp.tanh(inputs @ params["in"])
        return jnp.mean((hidden @ params["out"] - targets) ** 2)

    rng = np.random.default_rng(0)
    shapes = {"in": (6, 8), "out": (8, 2), "inputs": (40, 6), "targets": (40, 2)}
    arrays = {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in shapes.items()}
    op = hessian(loss, arrays, (arrays.pop("inputs"), arrays.pop("targets")))
    key, size = jax.random.key(1), op.shape[0]
    exact = diagonal(op, key, num_matvecs=size)
    assert (size, exact.method) == (64, "exact")
    for method in METHODS:
        estimate = trace(op, key, method=method, num_matvecs=60)
        assert abs(estimate.value - exact.value.sum()) <= 4 * estimate.stderr
        entries = diagonal(op, key, method=method, num_matvecs=60)
        assert (abs(entries.value - exact.value) <= 6 * entries.stderr + 1e-5).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_matvecs": 3}, "at least 4"),
        ({"num_matvecs": 0}, "at least 4"),
        ({"num_matvecs": -1, "method": "hutchinson"}, "at least 2"),
        ({"num_matvecs": 1, "method": "hutchinson"}, "at least 2"),
        ({"num_matvecs": 9, "method": "xtrace"}, r"hutch\+\+, hutchinson"),
        ({"num_matvecs": 9, "block_size": 0}, "block_size"),
    ],
)
def test_unusable_arguments_are_refused(options, message):
    for estimator in (trace, diagonal):
        with pytest.raises(InputError, match=message):
            estimator(DiagonalOperator(jnp.ones(SIZE)), jax.random.key(0), **options)


def test_the_least_budget_is_no_larger_than_an_exact_answer_needs():
    op, key = DiagonalOperator(jnp.ones(3)), jax.random.key(0)
    with pytest.raises(InputError, match="at least 3"):
        trace(op, key, num_matvecs=2)
    assert trace(op, key, num_matvecs=3).value == 3
    with pytest.raises(InputError, match="at least 2"):
        frobenius_norm(op, key, num_matvecs=1)


@pytest.mark.parametrize("num_matvecs", [30, SIZE])
def test_products_that_are_not_finite_are_refused(num_matvecs):
    for bad in (jnp.nan, jnp.inf):
        op = DiagonalOperator(jnp.ones(SIZE).at[7].set(bad))
        for estimator in (trace, diagonal, frobenius_norm):
            with pytest.raises(InputError, match="NaN or infinite"):
                estimator(op, jax.random.key(0), num_matvecs=num_matvecs)


def test_operators_without_one_spectrum_are_refused():
    class Family(DiagonalOperator):
        batch_shape = (2,)

    jac = jacobian(lambda params, x: x @ params, jnp.ones((3,)), jnp.ones((5, 3)))
    for estimator in (trace, diagonal, frobenius_norm):
        with pytest.raises(InputError, match="not square"):
            estimator(jac, jax.random.key(0), num_matvecs=9)
        with pytest.raises(InputError, match="family"):
            estimator(Family(jnp.ones(3)), jax.random.key(0), num_matvecs=9)


def test_directions_that_do_not_fit_in_memory_are_refused():
    class Huge(DiagonalOperator):
        shape = (10**13, 10**13)

    for estimator in (trace, diagonal):
        with pytest.raises(ResourceError, match="hutchinson"):
            estimator(Huge(jnp.ones(1)), jax.random.key(0), num_matvecs=30)


def test_estimates_print_what_they_are():
    op = DenseOperator(jnp.asarray(prescribed("flat"), jnp.float32))
    text = repr(trace(op, jax.random.key(0), num_matvecs=30))
    assert "±" in text
    assert "hutch++, 30 products" in text
    assert "shape (120,)" in repr(diagonal(op, jax.random.key(0), num_matvecs=30))
    assert "exact, 1 product)" in repr(
        trace(DiagonalOperator(jnp.ones(1)), jax.random.key(0), num_matvecs=1)
    )


def test_confidence_intervals_cover_as_often_as_they_say(x64):
    matrix = prescribed("flat")
    op, truth = DenseOperator(jnp.asarray(matrix)), np.trace(matrix)
    covered = 0
    for seed in range(100):
        estimate = trace(op, jax.random.key(seed), method="hutchinson", num_matvecs=4)
        low, high = estimate.confidence_interval(0.8)
        covered += low <= truth <= high
    # Of 100 with probability 0.8: 66 or fewer, or 92 or more, in one of a thousand.
    assert 66 < covered < 92
    exact = trace(op, jax.random.key(0), num_matvecs=SIZE)
    assert exact.confidence_interval() == (exact.value, exact.value)
    with pytest.raises(InputError, match="level"):
        exact.confidence_interval(1.0)
