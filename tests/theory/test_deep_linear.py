"""Learning times in closed form against integration of the whole chain."""

import itertools

import numpy as np
import pytest
from scipy.integrate import quad

from landscape.errors import InputError
from landscape.theory import integrate, learning_time


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 7, 20])
def test_closed_forms_are_matched_by_integration(depth, skip):
    target, start = (3.0, 0.02) if skip else (1.0, 0.6)
    exact = learning_time(depth, target, start, skip=skip)
    path = integrate(depth, target, start, 10 * exact, skip=skip)
    assert path.reached == pytest.approx(exact, rel=1e-5)
    # All weights stay alike.
    assert np.ptp(path.states, axis=1).max() < 1e-6


@pytest.mark.parametrize("fraction", [0.5, 0.99, 0.999999])
@pytest.mark.parametrize("depth", [1, 2, 3, 5, 12])
def test_closed_forms_are_the_integral_they_stand_for(depth, fraction):
    target, start = 1.7, 0.5
    p = 2 - 2 / depth
    expected, _ = quad(
        lambda b: 1 / (depth * b**p * (target - b)), start**depth, fraction * target,
        epsabs=0, epsrel=1e-11, limit=500,
    )  # fmt: skip
    found = learning_time(depth, target, start, fraction=fraction)
    assert found == pytest.approx(expected, rel=1e-8)


def test_from_small_weights_time_grows_with_depth_and_with_skips_it_falls():
    depths = range(2, 12)
    plain = [learning_time(depth, 2.0, 0.1) for depth in depths]
    skips = [learning_time(depth, 2.0, 0.1, skip=True) for depth in depths if 1.1**depth < 1.9]
    # One more layer takes 1/a₀ times as long, in the limit.
    growth = np.array(plain[1:]) / plain[:-1]
    assert (np.diff(growth) > 0).all()
    assert 2 < growth[0] < growth[-1] < 10
    assert all(later < earlier for earlier, later in itertools.pairwise(skips))


@pytest.mark.parametrize("depth", [3, 5])
def test_plain_times_grow_without_bound_near_the_degenerate_point_as_that_power(depth):
    starts = np.array([1e-2, 1e-3, 1e-4])
    times = [learning_time(depth, 1.0, start) for start in starts]
    slopes = np.diff(np.log(times)) / np.diff(np.log(starts))
    np.testing.assert_allclose(slopes, 2 - depth, atol=0.05)
    # With skips the same starts make no difference.
    skips = [learning_time(depth, 2.0, start, skip=True) for start in starts]
    assert max(skips) / min(skips) < 1.1


@pytest.mark.parametrize(
    "wrong",
    [
        {"depth": 0}, {"target": 0.0}, {"start": 0.0}, {"start": -1.0, "skip": True},
        {"fraction": 1.0}, {"start": 1.5},
    ],
)  # fmt: skip
def test_chains_that_never_come_there_are_refused(wrong):
    given = {"depth": 3, "target": 1.0, "start": 0.5, "fraction": 0.99} | wrong
    with pytest.raises(InputError):
        learning_time(**given)


def test_times_beyond_float64_are_infinite_and_other_arguments_refused():
    assert learning_time(2000, 1.0, 0.5) == learning_time(100, 1.0, 1e-4) == np.inf
    assert 1e34 < learning_time(20, 2.0, 0.01) < 1e35
    for wrong in ((2.5, 1.0, 0.1), (3, np.inf, 0.5), (3, 1.0, np.nan)):
        with pytest.raises(InputError):
            learning_time(*wrong)
