r"""Units of any network whose parameters can be traded for one another, found by trying.

Notation: unit ``j`` of map ``l`` has incoming weights ``w_j`` and a bias; a batch normalisation
that reads the map's pre-activations alone has for it ``y_j = γ_j (z_j − μ_j)/σ_j + β_j`` with
frozen statistics. Two kinds of null directions are known for what they should be:

- *rescaling*: what goes into a unit is multiplied by s and what comes out by 1/s. What goes in are
  ``w_j`` and the bias, or ``γ_j`` and ``β_j``. Null if the response is positively homogeneous.
  Where skips add up what several maps write, unit ``j`` is multiplied in all of them, and divided
  in all maps that read the sum.
- *normalisation*: ``w_j`` and the bias are multiplied by s, which ``γ_j`` and ``β_j`` undo:
  ``δγ_j = −γ_j``, ``δβ_j = −γ_j μ_j/σ_j``. Null if the normalisation alone reads the
  pre-activations.

Whether they are null is tried: on a few examples unit by unit, and then on all examples a sum with
random weights, which is null only if each of them is. They are independent of one another and of
what is null within the incoming weights of a unit: from the first map on, a sum of them that is
zero has no part in ``w_j``, then none in ``γ_j`` and ``β_j`` of a unit that moves the logits; so it
has none of what multiplies that unit, and none in the maps that read it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Bool

from landscape.degeneracy.describe import Logits
from landscape.degeneracy.networks import Network, Norm

# Examples on which units are tried one by one, and at a time when all are tried together.
_TRIED, _AT_ONCE = 8, 100

# What is left of two parts that cancel, relative to one of them.
_NULL = 1e-9


@dataclasses.dataclass(frozen=True)
class Trade:
    """Changes of parameters, one for each unit of a map, in two parts that should cancel.

    Attributes
    ----------
    first, second
        (places in the raveled parameters, values), the unit's axis last: entries of all units.
    """

    first: tuple[tuple[Any, Any], ...]
    second: tuple[tuple[Any, Any], ...]

    @property
    def num_units(self) -> int:
        """How many."""
        return int(self.first[0][0].shape[-1])

    def directions(self, weights: np.ndarray, size: int) -> np.ndarray:
        """Σ_j c_j d_j, and its first part alone, as vectors of R^P: (2, P)."""
        vectors = np.zeros((2, size))
        for rows, parts in ((slice(2), self.first), (slice(1), self.second)):
            for places, values in parts:
                # Each place is that of one unit.
                vectors[rows, places] += values * weights
        return vectors

    def vectors(self, units: Bool[np.ndarray, " n"], size: int) -> Iterator[tuple[int, np.ndarray]]:
        """Of some units, each with its number, at length 1."""
        for unit in np.flatnonzero(units):
            vector = np.zeros(size)
            for places, values in (*self.first, *self.second):
                vector[places[..., unit]] += values[..., unit]
            length = np.linalg.norm(vector)
            if length:
                yield int(unit), vector / length


@dataclasses.dataclass(frozen=True)
class Units:
    """Those that a trade is of: of one map, or of several that are added up.

    Attributes
    ----------
    maps
        Their numbers, in the order in which they are called.
    start
        The first of the units.
    """

    maps: tuple[int, ...]
    start: int = 0

    def that_are(self, silent: Mapping[int, Bool[np.ndarray, " n"]], count: int) -> np.ndarray:
        """Which of ``count`` units are silent in all maps."""
        return np.all([silent[n][self.start : self.start + count] for n in self.maps], axis=0)


def rescalings(network: Network, params: Any) -> dict[Units, Trade]:
    """What rescaling would be for the units of hidden maps, as far as that is known."""
    flat, numbered = _numbered(params)
    found = {}
    for writers, readers in network.streams:
        into = {number: _written(network, number, numbered) for number in writers}
        widths = {number: leaves[0].shape[-1] for number, leaves in into.items() if leaves}
        if len(widths) < len(writers):
            continue
        out = [
            _by_source(
                network.maps[number].kernel.of(numbered),
                max(widths[source] for source in network.reads[number]),
            )
            for number in readers
        ]
        if any(places is None for places in out):
            continue
        # A skip may fill up with zeros: from some unit on fewer maps are added up.
        for start, stop in itertools.pairwise([0, *sorted(set(widths.values()))]):
            units = Units(tuple(number for number in writers if widths[number] >= stop), start)
            first = [leaf[..., start:stop] for number in units.maps for leaf in into[number]]
            second = [
                places[..., start:stop]
                for places in out
                if places is not None and places.shape[-1] >= stop
            ]
            found[units] = Trade(
                tuple((places, flat[places]) for places in first),
                tuple((places, -flat[places]) for places in second),
            )
    return found


def _written(network: Network, number: int, numbered: Any) -> list[np.ndarray]:
    """Places of what multiplies the units of a map, their axis last; none if that is not known."""
    one, norm = network.maps[number], network.norm(number)
    into = [one.kernel, one.bias] if norm is None else [norm.scale, norm.shift]
    if norm is not None and None in into:
        return []
    return [np.asarray(leaf.of(numbered), int) for leaf in into if leaf is not None]


def _by_source(kernel: Any, width: int) -> np.ndarray | None:
    """Places of a kernel (…, sources, units) that reads ``width`` units, those last.

    A flattened image has its units last.
    """
    places = np.asarray(kernel, int)
    if places.shape[-2] % width:
        return None
    places = places.reshape(-1, places.shape[-2] // width, width, places.shape[-1])
    return np.moveaxis(places, 2, -1)


def normalisations(network: Network, params: Any, state: Any) -> dict[Units, Trade]:
    """What a batch normalisation that follows a map would undo."""
    flat, numbered = _numbered(params)
    found = {}
    for number, one in enumerate(network.maps[:-1]):
        norm = network.norm(number)
        if norm is None or norm.scale is None or norm.shift is None:
            continue
        into = [one.kernel, one.bias]
        places = [np.asarray(leaf.of(numbered), int) for leaf in into if leaf is not None]
        scale, shift = (np.asarray(leaf.of(numbered), int) for leaf in (norm.scale, norm.shift))
        found[Units((number,))] = Trade(
            tuple((part, flat[part]) for part in places),
            ((scale, -flat[scale]), (shift, -flat[scale] * norm.center(state))),
        )
    return found


def _numbered(params: Any) -> tuple[np.ndarray, Any]:
    """The parameters in one piece, and a pytree of each one's place in it."""
    flat, unflatten = ravel_pytree(params)
    return np.asarray(flat, float), unflatten(jnp.arange(float(flat.size)))


