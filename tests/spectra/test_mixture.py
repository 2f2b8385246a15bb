import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from landscape.curvature import DiagonalOperator
from landscape.errors import InputError
from landscape.spectra import Moments, fit_mixture, spectral_moments

SIGMA = 1e-3


def mixture_moments(w, location, scale, shape, orders=4):
    """Raw moments by SciPy's integrals, which know nothing of the closed forms."""
    broad = [stats.skewnorm.moment(j, shape, location, scale) for j in range(1, orders + 1)]
    narrow = [stats.norm.moment(j, 0, SIGMA) for j in range(1, orders + 1)]
    return w * np.array(narrow) + (1 - w) * np.array(broad)


def exact(values, dtype="float64"):
    """Moments without sampling error."""
    return Moments(np.asarray(values, float)[None], np.ones(1), 10**6, dtype, 0)


def moments_of(values, orders=4):
    values = np.asarray(values, float)
    return exact([np.mean(values**j) for j in range(1, orders + 1)])


@pytest.mark.parametrize(
    "planted",
    [
        (0.0, 0.5, 1.0, 1.5),
        (0.3, 0.2, 1.0, 3.0),
        (0.52, -0.3, 0.8, -4.0),
        (0.1, 3.0, 0.5, -2.0),
        (0.7, 5.0, 3.0, 0.0),
        (0.95, 20.0, 5.0, 8.0),
        (0.999, 300.0, 90.0, -1.0),
        (0.4, 0.0, 1.0, 0.0),
    ],
)
def test_planted_mixtures_are_among_the_solutions(planted):
    fit = fit_mixture(exact(mixture_moments(*planted)))
    assert fit.status in ("fits", "ambiguous")
    assert np.abs(fit.solutions - planted[0]).min() < 1e-6
    assert (fit.status == "ambiguous") == (len(fit.solutions) > 1)
    assert np.abs(fit.residual).max() < 1e-6
    if fit.status == "fits":
        assert fit.weight == pytest.approx(planted[0], abs=1e-6)
        np.testing.assert_allclose([fit.location, fit.scale], planted[1:3], rtol=1e-4, atol=1e-5)
        # The skewness grows with the cube of the shape.
        assert fit.shape == pytest.approx(planted[3], rel=1e-3, abs=0.05)


def test_a_mixture_with_negative_skewness_is_found_alone():
    fit = fit_mixture(exact(mixture_moments(0.6, 1.0, 1.0, -3.0)))
    assert fit.status == "fits"
    assert fit.weight == pytest.approx(0.6, abs=1e-6)
    assert fit.shape == pytest.approx(-3, rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    w=st.integers(1, 98).map(lambda i: i / 100),
    location=st.integers(-50, 50).map(lambda i: i / 10),
    scale=st.integers(1, 50).map(lambda i: i / 10),
    shape=st.integers(-200, 200).map(lambda i: i / 10),
)
def test_any_planted_mixture_is_among_the_solutions(w, location, scale, shape):
    fit = fit_mixture(exact(mixture_moments(w, location, scale, shape)))
    assert fit.status in ("fits", "ambiguous")
    # The narrower the gap between two solutions, the less rounding leaves of either.
    assert np.abs(fit.solutions - w).min() < 1e-5


@pytest.mark.parametrize("planted", [(0.68, 0.7, 4.0, 17.9), (0.95, 3.3, 2.7, -5.0)])
def test_two_solutions_between_two_points_of_the_search_are_both_found(planted):
    fit = fit_mixture(exact(mixture_moments(*planted)))
    assert fit.status == "ambiguous"
    assert np.abs(fit.solutions - planted[0]).min() < 1e-6
    assert np.diff(fit.solutions) < 5e-4


def test_two_mixtures_with_the_same_four_moments_are_both_told():
    planted = (0.5075, 0.0225, 0.0158, 3.47)
    fit = fit_mixture(exact(mixture_moments(*planted)))
    assert fit.status == "ambiguous"
    assert len(fit.solutions) == 2
    first, second = fit.solutions
    assert second == pytest.approx(planted[0], abs=1e-6)
    assert fit.weight == second
    assert second - first > 0.05


def test_more_moments_choose_the_planted_one_of_several_solutions():
    planted = (0.5658, 0.1169, 0.6066, 7.57)
    four, six = (fit_mixture(exact(mixture_moments(*planted, orders=n))) for n in (4, 6))
    assert four.status == six.status == "ambiguous"
    assert four.weight > planted[0] + 5e-3
    assert six.weight == pytest.approx(planted[0], abs=1e-6)
    assert np.abs(six.residual).max() < 1e-6


