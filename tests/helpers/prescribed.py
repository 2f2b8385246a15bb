"""Prescribed spectra, and what is asked of their certified bounds."""

import jax
import jax.numpy as jnp
import numpy as np

from landscape.curvature import DiagonalOperator
from landscape.spectra import fraction_between
from landscape.spectra import slq as slq_of

EPS = 1e-3


def slq(op, key, *, num_steps, **options):
    """``slq`` with one capacity for most: programs take longer to compile than to run."""
    if num_steps <= 150 and "memory" not in options:
        options.setdefault("capacity", 150)
    return slq_of(op, key, num_steps=num_steps, **options)


def spectrum_of(kind, size=300, seed=0):
    """Prescribed eigenvalues: clusters, zeros, outliers, negative parts, atoms at ±ε."""
    rng = np.random.default_rng(seed)
    if kind == "zeros and outliers":
        parts = [np.zeros(size // 2), rng.exponential(1, size // 2 - 5), [50, 80, 120, 300, 1000]]
    elif kind == "atoms at eps":
        parts = [[EPS] * 30, [-EPS] * 30, np.zeros(60), rng.normal(0, 1, size - 120)]
    elif kind == "clusters":
        parts = [c + 1e-6 * rng.normal(size=size // 3) for c in (-0.5, 0.0, 2.0)]
    elif kind == "continuum":
        parts = [rng.normal(0, 3 * EPS, size)]
    values = np.concatenate(parts)
    return np.sort(values)


KINDS = ["zeros and outliers", "atoms at eps", "clusters", "continuum"]


def probe_measure(values, key, dtype=np.float64):
    """The probe's own weights on the eigenvalues, as slq draws it for a diagonal operator."""
    v = jax.random.normal(jax.random.fold_in(key, 0), (len(values),), dtype)
    v = np.asarray(v, np.float64)
    return v**2 / (v @ v)


def rotated(values, seed):
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))
    return (q * values) @ q.T


def certified_interval_contains(values, key, num_steps, scheme, eps=EPS):
    op = DiagonalOperator(jnp.asarray(values))
    spectrum = slq(op, key, num_steps=num_steps, reorthogonalize=scheme)
    weights = probe_measure(values, key, values.dtype)
    values = values.astype(np.float64)
    for low, high in ((-eps, eps), (-np.inf, -eps), (0.5, np.inf), (-0.1, 0.0), (-np.inf, 0.0)):
        fraction = fraction_between(spectrum, low, high)
        delta, eta = float(fraction.noise_floor), fraction.rounding
        if op.dtype == np.float64:
            delta = 1e-12 * np.abs(values).max()
        inner = weights[(values >= low + delta) & (values <= high - delta)].sum()
        outer = weights[(values >= low - delta) & (values <= high + delta)].sum()
        assert fraction.lower - eta <= outer
        assert fraction.upper + eta >= inner
        assert fraction.certified