def that_are_null(
    trades: Mapping[Units, Trade], logits: Logits, params: Any, state: Any, inputs: Any
) -> dict[Units, Bool[np.ndarray, " n"]]:
    """The units whose trades are null on all examples.

    Parameters
    ----------
    trades
        By the units that they are of.
    logits, params, state, inputs
        The network, in float64.

    Returns
    -------
    (n,) for each trade; none of units that have passed on a few examples and fail on all together.
    """
    size = ravel_pytree(params)[0].size
    state = state or {}

    def lengths(trade: Trade, weights: np.ndarray, part: Any) -> np.ndarray:
        vectors = trade.directions(weights, size)
        return np.asarray(_lengths(logits, params, state, vectors, part))

    found = {}
    for number, (units, trade) in enumerate(trades.items()):
        each = [lengths(trade, unit, inputs[:_TRIED]) for unit in np.eye(trade.num_units)]
        both, first = np.transpose(each)
        passed = both <= _NULL**2 * first
        weights = np.random.default_rng(number).normal(size=trade.num_units) * passed
        total = np.zeros(2)
        for start in range(0, len(inputs), _AT_ONCE):
            total += lengths(trade, weights, inputs[start : start + _AT_ONCE])
        found[units] = passed & bool(total[0] <= _NULL**2 * total[1])
    return found


# Of all trades, whatever the shapes of their layers, one program.
@partial(jax.jit, static_argnums=0)
def _lengths(logits: Logits, params: Any, state: Any, vectors: Any, part: Any) -> Any:
    """(k,) squared lengths of the logits' changes along each of k vectors of R^P."""
    flat, unflatten = ravel_pytree(params)
    _, moved = jax.linearize(lambda flat: logits(unflatten(flat), state, part), flat)
    return jax.lax.map(lambda vector: jnp.sum(moved(vector) ** 2), vectors)


def normalised_counts(
    norm: Norm, bias: bool, params: Any, silent: Bool[np.ndarray, " n"], null: np.ndarray
) -> int:
    """Null directions that a normalisation adds to those of its map's incoming weights.

    Of a unit that moves nothing γ and β are null; of others whatever γ can undo, and with a bias
    what β can.
    """
    assert norm.scale is not None
    scales = np.asarray(norm.scale.of(params)) != 0
    return int(2 * (silent & scales).sum() + (1 + bias) * (~silent & null).sum())
