"""Lanczos: its relation, schemes, ends, runs in parts, and what it refuses."""

import copy
import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from prescribed import (
    EPS,
    KINDS,
    certified_interval_contains,
    probe_measure,
    rotated,
    slq,
    spectrum_of,
)

from landscape.curvature import DenseOperator, DiagonalOperator, hessian
from landscape.errors import InputError, ResourceError
from landscape.models import MLP
from landscape.spectra import (
    degenerate_fraction,
    dense_spectrum,
    extremal_eigenpairs,
    extremal_run,
    fraction_between,
    lanczos_run,
    negative_fraction,
)
from landscape.spectra.lanczos import advance_compiled, begin, drift
from landscape.spectra.schemes import auto_scheme, lanczos_bytes
from landscape.training import softmax_cross_entropy


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_slq_keeps_the_mass_at_zero_of_a_rank_deficient_matrix(x64):
    values = np.concatenate([np.zeros(400), np.linspace(1, 2, 100)])
    key = jax.random.key(0)
    spectrum = slq(DiagonalOperator(jnp.asarray(values)), key, num_steps=60)
    fraction = degenerate_fraction(spectrum)
    mass = probe_measure(values, key)[:400].sum()
    assert float(fraction.estimate) == pytest.approx(mass, abs=1e-9)
    assert float(fraction.estimate) == pytest.approx(0.8, abs=4 * float(fraction.stderr))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scheme", ["full", "partial"])
@pytest.mark.parametrize("num_steps", [5, 20, 60, 150])
@pytest.mark.parametrize("kind", KINDS)
def test_certified_interval_contains_the_probes_mass(kind, num_steps, scheme, dtype, x64):
    for seed in range(3):
        values = np.asarray(spectrum_of(kind, seed=seed), dtype)
        certified_interval_contains(values, jax.random.key(seed), num_steps, scheme)


@pytest.mark.slow
@pytest.mark.parametrize("spread", [1e-4, 1e-6])
def test_partial_reorthogonalisation_holds_where_clusters_are_far_apart(spread, x64):
    """Sweeps that find little must not lull the estimates: 10⁷ between cluster and bulk."""
    for seed in range(12):
        rng = np.random.default_rng(seed)
        outliers = 1e5 * (1 + spread * rng.random(30))
        values = np.r_[outliers, 0.02 * rng.standard_normal(210)]
        certified_interval_contains(values, jax.random.key(seed), 120, "partial", 0.01)


@pytest.mark.slow
@pytest.mark.parametrize("gap", [1e-2, 1e-3, 3e-4, 1e-4])
def test_mass_near_the_end_of_an_interval_is_certified_within_the_allowance(gap):
    """Rounding turns eigenvectors too: mass ±gap from the end moves by more than δ explains."""
    values = np.r_[[100.0] * 5, [-100.0] * 5, [gap] * 115, [-gap] * 115].astype(np.float32)
    for seed in range(12):
        certified_interval_contains(values, jax.random.key(seed), 60, "full")


@pytest.mark.slow
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
        degenerate_fraction(spectrum, 3 * EPS)
    # The bounds account for it, though not for the ends.
    mass = probe_measure(values, key, np.float32)[np.abs(values) <= 3 * EPS].sum()
    fraction = degenerate_fraction(spectrum, 3 * EPS, force=True)
    assert fraction.lower - fraction.rounding <= mass <= fraction.upper + fraction.rounding


@pytest.mark.slow
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


@pytest.mark.slow
def test_one_lucky_sweep_does_not_let_the_next_come_late():
    """What the sweeps meet moves T: the more, the later they come."""
    rng = np.random.default_rng(0)
    outliers = np.r_[np.geomspace(1, 300, 25), -np.geomspace(1, 40, 12)]
    values = np.r_[outliers, 0.3 * rng.normal(size=263)]
    turn, _ = np.linalg.qr(rng.normal(size=(300, 300)))
    matrix = (turn * values) @ turn.T
    op = DenseOperator(jnp.asarray((matrix + matrix.T) / 2, jnp.float32))
    moved = []
    for key in jax.random.split(jax.random.key(0), 40):
        state = begin(jax.random.normal(key, (1, 300)), 100, "partial")
        moved.append(float(drift(advance_compiled(op, state, 100))[0]) / 300)
    # Where a sweep may lower what is known of rounding by 10 instead of 2 it is 1·10⁻⁸.
    assert np.quantile(moved, 0.9) < 5e-9


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
        ({"num_steps": 3, "memory": "1 GB"}, "memory must be a number"),
        ({"num_steps": 3, "deflate": "1"}, "deflate must be an integer"),
    ],
)
def test_slq_refuses_unusable_arguments(options, message, unchecked):
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


def test_a_run_that_goes_on_stays_outside_what_was_deflated():
    values = jnp.array([5.0, 4, 1, 1, 1, 1, 2, 2])
    run = lanczos_run(
        DiagonalOperator(values),
        jax.random.key(0),
        reorthogonalize="full",
        deflate=2,
        continue_after_breakdown=True,
        capacity=8,
    )
    found = run.advance(8).ritz_values()[0]
    np.testing.assert_allclose(found, np.sort(values[2:]), atol=1e-5)


def test_no_probe_is_what_deflation_starts_from():
    key = jax.random.key(0)
    started = []

    def record(op, key, **options):
        started.append(jax.random.key_data(key).tolist())
        return extremal_eigenpairs(op, key, **options)

    with pytest.MonkeyPatch.context() as patch:
        # The function of that name hides the module.
        patch.setattr(sys.modules["landscape.spectra.slq"], "extremal_eigenpairs", record)
        slq(DiagonalOperator(jnp.arange(30.0)), key, num_steps=5, deflate=1)
    (found,) = started
    for number in range(100):
        assert jax.random.key_data(jax.random.fold_in(key, number)).tolist() != found


def test_float64_runs_are_not_advanced_where_it_is_switched_off():
    with jax.enable_x64(True):
        op, key = DiagonalOperator(jnp.linspace(0, 1, 50)), jax.random.key(0)
        run, ends = (
            lanczos_run(op, key, capacity=20).advance(5),
            extremal_run(op, key, num_largest=1),
        )
    for one in (lambda: run.advance(15), ends.advance):
        with pytest.raises(InputError, match="float64 is switched off"):
            one()


def test_bytes_are_those_of_steps_that_can_be_made():
    assert lanczos_bytes(10, 4, 1, 10_000) == lanczos_bytes(10, 4, 1, 10)
    assert auto_scheme(10, 4, 1, 10_000, memory=5000) == "partial"
    assert lanczos_bytes(10, 4, 1, 10_000, memory=5000) == lanczos_bytes(10, 4, 1, 10)
