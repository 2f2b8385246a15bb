"""Stochastic Lanczos quadrature against the kernel polynomial method, which shares no code with it.

Notation: ``x = cos θ`` runs over the spectrum scaled into [-1, 1]; ``μ_n = vᵀT_n(A)v`` are the
Chebyshev moments of a unit probe v, from dense products in NumPy float64. The Jackson kernel of
degree D turns the first D of them into a measure that is the probe's own, convolved in θ with a
positive kernel whose mean cosine is ``cos(π/(D+1))``: about π/D wide. Source: A. Weiße, G. Wellein,
A. Alvermann and H. Fehske, *The kernel polynomial method*, Rev. Mod. Phys. 78, 2006.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape.curvature import DenseOperator, hessian
from landscape.models import MLP
from landscape.spectra import fraction_between, slq
from landscape.spectra.bounds import distribution_bounds
from landscape.training import softmax_cross_entropy

SIZE = 240


@dataclasses.dataclass(frozen=True)
class Scale:
    """The map of the spectrum into [-1, 1], with a little room at both ends."""

    center: float
    half: float

    @classmethod
    def of(cls, matrix):
        values = np.linalg.eigvalsh(matrix)
        return cls((values[0] + values[-1]) / 2, 0.505 * max(values[-1] - values[0], 1e-3))

    def angle(self, values):
        return np.arccos(np.clip((np.asarray(values) - self.center) / self.half, -1, 1))

    def value(self, angles):
        return self.center + self.half * np.cos(angles)


def chebyshev_moments(matrix, probe, num_moments, scale):
    """Moments of the probe by the three-term recurrence."""

    def product(v):
        return (matrix @ v - scale.center * v) / scale.half

    before, now = probe, product(probe)
    moments = [probe @ before, probe @ now]
    while len(moments) < num_moments:
        before, now = now, 2 * product(now) - before
        moments.append(probe @ now)
    return np.array(moments[:num_moments])


def moments_of(nodes, weights, num_moments, scale):
    degrees = np.arange(num_moments)[:, None]
    return np.cos(degrees * scale.angle(nodes)) @ weights


def jackson(num_moments):
    n, q = np.arange(num_moments), np.pi / (num_moments + 1)
    lead = (num_moments - n + 1) * np.cos(n * q) + np.sin(n * q) / np.tan(q)
    return lead / (num_moments + 1)


def kernel_distribution(moments, angles):
    """Mass up to x = cos θ of the measure that the Jackson kernel makes from moments."""
    degrees = np.arange(1, len(moments))
    terms = (jackson(len(moments)) * moments)[1:] * np.sin(angles[:, None] * degrees) / degrees
    return (moments[0] * (np.pi - angles) - 2 * terms.sum(1)) / np.pi


def tail(num_moments, width):
    """Most mass that the kernel can bring further than ``width`` in θ: Markov, on 1 − cos θ."""
    return (1 - np.cos(np.pi / (num_moments + 1))) / (1 - np.cos(width))


def assert_is_smoothed(smooth, num_moments, below, upto, rounding=1e-9):
    """Check a smoothed distribution function of θ against bounds on the sharp one.

    A positive kernel moves mass by more than ``width`` for no more than its tail, so at any θ
    ``Ψ(θ + width) − tail ≤ Ψ_smooth(θ) ≤ Ψ(θ − width) + tail``.
    """
    angles = np.linspace(0.01, np.pi - 0.01, 150)
    for multiple in (2, 4, 10):
        width = multiple * np.pi / num_moments
        slack = tail(num_moments, width) + rounding
        right, left = np.maximum(angles - width, 0), np.minimum(angles + width, np.pi)
        assert (smooth(angles) <= upto(right) + slack).all()
        assert (smooth(angles) >= below(left) - slack).all()


def step_functions(nodes, weights, scale):
    """Mass strictly below, and up to, x = cos θ; nodes within rounding of x count as either."""
    order = np.argsort(nodes)
    cumulative, nodes = np.r_[0, np.cumsum(weights[order])], nodes[order]

    def mass(angles, side):
        points = scale.value(angles) + (1e-9 if side == "right" else -1e-9) * scale.half
        return cumulative[np.searchsorted(nodes, points, side)]

    return lambda angles: mass(angles, "left"), lambda angles: mass(angles, "right")


@functools.cache
def prescribed(kind):
    """A matrix with prescribed eigenvalues and random eigenvectors."""
    rng = np.random.default_rng(5)
    half, third = SIZE // 2, SIZE // 3
    values = np.concatenate(
        {
            "zeros": [np.zeros(half), rng.exponential(1, half)],
            "clusters": [c + 1e-5 * rng.normal(size=third) for c in (-0.5, 0.0, 2.0)],
            "outliers": [rng.normal(0, 0.3, SIZE - 4), [-30, 40, 90, 1000]],
            "negative part": [
                np.zeros(third),
                -rng.exponential(0.2, third),
                rng.gamma(3, 1, third),
            ],
        }[kind]
    )
    vectors, _ = np.linalg.qr(rng.normal(size=(SIZE, SIZE)))
    matrix = (vectors * values) @ vectors.T
    return (matrix + matrix.T) / 2


KINDS = ["zeros", "clusters", "outliers", "negative part"]


def probe_of(key, index, size):
    """A probe as slq draws it, and its squared length."""
    v = np.asarray(jax.random.normal(jax.random.fold_in(key, index), (size,), jnp.float64))
    return v / np.linalg.norm(v), v @ v


@pytest.fixture(scope="module")
def trained():
    """The Hessian of a small trained network, and its entries, in float64."""
    from landscape.data import load
    from landscape.training import TrainConfig, fit

    digits = load("digits").subset(60, seed=0).standardized()
    model = MLP(2, 4, 10)
    run = fit(model, digits, TrainConfig(epochs=5, batch_size=10), jax.random.key(0))
    op = hessian(softmax_cross_entropy(model), run.params, digits.arrays(), state=run.state)
    with jax.enable_x64(True):
        op = op.astype(jnp.float64)
        return op, np.asarray(op.to_dense())


@pytest.mark.parametrize("num_steps", [8, 30, 90])
@pytest.mark.parametrize("scheme", ["full", "partial"])
@pytest.mark.parametrize("kind", KINDS)
def test_moments_below_degree_2m_are_the_probes(kind, scheme, num_steps, x64):
    matrix, key = prescribed(kind), jax.random.key(0)
    scale = Scale.of(matrix)
    spectrum = slq(
        DenseOperator(jnp.asarray(matrix)),
        key,
        num_steps=num_steps,
        reorthogonalize=scheme,
        capacity=90,
    )
    expected = chebyshev_moments(matrix, probe_of(key, 0, SIZE)[0], 2 * num_steps, scale)
    found = moments_of(spectrum.nodes, spectrum.weights, 2 * num_steps, scale)
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_moments_at_degree_2m_are_not(x64):
    """What makes the test above sharp: the rule knows nothing past its degree."""
    matrix, key = prescribed("negative part"), jax.random.key(0)
    scale = Scale.of(matrix)
    spectrum = slq(DenseOperator(jnp.asarray(matrix)), key, num_steps=8, capacity=90)
    expected = chebyshev_moments(matrix, probe_of(key, 0, SIZE)[0], 17, scale)
    found = moments_of(spectrum.nodes, spectrum.weights, 17, scale)
    assert abs(found[16] - expected[16]) > 1e-3


@pytest.mark.slow
def test_moments_of_pooled_probes_are_weighted_by_squared_length(x64):
    matrix, key = prescribed("outliers"), jax.random.key(3)
    scale = Scale.of(matrix)
    spectrum = slq(DenseOperator(jnp.asarray(matrix)), key, num_steps=20, num_probes=3)
    probes = [probe_of(key, index, SIZE) for index in range(3)]
    pooled = sum(square * chebyshev_moments(matrix, v, 40, scale) for v, square in probes)
    expected = pooled / sum(square for _, square in probes)
    found = moments_of(spectrum.nodes, spectrum.weights, 40, scale)
    np.testing.assert_allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize("num_steps", [8, 30, 90])
@pytest.mark.parametrize("scheme", ["full", "partial", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_distributions_agree_within_the_kernels_width(kind, scheme, num_steps, x64):
    matrix, key = prescribed(kind), jax.random.key(0)
    scale = Scale.of(matrix)
    spectrum = slq(
        DenseOperator(jnp.asarray(matrix)),
        key,
        num_steps=num_steps,
        reorthogonalize=scheme,
        capacity=90,
    )
    moments = chebyshev_moments(matrix, probe_of(key, 0, SIZE)[0], 2 * num_steps, scale)
    below, upto = step_functions(spectrum.nodes, spectrum.weights, scale)
    # Without reorthogonalisation the rule is that of a slightly different matrix.
    assert_is_smoothed(
        lambda angles: kernel_distribution(moments, angles),
        2 * num_steps,
        below,
        upto,
        rounding=1e-6 if scheme == "none" else 1e-9,
    )


@pytest.mark.parametrize("shift", [-0.1, 0.1])
def test_the_comparison_sees_mass_moved_by_a_twentieth_of_the_range(shift, x64):
    matrix, key = prescribed("zeros"), jax.random.key(0)
    scale = Scale.of(matrix)
    spectrum = slq(DenseOperator(jnp.asarray(matrix)), key, num_steps=90, capacity=90)
    moments = chebyshev_moments(matrix, probe_of(key, 0, SIZE)[0], 180, scale)
    below, upto = step_functions(spectrum.nodes + shift * scale.half, spectrum.weights, scale)
    with pytest.raises(AssertionError):
        assert_is_smoothed(lambda a: kernel_distribution(moments, a), 180, below, upto)


@pytest.mark.parametrize("num_steps", [8, 30])
@pytest.mark.parametrize("kind", KINDS)
def test_bounds_hold_for_a_kernel_far_sharper_than_the_steps(kind, num_steps, x64):
    matrix, key = prescribed(kind), jax.random.key(0)
    scale, degree = Scale.of(matrix), 1000
    spectrum = slq(DenseOperator(jnp.asarray(matrix)), key, num_steps=num_steps, capacity=90)
    moments = chebyshev_moments(matrix, probe_of(key, 0, SIZE)[0], degree, scale)
    steps = int(spectrum.num_steps[0])

    def bounds(angles):
        alphas, betas = spectrum.alphas[0][:steps], spectrum.betas[0][:steps]
        return distribution_bounds(*spectrum.quadrature((0,)), alphas, betas, scale.value(angles))

    assert_is_smoothed(
        lambda angles: kernel_distribution(moments, angles),
        degree,
        lambda angles: bounds(angles)[0],
        lambda angles: bounds(angles)[1],
    )


@pytest.mark.slow
def test_a_trained_networks_moments_and_distribution_agree(trained, x64):
    op, matrix = trained
    key, scale = jax.random.key(2), Scale.of(matrix)
    probe, _ = probe_of(key, 0, len(matrix))
    spectrum = slq(op, key, num_steps=60)
    expected = chebyshev_moments(matrix, probe, 120, scale)
    found = moments_of(spectrum.nodes, spectrum.weights, 120, scale)
    np.testing.assert_allclose(found, expected, atol=1e-10)
    below, upto = step_functions(spectrum.nodes, spectrum.weights, scale)
    assert_is_smoothed(lambda angles: kernel_distribution(expected, angles), 120, below, upto)


def test_a_trained_networks_negative_share_is_what_the_kernel_sees(trained, x64):
    """The certified interval of a share, against a kernel sharp enough to resolve it."""
    op, matrix = trained
    key, scale, degree = jax.random.key(2), Scale.of(matrix), 4000
    moments = chebyshev_moments(matrix, probe_of(key, 0, len(matrix))[0], degree, scale)
    spectrum = slq(op, key, num_steps=60)
    width = 4 * np.pi / degree
    threshold = scale.angle(-0.02 * scale.half)
    inner, outer = (
        fraction_between(spectrum, -np.inf, float(scale.value(threshold + shift)))
        for shift in (width, -width)
    )
    mass = kernel_distribution(moments, np.array([threshold]))[0]
    slack = tail(degree, width) + 1e-9
    assert inner.lower - slack <= mass <= outer.upper + slack
