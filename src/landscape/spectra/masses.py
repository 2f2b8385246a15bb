"""Bounds on a spectral measure's mass in intervals, of all probes together.

The measure is pooled over probes by their squared lengths, and joined with the eigenvalues that
were deflated: those are counted one by one. ``landscape.spectra.bounds`` has the bounds of a single
probe.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from landscape.spectra.bounds import distribution_bounds, gauss_bounds
from landscape.spectra.measures import LanczosSpectrum, SpectralMeasure, Spectrum


def mass_bounds(
    spectrum: LanczosSpectrum, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds on μ[a, b], (*batch,): Ψ(b) − Ψ(a⁻) with each term bounded."""
    batch = spectrum.alphas.shape[:-2]
    low, high = np.broadcast_to(low, batch), np.broadcast_to(high, batch)
    shares = spectrum.shares
    lower, upper = np.zeros(batch), np.zeros(batch)
    for index in np.ndindex(batch):
        ends = np.array([low[index], high[index]])
        free = _around_gauss(spectrum, index, ends[:1], ends[1:])
        for probe, (at_least, at_most) in enumerate(free):
            below, upto = _distribution(spectrum, (*index, probe), ends)
            share = shares[index][probe]
            lower[index] += share * max(below[1] - upto[0], at_least[0])
            upper[index] += share * max(min(upto[1] - below[0], at_most[0]), 0.0)
    lower, upper = (np.asarray(np.clip(x, 0, 1)) for x in (lower, upper))
    return _with_known(spectrum, lower, low, high), _with_known(spectrum, upper, low, high)


def gauss_mass_bounds(
    spectrum: LanczosSpectrum, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds on the mass in each of n intervals, (*batch, n), that cost little."""
    shape = (*spectrum.num_steps.shape[:-1], len(low))
    lower, upper = np.zeros(shape), np.zeros(shape)
    for index in np.ndindex(shape[:-1]):
        each = _around_gauss(spectrum, index, low, high)
        for share, bounds in zip(spectrum.shares[index], each, strict=True):
            lower[index] += share * bounds[0]
            upper[index] += share * bounds[1]
    return _with_known(spectrum, lower, low, high), _with_known(spectrum, upper, low, high)


def known_inside(spectrum: Spectrum, low: Any, high: Any, like: np.ndarray) -> np.ndarray:
    """How many deflated eigenvalues lie in each interval: one a spectrum, or n of a curve."""
    if isinstance(spectrum, SpectralMeasure):
        return np.zeros(np.shape(like), int)
    low, high = np.asarray(low, float)[..., None], np.asarray(high, float)[..., None]
    is_curve = np.ndim(like) == spectrum.deflated.ndim
    values = spectrum.deflated[..., None, :] if is_curve else spectrum.deflated
    return np.asarray(((values >= low) & (values <= high)).sum(-1))


def _with_known(spectrum: LanczosSpectrum, mass: np.ndarray, low: Any, high: Any) -> np.ndarray:
    """Share of all eigenvalues, from the probes' mass and what is known one by one."""
    size, known = spectrum.num_parameters, known_inside(spectrum, low, high, mass)
    return np.asarray((known + (size - spectrum.num_deflated) * mass) / size)


def _around_gauss(
    spectrum: LanczosSpectrum, index: tuple[int, ...], low: np.ndarray, high: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Bounds on each probe's mass in n intervals."""
    for probe in range(spectrum.num_probes):
        steps = spectrum.num_steps[(*index, probe)]
        nodes, weights = spectrum.quadrature((*index, probe))
        alphas, betas = (
            part[(*index, probe)][:steps] for part in (spectrum.alphas, spectrum.betas)
        )
        first, last = (
            gauss_bounds(nodes, weights, alphas, betas, points) for points in (low, high)
        )
        yield np.maximum(last[0] - first[1], 0), np.minimum(last[1] - first[0], 1)


def _distribution(
    spectrum: LanczosSpectrum, index: tuple[int, ...], points: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """``distribution_bounds`` of one probe, with infinite points allowed."""
    steps = spectrum.num_steps[index]
    below, upto = (points > 0).astype(float), (points > 0).astype(float)
    finite = np.isfinite(points)
    if finite.any():
        below[finite], upto[finite] = distribution_bounds(
            spectrum.alphas[index][:steps], spectrum.betas[index][:steps], points[finite]
        )
    return below, upto
