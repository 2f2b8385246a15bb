r"""Null directions that run across layers: symmetries of networks of ReLUs.

Notation: an ``MLP`` with maps ``0 … L``, map ``l`` with kernel ``W_l`` (fan_in, n), bias ``b_l``;
``x_{l+1} = f(x_l W_l + b_l) + S(x_l, …)`` with the skip S. Each direction is the derivative, at the
network's parameters, of a family of networks that compute the same on the batch:

- *rescaling*: what goes into a unit is multiplied by s and what comes out by 1/s. Under a skip the
  unit of that number has to be rescaled in every layer at once, and with it all others that the
  skip couples to it: one direction for each connected component of the skip's matrix.
- *translation*: a unit that is active on every example has its bias moved, and all that read it, in
  the next layer or by way of skips, take the constant off their biases.
- *mixing*, plain networks: of two units of one layer that are active on the same examples, one is
  added to the other, and taken off again where they are read.

Of a plain network only those examples count on which the layer moves the logits at all. Each is
checked against the Jacobian in the tests; what they add to the null directions within layers is
counted in ``degeneracy_budget``.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from landscape.degeneracy.networks import Network, Walk

# A direction by map: changes of the kernel and of the bias.
Change = dict[int, tuple[np.ndarray, np.ndarray]]

# What is left of terms of length about 1 that cancel.
_ROUNDING = 1e-11

# By hidden map: which units are active on which examples.
Patterns = tuple[Bool[np.ndarray, "_ _"], ...]


@dataclasses.dataclass(frozen=True)
class Weights:
    """A network's weights on the host.

    Attributes
    ----------
    kernels, biases
        Of each map.
    skip
        ``"none"``, ``"identity"``, ``"matrix"`` or ``"hyper"``.
    matrices
        Q, (n, n), or those Q_k that reach the readout, (L-2, n, n); None without.
    """

    kernels: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    skip: str
    matrices: np.ndarray | None

    def none(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """No change of a map."""
        return np.zeros_like(self.kernels[number]), np.zeros_like(self.biases[number])

    def carried(self, number: int, shift: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Where a change of what map ``number`` gives arrives by skips alone: (map, change)."""
        current, past = shift, np.zeros_like(shift)
        for reader in range(number + 1, len(self.kernels)):
            yield reader, current
            if self.skip == "none":
                return
            if self.skip == "matrix":
                assert self.matrices is not None
                current = self.matrices @ current
            elif self.skip == "hyper" and reader < len(self.kernels) - 1:
                assert self.matrices is not None
                factor = 1 / (reader - 1) if reader > 1 else 0
                arrived = current + factor * past
                if reader <= len(self.matrices):
                    past = past + self.matrices[reader - 1] @ current
                current = arrived


def rescaling(weights: Weights) -> Iterator[tuple[str, Change]]:
    """One for each unit, or for each connected component of the skip."""
    last = len(weights.kernels) - 1
    if weights.skip == "none":
        for l in range(last):
            for j in range(weights.kernels[l].shape[1]):
                first, second = weights.none(l), weights.none(l + 1)
                first[0][:, j], first[1][j] = weights.kernels[l][:, j], weights.biases[l][j]
                second[0][j] = -weights.kernels[l + 1][j]
                yield f"map {l}: unit {j}", {l: first, l + 1: second}
        return
    width = weights.kernels[0].shape[1]
    for number, members in enumerate(_components(weights, width)):
        change: Change = {}
        for l, (kernel, bias) in enumerate(zip(weights.kernels, weights.biases, strict=True)):
            into = members if l < last else np.zeros(kernel.shape[1])
            out = members if l > 0 else np.zeros(kernel.shape[0])
            change[l] = (kernel * (into[None, :] - out[:, None]), bias * into)
        yield f"component {number}", change


def _components(weights: Weights, width: int) -> list[np.ndarray]:
    """Indicators of the sets of units that the skip couples."""
    if weights.skip == "identity":
        coupled = np.eye(width, dtype=bool)
    else:
        assert weights.matrices is not None
        coupled = (weights.matrices.reshape(-1, width, width) != 0).any(0)
    count, labels = connected_components(sparse.csr_array(coupled), directed=False)
    return [(labels == number).astype(float) for number in range(count)]


