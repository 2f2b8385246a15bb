import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape._pytrees import pytree
from landscape.curvature import DenseOperator, DiagonalOperator, LinearOperator
from landscape.errors import InputError, ResourceError
from landscape.spectra import Moments, slq, spectral_moments


def rotated(values, seed=1):
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))
    return (q * values) @ q.T


def eigenvalues(size=200):
    rng = np.random.default_rng(0)
    return np.concatenate([np.zeros(size // 2), rng.normal(0.3, 1, size // 2 - 2), [4.0, -3.0]])


def raw(values, orders):
    return np.array([np.mean(np.asarray(values, float) ** j) for j in range(1, orders + 1)])


class HostOperator(LinearOperator):
    """Products made outside JAX, as a streamed batch's are; nothing of it can be traced."""

    def __init__(self, matrix):
        self.matrix, self.columns = np.asarray(matrix), []

    @property
    def shape(self):
        return self.matrix.shape

    @property
    def dtype(self):
        return self.matrix.dtype

    def _products(self):
        raise AssertionError("only matmat may be used")

    def _matmat(self, vectors):
        self.columns.append(vectors.shape[1])
        return jnp.asarray(self.matrix @ np.asarray(vectors))


@pytest.mark.parametrize("num_moments", [1, 2, 5, 8])
@pytest.mark.parametrize("num_probes", [1, 3])
def test_moments_are_those_of_the_same_probes_with_dense_powers(num_moments, num_probes, x64):
    matrix = rotated(eigenvalues())
    key = jax.random.key(2)
    found = spectral_moments(
        DenseOperator(jnp.asarray(matrix)), key, num_moments=num_moments, num_probes=num_probes
    )
    probes = np.stack(
        [
            jax.random.normal(jax.random.fold_in(key, i), (200,), jnp.float64)
            for i in range(num_probes)
        ]
    )
    powers = [np.linalg.matrix_power(matrix, j) for j in range(1, num_moments + 1)]
    forms = np.array([[v @ power @ v for power in powers] for v in probes])
    np.testing.assert_allclose(found.moments, forms.sum(0) / (probes**2).sum(), rtol=1e-12)
    assert found.num_matvecs == num_probes * -(-num_moments // 2)
    assert (found.num_probes, found.num_moments) == (num_probes, num_moments)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_moments_lie_within_their_own_errors_of_the_spectrums(dtype, x64):
    values = eigenvalues(2000).astype(dtype)
    found = spectral_moments(DiagonalOperator(jnp.asarray(values)), jax.random.key(0))
    assert found.dtype == np.dtype(dtype).name
    assert (np.abs(found.moments - raw(values, 4)) < 4 * found.stderr).all()
    assert (found.stderr < 0.1 * raw(values, 4)[1::2].max()).all()
    assert found.mean == pytest.approx(values.mean(), abs=4 * found.stderr[0])
    assert found.variance == pytest.approx(values.var(), rel=0.2)


def test_central_moments_come_from_the_raw_ones():
    values = np.array([-1.0, 0.0, 0.0, 2.0, 7.0])
    exact = Moments(raw(values, 3)[None], np.ones(1), 5, "float64", 0)
    deviations = values - values.mean()
    assert exact.mean == pytest.approx(values.mean())
    assert exact.variance == pytest.approx(np.mean(deviations**2))
    assert exact.skewness == pytest.approx(np.mean(deviations**3) / values.std() ** 3)


def test_moments_are_unbiased_with_the_exact_deviation_and_know_it(x64):
    values = np.concatenate([np.zeros(20), np.linspace(-1, 2, 30)])
    op, truth = DiagonalOperator(jnp.asarray(values)), raw(values, 8)
    runs = [
        spectral_moments(op, jax.random.key(seed), num_probes=10, num_moments=4)
        for seed in range(400)
    ]
    errors = np.array([run.moments - truth[:4] for run in runs])
    # One direction, uniform in R^kP.
    deviation = np.sqrt(2 * (truth[1::2] - truth[:4] ** 2) / (10 * 50 + 2))
    assert (np.abs(errors.mean(0)) < 4 * deviation / np.sqrt(400)).all()
    np.testing.assert_allclose(errors.std(0), deviation, rtol=4 / np.sqrt(800))
    np.testing.assert_allclose(np.mean([r.stderr for r in runs], 0), deviation, rtol=0.1)
    # Student's t with nine degrees of freedom: 95 % lie within 2.262.
    covered = np.mean(np.abs(errors) < 2.262 * np.array([r.stderr for r in runs]), 0)
    np.testing.assert_allclose(covered, 0.95, atol=0.045)


def test_the_covariance_is_that_of_repeated_runs(x64):
    op = DiagonalOperator(jnp.asarray(eigenvalues(60)))
    runs = [spectral_moments(op, jax.random.key(seed), num_moments=2) for seed in range(400)]
    found = np.mean([run.covariance for run in runs], 0)
    np.testing.assert_allclose(found, np.cov([r.moments for r in runs], rowvar=False), rtol=0.3)
    np.testing.assert_allclose(np.diag(runs[0].covariance), runs[0].stderr ** 2)


def test_one_probe_does_not_know_its_error():
    found = spectral_moments(DiagonalOperator(jnp.arange(9.0)), jax.random.key(0), num_probes=1)
    assert np.isnan(found.stderr).all()
    assert np.isnan(found.covariance).all()
    assert np.isfinite(found.moments).all()
    assert "1 probe:" in repr(found)


def test_probes_are_those_of_lanczos(x64):
    op, key = DiagonalOperator(jnp.asarray(eigenvalues(50))), jax.random.key(5)
    spectrum = slq(op, key, num_steps=4, num_probes=3)
    found = spectral_moments(op, key, num_probes=3, num_moments=6)
    np.testing.assert_allclose(found.probe_norms, spectrum.probe_norms)
    expected = [(spectrum.weights * spectrum.nodes**j).sum() for j in range(1, 7)]
    np.testing.assert_allclose(found.moments, expected, rtol=1e-11)


@pytest.mark.parametrize(
    ("values", "moments"),
    [(np.zeros(5), [0, 0, 0, 0]), (np.ones(5), [1, 1, 1, 1]), ([-3.0], [-3, 9, -27, 81])],
    ids=["zero", "identity", "one parameter"],
)
def test_a_multiple_of_the_identity_is_known_exactly(values, moments):
    op = DiagonalOperator(jnp.asarray(values, jnp.float32))
    found = spectral_moments(op, jax.random.key(0))
    np.testing.assert_allclose(found.moments, moments, rtol=1e-6)
    np.testing.assert_allclose(found.stderr, 0, atol=1e-5)
    assert found.variance == 0
    assert np.isnan(found.skewness)


def test_rank_one_gives_powers_of_its_eigenvalue(x64):
    found = spectral_moments(
        DenseOperator(jnp.asarray(rotated([0] * 39 + [7.0]))), jax.random.key(0)
    )
    np.testing.assert_allclose(found.moments[1:] / found.moments[:-1], 7, rtol=1e-12)


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_powers_neither_overflow_nor_underflow_in_float32(factor):
    values = jnp.asarray(eigenvalues(), jnp.float32)
    one = spectral_moments(DiagonalOperator(values), jax.random.key(0), num_moments=6)
    other = spectral_moments(DiagonalOperator(values * factor), jax.random.key(0), num_moments=6)
    scaled = one.moments * float(factor) ** np.arange(1, 7)
    np.testing.assert_allclose(other.moments, scaled, rtol=1e-5)


def test_only_matmat_is_used_once_a_product_with_all_probes():
    matrix = rotated(eigenvalues(40)).astype(np.float32)
    op = HostOperator(matrix)
    found = spectral_moments(op, jax.random.key(0), num_moments=5, num_probes=7)
    assert op.columns == [7, 7, 7]
    dense = spectral_moments(
        DenseOperator(jnp.asarray(matrix)), jax.random.key(0), num_moments=5, num_probes=7
    )
    np.testing.assert_allclose(found.moments, dense.moments, rtol=1e-4, atol=1e-5)


def test_a_probe_left_out_is_as_if_it_had_not_been_drawn(x64):
    op = DiagonalOperator(jnp.asarray(eigenvalues(40)))
    three, two = (spectral_moments(op, jax.random.key(0), num_probes=probes) for probes in (3, 2))
    left = three.without_probe(2)
    np.testing.assert_allclose(left.moments, two.moments, rtol=1e-13)
    assert left.num_matvecs == two.num_matvecs


@pytest.mark.parametrize(
    ("options", "message"), [({"num_moments": 0}, "num_moments"), ({"num_probes": 0}, "num_probes")]
)
def test_unusable_counts_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        spectral_moments(DiagonalOperator(jnp.ones(3)), jax.random.key(0), **options)


def test_operators_without_moments_are_refused(x64):
    key = jax.random.key(0)
    with pytest.raises(InputError, match="not square"):
        spectral_moments(HostOperator(np.ones((2, 3), np.float32)), key)
    for bad in (jnp.nan, jnp.inf):
        with pytest.raises(InputError, match="NaN or infinite"):
            spectral_moments(DiagonalOperator(jnp.array([1.0, bad])), key)
    with pytest.raises(InputError, match="moment 4 is larger"):
        spectral_moments(DiagonalOperator(jnp.full(3, 1e100)), key)


def test_a_family_is_refused():
    @pytree
    @dataclasses.dataclass(frozen=True, repr=False)
    class Family(DiagonalOperator):
        batch_shape = (2,)

    with pytest.raises(InputError, match="family"):
        spectral_moments(Family(jnp.ones(3)), jax.random.key(0))


@pytest.mark.parametrize("name", ["variance", "skewness"])
def test_central_moments_that_are_not_known_are_refused(name):
    found = spectral_moments(DiagonalOperator(jnp.ones(3)), jax.random.key(0), num_moments=1)
    with pytest.raises(InputError, match="moments are needed"):
        getattr(found, name)


def test_more_probes_than_memory_are_refused():
    # Once the interpreter was ended by a failed check inside XLA.
    with pytest.raises(ResourceError, match="fewer probes"):
        spectral_moments(DiagonalOperator(jnp.ones(5)), jax.random.key(0), num_probes=10**10)