def test_the_fit_does_not_depend_on_the_unit_of_the_eigenvalues():
    values = mixture_moments(0.52, -0.3, 0.8, -4.0)
    one = fit_mixture(exact(values), sigma=SIGMA)
    for unit in (1e-6, 1e6):
        other = fit_mixture(exact(values * unit ** np.arange(1, 5)), sigma=SIGMA * unit)
        assert other.weight == pytest.approx(one.weight, abs=1e-8)
        assert other.scale == pytest.approx(one.scale * unit, rel=1e-6)
        np.testing.assert_allclose(other.residual, one.residual, atol=1e-10)


def test_reflection_reflects_the_fit():
    values = mixture_moments(0.52, -0.3, 0.8, -4.0)
    one, other = (fit_mixture(exact(values * sign ** np.arange(1, 5))) for sign in (1.0, -1.0))
    assert other.weight == pytest.approx(one.weight, abs=1e-10)
    assert other.location == pytest.approx(-one.location, rel=1e-7)
    assert other.shape == pytest.approx(-one.shape, rel=1e-6)


OUTLIERS = {
    "outliers of one size": np.r_[np.zeros(980), np.linspace(0.1, 1, 15), [100.0] * 5],
    "outliers of many sizes": np.r_[
        np.zeros(800), np.linspace(0.01, 1, 195), [20, 40, 80, 150, 300]
    ],
    "heavy tail": np.r_[np.zeros(500), np.logspace(-2, 2.5, 500)],
}


@pytest.mark.parametrize("kind", OUTLIERS)
@pytest.mark.parametrize("orders", [4, 6])
def test_moments_ruled_by_outliers_are_said_not_to_fit(kind, orders):
    fit = fit_mixture(moments_of(OUTLIERS[kind], orders))
    assert fit.status == "shape_at_bound"
    assert not fit.solutions.size
    assert abs(fit.shape) == pytest.approx(100)
    # Mean and variance are kept; the misfit is in what follows.
    np.testing.assert_allclose(fit.residual[:2], 0, atol=1e-9)
    assert np.abs(fit.residual[2:]).max() > 1e-4
    assert fit.within_error is None


@pytest.mark.parametrize("kind", OUTLIERS)
def test_sampled_outliers_do_not_fit_either(kind):
    op = DiagonalOperator(jnp.asarray(OUTLIERS[kind], jnp.float32))
    for seed in range(3):
        fit = fit_mixture(spectral_moments(op, jax.random.key(seed)))
        assert fit.status == "shape_at_bound"
        assert np.abs(fit.residual).max() > 1e-4


def test_the_closest_mixture_is_closer_than_its_neighbours():
    fit = fit_mixture(moments_of(OUTLIERS["heavy tail"]))
    moments = moments_of(OUTLIERS["heavy tail"]).moments
    units = [1, moments[1], np.sqrt(moments[1] * moments[3]), moments[3]]

    def distance(w):
        # The same by SciPy: mean and variance of the rest, and the largest shape.
        mean = moments[0] / (1 - w)
        variance = (moments[1] - w * SIGMA**2) / (1 - w) - mean**2
        unit_mean, unit_variance = stats.skewnorm.stats(100)
        scale = np.sqrt(variance / unit_variance)
        found = mixture_moments(w, mean - scale * unit_mean, scale, 100)
        return np.hypot(*((found - moments) / units)[2:])

    assert distance(fit.weight) == pytest.approx(np.hypot(*fit.residual[2:]), rel=1e-6)
    for step in (-1e-3, 1e-3):
        assert distance(fit.weight + step) > distance(fit.weight)


