"""Gradient flow against closed forms."""

import jax.numpy as jnp
import numpy as np
import pytest

from landscape.errors import InputError
from landscape.theory import gradient_flow

RATES = np.array([0.1, 1.0, 30.0])


def quadratic(x):
    return (jnp.asarray(RATES) * x**2).sum() / 2


def test_a_quadratic_decays_exponentially():
    path = gradient_flow(quadratic, np.ones(3), 20.0)
    np.testing.assert_allclose(path.states, np.exp(-path.times[:, None] * RATES), atol=1e-8)
    np.testing.assert_allclose(path.energies, (RATES * path.states**2).sum(1) / 2, rtol=1e-12)
    assert path.times[-1] == 20.0
    assert np.isnan(path.reached)


def test_the_time_of_an_energy_is_found_and_ends_the_path():
    # E = exp(−2t)/2
    path = gradient_flow(lambda x: x @ x / 2, np.array([1.0, 0.0]), 100.0, until=0.5e-6)
    assert path.reached == pytest.approx(3 * np.log(10), rel=1e-7)
    assert path.times[-1] == pytest.approx(path.reached)
    assert path.energies[-1] == pytest.approx(0.5e-6, rel=1e-4)


def test_an_energy_that_is_not_reached_and_one_that_was_there_already():
    assert np.isnan(gradient_flow(quadratic, np.ones(3), 0.1, until=1e-9).reached)
    assert gradient_flow(quadratic, np.ones(3), 0.1, until=1e9).reached == 0


def test_long_plateaus_take_few_steps():
    # dx/dt = x³, x from 10⁻³ to 1: half a million units of time.
    path = gradient_flow(lambda x: -(x**4).sum() / 4, np.array([1e-3]), 1e9, until=-0.25)
    assert path.reached == pytest.approx((1e6 - 1) / 2, rel=1e-4)
    assert len(path.times) < 2_000


def test_energies_only_fall():
    def energy(x):
        return jnp.cos(3 * x[0]) + x[0] ** 2 * x[1] ** 2 + (x[1] - 1) ** 4

    path = gradient_flow(energy, np.array([0.1, -1.0]), 30.0)
    assert (np.diff(path.energies) <= 1e-12).all()


@pytest.mark.parametrize(("start", "duration"), [([np.nan], 1.0), ([1.0], 0.0), ([1.0], -1.0)])
def test_what_cannot_be_integrated_is_refused(start, duration):
    with pytest.raises(InputError):
        gradient_flow(lambda x: x @ x, np.array(start), duration)


def test_what_an_energy_depends_on_is_given_and_compiles_nothing_new():
    traced = []

    def energy(state, scale):
        traced.append(scale)
        return scale * (state @ state) / 2

    for k in (1, 2, 3):
        path = gradient_flow(energy, np.ones(2), 50.0, until=1e-4 * k, args=(float(k),))
        assert path.reached == pytest.approx(np.log(100) / k, rel=1e-6)
        once = len(traced) if k == 1 else once
    assert len(traced) == once
