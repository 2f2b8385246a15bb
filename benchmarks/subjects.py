"""Matrices and trained networks whose spectra are known, to hold certified bounds against."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from landscape.curvature import DenseOperator, DiagonalOperator, hessian, noise_floor
from landscape.curvature.operators import LinearOperator
from landscape.data import load
from landscape.models import MLP
from landscape.training import TrainConfig, fit, softmax_cross_entropy

EPS = 1e-3
WIDE = 2.0**-4  # a number of both types: the atoms at its ends are exact
SIZE = 300
DTYPES = ("float64", "float32")


# Truth


@dataclasses.dataclass(frozen=True)
class Truth:
    """A dense eigendecomposition.

    Attributes
    ----------
    values
        (P,) ascending.
    vectors
        (P, P) columns, or the order of the coordinates if the matrix is diagonal.
    """

    values: np.ndarray
    vectors: np.ndarray

    @staticmethod
    def of_diagonal(diagonal: np.ndarray) -> Truth:
        """Of a diagonal matrix: exact."""
        order = np.argsort(diagonal, kind="stable")
        return Truth(np.asarray(diagonal, float)[order], order)

    @staticmethod
    def of_matrix(matrix: Any) -> Truth:
        """In float64, of the symmetric part."""
        matrix = np.asarray(matrix, float)
        return Truth(*np.linalg.eigh((matrix + matrix.T) / 2))

    def measure(self, probe: np.ndarray) -> Measure:
        """The probe's own measure."""
        probe = np.asarray(probe, float)
        diagonal = self.vectors.ndim == 1
        parts = probe[self.vectors] if diagonal else self.vectors.T @ probe
        return Measure(self.values, parts**2 / (parts @ parts))

    def spectrum(self) -> Measure:
        """Mass 1/P at each eigenvalue."""
        return Measure(self.values, np.full(len(self.values), 1 / len(self.values)))


@dataclasses.dataclass(frozen=True)
class Measure:
    """Masses at points in ascending order."""

    points: np.ndarray
    masses: np.ndarray

    def between(self, low: float, high: float) -> float:
        """Mass of the closed interval; 0 if it is empty."""
        return float(self.masses[(self.points >= low) & (self.points <= high)].sum())

    def upto(self, x: np.ndarray, side: str = "right") -> np.ndarray:
        """Distribution function at x; ``side="left"`` leaves out a mass at x itself."""
        cumulative = np.concatenate([[0.0], np.cumsum(self.masses)])
        return cumulative[np.searchsorted(self.points, x, side)]


def kolmogorov_smirnov(found: Measure, exact: Measure, floor: float) -> float:
    """Largest difference of the distribution functions, points known to ``floor`` only."""
    over = found.upto(found.points) - exact.upto(found.points + floor)
    under = exact.upto(found.points - floor, "left") - found.upto(found.points, "left")
    return float(max(over.max(), under.max(), 0))


def wasserstein(found: Measure, exact: Measure) -> float:
    """Integral of the difference of the distribution functions."""
    x = np.sort(np.concatenate([found.points, exact.points]))
    return float(np.abs(found.upto(x[:-1]) - exact.upto(x[:-1])) @ np.diff(x))


# Subjects


@dataclasses.dataclass(frozen=True)
class Subject:
    """A matrix in both types, with its truths and the probes to try on it.

    Attributes
    ----------
    name, family
        Family: diagonal, dense or network.
    operators, floors
        By type; the floor is what ``noise_floor`` says of a network, None for a matrix.
    truths
        By type, then by name.
    seeds
        Of the probes: each makes a case.
    """

    name: str
    family: str
    operators: dict[str, LinearOperator]
    floors: dict[str, float | None]
    truths: dict[str, dict[str, Truth]]
    seeds: tuple[int, ...]


def in_type(dtype: str) -> Any:
    """Context in which arrays of a type can be made."""
    return jax.enable_x64(dtype == "float64")


