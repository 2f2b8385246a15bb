import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from landscape.curvature import DenseOperator, DiagonalOperator, stack
from landscape.errors import InputError
from landscape.spectra import degenerate_fraction, fraction_between, fraction_curve, slq

pytestmark = pytest.mark.slow

EPS = 1e-2


def outlying(size=500, seed=0):
    rng = np.random.default_rng(seed)
    return np.r_[rng.normal(0, 2 * EPS, size - 8), -50, -9, 5, 20, 40, 80, 300, 1000]


def rotated(values, seed=1):
    size = (len(values), len(values))
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=size))
    return (q * values) @ q.T


@pytest.mark.parametrize("scheme", ["none", "full", "partial"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_deflated_and_sampled_parts_make_up_the_spectrum(scheme, dtype, x64):
    values = outlying()
    op = DenseOperator(jnp.asarray(rotated(values), dtype))
    spectrum = slq(
        op, jax.random.key(0), num_steps=60, num_probes=2, reorthogonalize=scheme, deflate=8
    )
    tolerance = 1e-5 * 1000 if dtype == np.float32 else 1e-8
    found, outliers = np.sort(spectrum.deflated), np.sort(values[-8:])
    np.testing.assert_allclose(found, outliers, atol=tolerance)
    assert spectrum.weights.sum() == pytest.approx(1)
    assert spectrum.num_matvecs > 120
    assert "8 deflated" in repr(spectrum)
    # Counted one by one: exact, with the share of the bulk added.
    top = fraction_between(spectrum, 3.0, np.inf)
    assert top.estimate == pytest.approx(6 / 500)
    assert top.lower == pytest.approx(6 / 500, abs=1e-3)
    assert top.upper == pytest.approx(6 / 500, abs=1e-3)
    curve = fraction_curve(spectrum, np.array([EPS, 10.0, 2000.0]))
    assert curve.estimate[1:] == pytest.approx([494 / 500, 1])
    assert curve.lower[2] == pytest.approx(1, abs=0.02)
    middle = degenerate_fraction(spectrum, EPS)
    assert middle.certified == (scheme != "none")
    low, high = middle.confidence_interval(0.999)
    assert low <= np.mean(np.abs(values) <= EPS) <= high


def test_a_deflated_operator_resolves_more_in_as_many_steps(x64):
    op = DiagonalOperator(jnp.asarray(outlying()))
    widths = [
        float(degenerate_fraction(slq(op, jax.random.key(0), num_steps=20, deflate=q), EPS).width)
        for q in (0, 8)
    ]
    assert widths[1] < 0.7 * widths[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("num_steps", [10, 60, 200])
def test_bounds_hold_for_the_deflated_measure(num_steps, dtype, x64):
    """The probes' own mass, from the diagonal: what is left of them after projection."""
    values = outlying()
    key = jax.random.key(3)
    spectrum = slq(
        DiagonalOperator(jnp.asarray(values, dtype)),
        key,
        num_steps=num_steps,
        deflate=8,
        reorthogonalize="full",
    )
    probe = np.asarray(jax.random.normal(jax.random.fold_in(key, 0), (500,), dtype), float)
    bulk = values[:-8]
    mass = probe[:-8] ** 2 / (probe[:-8] @ probe[:-8])
    for low, high in ((-EPS, EPS), (-np.inf, 0.0), (0.005, 60.0)):
        fraction = fraction_between(spectrum, low, high)
        delta, eta = float(fraction.noise_floor), fraction.rounding
        known = ((values[-8:] >= low) & (values[-8:] <= high)).sum()
        assert fraction.known == known
        inner = mass[(bulk >= low + delta) & (bulk <= high - delta)].sum() * 492 + known
        outer = mass[(bulk >= low - delta) & (bulk <= high + delta)].sum() * 492 + known
        assert fraction.lower * 500 - 500 * eta <= outer
        assert fraction.upper * 500 + 500 * eta >= inner


def test_confidence_intervals_of_the_deflated_cover(x64):
    values = outlying(120)
    op = DiagonalOperator(jnp.asarray(values))
    truth = np.mean(np.abs(values) <= EPS)
    covered = 0
    for seed in range(60):
        spectrum = slq(
            op, jax.random.key(seed), num_steps=40, deflate=8, reorthogonalize="full", capacity=40
        )
        low, high = degenerate_fraction(spectrum, EPS).confidence_interval(0.8)
        covered += low <= truth <= high
    assert stats.binomtest(int(covered), 60, 0.8, "less").pvalue > 0.01


def test_unusable_deflation_is_refused():
    op, key = DiagonalOperator(jnp.arange(10.0)), jax.random.key(0)
    for deflate in (-1, 10):
        with pytest.raises(InputError, match="deflate must lie"):
            slq(op, key, num_steps=3, deflate=deflate)
    with pytest.raises(InputError, match="family"):
        slq(stack([op, op]), key, num_steps=3, deflate=1)
