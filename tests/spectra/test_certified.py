"""The certified interval against the probe's own measure, on Hessians of trained networks."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape.curvature import hessian, noise_floor
from landscape.data import load
from landscape.models import MLP
from landscape.spectra import degenerate_fraction, fraction_between, lanczos_run, negative_fraction
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
