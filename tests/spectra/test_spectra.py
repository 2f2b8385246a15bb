import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from landscape.curvature import DenseOperator, DiagonalOperator, hessian
from landscape.curvature.preconditions import expect_integer, expect_key, expect_square
from landscape.errors import InputError, ResourceError
from landscape.models import MLP
from landscape.spectra import (
    Fraction,
    asinh_density,
    degenerate_fraction,
    dense_spectrum,
    density,
    distribution_function,
    fraction_between,
    fraction_curve,
    lanczos_run,
    negative_fraction,
)
from landscape.spectra import (
    slq as slq_of,
)
from landscape.spectra.bounds import distribution_bounds
from landscape.spectra.lanczos import advance_compiled, begin, drift
from landscape.training import softmax_cross_entropy

EPS = 1e-3


def slq(op, key, *, num_steps, **options):
    """``slq`` with one capacity for most: programs take longer to compile than to run."""
    if num_steps <= 150 and "memory" not in options:
        options.setdefault("capacity", 150)
    return slq_of(op, key, num_steps=num_steps, **options)


def spectrum_of(kind, size=300, seed=0):
    """Prescribed eigenvalues: clusters, zeros, outliers, negative parts, atoms at ±ε."""
    rng = np.random.default_rng(seed)
    if kind == "zeros and outliers":
        parts = [np.zeros(size // 2), rng.exponential(1, size // 2 - 5), [50, 80, 120, 300, 1000]]
    elif kind == "atoms at eps":
        parts = [[EPS] * 30, [-EPS] * 30, np.zeros(60), rng.normal(0, 1, size - 120)]
    elif kind == "clusters":
        parts = [c + 1e-6 * rng.normal(size=size // 3) for c in (-0.5, 0.0, 2.0)]
    elif kind == "continuum":
        parts = [rng.normal(0, 3 * EPS, size)]
    values = np.concatenate(parts)
    return np.sort(values)


KINDS = ["zeros and outliers", "atoms at eps", "clusters", "continuum"]


def probe_measure(values, key, dtype=np.float64):
    """The probe's own weights on the eigenvalues, as slq draws it for a diagonal operator."""
    v = jax.random.normal(jax.random.fold_in(key, 0), (len(values),), dtype)
    v = np.asarray(v, np.float64)
    return v**2 / (v @ v)


def rotated(values, seed):
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))
    return (q * values) @ q.T


@pytest.mark.parametrize("kind", KINDS)
def test_dense_spectrum_finds_prescribed_eigenvalues(kind, x64):
    values = spectrum_of(kind)
    found = dense_spectrum(DenseOperator(jnp.asarray(rotated(values, 1))))
    np.testing.assert_allclose(found.nodes, values, atol=1e-12 * np.abs(values).max())
    assert found.weights.sum() == pytest.approx(1)


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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("num_probes", [1, 3])
@pytest.mark.parametrize("scheme", ["full", "partial"])
def test_lanczos_relation_holds_with_orthonormal_rows(scheme, num_probes, dtype, x64):
    matrix = jnp.asarray(rotated(spectrum_of("zeros and outliers", 80), 2), dtype)
    start = jax.random.normal(jax.random.key(0), (num_probes, 80), dtype)
    result = advance_compiled(DenseOperator(matrix), begin(start, 30, scheme), 30)
    for probe in range(num_probes):
        alphas, betas = np.asarray(result.alphas[probe]), np.asarray(result.betas[probe])
        tridiagonal = np.diag(alphas) + np.diag(betas[:-1], 1) + np.diag(betas[:-1], -1)
        # Against a float64 reference with explicit orthogonalisation.
        q = [np.asarray(start[probe], float) / np.linalg.norm(start[probe])]
        for _ in range(29):
            w = np.asarray(matrix, float) @ q[-1]
            for _ in range(2):
                w -= np.array(q).T @ (np.array(q) @ w)
            q.append(w / np.linalg.norm(w))
        expected = np.array(q) @ np.asarray(matrix, float) @ np.array(q).T
        np.testing.assert_allclose(tridiagonal, expected, atol=3e3 * np.finfo(dtype).eps * 1000)


@pytest.mark.parametrize("kind", KINDS)
def test_full_reorthogonalisation_reproduces_moments_to_degree_2m(kind, x64):
    values = spectrum_of(kind)
    values = values / np.abs(values).max()
    key = jax.random.key(3)
    spectrum = slq(DiagonalOperator(jnp.asarray(values)), key, num_steps=12)
    weights = probe_measure(values, key)
    for degree in range(24):
        exact = (weights * values**degree).sum()
        assert (spectrum.weights * spectrum.nodes**degree).sum() == pytest.approx(exact, abs=1e-12)


def test_slq_keeps_the_mass_at_zero_of_a_rank_deficient_matrix(x64):
    values = np.concatenate([np.zeros(400), np.linspace(1, 2, 100)])
    key = jax.random.key(0)
    spectrum = slq(DiagonalOperator(jnp.asarray(values)), key, num_steps=60)
    fraction = degenerate_fraction(spectrum)
    mass = probe_measure(values, key)[:400].sum()
    assert float(fraction.estimate) == pytest.approx(mass, abs=1e-9)
    assert float(fraction.estimate) == pytest.approx(0.8, abs=4 * float(fraction.stderr))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scheme", ["full", "partial"])
@pytest.mark.parametrize("num_steps", [5, 20, 60, 150])
@pytest.mark.parametrize("kind", KINDS)
def test_certified_interval_contains_the_probes_mass(kind, num_steps, scheme, dtype, x64):
    for seed in range(3):
        values = np.asarray(spectrum_of(kind, seed=seed), dtype)
        certified_interval_contains(values, jax.random.key(seed), num_steps, scheme)


def certified_interval_contains(values, key, num_steps, scheme, eps=EPS):
    op = DiagonalOperator(jnp.asarray(values))
    spectrum = slq(op, key, num_steps=num_steps, reorthogonalize=scheme)
    weights = probe_measure(values, key, values.dtype)
    values = values.astype(np.float64)
    for low, high in ((-eps, eps), (-np.inf, -eps), (0.5, np.inf), (-0.1, 0.0), (-np.inf, 0.0)):
        fraction = fraction_between(spectrum, low, high)
        delta, eta = float(fraction.noise_floor), fraction.rounding
        if op.dtype == np.float64:
            delta = 1e-12 * np.abs(values).max()
        inner = weights[(values >= low + delta) & (values <= high - delta)].sum()
        outer = weights[(values >= low - delta) & (values <= high + delta)].sum()
        assert fraction.lower - eta <= outer
        assert fraction.upper + eta >= inner
        assert fraction.certified


@pytest.mark.parametrize("spread", [1e-4, 1e-6])
def test_partial_reorthogonalisation_holds_where_clusters_are_far_apart(spread, x64):
    """Sweeps that find little must not lull the estimates: 10⁷ between cluster and bulk."""
    for seed in range(12):
        rng = np.random.default_rng(seed)
        outliers = 1e5 * (1 + spread * rng.random(30))
        values = np.r_[outliers, 0.02 * rng.standard_normal(210)]
        certified_interval_contains(values, jax.random.key(seed), 120, "partial", 0.01)


@pytest.mark.parametrize("gap", [1e-2, 1e-3, 3e-4, 1e-4])
def test_mass_near_the_end_of_an_interval_is_certified_within_the_allowance(gap):
    """Rounding turns eigenvectors too: mass ±gap from the end moves by more than δ explains."""
    values = np.r_[[100.0] * 5, [-100.0] * 5, [gap] * 115, [-gap] * 115].astype(np.float32)
    for seed in range(12):
        certified_interval_contains(values, jax.random.key(seed), 60, "full")


@pytest.mark.parametrize("scheme", ["full", "partial"])
def test_what_outliers_hide_in_float32_is_not_certified(scheme):
    """Two outliers 10⁷ times the bulk: the steps end at rounding level, the bulk unresolved."""
    rng = np.random.default_rng(0)
    values = np.r_[9 * EPS * rng.normal(size=998), 1e3, 1e4].astype(np.float32)
    key = jax.random.key(0)
    spectrum = slq(
        DiagonalOperator(jnp.asarray(values)), key, num_steps=100, reorthogonalize=scheme
    )
    with pytest.raises(InputError, match="noise floor"):
        degenerate_fraction(spectrum, EPS)
    mass = probe_measure(values, key, np.float32)[np.abs(values) <= 3 * EPS].sum()
    fraction = degenerate_fraction(spectrum, 3 * EPS)
    assert fraction.lower - fraction.rounding <= mass <= fraction.upper + fraction.rounding


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", [*KINDS, "power law"])
def test_partial_reorthogonalisation_gives_the_intervals_of_full(kind, dtype, x64):
    values = (
        np.logspace(-8, 3, 1500) * np.resize([1, 1, 1, 1, -1], 1500)
        if kind == "power law"
        else spectrum_of(kind, 1500)
    )
    op = DiagonalOperator(jnp.asarray(values, dtype))
    size = 150 if kind == "clusters" else 400
    full, partial = (
        slq(op, jax.random.key(1), num_steps=size, reorthogonalize=scheme)
        for scheme in ("full", "partial")
    )
    for eps in (EPS, 0.1, 10.0):
        if eps > full.noise_floor:
            first, second = degenerate_fraction(full, eps), degenerate_fraction(partial, eps)
            tolerance = 1e-3 + first.rounding
            assert first.lower == pytest.approx(second.lower, abs=tolerance)
            assert first.upper == pytest.approx(second.upper, abs=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spread", ["normal", "power law"])
def test_partial_reorthogonalisation_keeps_the_basis_and_reads_less_of_it(spread, dtype, x64):
    rng = np.random.default_rng(0)
    values = rng.normal(size=1500) if spread == "normal" else np.logspace(-8, 3, 1500)
    start = jax.random.normal(jax.random.key(0), (1, 1500), dtype)
    op = DiagonalOperator(jnp.asarray(values, dtype))
    full, partial = (
        advance_compiled(op, begin(start, 300, scheme), 300) for scheme in ("full", "partial")
    )
    rows = np.asarray(partial.rows()[0, :300], np.float64)
    loss = np.abs(rows @ rows.T - np.eye(300)).max()
    assert loss < 20 * np.sqrt(np.finfo(dtype).eps / 2)
    assert partial.rows_read < 0.5 * full.rows_read


@pytest.mark.parametrize("scheme", ["full", "partial", "none"])
def test_steps_in_parts_are_the_steps_at_once(scheme):
    op = DiagonalOperator(jnp.asarray(spectrum_of("zeros and outliers", 400), jnp.float32))
    options = {"num_probes": 2, "reorthogonalize": scheme}
    once = lanczos_run(op, jax.random.key(0), capacity=90, **options).advance(90).spectrum()
    run = lanczos_run(op, jax.random.key(0), capacity=20, **options)
    for steps in (1, 20, 21, 70, 90, 90):
        run = run.advance(steps)
    parts = run.spectrum()
    assert parts.alphas.shape == (2, 90)
    for name in ("alphas", "betas", "num_steps", "probe_norms", "noise_floor"):
        np.testing.assert_array_equal(getattr(once, name), getattr(parts, name))


def test_lost_orthogonality_is_part_of_the_noise_floor(x64):
    values = np.linspace(-1, 2, 200)
    start = np.random.default_rng(0).standard_normal((1, 200))
    op = DiagonalOperator(jnp.asarray(values))
    state = advance_compiled(op, begin(jnp.asarray(start), 48, "partial"), 40)
    assert float(drift(state)[0]) < 1e-13
    # A last vector that overlaps with an earlier one: T is wrong by the square of that.
    overlap = 1e-4
    mixed = (state.current + overlap * state.rows()[:, 3]) / np.sqrt(1 + overlap**2)
    moved = float(drift(dataclasses.replace(state, current=mixed))[0])
    beta, scale = float(state.beta[0]), float(state.scale[0])
    np.testing.assert_allclose(moved, overlap**2 * beta**2 / scale, rtol=1e-6)
    run = lanczos_run(op, jax.random.key(0), reorthogonalize="partial", capacity=48).advance(40)
    overlapping = run.state.current + 0.1 * run.state.rows()[:, 3]
    spoilt = dataclasses.replace(run, state=dataclasses.replace(run.state, current=overlapping))
    assert run.spectrum().noise_floor < 1e-11
    assert spoilt.spectrum().noise_floor > 1e-4


def test_a_stored_state_goes_on_to_the_same_bits():
    op = DiagonalOperator(jnp.asarray(spectrum_of("continuum"), jnp.float32))
    run = lanczos_run(op, jax.random.key(0), capacity=40).advance(15)
    leaves, structure = jax.tree.flatten(run.state)
    stored = [np.array(leaf) for leaf in leaves]
    expected = run.advance(40).spectrum()
    state = jax.tree.unflatten(structure, [jnp.asarray(leaf) for leaf in stored])
    again = dataclasses.replace(run, state=state).advance(40)
    np.testing.assert_array_equal(again.spectrum().alphas, expected.alphas)


def test_a_run_without_steps_has_no_spectrum():
    with pytest.raises(InputError, match="advance"):
        lanczos_run(DiagonalOperator(jnp.ones(3)), jax.random.key(0)).spectrum()


def test_calls_of_one_capacity_share_a_program():
    op = DiagonalOperator(jnp.arange(37.0))
    first = slq(op, jax.random.key(0), num_steps=12, capacity=30)
    before = advance_compiled._cache_size()
    second = slq(op, jax.random.key(0), num_steps=25, capacity=30)
    assert advance_compiled._cache_size() == before
    np.testing.assert_array_equal(first.alphas, second.alphas[:, :12])


def test_a_basis_that_does_not_fit_is_refused_and_auto_does_without():
    op, key = DiagonalOperator(jnp.arange(1000.0)), jax.random.key(0)
    # 64 rows, which come in blocks, and three vectors of 4 kB.
    for scheme in ("full", "partial"):
        with pytest.raises(ResourceError, match="fewer steps or probes"):
            slq(op, key, num_steps=50, reorthogonalize=scheme, memory=267_999)
    assert slq(op, key, num_steps=50, memory=267_999).reorthogonalize == "none"
    assert slq(op, key, num_steps=50, memory=268_000).reorthogonalize == "partial"
    with pytest.raises(ResourceError, match="fewer probes"):
        slq(op, key, num_steps=50, num_probes=2, reorthogonalize="none", memory=23_999)


def test_without_a_basis_any_number_of_steps_runs_in_three_vectors():
    op = DiagonalOperator(jnp.linspace(0, 1, 1000) ** 4)
    spectrum = slq(
        op, jax.random.key(0), num_steps=900, reorthogonalize="none", memory=3 * 4000, capacity=900
    )
    assert spectrum.num_matvecs == 900
    run = lanczos_run(op, jax.random.key(0), reorthogonalize="none", capacity=900)
    long = [leaf for leaf in jax.tree.leaves(run.state) if leaf.shape[-1:] == (1000,)]
    assert len(long) == 2  # and the image


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
    lower, upper = distribution_bounds(spectrum.alphas[0], spectrum.betas[0], points)
    tolerance = 1e-8 * np.abs(values).max()
    for x, low, high in zip(points, lower, upper, strict=True):
        assert low <= weights[values <= x + tolerance].sum() + 1e-9
        assert high >= weights[values < x - tolerance].sum() - 1e-9


@pytest.mark.parametrize(
    ("values", "steps"),
    [(np.zeros(5), 1), (np.ones(5), 1), ([0, 0, 1.0], 2), ([3.0], 1), (np.arange(4.0), 4)],
    ids=["zero", "identity", "rank one", "one parameter", "more steps than parameters"],
)
def test_breakdown_is_a_valid_end_with_exact_answers(values, steps):
    values = np.asarray(values, np.float32)
    spectrum = slq(DiagonalOperator(jnp.asarray(values)), jax.random.key(0), num_steps=9)
    assert spectrum.num_steps.tolist() == [steps]
    assert spectrum.weights.sum() == pytest.approx(1, abs=1e-6)
    fraction = fraction_between(spectrum, -0.5, 0.5)
    assert fraction.lower == pytest.approx(fraction.upper, abs=1e-6)
    assert fraction.estimate == pytest.approx(fraction.lower, abs=1e-6)


def test_after_a_breakdown_steps_go_on_to_every_eigenvalue_when_asked(x64):
    values = np.repeat([-1.0, 0.0, 2.0, 5.0], [1, 20, 8, 3])
    op = DenseOperator(jnp.asarray(rotated(values, 0)))
    options = {"num_probes": 2, "reorthogonalize": "full", "capacity": 40}
    run = lanczos_run(op, jax.random.key(0), continue_after_breakdown=True, **options).advance(40)
    assert run.num_steps == 32
    np.testing.assert_allclose(run.ritz_values(), np.broadcast_to(values, (2, 32)), atol=1e-11)
    # The probe's own measure is what it is without.
    plain = lanczos_run(op, jax.random.key(0), **options).advance(40)
    found, expected = run.spectrum(), plain.spectrum()
    assert found.num_steps.tolist() == expected.num_steps.tolist()
    assert max(found.num_steps) < 15
    for eps in (0.5, 3.0):
        first, second = degenerate_fraction(found, eps), degenerate_fraction(expected, eps)
        assert first.estimate == pytest.approx(float(second.estimate), abs=1e-12)
        assert first.width < 1e-9
    ritz = plain.ritz_values()[1]
    assert np.isnan(ritz[expected.num_steps[1] :]).all()
    assert set(ritz[: expected.num_steps[1]].round(9) + 0.0) == {-1, 0, 2, 5}
    with pytest.raises(InputError, match="full"):
        lanczos_run(op, jax.random.key(0), continue_after_breakdown=True)


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


def test_probe_i_does_not_depend_on_how_many_there_are(x64):
    op = DiagonalOperator(jnp.asarray(spectrum_of("continuum")))
    one = slq(op, jax.random.key(0), num_steps=10)
    three = slq(op, jax.random.key(0), num_steps=10, num_probes=3)
    np.testing.assert_allclose(one.alphas[0], three.alphas[0], rtol=1e-12)


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
    # By definition, with the law's own distribution function.
    for mass, end in zip(masses[:20], low[:20], strict=True):
        counts = np.arange(1, size)
        enough = stats.beta(half * counts, half * (size - counts)).sf(mass) > 0.05
        expected = next(iter(counts[enough]), size) if mass > 0 else 0
        assert end * size == pytest.approx(expected)


def fraction_of(masses, size, num_probes):
    return Fraction(
        estimate=masses,
        lower=masses,
        upper=masses,
        stderr=np.zeros_like(masses),
        noise_floor=np.zeros_like(masses),
        rounding=0.0,
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


def test_without_reorthogonalisation_the_measure_stays_right_but_bounds_are_empirical():
    values = spectrum_of("zeros and outliers", 400)
    op = DiagonalOperator(jnp.asarray(values, jnp.float32))
    full = slq(op, jax.random.key(0), num_steps=200)
    none = slq(op, jax.random.key(0), num_steps=200, reorthogonalize="none")
    top = fraction_between(full, 40, np.inf), fraction_between(none, 40, np.inf)
    assert float(top[0].estimate) == pytest.approx(float(top[1].estimate), abs=1e-4)
    assert not top[1].certified
    ghosts = (none.nodes > 40).sum()
    assert ghosts > (full.nodes > 40).sum() == 5


def test_numbers_depend_on_the_seed_and_on_nothing_else():
    op = DiagonalOperator(jnp.asarray(spectrum_of("continuum"), jnp.float32))
    first, again = (slq(op, jax.random.key(0), num_steps=20) for _ in range(2))
    np.testing.assert_array_equal(first.alphas, again.alphas)
    assert not np.array_equal(first.alphas, slq(op, jax.random.key(1), num_steps=20).alphas)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "num_steps"),
        ({"num_steps": 3, "num_probes": 0}, "num_probes"),
        ({"num_steps": 3, "reorthogonalize": "partly"}, "full"),
        ({"num_steps": 3, "noise_floor": float("nan")}, "noise_floor"),
        ({"num_steps": 3, "noise_floor": -1.0}, "noise_floor"),
    ],
)
def test_slq_refuses_unusable_arguments(options, message):
    with pytest.raises(InputError, match=message):
        slq(DiagonalOperator(jnp.ones(3)), jax.random.key(0), **options)


def test_a_symmetric_operator_is_not_called_asymmetric_after_a_near_breakdown(x64):
    """Few distinct eigenvalues and no reorthogonalisation: β falls to rounding and rises again."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        values = rng.choice(rng.normal(size=12), 300)
        spectrum = slq(
            DiagonalOperator(jnp.asarray(values)),
            jax.random.key(seed),
            num_steps=60,
            reorthogonalize="none",
        )
        assert spectrum.num_steps.max() <= 60


@pytest.mark.parametrize("scale", [1e-18, 1e25])
def test_norms_that_cannot_be_squared_are_refused(scale):
    op = DiagonalOperator(jnp.linspace(0.0, 1.0, 50) * scale)
    with pytest.raises(InputError, match=r"leaves the range|overflows"):
        slq(op, jax.random.key(0), num_steps=10)


def test_a_float64_operator_is_refused_where_float64_is_off():
    with jax.enable_x64(True):
        op = DiagonalOperator(jnp.arange(5.0))
    for use in (lambda: slq(op, jax.random.key(0), num_steps=2), lambda: dense_spectrum(op)):
        with pytest.raises(InputError, match="enable_x64"):
            use()


def test_types_too_coarse_for_a_spectrum_are_refused():
    op = DiagonalOperator(jnp.ones(4, jnp.bfloat16))
    with pytest.raises(InputError, match="bfloat16"):
        slq(op, jax.random.key(0), num_steps=2)


def test_a_run_that_outgrows_its_memory_is_refused():
    op = DiagonalOperator(jnp.arange(1000.0))
    options = {"reorthogonalize": "full", "capacity": 16, "memory": 4000 * (3 + 64)}
    run = lanczos_run(op, jax.random.key(0), **options).advance(64)
    with pytest.raises(ResourceError, match="fewer steps"):
        run.advance(65)


def test_slq_refuses_an_operator_that_returns_nan():
    with pytest.raises(InputError, match="NaN"):
        slq(DiagonalOperator(jnp.array([1.0, jnp.nan])), jax.random.key(0), num_steps=2)


@pytest.mark.parametrize("scheme", ["full", "partial", "none"])
def test_slq_refuses_an_operator_that_is_not_symmetric(scheme):
    rng = np.random.default_rng(0)
    matrix = rotated(spectrum_of("continuum", 60), 0)
    key, options = jax.random.key(0), {"num_steps": 20, "reorthogonalize": scheme}
    slq(DenseOperator(jnp.asarray(matrix, jnp.float32)), key, **options)
    skewed = jnp.asarray(matrix + 1e-4 * rng.normal(size=matrix.shape), jnp.float32)
    with pytest.raises(InputError, match="not symmetric"):
        slq(DenseOperator(skewed), key, **options)


def test_eps_below_the_noise_floor_is_refused():
    spectrum = slq(DiagonalOperator(jnp.array([0.0, 1e6])), jax.random.key(0), num_steps=2)
    with pytest.raises(InputError, match="noise floor"):
        degenerate_fraction(spectrum)
    assert degenerate_fraction(spectrum, 1.0).noise_floor >= 0.05
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
def test_separation_bounds_hold_for_the_probes_own_measure(kind, x64):
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


@pytest.mark.slow
def test_lanczos_on_a_trained_network_agrees_with_its_dense_spectrum():
    from landscape.data import load
    from landscape.training import TrainConfig, fit

    digits = load("digits").subset(120, seed=0).standardized()
    model = MLP(4, 6, 10, skip="identity")
    run = fit(model, digits, TrainConfig(epochs=5, batch_size=10), jax.random.key(0))
    op = hessian(softmax_cross_entropy(model), run.params, digits.arrays(), state=run.state)
    with jax.enable_x64(True):
        op = op.astype(jnp.float64)
        exact = dense_spectrum(op)
        found = slq(op, jax.random.key(1), num_steps=300, num_probes=4)
    for measure in (degenerate_fraction, negative_fraction):
        fraction, truth = measure(found), float(measure(exact).estimate)
        assert fraction.lower <= fraction.estimate + 1e-9
        assert fraction.estimate <= fraction.upper + 1e-9
        width = float(fraction.upper - fraction.lower)
        assert float(fraction.estimate) == pytest.approx(
            truth, abs=4 * float(fraction.stderr) + width
        )
        assert width < 0.05


def test_a_state_stored_as_numpy_arrays_goes_on():
    op = DiagonalOperator(jnp.asarray(spectrum_of("continuum"), jnp.float32))
    run = lanczos_run(op, jax.random.key(0), reorthogonalize="full", capacity=40).advance(15)
    state = copy.copy(run.state)
    for field in dataclasses.fields(state):
        value = jax.tree.map(np.array, getattr(state, field.name))
        object.__setattr__(state, field.name, value)  # past the suite's checks of types
    stored = copy.copy(run)
    object.__setattr__(stored, "state", state)
    assert "15 of 40 steps" in repr(stored)
    np.testing.assert_array_equal(
        stored.advance(40).spectrum().alphas, run.advance(40).spectrum().alphas
    )


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
