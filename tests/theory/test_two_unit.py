"""Two units near overlap and elimination: closed losses, plateaus, ghosts, the reduced flow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import erf

from landscape.errors import InputError
from landscape.theory import TwoUnit, conserved, reduced_flow
from landscape.theory.two_unit import _loss

TEACHER = (np.array([1.0, 0.8]), np.array([[1.2, 0.3], [-0.2, 1.1]]))
SKIPS = np.array([[1.0, 0.0], [0.0, 1.0]])


def test_the_loss_is_the_mean_over_normal_inputs():
    system = TwoUnit(*TEACHER, SKIPS)
    rng = np.random.default_rng(0)
    v, incoming = rng.normal(size=2), rng.normal(size=(2, 2))
    # Gauss–Hermite: exact to rounding for a smooth integrand of two variables.
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    x = np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2)
    w = np.outer(weights, weights).ravel() / (2 * np.pi)

    def units(rows):
        return erf(x @ rows.T / np.sqrt(2))

    error = units(TEACHER[1]) @ TEACHER[0] - units(incoming + SKIPS) @ v
    assert system.loss(v, incoming) == pytest.approx((w * error**2).sum() / 2, rel=1e-6)


def test_where_the_student_is_the_teacher_nothing_is_lost_and_nothing_moves():
    system = TwoUnit(*TEACHER, SKIPS)
    start = TEACHER[0], TEACHER[1] - SKIPS
    assert abs(system.loss(*start)) < 1e-14
    path = system.flow(*start, 10.0)
    assert abs(path.states - path.states[0]).max() < 1e-6
    moved = path.states + np.linspace(0, 1, len(path.states))[:, None]
    singly = [system.loss(*start) for start in zip(*system.unpack(moved), strict=True)]
    np.testing.assert_allclose(system.losses(moved), singly, rtol=1e-12)


def hessian_at(system, v, incoming):
    with jax.enable_x64(True):
        state = jnp.asarray(np.r_[v, incoming.ravel()])
        return np.asarray(jax.hessian(_loss)(state, *system._given))


def one_unit_alone(system):
    """The best outgoing weight and incoming weights of a single unit."""
    found = minimize(
        lambda p: system.loss(np.full(2, p[0] / 2), np.stack([p[1:], p[1:]])),
        np.array([1.0, 0.5, 0.5]), method="Nelder-Mead",
        options={"xatol": 1e-11, "fatol": 1e-15, "maxiter": 4000, "maxfev": 4000},
    )  # fmt: skip
    return found.x[0], found.x[1:], found.fun


@pytest.mark.parametrize("place", ["overlap", "elimination"])
def test_the_manifolds_are_null_for_the_plain_system_and_its_ghosts_for_skips(place):
    """On them the output does not change along one direction, and elsewhere it does."""
    base = np.array([0.7, 0.5])
    if place == "overlap":
        v, units = np.array([0.9, 0.4]), np.stack([base, base])
        direction = np.r_[1.0, -1.0, np.zeros(4)]
    else:
        v, units = np.array([0.9, 0.0]), np.stack([base, [0.2, -0.6]])
        direction = np.r_[0.0, 0.0, 0.0, 0.0, 1.0, 2.0]
    plain, skips = TwoUnit(*TEACHER), TwoUnit(*TEACHER, SKIPS)

    def moved(system, incoming):
        states = np.r_[v, incoming.ravel()] + 0.3 * direction
        return system.loss(states[:2], states[2:].reshape(2, 2)) - system.loss(v, incoming)

    assert abs(moved(plain, units)) < 1e-14
    # The same weights with skips are not degenerate; those that undo the skips are.
    changed = abs(moved(skips, units))
    assert changed > 1e-3 if place == "overlap" else changed < 1e-14
    assert abs(moved(skips, units - SKIPS)) < 1e-14


def plateau(system, place, distance):
    """Time until the loss falls to a tenth of what one unit alone leaves.

    Near overlap, with weights out of both that are alike, nothing but the distance tells the units
    apart; near elimination one of them is nothing but the distance.
    """
    base, away = np.array([0.1, 0.15]), distance * np.array([0.6, -0.8])
    level = one_unit_alone(TwoUnit(*TEACHER))[2] / 10
    v, start = np.array([0.55, 0.55]), np.stack([base + away / 2, base - away / 2])
    if place == "elimination":
        v, start = np.array([1.1, distance]), np.stack([base, away])
    return system.flow(v, start, 1e5, until=level).reached


@pytest.mark.slow
@pytest.mark.parametrize("place", ["overlap", "elimination"])
def test_plateaus_grow_without_bound_near_the_manifolds_and_not_with_skips(place):
    distances = [1e-1, 1e-2, 1e-3, 1e-4, 1e-5]
    plain = [plateau(TwoUnit(*TEACHER), place, distance) for distance in distances]
    skips = [plateau(TwoUnit(*TEACHER, SKIPS), place, distance) for distance in distances]
    assert np.isfinite(plain + skips).all()
    # Each decade nearer costs about as much again.
    steps = np.diff(plain)
    assert (steps > 0.5 * steps[-1]).all()
    assert plain[-1] > 2 * plain[0]
    # With skips the same starts come to a limit.
    changes = abs(np.diff(skips))
    assert (changes[1:] < 0.5 * changes[:-1]).all()
    assert max(skips) < min(plain)


def test_coordinates_are_those_of_the_notation():
    system = TwoUnit(*TEACHER, SKIPS)
    rng = np.random.default_rng(1)
    states = rng.normal(size=(3, 6))
    v, incoming = system.unpack(states)
    found = system.coordinates(states)
    units = incoming + SKIPS
    np.testing.assert_allclose(found.v, v[:, 0] + v[:, 1])
    np.testing.assert_allclose(found.z * found.v, v[:, 0] - v[:, 1])
    np.testing.assert_allclose(
        found.s * found.v[:, None], v[:, :1] * units[:, 0] + v[:, 1:] * units[:, 1]
    )
    np.testing.assert_allclose(found.h, np.linalg.norm(units[:, 0] - units[:, 1], axis=1))


@pytest.mark.parametrize(("h", "z", "kappa"), [(0.3, 0.1, 1.0), (0.5, 1.8, 0.7), (0.2, -0.4, -1.0)])
def test_the_reduced_flow_conserves_its_quantity(h, z, kappa):
    times, hs, zs = reduced_flow(h, z, v=1.3, kappa=kappa, duration=4.0)
    kept = conserved(hs, zs, 1.3)
    np.testing.assert_allclose(kept, kept[0], rtol=1e-7)
    assert abs(hs[-1] - h) > 1e-3
    assert times[-1] == 4.0


@pytest.mark.slow
def test_the_full_flow_follows_the_reduced_one_near_overlap():
    """At rest on the manifold, with κ measured there: the first of its two equations, to first
    order."""
    system = TwoUnit(*TEACHER)
    total, unit, _ = one_unit_alone(system)
    v = total * np.array([0.6, 0.4])
    curvature = hessian_at(system, v, np.stack([unit, unit]))
    # Along u: d = (δ v₂/v, −δ v₁/v) keeps s; the Hessian's value there is −κ v₁v₂/v.
    vectors = []
    for axis in np.eye(2):
        vectors.append(np.r_[0, 0, axis * v[1] / total, -axis * v[0] / total])
    along = np.array(vectors) @ curvature @ np.array(vectors).T
    values, directions = np.linalg.eigh(along)
    kappa = -values[0] * total / (v[0] * v[1])
    assert kappa > 0
    u = 1e-4 * directions[:, 0]
    start = np.stack([unit + u * v[1] / total, unit - u * v[0] / total])
    path = system.flow(v, start, 0.5 / kappa)
    found = system.coordinates(path.states)
    z = (v[0] - v[1]) / total
    expected = 1e-4 * np.exp(total * (1 - z**2) * kappa / 2 * path.times)
    np.testing.assert_allclose(found.h, expected, rtol=0.02)


@pytest.mark.parametrize(
    "wrong",
    [
        (np.ones(2), np.ones((3, 2))), (np.ones(2), np.ones(2)),
        (np.ones(2), np.ones((2, 2)), np.ones((2, 3))),
    ],
)  # fmt: skip
def test_shapes_that_do_not_fit_are_refused(wrong):
    with pytest.raises(InputError):
        TwoUnit(*wrong)


def test_a_reduced_flow_needs_a_distance_and_a_weight():
    for wrong in ({"h": 0.0}, {"v": 0.0}):
        with pytest.raises(InputError):
            reduced_flow(**({"h": 1.0, "z": 0.1, "v": 1.0, "kappa": 1.0, "duration": 1.0} | wrong))


def test_weights_of_other_shapes_and_teachers_that_are_not_finite_are_refused():
    system = TwoUnit(*TEACHER)
    for wrong in ((np.ones(3), np.ones((2, 2))), (np.ones(2), np.ones((2, 3)))):
        with pytest.raises(InputError, match=r"the student has \(2,\) outgoing and \(2, 2\)"):
            system.loss(*wrong)
        with pytest.raises(InputError, match="the student has"):
            system.flow(*wrong, 1.0)
    with pytest.raises(InputError, match="teacher_outgoing must be finite"):
        TwoUnit(np.array([np.nan, 1.0]), np.ones((2, 2)))