def translation(weights: Weights, patterns: Patterns) -> Iterator[tuple[str, Change]]:
    """One for each unit that is always active."""
    for l, active in enumerate(patterns):
        for j in np.flatnonzero(active.all(0)):
            moved = weights.none(l)
            moved[1][j] = 1
            change: Change = {l: moved}
            for reader, shift in weights.carried(l, np.eye(active.shape[1])[j]):
                taken = weights.none(reader)
                taken[1][:] = -shift @ weights.kernels[reader]
                change[reader] = taken
            yield f"map {l}: unit {j}", change


def mixing(weights: Weights, patterns: Patterns) -> Iterator[tuple[str, Change]]:
    """One for each ordered pair of units of a layer that are active together; plain networks."""
    if weights.skip != "none":
        return
    for l, active in enumerate(patterns):
        _, group = np.unique(active, axis=1, return_inverse=True)
        for i, j in itertools.permutations(np.flatnonzero(active.any(0)), 2):
            if group[i] != group[j]:
                continue
            first, second = weights.none(l), weights.none(l + 1)
            first[0][:, j], first[1][j] = weights.kernels[l][:, i], weights.biases[l][i]
            second[0][i] = -weights.kernels[l + 1][j]
            yield f"map {l}: unit {i} into unit {j}", {l: first, l + 1: second}


def activity_patterns(walk: Walk) -> Patterns:
    """Which units of each hidden map are active, (N, n) for each."""
    return tuple(np.asarray(z > 0) for z in walk.preactivations[:-1])


def examples_that_count(network: Network, effects: Sequence[Any]) -> tuple[np.ndarray, ...]:
    """For each hidden map, (N,): the examples on which what it gives can move the logits.

    Parameters
    ----------
    network, effects
        A network and its ``effects`` on a batch.

    Returns
    -------
    All examples for a network with skips; of a plain one those on which a unit that reads the layer
    moves the logits.
    """
    readers = [np.asarray((moves != 0).any((1, 2, 3))) for moves in effects[1:]]
    if network.skip != "none":
        readers = [np.ones_like(reader) for reader in readers]
    return tuple(readers)


def unit(family: Iterator[tuple[str, Change]]) -> Iterator[tuple[str, Change]]:
    """Each at length 1; those that are no change at all are left out."""
    for label, change in family:
        length = _length(change)
        if length:
            yield label, {n: (w / length, b / length) for n, (w, b) in change.items()}


def _length(change: Change) -> float:
    parts = (part for both in change.values() for part in both)
    return float(np.sqrt(sum(float((part**2).sum()) for part in parts)))


def flattened(
    change: Change, places: list[tuple[np.ndarray, np.ndarray]], size: int
) -> Float[np.ndarray, " P"]:
    """A direction as a unit vector of R^P; ``places`` are the maps' entries in it.

    A direction that is nothing but rounding, of what was about 1, is zero.
    """
    vector = np.zeros(size)
    for number, (kernel, bias) in change.items():
        vector[places[number][0]] = kernel
        vector[places[number][1]] = bias
    length = np.linalg.norm(vector)
    return vector / length if length > _ROUNDING else np.zeros(size)


def by_map(change: Change) -> dict[int, np.ndarray]:
    """A direction as a vector for each map that it changes: its kernel, its bias."""
    return {n: np.concatenate([kernel.ravel(), bias]) for n, (kernel, bias) in change.items()}


def host_weights(network: Network, params: Any, state: Any) -> Weights:
    """Of an ``MLP``, in float64."""
    kernels = tuple(np.asarray(one.kernel.of(params), float) for one in network.maps)
    biases = tuple(
        np.asarray(one.bias.of(params), float) for one in network.maps if one.bias is not None
    )
    fixed = (state or {}).get("fixed", {}).get("skip")
    matrices = None if fixed is None else np.asarray(fixed, float)
    if network.skip == "hyper" and matrices is not None:
        matrices = matrices[: len(kernels) - 3]
    return Weights(kernels, biases, network.skip, matrices)
