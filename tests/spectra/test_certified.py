"""The certified interval against the probe's own measure, on Hessians of trained networks."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape.curvature import DenseOperator, DiagonalOperator, hessian, noise_floor
from landscape.data import load
from landscape.models import MLP
from landscape.spectra import (
    degenerate_fraction,
    distribution_function,
    fraction_between,
    lanczos_run,
    negative_fraction,
    slq,
)
from landscape.spectra.bounds import turned_mass
from landscape.spectra.fractions import ROUNDING
from landscape.spectra.slq import gaussian_probes
from landscape.training import softmax_cross_entropy


class ConvNet(nn.Module):
    """Two convolutions with batch normalisation, pooling, a readout; P = 450."""

    @nn.compact
    def __call__(self, inputs):
        x = inputs
        for features, stride in ((4, 1), (8, 2)):
            x = nn.Conv(features, (3, 3), (stride, stride))(x)
            x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        return nn.Dense(10)(x.mean((1, 2)))


MODELS = {"residual": MLP(4, 6, 10, skip="identity"), "convolutional": ConvNet()}


@functools.cache
def trained_hessian(name):
    model, batch = MODELS[name], load("digits").subset(60, seed=0).standardized().arrays()
    state = dict(model.init(jax.random.key(0), batch[0]))
    params, loss = state.pop("params"), softmax_cross_entropy(model)

    @jax.jit
    def descend(params):
        gradient = jax.grad(loss)(params, state, batch)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)

    for _ in range(100):
        params = descend(params)
    return hessian(loss, params, batch, state=state, check=False)


@functools.cache
def eigenpairs(name):
    """In float64, at the float32 parameters."""
    op = trained_hessian(name)
    with jax.enable_x64(True):
        # A block of convolutions costs more than its columns one by one.
        matrix = np.asarray(op.astype(jnp.float64).to_dense(block_size=1))
    return np.linalg.eigh((matrix + matrix.T) / 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dtype"), [("residual", np.float64), ("convolutional", np.float32)]
)
def test_certified_interval_contains_the_probes_mass_of_a_network(name, dtype):
    values, vectors = eigenpairs(name)
    with jax.enable_x64(dtype == np.float64):
        op = trained_hessian(name).astype(dtype)
        # In float64 what Lanczos itself rounds is enough.
        floor = noise_floor(op, jax.random.key(9)) if dtype == np.float32 else None
        for seed in range(3):
            key = jax.random.key(seed)
            probe = np.asarray(gaussian_probes(key, 1, len(values), op.dtype)[0], float)
            mass = (vectors.T @ probe) ** 2 / (probe @ probe)
            run = lanczos_run(op, key, reorthogonalize="partial", capacity=96)
            widths = []
            for num_steps in (20, 50, 96):
                run = run.advance(num_steps)
                spectrum = run.spectrum(floor)
                ends = values[len(values) // 4], values[9 * len(values) // 10]
                for fraction in (
                    degenerate_fraction(spectrum),
                    degenerate_fraction(spectrum, 0.05),
                    degenerate_fraction(spectrum, 1.01 * float(spectrum.noise_floor)),
                    negative_fraction(spectrum),
                    fraction_between(spectrum, *ends),
                ):
                    contains(fraction, values, mass)
                widths.append(float(degenerate_fraction(spectrum, 0.05).width))
            # An interval of everything would contain the truth as well.
            assert widths[-1] < 0.2


def contains(fraction, values, mass):
    low, high = (float(end) for end in fraction.interval)
    floor = float(fraction.noise_floor)
    outer = mass[(values >= low - floor) & (values <= high + floor)].sum()
    inner = mass[(values >= low + floor) & (values <= high - floor)].sum()
    assert fraction.lower - fraction.rounding <= outer
    assert fraction.upper + fraction.rounding >= inner


def beside(size, distance, dtype, seed):
    """A random rotation of 1, 0.3 − d, 0.3 + d and others, and the probe's own measure on it."""
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.standard_normal((size, size)))
    values = np.r_[1.0, 0.3 - distance, 0.3 + distance, np.linspace(-0.9, 0.9, size - 3)]
    matrix = (rotation * values) @ rotation.T
    matrix = ((matrix + matrix.T) / 2).astype(dtype)
    values, vectors = np.linalg.eigh(matrix.astype(float))
    op, key = DenseOperator(jnp.asarray(matrix)), jax.random.key(seed)
    probe = np.asarray(gaussian_probes(key, 1, size, op.dtype)[0], float)
    return op, key, values, (vectors.T @ probe) ** 2 / (probe @ probe)


