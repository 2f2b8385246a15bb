"""The units behind a budget's counts, in words."""

from __future__ import annotations

from typing import Any

import numpy as np

from landscape.degeneracy.networks import Network
from landscape.degeneracy.targets import STILL, TargetCounts, leading_columns

# Units are named up to so many, and pairs of them from this cosine of their incoming weights.
_LISTED = 12
_ALIKE = 0.99


def findings(network: Network, targets: list[TargetCounts], walk: Any, params: Any) -> list[str]:
    """Which units are silent, constant or always active, read what is dependent, overlap or nearly.

    A line for each layer, and one for the inputs.

    Parameters
    ----------
    network, params
        A network and its parameters.
    targets
        Of each map.
    walk
        Of the examples that were counted on.

    Returns
    -------
    Layers without any are left out.
    """
    found = []
    if len(still := _constant(np.asarray(walk.inputs[0]))):
        found.append(f"inputs: {_listed(still, 'number')} constant")
    for number, (one, counts) in enumerate(zip(network.maps[:-1], targets[:-1], strict=True)):
        response = np.asarray(walk.activities[number])
        response = response.reshape(-1, response.shape[-1])
        silent = np.flatnonzero(counts.silent)
        never = always = np.zeros(0, int)
        if network.rescalable:
            active = np.asarray(walk.preactivations[number] > 0)
            never, always = np.flatnonzero(~active.any(0)), np.flatnonzero(active.all(0))
        unread = np.setdiff1d(silent, never)
        parts = []
        if len(never):
            parts.append(f"{_units(never)} never active")
        if len(unread):
            parts.append(f"{_units(unread)} without effect on the logits")
        still = _constant(response)
        if len(constant := still[response[0, still] != 0]):
            parts.append(f"{_units(constant)} constant")
        if len(always):
            parts.append(f"{_units(always)} active on all examples")
        if counts.dependence.any():
            parts.append(f"what {_units(np.flatnonzero(counts.dependence))} read is dependent")
        if counts.conditional.any():
            where = _units(np.flatnonzero(counts.conditional))
            parts.append(f"what {where} read is dependent on the examples that they move")
        if network.sequential and response.shape[-1] == len(counts.silent):
            twins = _twins(response)
            parts += [f"{first} and {second} overlap" for first, second in twins]
            alike = [
                f"{first} and {second} nearly overlap, cosine {cosine:.4f}"
                for first, second, cosine in _alike(one.weights(params), counts.silent)
                if (first, second) not in twins
            ]
            parts += [*alike[:_LISTED], *(["…"] if len(alike) > _LISTED else [])]
        if parts:
            found.append(f"{one.name}: {'; '.join(parts)}")
    return found


def _units(numbers: np.ndarray) -> str:
    return _listed(numbers, "unit")


def _listed(numbers: np.ndarray, name: str) -> str:
    more = f", … ({len(numbers):,} of them)" if len(numbers) > _LISTED else ""
    listed = ", ".join(map(str, numbers[:_LISTED])) + more
    return f"{name}{'s' if len(numbers) > 1 else ''} {listed}"


def _constant(read: np.ndarray) -> np.ndarray:
    """Which numbers are the same in all rows, up to rounding."""
    rows = read.reshape(-1, read.shape[-1])
    return np.flatnonzero(np.ptp(rows, axis=0) <= STILL * np.abs(rows).max(0))


def _alike(weights: np.ndarray, silent: np.ndarray) -> list[tuple[int, int, float]]:
    """Pairs of live units whose incoming weights, bias included, have nearly one direction."""
    lengths = np.linalg.norm(weights, axis=0)
    units = weights / np.where(lengths > 0, lengths, 1)
    cosines = np.triu(units.T @ units, 1)
    cosines[silent], cosines[:, silent] = 0, 0
    pairs = np.argwhere(cosines > _ALIKE)
    found = [(int(i), int(j), float(cosines[i, j])) for i, j in pairs]
    return sorted(found, key=lambda pair: -pair[2])


def _twins(response: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of units whose responses are multiples of one another."""
    varying = np.flatnonzero(np.ptp(response, axis=0) > 0)
    leaders = leading_columns(response[:, varying])
    return [
        (int(varying[leader]), int(varying[place]))
        for place, leader in enumerate(leaders)
        if leader != place
    ]
