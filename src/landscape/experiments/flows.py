"""Systems of a few weights, their tasks and starts, and how long the flow takes to learn.

What is drawn is drawn from a seed, and the same with and without skips. Equations and sources:
``landscape.theory``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr
from scipy.optimize import minimize

from landscape.theory import TwoMode, TwoUnit, integrate, learning_time

# Of the pictures of one teacher; those of the times are drawn.
TEACHER = (np.array([1.0, 0.8]), np.array([[1.2, 0.3], [-0.2, 1.1]]))
SKIPS = np.eye(2)
STRENGTHS = np.array([3.0, 1.5])
SYSTEMS = ("two units", "two modes")
PLACES = ("overlap", "elimination")
KINDS = ("plain", "residual")

# Times beyond are not waited for.
LONGEST = 1e5
MODES_LEVEL = 0.01
SPREAD = 0.5
CHAIN = {"target": 2.0, "start": 0.3}

# Of the chain: after longer times its last steps are shorter than float64 tells times apart.
_FOLLOWED = 1e12


def draw_teacher(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Outgoing and incoming weights of two units, turned anyhow, and neither alike nor opposite."""
    first = rng.uniform(0, 2 * np.pi)
    angles = np.array([first, first + rng.uniform(np.pi / 4, 3 * np.pi / 4)])
    lengths = rng.uniform(0.8, 1.4, 2)
    incoming = lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    return rng.uniform(0.7, 1.3, 2), incoming


def draw_rotation(rng: np.random.Generator) -> np.ndarray:
    """Of the plane."""
    angle = rng.uniform(0, 2 * np.pi)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def two_units(kind: str, teacher: tuple[np.ndarray, np.ndarray] = TEACHER) -> TwoUnit:
    """The student with its teacher; its skips are the two unit vectors."""
    return TwoUnit(*teacher, SKIPS if kind == "residual" else None)


def two_modes(kind: str, skips: tuple[np.ndarray, np.ndarray]) -> TwoMode:
    """The network of two modes and two hidden units."""
    if kind == "plain":
        return TwoMode(STRENGTHS)
    return TwoMode(STRENGTHS, skips_in=skips[0], skips_out=skips[1])


def best_single(system: TwoUnit) -> tuple[float, np.ndarray, float]:
    """Outgoing and incoming weights of the best single unit, and its loss."""

    def loss(p: np.ndarray) -> float:
        return system.loss(np.full(2, p[0] / 2), np.stack([p[1:], p[1:]]))

    mean = system.teacher_outgoing @ system.teacher_incoming / system.teacher_outgoing.sum()
    found = minimize(
        loss, np.r_[system.teacher_outgoing.sum() / 2, mean], method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-13, "maxiter": 4000, "maxfev": 4000},
    )  # fmt: skip
    return float(found.x[0]), found.x[1:], float(found.fun)


def start_of_units(
    place: str, distance: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Outgoing and incoming weights at a distance from a manifold of the plain system."""
    base, away = 0.2 * rng.normal(size=2), rng.normal(size=(2, 2))
    away /= np.linalg.norm(away)
    if place == "overlap":
        incoming = np.stack([base, base]) + distance * away
        return np.array([0.55, 0.55]), incoming
    return np.array([1.1, distance * rng.normal()]), np.stack([base, distance * away[1]])


def start_of_modes(
    place: str, distance: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A and b at a distance from a manifold of the plain system."""
    a, b, away_a, away_b = 0.2 * rng.normal(size=(4, 2, 2))
    if place == "elimination":
        a[:, 1] = b[:, 1] = 0
    else:
        a[:, 1], b[:, 1] = a[:, 0], b[:, 0]
    return a + distance * away_a, b + distance * away_b


@dataclasses.dataclass(frozen=True)
class Times:
    """Times from one direction, at all distances, with and without skips."""

    system: str
    place: str
    distances: tuple[float, ...]
    seed: int

    def __call__(self, checkpoints: Path, should_stop: Callable[[], bool]) -> xr.Dataset:
        """Follow the flows."""
        follow = self._of_units if self.system == "two units" else self._of_modes
        return xr.Dataset({"time": (("kind", "distance"), follow())})

    def _of_units(self) -> np.ndarray:
        task = np.random.default_rng((self.seed, 1))
        teacher = draw_teacher(task)
        systems = [two_units(kind, teacher) for kind in KINDS]
        level = best_single(systems[0])[2] / 10

        def time(system: TwoUnit, distance: float) -> float:
            # The same direction at every distance.
            start = start_of_units(self.place, distance, np.random.default_rng(self.seed))
            return system.flow(*start, LONGEST, until=level).reached

        return np.array([[time(system, d) for d in self.distances] for system in systems])

    def _of_modes(self) -> np.ndarray:
        task = np.random.default_rng((self.seed, 1))
        skips = draw_rotation(task), draw_rotation(task)
        systems = [two_modes(kind, skips) for kind in KINDS]

        def time(system: TwoMode, distance: float) -> float:
            start = start_of_modes(self.place, distance, np.random.default_rng(self.seed))
            return system.flow(*start, LONGEST, until=MODES_LEVEL).reached

        return np.array([[time(system, d) for d in self.distances] for system in systems])


@dataclasses.dataclass(frozen=True)
class Typical:
    """Times of both systems from typical weights, with and without skips."""

    seed: int

    def __call__(self, checkpoints: Path, should_stop: Callable[[], bool]) -> xr.Dataset:
        """Follow the flows from the same weights."""
        rng, task = np.random.default_rng(self.seed), np.random.default_rng((self.seed, 1))
        first, second = (SPREAD * rng.normal(size=s) for s in ((3, 2), (2, 2, 2)))
        teacher, skips = draw_teacher(task), (draw_rotation(task), draw_rotation(task))
        level = best_single(two_units("plain", teacher))[2] / 10
        times = [
            [
                two_units(kind, teacher).flow(first[0], first[1:], LONGEST, until=level).reached
                for kind in KINDS
            ],
            [
                two_modes(kind, skips)
                .flow(second[0], second[1], LONGEST, until=MODES_LEVEL)
                .reached
                for kind in KINDS
            ],
        ]
        return xr.Dataset({"typical": (("system", "kind"), np.array(times))})


@dataclasses.dataclass(frozen=True)
class Chain:
    """Learning times of the chain, in closed form and, where that can be done, by integration."""

    depths: tuple[int, ...]

    def __call__(self, checkpoints: Path, should_stop: Callable[[], bool]) -> xr.Dataset:
        """Both, with and without skips."""
        closed, followed = np.full((2, 2, len(self.depths)), np.nan)
        for i, skip in enumerate((False, True)):
            for j, depth in enumerate(self.depths):
                # With skips the chain starts near 1, below its target's root.
                start = 0.0 if skip else CHAIN["start"]
                closed[i, j] = learning_time(depth, CHAIN["target"], start, skip=skip)
                if closed[i, j] < _FOLLOWED:
                    path = integrate(depth, CHAIN["target"], start, 2 * closed[i, j], skip=skip)
                    followed[i, j] = path.reached
        where = ("kind", "depth")
        return xr.Dataset({"closed": (where, closed), "followed": (where, followed)})