def prescribed(kind: str, seed: int, size: int = SIZE) -> np.ndarray:
    """Eigenvalues with what makes bounds hard."""
    rng = np.random.default_rng(seed)
    n = size // 3
    if kind == "zeros, outliers":
        parts = [np.zeros(size // 2), rng.exponential(1, size // 2 - 5), [50, 80, 120, 300, 1000]]
    elif kind == "atoms at ±eps":
        ends = [EPS, -EPS, WIDE, -WIDE]
        parts = [np.repeat(ends, size // 10), rng.normal(0, 1, size - 4 * (size // 10))]
    elif kind == "clusters":
        parts = [c + 10.0 ** -rng.integers(5, 12) * rng.normal(size=n) for c in (-0.5, 0.0, 2.0)]
    elif kind == "continuum":
        parts = [rng.normal(0, 3 * EPS, size)]
    elif kind == "negative part":
        parts = [-rng.exponential(0.02, n), rng.exponential(2, n), rng.normal(0, EPS, size - 2 * n)]
    elif kind == "power law":
        parts = [np.logspace(-8, 3, size) * np.where(rng.random(size) < 0.2, -1, 1)]
    elif kind == "extreme outliers":
        parts = [rng.normal(0, 1, size - 3) * rng.choice([EPS, 1, 10]), [1e7, 0.7e7, -1e7 / 3]]
    elif kind == "rank deficient":
        parts = [np.zeros(size - 40), rng.exponential(1, 30), np.repeat([1.0, -WIDE], 5)]
    elif kind == "few distinct":
        parts = [rng.choice(rng.normal(size=12), size)]
    elif kind == "at the norm":
        parts = [np.ones(n), np.full(n, 0.9), np.full(size - 2 * n, 1.0 if seed % 2 else 0.9)]
    elif kind == "astride the ends":
        # As close to an end on both sides as rounding tells apart, or by up to a thousand times.
        gap = 10.0 ** rng.uniform(-6.5, -3.5)
        ends = np.multiply.outer([EPS, -EPS, WIDE, -WIDE], [1, 1]) + gap * np.array([-1, 1])
        parts = [np.repeat(ends, size // 9), rng.uniform(-1, 1, size - 8 * (size // 9))]
    return rng.permutation(np.concatenate(parts))


KINDS = (
    "zeros, outliers",
    "atoms at ±eps",
    "clusters",
    "continuum",
    "negative part",
    "power law",
    "extreme outliers",
    "rank deficient",
    "few distinct",
    "astride the ends",
    "at the norm",
)


def diagonal_subject(kind: str, seed: int) -> Subject:
    """A prescribed spectrum as it is."""
    values = prescribed(kind, seed)
    operators, truths = {}, {}
    for dtype in DTYPES:
        rounded = values.astype(dtype)
        with in_type(dtype):
            operators[dtype] = DiagonalOperator(jnp.asarray(rounded))
        truths[dtype] = {"exact": Truth.of_diagonal(rounded)}
    return Subject(kind, "diagonal", operators, dict.fromkeys(DTYPES), truths, (seed,))


def dense_subject(kind: str, seed: int) -> Subject:
    """A prescribed spectrum, rotated at random."""
    values = prescribed(kind, seed)
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(SIZE, SIZE)))
    matrix = (rotation * values) @ rotation.T
    matrix = (matrix + matrix.T) / 2
    operators, truths = {}, {}
    for dtype in DTYPES:
        rounded = matrix.astype(dtype)
        with in_type(dtype):
            operators[dtype] = DenseOperator(jnp.asarray(rounded))
        truths[dtype] = {"exact": Truth.of_matrix(rounded)}
    return Subject(kind, "dense", operators, dict.fromkeys(DTYPES), truths, (seed,))


class ConvNet(nn.Module):
    """Two convolutions, pooling, a readout; P = 450 with batch normalisation.

    Attributes
    ----------
    activation
        A function of arrays.
    normalise
        Whether each convolution is followed by batch normalisation.
    """

    activation: Callable[[jax.Array], jax.Array]
    normalise: bool

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Logits, (N, 10)."""
        x = inputs
        for features, stride in ((4, 1), (8, 2)):
            x = nn.Conv(features, (3, 3), (stride, stride))(x)
            if self.normalise:
                x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
            x = self.activation(x)
        return nn.Dense(10)(x.mean((1, 2)))


NETWORKS: dict[str, tuple[nn.Module, int]] = {
    f"{skip} {activation}": (MLP(6, 10, 10, skip=skip, activation=activation), 300)
    for skip in ("none", "identity", "hyper")
    for activation in ("relu", "tanh")
} | {
    "conv relu, BN": (ConvNet(nn.relu, True), 100),
    "conv tanh": (ConvNet(nn.tanh, False), 100),
    "identity relu 10×16": (MLP(10, 16, 10, skip="identity"), 300),
}


def dense(op: LinearOperator) -> jax.Array:
    """Column by column where P is small: a block of convolutions costs more than its columns."""
    return op.to_dense(block_size=1 if op.shape[0] < 1000 else 128)


def network_subject(name: str, seeds: tuple[int, ...], epochs: int) -> Subject:
    """The Hessian of a network trained on some of the digits."""
    model, num_examples = NETWORKS[name]
    digits = load("digits").subset(num_examples, seed=0).standardized()
    run = fit(model, digits, TrainConfig(epochs, 20, 3e-3), jax.random.key(0))
    coarse = hessian(softmax_cross_entropy(model), run.params, digits.arrays(), state=run.state)
    with in_type("float64"):
        operators = {"float64": coarse.astype(jnp.float64), "float32": coarse}
        fine = Truth.of_matrix(dense(operators["float64"]))
    own = Truth.of_matrix(dense(coarse))
    floors: dict[str, float | None] = {}
    for dtype in DTYPES:
        with in_type(dtype):
            floors[dtype] = float(noise_floor(operators[dtype], jax.random.key(99)))
    truths = {"float64": {"float64": fine}, "float32": {"float64": fine, "own": own}}
    return Subject(name, "network", operators, floors, truths, seeds)


def subjects(quick: bool) -> Iterator[Subject]:
    """All matrices and networks: 240 cases, or 6."""
    for kind in KINDS[::2] if quick else KINDS:
        for seed in range(1 if quick else 13):
            yield diagonal_subject(kind, seed)
    for kind in () if quick else KINDS:
        for seed in range(5):
            yield dense_subject(kind, 100 + seed)
    chosen = ("identity relu",) if quick else tuple(NETWORKS)
    for name in chosen:
        many = 1 if quick else 2 if "16" in name else 5
        yield network_subject(name, tuple(range(many)), 10 if quick else 40)
