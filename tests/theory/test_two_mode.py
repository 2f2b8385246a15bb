"""The two-mode network: its equations, its symmetry, its plateaus."""

import numpy as np
import pytest

from landscape.errors import InputError
from landscape.theory import TwoMode

STRENGTHS = np.array([3.0, 1.5])
SKIPS = {"skips_in": np.eye(2), "skips_out": np.array([[1.0, 0.3], [-0.3, 1.0]])}


def equations(system, a, b):
    """Saxe and others' right-hand sides, mode by mode."""
    a, b = a + system.skips_in, b + system.skips_out
    da, db = np.zeros_like(a), np.zeros_like(b)
    for i, s in enumerate(system.strengths):
        da[i] = b[i] * (s - a[i] @ b[i])
        db[i] = a[i] * (s - a[i] @ b[i])
        for j in range(len(system.strengths)):
            if j != i:
                da[i] -= b[j] * (a[i] @ b[j])
                db[i] -= a[j] * (b[i] @ a[j])
    return da, db


@pytest.mark.parametrize("skips", [{}, SKIPS], ids=["plain", "skips"])
def test_the_flow_is_that_of_the_equations(skips):
    system = TwoMode(STRENGTHS, **skips)
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 2, 2))
    path = system.flow(a, b, 1e-5)
    moved = [(x[-1] - x[0]) / path.times[-1] for x in system.unpack(path.states)]
    for found, expected in zip(moved, equations(system, a, b), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_a_b_difference_of_squares_is_conserved():
    """AᵀA − BᵀB of a linear network's two layers, in the hidden units' space."""
    system = TwoMode(STRENGTHS)
    rng = np.random.default_rng(1)
    path = system.flow(*(0.3 * rng.normal(size=(2, 2, 2))), 20.0)
    a, b = system.unpack(path.states)
    kept = np.einsum("tkh,tkg->thg", a, a) - np.einsum("tkh,tkg->thg", b, b)
    np.testing.assert_allclose(kept, np.broadcast_to(kept[0], kept.shape), atol=1e-6)
    assert path.energies[-1] < 1e-8


@pytest.mark.parametrize("place", ["elimination", "overlap"])
def test_plateaus_grow_without_bound_near_the_manifolds_and_not_with_skips(place):
    rng = np.random.default_rng(2)
    base_a, base_b, away_a, away_b = 0.2 * rng.normal(size=(4, 2, 2))
    if place == "elimination":
        # One hidden unit is zero in all modes.
        base_a[:, 1] = base_b[:, 1] = 0
    else:
        base_a[:, 1], base_b[:, 1] = base_a[:, 0], base_b[:, 0]

    def time(system, distance):
        start = base_a + distance * away_a, base_b + distance * away_b
        return system.flow(*start, 1e4, until=0.01).reached

    distances = [1e-2, 1e-4, 1e-6, 1e-8]
    plain = [time(TwoMode(STRENGTHS), d) for d in distances]
    skips = [time(TwoMode(STRENGTHS, **SKIPS), d) for d in distances]
    assert np.isfinite(plain + skips).all()
    assert (np.diff(plain) > 0.5 * np.diff(plain)[-1]).all()
    assert plain[-1] > 1.5 * plain[0]
    assert max(skips) < 1.05 * min(skips)
    assert max(skips) < min(plain)


@pytest.mark.parametrize(
    "wrong",
    [
        {"strengths": np.ones((2, 2))},
        {"strengths": np.array([np.nan])},
        {"num_hidden": 0},
        {"skips_in": np.ones((3, 2))},
        {"skips_out": np.ones(2)},
    ],
)
def test_shapes_that_do_not_fit_are_refused(wrong):
    with pytest.raises(InputError):
        TwoMode(**({"strengths": STRENGTHS} | wrong))


def test_weights_of_other_shapes_are_refused():
    system = TwoMode(STRENGTHS)
    with pytest.raises(InputError, match="a must be of shape"):
        system.energy(np.ones((4, 1)), np.ones((4, 1)))
    with pytest.raises(InputError, match="b must be of shape"):
        system.flow(np.ones((2, 2)), np.ones(4), 1.0)
