"""Bounds on a spectral measure's mass in intervals, of all probes together.

The measure is pooled over probes by their squared lengths, and joined with the eigenvalues that
were deflated: those are counted one by one. ``landscape.spectra.bounds`` has the bounds of a single
probe.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from landscape.spectra.bounds import distribution_bounds, gauss_bounds, turned_mass
from landscape.spectra.measures import LanczosSpectrum, SpectralMeasure, Spectrum
from landscape.spectra.slq import LANCZOS_ROUNDING

# Error between unit vectors of products, steps and the decomposition of T together, in units of the
# type's ε times the norm, beside two clusters of eigenvalues at 10⁻⁷ to 10⁻⁴ of the norm from an
# end. In float32 it was 0.15 on average and 2.2 at most, of matrices of 3 to 3,000 rows. In
# float64, where T is decomposed in the type it was made in, 3.6 at most of 6,000.
_ENTRIES = {"float32": 3.0, "float64": 6.0}

# The same of products that round more than their type does, as a share of the noise floor: beside
# asymmetry of 2·10⁻⁶ to 5·10⁻⁵ of the norm it was 0.24 at most.
_OF_FLOOR = 0.5


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


def turned(spectrum: LanczosSpectrum, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """How much mass rounding may carry across the ends of intervals, beyond the noise floor.

    Parameters
    ----------
    spectrum
        Of a Lanczos run.
    low, high
        Ends of n intervals, (n,) or (*batch, n).

    Returns
    -------
    (*batch, n), as a share of all eigenvalues; both ends together.
    """
    batch = spectrum.num_steps.shape[:-1]
    ends = np.stack(np.broadcast_arrays(low, high), -1)
    ends = np.broadcast_to(ends, (*batch, *ends.shape[-2:]))
    found = np.zeros(ends.shape[:-1])
    for index in np.ndindex(batch):
        points = ends[index].ravel()
        floor, norm = float(spectrum.noise_floor[index]), float(spectrum.norm[index])
        error = _ENTRIES[spectrum.dtype] * float(np.finfo(spectrum.dtype).eps) * norm
        # The norm that the floor was taken at may be larger, by less than 2.
        error += _OF_FLOOR * max(0.0, floor - 2 * LANCZOS_ROUNDING[spectrum.dtype] * norm)
        # Nodes on the other side count from where the noise floor has ended: halfway, since they
        # are known no better themselves.
        apart = floor / 2
        for probe, share in enumerate(spectrum.shares[index]):
            nodes, weights = spectrum.quadrature((*index, probe))
            upto, below = (np.searchsorted(nodes, points, side) for side in ("right", "left"))
            past = np.searchsorted(nodes, points + apart, "right")
            before = np.searchsorted(nodes, points - apart, "left")
            either = np.maximum(
                turned_mass(nodes, weights, upto, past, error),
                turned_mass(nodes, weights, before, below, error),
            )
            found[index] += share * either.reshape(-1, 2).sum(-1)
    return found * spectrum.num_dimensions / spectrum.num_parameters


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
    nodes, weights = spectrum.quadrature(index)
    below, upto = (points > 0).astype(float), (points > 0).astype(float)
    finite = np.isfinite(points)
    if finite.any():
        alphas, betas = (part[index][:steps] for part in (spectrum.alphas, spectrum.betas))
        below[finite], upto[finite] = distribution_bounds(
            nodes, weights, alphas, betas, points[finite]
        )
    return below, upto