@pytest.mark.parametrize("scheme", ["full", "partial"])
@pytest.mark.parametrize(
    ("dtype", "distances"), [(np.float32, (5e-7, 2e-6, 2e-5)), (np.float64, (5e-9, 2e-8, 1e-7))]
)
def test_mass_on_both_sides_of_an_end_may_turn_as_much_as_is_told(scheme, dtype, distances, x64):
    largest = 0.0
    for distance in distances:
        for seed in range(12):
            op, key, values, mass = beside(3, distance, dtype, seed)
            near = np.sort(np.argsort(np.abs(values - 0.3))[:2])
            end = float(values[near].mean())
            spectrum = slq(op, key, num_steps=3, reorthogonalize=scheme)
            fraction = fraction_between(spectrum, -1.0, end)
            if np.ptp(values[near]) / 2 <= fraction.noise_floor:
                continue
            contains(fraction, values, mass)
            inside = mass[values <= end].sum()
            largest = max(largest, float(abs(fraction.estimate - inside)))
            curve = distribution_function(spectrum, np.array([-0.5, end]))
            assert curve.rounding[1] == pytest.approx(float(fraction.rounding))
            # Where nothing lies near the end, nothing can turn.
            assert curve.rounding[0] < 1.001 * ROUNDING[np.dtype(dtype).name]
    # More than what is always told, else this says nothing.
    assert largest > 2 * ROUNDING[np.dtype(dtype).name]


def test_what_may_turn_is_the_sum_over_pairs():
    rng = np.random.default_rng(0)
    nodes, weights = np.sort(rng.standard_normal(700)), rng.dirichlet(np.ones(700))
    left, right = np.array([0, 1, 350, 699, 700]), np.array([3, 1, 352, 699, 700])
    found = turned_mass(nodes, weights, left, right, 1e-3)
    for i, j, one in zip(left, right, found, strict=True):
        apart = nodes[None, j:] - nodes[:i, None]
        pairs = np.outer(weights[:i], weights[j:]) / apart**2
        assert one == pytest.approx(2e-3 * np.sqrt(pairs.sum()))


def test_an_atom_of_all_the_mass_is_not_lost():
    """Vectors have their length up to some units of rounding, and an atom's node is off by them."""
    values = np.ones(1000)
    for seed in range(20, 40):
        spectrum = slq(DiagonalOperator(jnp.ones(1000)), jax.random.key(seed), num_steps=3)
        fraction = degenerate_fraction(spectrum, 1.1 * float(spectrum.noise_floor), center=1.0)
        contains(fraction, values, values / 1000)


@pytest.mark.parametrize("scheme", ["full", "partial"])
def test_what_an_exhausted_space_left_out_is_within_the_noise_floor(scheme):
    """Two atoms as close as where Lanczos ends: one node may stand for both."""
    ended = []
    for gap in (1, 8, 16, 30, 60):
        values = np.repeat([1.0, 0.9, 0.9 + gap * 2.0**-24], [100, 450, 450]).astype(np.float32)
        op = DiagonalOperator(jnp.asarray(values))
        for seed in range(8):
            key = jax.random.key(seed)
            probe = np.asarray(gaussian_probes(key, 1, 1000, op.dtype)[0], float)
            mass = probe**2 / (probe @ probe)
            spectrum = slq(op, key, num_steps=4, reorthogonalize=scheme)
            # A β of up to twenty units of rounding ends a run: what is behind it is not told apart.
            ended.append(spectrum.num_steps[0] < 3)
            assert ended[-1] == (spectrum.noise_floor >= 19 * 2.0**-24)
            for end in np.linspace(values[100], values[-1], 3).tolist():
                contains(fraction_between(spectrum, 0.0, end), values.astype(float), mass)
    assert any(ended)
    assert not all(ended)


def test_shares_of_a_deflated_spectrum_have_their_rounding_in_their_own_measure():
    values = np.r_[np.linspace(0, 1, 40), np.linspace(50, 90, 60)]
    spectrum = slq(
        DiagonalOperator(jnp.asarray(values, jnp.float32)),
        jax.random.key(0),
        num_steps=40,
        reorthogonalize="full",
        deflate=60,
    )
    fraction = fraction_between(spectrum, 0.0, 0.5)
    told = dataclasses.replace(fraction, rounding=np.asarray(0.3))
    # 0.3 of all eigenvalues are 0.75 of those that are not known.
    low, high = told.confidence_interval()
    assert low == 0
    assert high == pytest.approx(0.4)
