"""What is read from spectra: fractions, intervals, curves, densities."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from prescribed import EPS, KINDS, probe_measure, rotated, slq, spectrum_of
from scipy import stats

from landscape.curvature import DenseOperator, DiagonalOperator, hessian, noise_floor, stack
from landscape.curvature.preconditions import expect_integer, expect_key, expect_square
from landscape.errors import InputError
from landscape.models import MLP
from landscape.spectra import (
    Fraction,
    SpectralMeasure,
    asinh_density,
    degenerate_fraction,
    dense_spectrum,
    density,
    diagonal,
    distribution_function,
    extremal_eigenpairs,
    fraction_between,
    fraction_curve,
    frobenius_norm,
    negative_fraction,
    resolve_fraction,
    spectral_moments,
    trace,
)
from landscape.spectra.bounds import christoffel, distribution_bounds, gauss_bounds
from landscape.training import softmax_cross_entropy


@pytest.mark.parametrize("kind", KINDS)
def test_dense_spectrum_finds_prescribed_eigenvalues(kind, x64):
    values = spectrum_of(kind)
    found = dense_spectrum(DenseOperator(jnp.asarray(rotated(values, 1))))
    np.testing.assert_allclose(found.nodes, values, atol=1e-12 * np.abs(values).max())
    assert found.weights.sum() == pytest.approx(1)


@pytest.mark.slow
def test_dense_spectrum_in_float64_of_a_float32_network():
    model = MLP(3, 4, 3, activation="tanh")
    x = jax.random.normal(jax.random.key(0), (20, 5))
    params = model.init(jax.random.key(1), x)["params"]
    op = hessian(softmax_cross_entropy(model), params, (x, jnp.arange(20) % 3), state={})
    coarse, fine = dense_spectrum(op), dense_spectrum(op, dtype=np.float64)
    np.testing.assert_allclose(coarse.nodes, fine.nodes, atol=1e-5)
    # The softmax shift alone leaves width + 1 exact zeros: float64 shows them as such.
    assert (np.abs(fine.nodes) < 1e-12).sum() >= 5
    assert fine.noise_floor < 1e-14 < coarse.noise_floor


def test_dense_spectrum_refuses_an_asymmetric_operator():
    with pytest.raises(InputError, match="not symmetric"):
        dense_spectrum(DenseOperator(jnp.array([[0.0, 1.0], [0.0, 0.0]])))


@pytest.mark.slow
def test_certified_interval_narrows_to_the_truth(x64):
    values = spectrum_of("zeros and outliers", 400)
    key = jax.random.key(1)
    truth = probe_measure(values, key)[np.abs(values) <= EPS].sum()
    widths = []
    for num_steps in (20, 80, 200):
        fraction = degenerate_fraction(
            slq(DiagonalOperator(jnp.asarray(values)), key, num_steps=num_steps)
        )
        widths.append(float(fraction.upper - fraction.lower))
    assert widths[0] > widths[1] > widths[2]
    assert widths[-1] < 0.02
    assert float(fraction.estimate) == pytest.approx(truth, abs=0.01)


def test_bounds_at_a_ritz_value_stay_valid(x64):
    values = spectrum_of("continuum")
    key = jax.random.key(0)
    spectrum = slq(DiagonalOperator(jnp.asarray(values)), key, num_steps=20)
    weights = probe_measure(values, key)
    points = np.concatenate([spectrum.nodes, spectrum.nodes * (1 + 1e-13)])
    lower, upper = distribution_bounds(
        *spectrum.quadrature((0,)), spectrum.alphas[0], spectrum.betas[0], points
    )
    tolerance = 1e-8 * np.abs(values).max()
    for x, low, high in zip(points, lower, upper, strict=True):
        assert low <= weights[values <= x + tolerance].sum() + 1e-9
        assert high >= weights[values < x - tolerance].sum() - 1e-9


@pytest.mark.slow
def test_probes_are_pooled_by_their_squared_length(x64):
    values = spectrum_of("clusters")
    key = jax.random.key(0)
    spectrum = slq(DiagonalOperator(jnp.asarray(values)), key, num_steps=40, num_probes=4)
    probes = np.stack(
        [jax.random.normal(jax.random.fold_in(key, i), (300,), jnp.float64) for i in range(4)]
    )
    pooled = (probes**2).sum(0) / (probes**2).sum()
    fraction = fraction_between(spectrum, -0.1, 0.1)
    assert float(fraction.estimate) == pytest.approx(pooled[np.abs(values) < 0.1].sum(), abs=1e-9)


@pytest.mark.slow
def test_probe_i_does_not_depend_on_how_many_there_are(x64):
    op = DiagonalOperator(jnp.asarray(spectrum_of("continuum")))
    one = slq(op, jax.random.key(0), num_steps=10)
    three = slq(op, jax.random.key(0), num_steps=10, num_probes=3)
    np.testing.assert_allclose(one.alphas[0], three.alphas[0], rtol=1e-12)


@pytest.mark.slow
def test_pooled_mass_follows_its_beta_law(x64):
    values = np.concatenate([np.zeros(20), np.ones(30)])
    op = DiagonalOperator(jnp.asarray(values))
    masses = [
        float(
            fraction_between(
                slq(op, jax.random.key(s), num_steps=3, num_probes=2), -0.5, 0.5
            ).estimate
        )
        for s in range(200)
    ]
    # kPf/2 and kP(1-f)/2 with k = 2, P = 50, f = 0.4.
    assert stats.kstest(masses, stats.beta(20, 30).cdf).pvalue > 0.01


@pytest.mark.parametrize("share", [0.0, 0.02, 0.4, 1.0])
@pytest.mark.parametrize(("size", "num_probes"), [(1, 1), (50, 1), (50, 3), (3000, 1)])
def test_confidence_interval_inverts_the_beta_law(share, size, num_probes):
    count = round(share * size)
    rng = np.random.default_rng(0)
    half = num_probes / 2
    masses = (
        rng.beta(half * count, half * (size - count), 2000)
        if 0 < count < size
        else np.full(10, count / size)
    )
    low, high = fraction_of(masses, size, num_probes).confidence_interval(0.9)
    covered = ((low <= count / size) & (count / size <= high)).sum()
    assert stats.binomtest(int(covered), len(masses), 0.9, "less").pvalue > 0.01
    # By definition, with the law's own distribution function; where no count goes with the mass
    # both ways, the ends change their places.
    for mass, *ends in zip(masses[:20], low[:20], high[:20], strict=True):
        counts = np.arange(1, size)
        law = stats.beta(half * counts, half * (size - counts))
        least = next(iter(counts[law.sf(mass) > 0.05]), size) if mass > 0 else 0
        most = next(iter(counts[law.cdf(mass) > 0.05][::-1]), 0) if mass < 1 else size
        assert np.array(ends) * size == pytest.approx(sorted([least, most]))


def fraction_of(masses, size, num_probes):
    return Fraction(
        estimate=masses,
        lower=masses,
        upper=masses,
        stderr=np.zeros_like(masses),
        noise_floor=np.zeros_like(masses),
        rounding=np.zeros_like(masses),
        interval=(0.0, 1.0),
        certified=True,
        num_parameters=size,
        num_probes=num_probes,
        known=np.zeros_like(masses, int),
        num_known=0,
    )


def test_confidence_intervals_of_many_shares_stay_between_0_and_1():
    masses = np.array([0.0, 0.3, 1.0])
    low, high = fraction_of(masses, 100, 1).confidence_interval()
    for index in range(3):
        alone = fraction_of(masses[index : index + 1], 100, 1).confidence_interval()
        assert (low[index], high[index]) == (alone[0].item(), alone[1].item())
    assert (low >= 0).all()
    assert (high <= 1).all()
    assert (low[0], high[2]) == (0, 1)


def test_wider_bounds_and_higher_levels_give_wider_confidence_intervals():
    fraction = fraction_of(np.array([0.3]), 200, 1)
    wider = dataclasses.replace(fraction, lower=np.array([0.2]), upper=np.array([0.35]))
    ends = [f.confidence_interval(level) for f, level in ((fraction, 0.9), (fraction, 0.99))]
    assert ends[1][0] < ends[0][0] < 0.3 < ends[0][1] < ends[1][1]
    low, high = wider.confidence_interval(0.9)
    assert low < ends[0][0]
    assert high > ends[0][1]
    with pytest.raises(InputError, match="level"):
        fraction.confidence_interval(95.0)


def test_full_intervals_cover_the_share_over_seeds(x64):
    values = np.concatenate([np.zeros(60), np.linspace(0.5, 4, 60)])
    op = DiagonalOperator(jnp.asarray(values))
    covered = 0
    for seed in range(100):
        spectrum = slq(op, jax.random.key(seed), num_steps=12, num_probes=2, capacity=12)
        low, high = degenerate_fraction(spectrum, 0.1).confidence_interval(0.8)
        covered += low <= 0.5 <= high
    assert stats.binomtest(int(covered), 100, 0.8, "less").pvalue > 0.01


def test_a_dense_share_is_its_own_confidence_interval(x64):
    fraction = degenerate_fraction(dense_spectrum(DiagonalOperator(jnp.arange(4.0))))
    assert fraction.confidence_interval() == (0.25, 0.25)
    assert fraction.width == 0


def test_eps_below_the_noise_floor_is_refused():
    spectrum = slq(DiagonalOperator(jnp.array([0.0, 1e6])), jax.random.key(0), num_steps=2)
    with pytest.raises(InputError, match="noise floor"):
        degenerate_fraction(spectrum)
    assert degenerate_fraction(spectrum, 10.0).noise_floor >= 0.05
    noisy = slq(DiagonalOperator(jnp.ones(2)), jax.random.key(0), num_steps=2, noise_floor=0.01)
    with pytest.raises(InputError, match="noise floor"):
        degenerate_fraction(noisy)
    assert degenerate_fraction(noisy, force=True).estimate == 0
    assert negative_fraction(noisy, force=True).estimate == 0


def test_fractions_of_a_dense_spectrum_count(x64):
    spectrum = dense_spectrum(
        DiagonalOperator(jnp.array([-2.0, -EPS, 0.0, EPS, 1e-2, 1.0, 3.0, 4.0]))
    )
    assert float(degenerate_fraction(spectrum).estimate) == 3 / 8
    assert float(negative_fraction(spectrum).estimate) == 1 / 8
    assert float(degenerate_fraction(spectrum, 0.25, relative_to="norm").estimate) == 5 / 8
    assert float(degenerate_fraction(spectrum, 0.5, center=3.5).estimate) == 2 / 8
    assert degenerate_fraction(spectrum).lower == degenerate_fraction(spectrum).upper == 3 / 8


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan")])
def test_nonpositive_eps_is_refused(bad, x64):
    with pytest.raises(InputError, match="eps"):
        degenerate_fraction(dense_spectrum(DiagonalOperator(jnp.ones(2))), bad)


def test_relative_to_is_a_number_or_the_norm(x64):
    with pytest.raises(InputError, match="relative_to"):
        degenerate_fraction(dense_spectrum(DiagonalOperator(jnp.ones(2))), relative_to="trace")


def test_a_share_estimated_as_zero_keeps_a_sampling_error():
    values = jnp.asarray(spectrum_of("continuum"), jnp.float32)
    fraction = degenerate_fraction(slq(DiagonalOperator(values), jax.random.key(0), num_steps=2))
    assert fraction.upper > 0.5
    assert fraction.stderr == pytest.approx(0.5 / np.sqrt(151), rel=1e-6)


def test_fraction_curve_agrees_with_fractions(x64):
    spectrum = slq(
        DiagonalOperator(jnp.asarray(spectrum_of("continuum"))), jax.random.key(0), num_steps=50
    )
    epsilons = np.logspace(-5, 0, 20)
    curve = fraction_curve(spectrum, epsilons)
    expected = [degenerate_fraction(spectrum, e) for e in epsilons]
    for name in ("estimate", "noise_floor"):
        values = [float(getattr(fraction, name)) for fraction in expected]
        np.testing.assert_allclose(getattr(curve, name), values, atol=1e-12)
    assert (np.diff(curve.estimate) >= 0).all()
    # The free bounds enclose the tight ones, and by no more than the weight of two nodes an end.
    lower, upper = (np.array([float(getattr(f, n)) for f in expected]) for n in ("lower", "upper"))
    assert (curve.lower <= lower + 1e-9).all()
    assert (curve.upper >= upper - 1e-9).all()
    assert (curve.upper - curve.lower <= upper - lower + 4 * spectrum.weights.max()).all()
    assert (curve.upper - curve.lower < 0.5).any()
    middle = np.clip(0.5, curve.lower, curve.upper)
    np.testing.assert_allclose(curve.stderr, np.sqrt(middle * (1 - middle) / 151))


def test_a_dense_curve_is_exact(x64):
    curve = fraction_curve(dense_spectrum(DiagonalOperator(jnp.arange(4.0))), np.array([0.5, 2.0]))
    assert curve.estimate.tolist() == curve.lower.tolist() == curve.upper.tolist() == [0.25, 0.75]
    assert curve.stderr.tolist() == [0, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_around_the_gauss_rule_hold_for_the_probes_own_measure(kind, x64):
    values = spectrum_of(kind)
    key = jax.random.key(3)
    spectrum = slq(DiagonalOperator(jnp.asarray(values)), key, num_steps=30)
    mass = probe_measure(values, key)
    epsilons = np.concatenate([np.logspace(-5, 0, 40), np.abs(values[values != 0])[:10]])
    curve = fraction_curve(spectrum, epsilons)
    for i, eps in enumerate(epsilons):
        inner = mass[np.abs(values) <= eps * (1 - 1e-9) - 1e-12].sum()
        outer = mass[np.abs(values) <= eps * (1 + 1e-9) + 1e-12].sum()
        assert curve.lower[i] - 1e-9 <= outer
        assert curve.upper[i] + 1e-9 >= inner


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_around_the_gauss_rule_are_within_a_weight_of_the_sharp_ones(kind, x64):
    spectrum = slq(DiagonalOperator(jnp.asarray(spectrum_of(kind))), jax.random.key(3),
                   num_steps=30, reorthogonalize="full")  # fmt: skip
    nodes, weights = spectrum.quadrature((0,))
    alphas, betas = spectrum.alphas[0], spectrum.betas[0]
    if betas[-1] == 0:
        return
    points = np.linspace(1.3 * nodes[0] - 0.1, 1.3 * nodes[-1] + 0.1, 101)
    sharp = distribution_bounds(nodes, weights, alphas, betas, points)
    cheap = gauss_bounds(nodes, weights, alphas, betas, points)
    weight = christoffel(alphas, betas, points)
    # The weight of the rule with a node at x is what its two bounds are apart.
    np.testing.assert_allclose(sharp[1] - sharp[0], weight, atol=1e-9)
    assert (cheap[0] <= sharp[0] + 1e-9).all()
    assert (cheap[1] >= sharp[1] - 1e-9).all()
    assert (sharp[0] - cheap[0] <= weight + 1e-9).all()
    assert (cheap[1] - sharp[1] <= weight + 1e-9).all()
    # Beyond the nodes they are the same.
    outside = (points < nodes[0]) | (points > nodes[-1])
    np.testing.assert_allclose(np.array(cheap)[:, outside], np.array(sharp)[:, outside], atol=1e-9)
    far = np.array([-np.inf, 1e300, np.inf])
    assert christoffel(alphas, betas, far).tolist() == [0, 0, 0]


def test_a_matrix_of_two_values_has_no_width(x64):
    """The mass is at the outermost nodes, beyond which there is none."""
    values = jnp.concatenate([jnp.zeros(150), jnp.full(10, 3.0)]).astype(jnp.float32)
    curve = fraction_curve(
        slq(DiagonalOperator(values), jax.random.key(0), num_steps=20), np.array([1e-3, 1.0, 10.0])
    )
    np.testing.assert_allclose(curve.upper - curve.lower, 0, atol=1e-6)
    assert curve.lower[-1] == pytest.approx(1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_distribution_function_lies_in_its_band(kind, x64):
    values = spectrum_of(kind)
    key = jax.random.key(5)
    spectrum = slq(DiagonalOperator(jnp.asarray(values)), key, num_steps=40, reorthogonalize="full")
    mass = probe_measure(values, key)
    points = np.r_[-np.inf, np.linspace(-2, 3, 101), values[::37], np.inf]
    band = distribution_function(spectrum, points)
    slack = 1e-9 * np.abs(values).max()
    for x, lower, upper in zip(points, band.lower, band.upper, strict=True):
        assert lower - 1e-9 <= mass[values <= x + slack].sum()
        assert upper + 1e-9 >= mass[values < x - slack].sum()
    assert (band.lower <= band.estimate + 1e-12).all()
    assert (band.estimate <= band.upper + 1e-12).all()
    assert (band.estimate[0], band.estimate[-1]) == (0, pytest.approx(1))
    exact = distribution_function(dense_spectrum(DiagonalOperator(jnp.asarray(values))), points)
    np.testing.assert_allclose(exact.estimate, [(values <= x).mean() for x in points])
    with pytest.raises(InputError, match="NaN"):
        distribution_function(spectrum, np.array([0.0, np.nan]))


def test_density_is_the_gaussian_mixture_of_the_eigenvalues(x64):
    values = np.array([-1.0, 0.0, 0.0, 2.0])
    spectrum = dense_spectrum(DiagonalOperator(jnp.asarray(values)))
    grid = np.linspace(-3, 4, 57)
    expected = np.mean([stats.norm(v, 0.3).pdf(grid) for v in values], 0)
    np.testing.assert_allclose(density(spectrum, grid, bandwidth=0.3), expected, atol=1e-13)


def test_densities_are_not_renormalised_to_the_grid(x64):
    spectrum = dense_spectrum(DiagonalOperator(jnp.array([0.0, 100.0])))
    grid = np.linspace(-5, 5, 1001)
    mass = np.trapezoid(density(spectrum, grid, bandwidth=0.5), grid)
    assert mass == pytest.approx(0.5, abs=1e-6)


def test_asinh_density_keeps_the_mass_in_its_own_coordinate(x64):
    spectrum = dense_spectrum(DiagonalOperator(jnp.array([-7.0, 0.0, 1e-4, 50.0])))
    t = np.linspace(-20, 20, 4001)
    values = asinh_density(spectrum, 1e-3 * np.sinh(t), linear_width=1e-3, bandwidth=0.2)
    assert np.trapezoid(values, t) == pytest.approx(1, abs=1e-9)


def test_bandwidth_must_be_positive(x64):
    with pytest.raises(InputError, match="bandwidth"):
        density(dense_spectrum(DiagonalOperator(jnp.ones(2))), np.zeros(1), bandwidth=0.0)


def test_spectra_print_what_they_are():
    text = repr(slq(DiagonalOperator(jnp.arange(5.0)), jax.random.key(0), num_steps=3))
    assert "P=5" in text
    assert "3 Lanczos steps × 1 probe" in text


def test_a_dense_spectrum_of_a_coarser_type_needs_a_measured_noise_floor():
    def half(params, batch):
        outputs = batch.astype(jnp.float16) @ params.astype(jnp.float16)
        return jnp.mean(outputs.astype(jnp.float32) ** 2)

    op = hessian(half, jnp.linspace(-1, 1, 5), jnp.eye(5)[:3], check=False)
    with pytest.raises(InputError, match="compute in float16"):
        dense_spectrum(op)
    assert dense_spectrum(op, noise_floor=1e-3).noise_floor == 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda op, key: expect_square(op.to_dense()), "expected a linear operator"),
        (lambda op, key: expect_key(0), "JAX random key"),
        (lambda op, key: expect_integer(deflate=1.5), "deflate must be an integer"),
        (lambda op, key: slq(op, key, num_steps=2, capacity=-5), "capacity"),
        (lambda op, key: fraction_between(slq(op, key, num_steps=2), [0, 1], 2), "lower must be"),
        (
            lambda op, key: degenerate_fraction(slq(0 * op, key, num_steps=2), relative_to="norm"),
            "norm is 0",
        ),
    ],
)
def test_what_is_no_operator_key_or_number_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        change(DiagonalOperator(jnp.arange(1.0, 10.0)), jax.random.key(0))


def test_confidence_intervals_are_in_order_whatever_rounding_decides():
    eps = float(np.float32(1e-3))
    for size in (1, 2, 5):
        op = DiagonalOperator(jnp.full(size, -eps, jnp.float32))
        for seed in range(12):
            spectrum = slq(op, jax.random.key(seed), num_steps=4, num_probes=3)
            low, high = degenerate_fraction(spectrum, 1e-3).confidence_interval()
            assert 0 <= low <= high <= 1


def test_the_standard_error_is_of_the_dimensions_that_are_not_known():
    # Ten known outside, and all that is left inside: nothing is uncertain.
    op = DiagonalOperator(jnp.r_[jnp.arange(10.0) + 100, jnp.zeros(10)])
    spectrum = slq(op, jax.random.key(0), num_steps=5, deflate=10)
    fraction = degenerate_fraction(spectrum, 1.0)
    assert fraction.lower == fraction.upper == 0.5
    assert fraction.stderr < 1e-6
    # With half of the 40 others inside, the deviation of their mass, as a share of all 50.
    op = DiagonalOperator(jnp.r_[jnp.arange(10.0) + 100, jnp.zeros(20), jnp.ones(20)])
    fraction = degenerate_fraction(slq(op, jax.random.key(0), num_steps=5, deflate=10), 0.5)
    mass = float(fraction.estimate) * 50 / 40
    assert fraction.stderr == pytest.approx(40 / 50 * np.sqrt(mass * (1 - mass) / 21), rel=1e-3)


@pytest.mark.parametrize(
    "call",
    [
        lambda op: trace(op, 0, num_matvecs=4),
        lambda op: diagonal(op, 0, num_matvecs=4),
        lambda op: frobenius_norm(op, 0, num_matvecs=4),
        lambda op: spectral_moments(op, 0),
        lambda op: noise_floor(op, 0),
        lambda op: slq(op, 0, num_steps=2),
    ],
)
def test_numbers_are_no_keys(call, unchecked):
    with pytest.raises(InputError, match="JAX random key"):
        call(DiagonalOperator(jnp.arange(9.0)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DenseOperator(jnp.ones(3)), "takes a matrix"),
        (lambda: DenseOperator([[1.0]]), "got list"),
        (lambda: DiagonalOperator(jnp.eye(3)), "takes a vector"),
        (lambda: DenseOperator(jnp.ones((3, 4))), "not square and has no spectrum$"),
    ],
)
def test_matrices_of_other_shapes_are_refused(make, words, unchecked):
    with pytest.raises(InputError, match=words):
        slq(make(), jax.random.key(0), num_steps=2)


def test_curves_of_nothing_and_about_nothing_are_refused(unchecked):
    spectrum = dense_spectrum(DiagonalOperator(jnp.arange(4.0)))
    with pytest.raises(InputError, match="array is empty"):
        fraction_curve(spectrum, [])
    with pytest.raises(InputError, match="center must be finite"):
        fraction_curve(spectrum, [1.0], center=np.nan)


def test_products_of_no_column_are_refused():
    op = DiagonalOperator(jnp.arange(4.0))
    with pytest.raises(InputError, match="matmat takes an array of shape"):
        op.matmat(jnp.ones((4, 0)))
    for factor in (1j, "a"):
        with pytest.raises(TypeError):
            op * factor


def test_words_where_numbers_belong_are_refused_by_name(unchecked):
    op = DiagonalOperator(jnp.linspace(0.0, 1.0, 30))
    key = jax.random.key(0)
    spectrum = slq(op, key, num_steps=10)
    grid = np.linspace(0, 1, 3)
    for name, call in {
        "level": lambda: degenerate_fraction(spectrum, 0.1).confidence_interval("95 %"),
        "center": lambda: degenerate_fraction(spectrum, 0.1, center="mean"),
        "bandwidth": lambda: density(spectrum, grid, bandwidth="scott"),
        "linear_width": lambda: asinh_density(spectrum, grid, linear_width="1", bandwidth=0.1),
        "width": lambda: resolve_fraction(op, key, eps=0.1, width="narrow"),
        "tol": lambda: extremal_eigenpairs(op, key, num_largest=1, tol=None),
    }.items():
        with pytest.raises(InputError, match=f"{name} must be"):
            call()


def test_a_coupling_beside_which_t_is_zero_is_bounded():
    lower, upper = distribution_bounds(*(np.array([x]) for x in (0.0, 1.0, 0.0, 1.0, 0.0)))
    assert lower == 0
    assert upper == 1


def test_shares_of_dense_curves_are_at_most_1():
    for size in range(2, 60):
        spectrum = SpectralMeasure(
            np.arange(float(size)), np.full(size, 1 / size), np.asarray(0.0), size
        )
        assert distribution_function(spectrum, np.array([np.inf])).estimate[0] <= 1


def test_floors_of_a_dense_family_are_one_or_one_each():
    family = stack([DiagonalOperator(jnp.arange(3.0)), DiagonalOperator(jnp.ones(3))])
    with pytest.raises(InputError, match=r"array of shape \(2,\)"):
        dense_spectrum(family, noise_floor=np.zeros(3))