def test_zeros_and_one_far_atom_are_told_apart():
    fit = fit_mixture(moments_of(np.r_[np.zeros(980), [100.0] * 20]))
    assert fit.status == "fits"
    assert fit.weight == pytest.approx(0.98, abs=1e-6)
    assert fit.location == pytest.approx(100, rel=1e-3)
    rank_one = fit_mixture(moments_of(np.r_[np.zeros(49), 70.0]))
    assert rank_one.weight == pytest.approx(0.98, abs=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_spectra_without_spread_have_a_status_of_their_own(dtype, x64):
    def fit(values):
        op = DiagonalOperator(jnp.asarray(values, dtype))
        return fit_mixture(spectral_moments(op, jax.random.key(0)))

    for values in (np.zeros(5), [1e-4], 1e-5 * np.arange(-9, 9)):
        narrow = fit(values)
        assert (narrow.status, narrow.weight, narrow.weight_stderr) == ("narrow_only", 1, 0)
        assert narrow.density(np.zeros(1)) == pytest.approx(stats.norm.pdf(0, 0, SIGMA))
    for values in (np.ones(5), [-3.0], [1e4] * 3):
        single = fit(values)
        assert (single.status, single.weight, single.scale) == ("single_eigenvalue", 0, 0)
        assert single.location == pytest.approx(values[0])
        assert single.fraction_between(values[0] - 1, values[0] + 1) == 1
        assert single.fraction_between(-0.5, 0.5) == 0
        with pytest.raises(InputError, match="point mass"):
            single.density(np.zeros(1))


def test_two_opposite_atoms_are_at_the_bound_of_the_weight():
    fit = fit_mixture(moments_of([1.0, -1.0]))
    assert (fit.status, fit.weight) == ("weight_at_bound", 0)
    np.testing.assert_allclose(fit.residual, [0, 0, 0, 2], atol=1e-9)


def test_moments_out_of_reach_of_any_shape_do_not_fit():
    fit = fit_mixture(moments_of([-0.1] * 3 + [-1.6] * 6 + [-2.4]))
    assert fit.status == "does_not_fit"
    assert 0.1 < fit.weight < 0.3
    assert 1 < abs(fit.shape) < 10
    np.testing.assert_allclose(fit.residual[:3], 0, atol=1e-9)
    assert abs(fit.residual[3]) > 1e-3


@pytest.mark.slow
def test_the_weights_error_is_that_of_repeated_runs(x64):
    quantiles = (np.arange(700) + 0.5) / 700
    values = np.r_[np.zeros(300), stats.norm.ppf(quantiles, 1.5, 1.0)]
    truth = fit_mixture(moments_of(values))
    assert truth.status == "fits"
    op = DiagonalOperator(jnp.asarray(values))
    fits = [fit_mixture(spectral_moments(op, jax.random.key(seed))) for seed in range(60)]
    weights = np.array([fit.weight for fit in fits])
    claimed = np.array([fit.weight_stderr for fit in fits])
    assert np.sqrt(np.mean(claimed**2)) == pytest.approx(weights.std(), rel=0.4)
    # Student's t with nine degrees of freedom.
    assert np.mean(np.abs(weights - truth.weight) < 2.262 * claimed) > 0.85
    assert all(fit.within_error for fit in fits)


def test_without_error_bars_none_are_claimed():
    op = DiagonalOperator(jnp.asarray(np.arange(20.0), jnp.float32))
    fit = fit_mixture(spectral_moments(op, jax.random.key(0), num_probes=1))
    assert np.isnan(fit.weight_stderr)
    assert fit.within_error is None


def test_density_and_fraction_are_those_of_the_mixture():
    fit = fit_mixture(exact(mixture_moments(0.52, -0.3, 0.8, -4.0)))
    grid = np.unique(np.r_[np.linspace(-6, 4, 20001), np.linspace(-0.01, 0.01, 4001)])
    density = fit.density(grid)
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-5)
    assert np.trapezoid(grid**3 * density, grid) == pytest.approx(
        mixture_moments(0.52, -0.3, 0.8, -4.0)[2], rel=1e-4
    )
    inside = (grid >= -1) & (grid <= 0.25)
    assert fit.fraction_between(-1.0, 0.25) == pytest.approx(
        np.trapezoid(density[inside], grid[inside]), abs=1e-3
    )
    assert fit.fraction_between(-np.inf, np.inf) == pytest.approx(1)
    assert fit.fraction_between(0.0, 0.0) == 0
    for bad in ((1.0, 0.0), (np.nan, 1.0)):
        with pytest.raises(InputError, match="empty"):
            fit.fraction_between(*bad)


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_unusable_sigma_is_refused(sigma):
    with pytest.raises(InputError, match="sigma"):
        fit_mixture(exact([0, 1, 0, 3]), sigma=sigma)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, 2.0, 3.0], "four moments"),
        ([1.0, 2.0, np.nan, 4.0], "NaN"),
        ([2.0, 1.0, 1.0, 1.0], "no measure"),
        ([0.0, -1.0, 0.0, 1.0], "no measure"),
    ],
)
def test_what_is_no_four_moments_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        fit_mixture(exact(values))


def test_fits_print_their_status_first():
    assert repr(fit_mixture(moments_of(OUTLIERS["heavy tail"]))).startswith(
        "MixtureFit(shape_at_bound, weight 0."
    )
