"""Operators that are not quite symmetric: what their spectra say is refused, or known no better."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape.curvature import DenseOperator, DiagonalOperator, hessian, noise_floor, stack
from landscape.errors import InputError
from landscape.spectra import (
    degenerate_fraction,
    dense_spectrum,
    diagonal,
    extremal_eigenpairs,
    lanczos_run,
    resolve_fraction,
    slq,
    spectral_moments,
    trace,
)
from landscape.spectra.slq import gaussian_probes

SCHEMES = ("full", "partial", "none")


def nearly_symmetric(relative: float, dtype: type) -> DenseOperator:
    """Norm 10, half of the eigenvalues 0, and an antisymmetric part so large beside the norm."""
    rng = np.random.default_rng(1)
    size = 400
    values = np.r_[np.zeros(200), 0.05 * rng.standard_normal(195), 10, 8, 6, 4, -5]
    basis, _ = np.linalg.qr(rng.standard_normal((size, size)))
    skew = rng.standard_normal((size, size))
    skew -= skew.T
    matrix = (basis * values) @ basis.T + 10 * relative * skew / np.linalg.norm(skew, 2)
    return DenseOperator(jnp.asarray(matrix, dtype))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("dtype", "relative"), [(np.float32, 1e-3), (np.float64, 1e-9)])
def test_asymmetry_that_moves_bounds_is_refused(scheme, dtype, relative, x64):
    for much in (relative, 100 * relative):
        with pytest.raises(InputError, match="not symmetric"):
            slq(
                nearly_symmetric(much, dtype),
                jax.random.key(0),
                num_steps=50,
                reorthogonalize=scheme,
            )


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("dtype", "relative"), [(np.float32, 2e-5), (np.float64, 1e-11)])
def test_asymmetry_that_is_let_in_is_part_of_the_noise_floor(scheme, dtype, relative, x64):
    key, options = jax.random.key(0), {"num_steps": 50, "reorthogonalize": scheme}
    clean = slq(nearly_symmetric(0, dtype), key, **options)
    skewed = slq(nearly_symmetric(relative, dtype), key, **options)
    # Of ten times the norm's asymmetry a pair of vectors sees a part.
    assert clean.noise_floor < skewed.noise_floor
    assert 0.1 * relative < skewed.noise_floor / 10 < 10 * relative


def test_bounds_hold_beside_the_asymmetry_that_is_let_in():
    op = nearly_symmetric(2e-5, np.float32)
    matrix = np.asarray(op.matrix, float)
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    key = jax.random.key(0)
    probe = np.asarray(gaussian_probes(key, 1, 400, op.dtype)[0], float)
    masses = (vectors.T @ probe) ** 2 / (probe @ probe)
    spectrum = slq(op, key, num_steps=200, reorthogonalize="full")
    for eps in (1e-3, 1e-2, 1e-1):
        fraction = degenerate_fraction(spectrum, eps)
        wide, narrow = (
            masses[np.abs(values) <= eps + sign * fraction.noise_floor].sum() for sign in (1, -1)
        )
        assert fraction.lower - fraction.rounding <= wide
        assert fraction.upper + fraction.rounding >= narrow


def test_a_floor_that_was_measured_lets_more_in():
    op = nearly_symmetric(1e-3, np.float32)
    spectrum = slq(op, jax.random.key(0), num_steps=50, noise_floor=0.02)
    assert spectrum.noise_floor >= 0.02


def test_lost_orthogonality_of_a_symmetric_operator_is_no_asymmetry():
    # Few distinct eigenvalues: without reorthogonalisation neighbours stop to be orthogonal.
    values = np.repeat([0.0, 1e-6, 1e-3, 1.0, 1e3], 60)
    op = DiagonalOperator(jnp.asarray(values, jnp.float32))
    for scheme in SCHEMES:
        run = lanczos_run(op, jax.random.key(0), reorthogonalize=scheme, capacity=80).advance(80)
        assert run.spectrum().num_steps >= 3


def test_eigenpairs_of_what_is_not_symmetric_are_refused():
    with pytest.raises(InputError, match="not symmetric"):
        extremal_eigenpairs(nearly_symmetric(1e-3, np.float32), jax.random.key(0), num_largest=3)


@pytest.mark.parametrize("relative", [1e-2, 1.0])
def test_moments_of_what_is_not_symmetric_are_refused(relative):
    key = jax.random.key(0)
    with pytest.raises(InputError, match="not symmetric"):
        spectral_moments(nearly_symmetric(relative, np.float32), key)
    assert spectral_moments(nearly_symmetric(0, np.float32), key).num_matvecs == 20


def test_a_diagonal_split_is_refused_where_it_asks_for_symmetry_and_a_trace_is_not():
    op, key = nearly_symmetric(1e-2, np.float32), jax.random.key(0)
    with pytest.raises(InputError, match="not symmetric"):
        diagonal(op, key, num_matvecs=60)
    entries = np.diagonal(op.matrix)
    plain = diagonal(op, key, num_matvecs=60, method="hutchinson")
    assert np.abs(plain.value - entries).max() < 6 * plain.stderr.max()
    estimate = trace(op, key, num_matvecs=60)
    assert abs(estimate.value - entries.sum()) < 4 * estimate.stderr + 1e-4


@pytest.mark.parametrize("scale", [0.0, 1.0, 8.0, 12.0])
def test_rounding_of_saturated_networks_is_no_asymmetry_of_moments(scale):
    op, key = saturated(scale), jax.random.key(0)
    values = truth(op)
    moments = spectral_moments(op, key, num_moments=2, num_probes=20)
    error = 5 * moments.stderr + 10 * noise_floor(op, key)
    assert (np.abs(moments.moments - [values.mean(), np.mean(values**2)]) < error).all()
    found = diagonal(op, key, num_matvecs=9)
    assert np.isfinite(found.value).all()


def test_the_refusal_says_what_to_look_at_first():
    op = nearly_symmetric(1e-2, np.float32)
    with pytest.raises(InputError) as of_a_matrix:
        slq(op, jax.random.key(0), num_steps=20)
    assert "kink" not in str(of_a_matrix.value)

    class Shuffled:
        """Begins every walk with the same batch, and goes on with others."""

        def __init__(self):
            self.generator = np.random.default_rng(0)

        def __iter__(self):
            yield jnp.ones((3, 4))
            yield jnp.asarray(self.generator.standard_normal((3, 4)), jnp.float32)

    def loss(w, x):
        return jnp.mean(jnp.tanh(x @ w) ** 2)

    stream = hessian(loss, jnp.linspace(0.1, 1, 4), Shuffled())
    with pytest.raises(InputError, match="same batches in every walk"):
        slq(stream, jax.random.key(0), num_steps=4)


def test_an_exhausted_space_is_no_asymmetry(x64):
    # Twelve distinct eigenvalues: what follows the last of them is made of rounding.
    for seed in range(12):
        values = np.repeat(np.random.default_rng(seed).normal(size=12), 25)
        run = lanczos_run(
            DiagonalOperator(jnp.asarray(values)),
            jax.random.key(seed),
            reorthogonalize="partial",
            capacity=150,
        )
        spectrum = run.advance(150).spectrum()
        assert spectrum.noise_floor < 1e-11


def cross_entropy(weights, batch):
    rows = jax.nn.log_softmax(batch[0] @ weights)
    return -jnp.mean(rows[jnp.arange(len(rows)), batch[1]])


def saturated(scale):
    """A linear softmax classifier of three examples, sure of them: its loss is nearly 0."""
    batch = jnp.eye(6)[:3], jnp.arange(3)
    return hessian(cross_entropy, scale * jnp.eye(6)[:, :3], batch)


def truth(op):
    with jax.enable_x64(True):
        return np.linalg.eigvalsh(np.asarray(op.astype(np.float64).to_dense()))


@pytest.mark.parametrize("scale", [8.0, 10.0, 12.0])
def test_rounding_that_a_small_norm_does_not_explain_is_measured(scale):
    """Its Hessian is small beside what it is computed of, and as asymmetric as that rounds."""
    op, key = saturated(scale), jax.random.key(0)
    values = truth(op)
    spectrum = slq(op, key, num_steps=18)
    assert spectrum.noise_floor < 0.1 * values[-1]
    floor = 10 * noise_floor(op, key)
    assert spectrum.norm == pytest.approx(values[-1], abs=floor)
    np.testing.assert_allclose(dense_spectrum(op).nodes, values, atol=floor)
    pairs = extremal_eigenpairs(op, key, num_largest=1)
    assert float(pairs.values[0]) == pytest.approx(values[-1], abs=floor)
    assert slq(op, key, num_steps=10, deflate=2).num_deflated == 2


def test_where_partial_reorthogonalisation_fails_the_automatic_choice_is_full():
    op, key = saturated(20.0), jax.random.key(0)
    with pytest.raises(InputError, match="lost the orthogonality"):
        slq(op, key, num_steps=18, reorthogonalize="partial")
    spectrum = slq(op, key, num_steps=18)
    assert spectrum.reorthogonalize == "full"
    assert abs(spectrum.norm - truth(op)[-1]) <= spectrum.noise_floor
    resolved = resolve_fraction(op, key, eps=1e-3)
    assert resolved.spectrum.reorthogonalize == "full"
    assert float(resolved.fraction.estimate) == pytest.approx(1)


def test_one_saturated_member_does_not_sink_a_family():
    family = stack([saturated(scale) for scale in (1.0, 10.0)])
    spectrum = slq(family, jax.random.key(0), num_steps=18)
    for index, scale in enumerate((1.0, 10.0)):
        norm = truth(saturated(scale))[-1]
        assert spectrum.norm[index] == pytest.approx(norm, abs=float(spectrum.noise_floor[index]))
    # What one rounds is not the other's floor.
    assert spectrum.noise_floor[0] < 1e-5 * spectrum.norm[0]
    assert spectrum.noise_floor[1] > 1e-5 * spectrum.norm[1]


def test_the_member_that_is_not_symmetric_is_named():
    skew = jnp.zeros((30, 30)).at[0, 1].set(1.0).at[1, 0].set(-1.0)
    family = stack([DenseOperator(jnp.eye(30) + size * skew) for size in (0.0, 1e-2)])
    with pytest.raises(InputError, match="member 1 of the family"):
        slq(family, jax.random.key(0), num_steps=10)


def test_the_antisymmetric_part_of_a_matrix_is_part_of_its_floor(x64):
    skew = np.zeros((30, 30))
    skew[3, 5], skew[5, 3] = 1e-14, -1e-14
    exact = dense_spectrum(DenseOperator(jnp.eye(30)))
    assert exact.noise_floor < 2e-16
    assert dense_spectrum(DenseOperator(jnp.eye(30) + skew)).noise_floor == pytest.approx(1e-14)


def test_a_floor_that_was_given_stands_beside_one_that_is_measured():
    """Of two members whose asymmetry asks for a floor, one has been given it."""
    family, key = stack([saturated(scale) for scale in (10.0, 12.0)]), jax.random.key(0)
    # By the same program as it is measured by: another's rounding is twice as large or half.
    measured = noise_floor(family, key)
    given = np.array([5 * measured[0], 0.0])
    found = slq(family, key, num_steps=18, noise_floor=given).noise_floor
    # A measured one would be ten times what was measured.
    assert found[0] == pytest.approx(given[0], rel=0.5)
    assert 10 * measured[1] <= found[1] <= 30 * measured[1]
