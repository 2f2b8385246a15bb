import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape.curvature import DiagonalOperator, stack
from landscape.errors import InputError, ResourceError
from landscape.spectra import (
    degenerate_fraction,
    fraction_curve,
    negative_fraction,
    resolve_fraction,
    slq,
)

BULK = np.random.default_rng(0).normal(0, 3e-3, 400)


def bulk():
    return DiagonalOperator(jnp.asarray(BULK))


@pytest.mark.slow
def test_steps_end_when_the_width_is_reached(x64):
    wide, narrow = (resolve_fraction(bulk(), jax.random.key(0), width=w) for w in (0.2, 0.02))
    for result, width in ((wide, 0.2), (narrow, 0.02)):
        assert result.status == "reached"
        assert result.fraction.width <= width
    assert wide.spectrum.num_matvecs < narrow.spectrum.num_matvecs < 400
    # The same numbers as with so many steps from the beginning.
    steps = wide.spectrum.alphas.shape[-1]
    direct = slq(bulk(), jax.random.key(0), num_steps=steps)
    np.testing.assert_array_equal(direct.alphas, wide.spectrum.alphas)
    assert "reached after" in repr(wide)


def test_steps_end_at_their_limit(x64):
    result = resolve_fraction(
        bulk(),
        jax.random.key(0),
        width=1e-3,
        max_steps=45,
        noise_floor=1e-9,
    )
    assert result.status == "max_steps"
    assert result.spectrum.alphas.shape == (1, 45)
    assert result.spectrum.noise_floor == 1e-9


@pytest.mark.slow
def test_other_measures_are_resolved(x64):
    result = resolve_fraction(
        bulk(),
        jax.random.key(0),
        lambda spectrum: negative_fraction(spectrum, 2e-3),
        width=0.1,
        num_probes=2,
        reorthogonalize="full",
        deflate=2,
    )
    assert result.status == "reached"
    assert result.spectrum.reorthogonalize == "full"
    assert result.spectrum.deflated.shape == (2,)
    assert result.fraction.lower <= np.mean(BULK < -2e-3) + 0.1


def test_an_exhausted_space_is_final(x64):
    op = DiagonalOperator(jnp.asarray([0.0] * 30 + [1.0] * 30))
    result = resolve_fraction(op, jax.random.key(0), width=1e-8)
    assert result.status in ("exhausted", "reached")
    assert result.spectrum.num_steps.tolist() == [2]
    assert result.fraction.width < 1e-8


@pytest.mark.slow
def test_an_atom_at_the_end_cannot_be_resolved(x64):
    """A fifth of the mass at ε itself: rounding says on which side, and no step changes it."""
    values = np.r_[np.full(100, 1e-2), np.random.default_rng(0).normal(0, 1, 400)]
    op = DiagonalOperator(jnp.asarray(values))
    result = resolve_fraction(
        op, jax.random.key(0), lambda s: degenerate_fraction(s, 1e-2), width=0.05, max_steps=450
    )
    assert result.status == "atom"
    assert result.fraction.width > 0.05
    assert result.spectrum.alphas.shape[-1] < 450


def test_a_family_goes_on_until_every_network_has_ended(x64):
    easy = DiagonalOperator(jnp.asarray([0.0] * 200 + [1.0] * 200))
    result = resolve_fraction(
        stack([easy, bulk()]),
        jax.random.key(0),
        width=0.05,
        max_steps=300,
    )
    assert result.status.tolist() == ["reached", "reached"]
    assert result.spectrum.num_steps[0].item() < result.spectrum.num_steps[1].item()


@pytest.mark.slow
def test_unusable_requests_are_refused():
    op, key = bulk(), jax.random.key(0)
    for width in (0.0, float("nan")):
        with pytest.raises(InputError, match="width"):
            resolve_fraction(op, key, width=width)
    with pytest.raises(InputError, match="max_steps"):
        resolve_fraction(op, key, max_steps=0)
    with pytest.raises(ResourceError, match="fewer steps"):
        resolve_fraction(op, key, max_steps=300, memory=4 * 400 * 290, reorthogonalize="full")
    with pytest.raises(InputError, match="noise floor"):
        resolve_fraction(op, key, lambda s: degenerate_fraction(s, 1e-12))


@pytest.mark.slow
def test_without_reorthogonalisation_more_steps_than_dimensions_are_made():
    values = np.r_[np.linspace(0, 0.02, 90), np.linspace(1, 50, 30)]
    op = DiagonalOperator(jnp.asarray(values, jnp.float32))
    options = {"reorthogonalize": "none", "width": 1e-6, "max_steps": 200}
    result = resolve_fraction(op, jax.random.key(0), **options)
    assert result.spectrum.alphas.shape[-1] == 200
    assert result.status == "max_steps"
    assert resolve_fraction(op, jax.random.key(0), width=0.02, max_steps=200).status != "max_steps"


def test_eps_is_passed_on_and_other_names_are_refused(x64):
    result = resolve_fraction(bulk(), jax.random.key(0), eps=2e-3, width=0.1)
    assert result.fraction.interval == (-2e-3, 2e-3)
    with pytest.raises(InputError, match="no option relative_to"):
        resolve_fraction(bulk(), jax.random.key(0), relative_to="norm")
    with pytest.raises(InputError, match="must return a Fraction"):
        resolve_fraction(bulk(), jax.random.key(0), lambda spectrum: 0.5)


def test_a_width_that_rounding_exceeds_is_refused():
    op = DiagonalOperator(jnp.asarray(BULK, jnp.float32))
    with pytest.raises(InputError, match="cannot be certified"):
        resolve_fraction(op, jax.random.key(0), width=3e-4)


def test_bounds_that_say_little_tell_what_narrows_them():
    few, many = (slq(bulk(), jax.random.key(0), num_steps=m) for m in (3, 120))
    assert "more steps narrow the bounds: resolve_fraction" in repr(degenerate_fraction(few, 1e-3))
    assert "resolve_fraction" not in repr(degenerate_fraction(many, 1e-3))


@pytest.mark.parametrize(
    ("measure", "options", "words"),
    [
        (1e-3, {}, "by its name, eps"),
        (lambda spectrum: fraction_curve(spectrum, [1e-3]), {}, "got a curve"),
        (lambda spectrum: degenerate_fraction(spectrum), {"eps": 1e-3}, "takes none"),
    ],
)
def test_measures_that_give_no_share_are_refused(measure, options, words, unchecked):
    op = DiagonalOperator(jnp.arange(40.0))
    with pytest.raises(InputError, match=words):
        resolve_fraction(op, jax.random.key(0), measure, **options)


def test_bounds_that_meet_by_chance_beside_an_atom_are_not_called_reached():
    # A hundred eigenvalues at ε as float32 has it: 0.0 or 0.5 can be defended, nothing between.
    eps = float(np.float32(1e-3))
    op = DiagonalOperator(jnp.asarray(np.r_[np.full(100, eps), np.ones(100)], jnp.float32))
    for seed in range(20):
        found = resolve_fraction(op, jax.random.key(seed), num_probes=2, width=0.05, max_steps=60)
        assert found.status == "atom"
