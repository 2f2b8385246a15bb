r"""Units of any network whose parameters can be traded for one another, found by trying.

Notation: unit ``j`` of map ``l`` has incoming weights ``w_j`` and a bias; a batch normalisation
that reads the map's pre-activations alone has for it ``y_j = γ_j (z_j − μ_j)/σ_j + β_j`` with
frozen statistics. Two kinds of null directions are known for what they should be:

- *rescaling*: what goes into a unit is multiplied by s and what comes out by 1/s. What goes in are
  ``w_j`` and the bias, or ``γ_j`` and ``β_j``. Null if the response is positively homogeneous and
  the next map alone reads it.
- *normalisation*: ``w_j`` and the bias are multiplied by s, which ``γ_j`` and ``β_j`` undo:
  ``δγ_j = −γ_j``, ``δβ_j = −γ_j μ_j/σ_j``. Null if the normalisation alone reads the
  pre-activations.

Whether they are null is tried: on a few examples unit by unit, and then on all examples a sum with
random weights, which is null only if each of them is. They are independent of one another and of
what is null within the incoming weights of a unit: from the first layer on, a sum of them that is
zero has no part in ``w_j``, then none in ``γ_j`` and ``β_j``, then none in the next map.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Bool

from landscape._pytrees import pytree
from landscape.degeneracy.describe import Logits
from landscape.degeneracy.networks import Network, Norm

# Examples on which units are tried one by one, and at a time when all are tried together.
_TRIED, _AT_ONCE = 8, 100

# What is left of two parts that cancel, relative to one of them.
_NULL = 1e-9


@pytree
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
        """N."""
        return int(self.first[0][0].shape[-1])

    def direction(self, weights: Any, size: int, *, half: bool = False) -> Any:
        """Σ_j c_j d_j as a vector of R^P; of the first part alone if asked for."""
        vector = jnp.zeros(size)
        for places, values in self.first if half else (*self.first, *self.second):
            each = jnp.broadcast_to(weights, values.shape)
            vector = vector.at[places].add(values * each)
        return vector

    def vectors(self, units: Bool[np.ndarray, " n"], size: int) -> Iterator[tuple[int, np.ndarray]]:
        """Of some units, each with its number, at length 1."""
        for unit in np.flatnonzero(units):
            vector = np.zeros(size)
            for places, values in (*self.first, *self.second):
                vector[places[..., unit]] += values[..., unit]
            length = np.linalg.norm(vector)
            if length:
                yield int(unit), vector / length


def rescalings(network: Network, params: Any) -> dict[int, Trade]:
    """What rescaling would be for the units of each hidden map, as far as that is known."""
    flat, numbered = _numbered(params)
    found = {}
    for number, (one, following) in enumerate(
        zip(network.maps[:-1], network.maps[1:], strict=True)
    ):
        norm = network.norm(number)
        into = [one.kernel, one.bias] if norm is None else [norm.scale, norm.shift]
        places = [np.asarray(leaf.of(numbered), int) for leaf in into if leaf is not None]
        width = places[0].shape[-1]
        out = np.asarray(following.kernel.of(numbered), int)
        if not network.sequential or (norm and None in into) or out.shape[-2] % width:
            continue
        # (…, n): places in a flattened image, filters, and the reading units come first.
        out = out.reshape(-1, out.shape[-2] // width, width, out.shape[-1])
        out = np.moveaxis(out, 2, -1)
        found[number] = Trade(tuple((part, flat[part]) for part in places), ((out, -flat[out]),))
    return found


def normalisations(network: Network, params: Any, state: Any) -> dict[int, Trade]:
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
        found[number] = Trade(
            tuple((part, flat[part]) for part in places),
            ((scale, -flat[scale]), (shift, -flat[scale] * norm.center(state))),
        )
    return found


def _numbered(params: Any) -> tuple[np.ndarray, Any]:
    """The parameters in one piece, and a pytree of each one's place in it."""
    flat, unflatten = ravel_pytree(params)
    return np.asarray(flat, float), unflatten(jnp.arange(float(flat.size)))


def that_are_null(
    trades: dict[int, Trade], logits: Logits, params: Any, state: Any, inputs: Any
) -> dict[int, Bool[np.ndarray, " n"]]:
    """Of each map the units whose trades are null on all examples.

    Parameters
    ----------
    trades
        By map.
    logits, params, state, inputs
        The network, in float64.

    Returns
    -------
    (n,) for each map; none of a map that has passed on a few examples and fails on all.
    """
    flat, unflatten = ravel_pytree(params)
    state = state or {}

    def moved(vector: Any, part: Any) -> Any:
        return jax.jvp(lambda v: logits(unflatten(v), state, part), (flat,), (vector,))[1]

    def lengths(trade: Trade, weights: Any, part: Any) -> Any:
        """Of both parts together and of the first, squared."""
        vectors = [trade.direction(weights, flat.size, half=half) for half in (False, True)]
        return jnp.stack([jnp.sum(moved(vector, part) ** 2) for vector in vectors])

    # Compiled once for layers of one shape.
    together = jax.jit(lengths)
    one_by_one = jax.jit(
        lambda trade, part: jax.lax.map(
            lambda row: lengths(trade, row, part), jnp.eye(trade.num_units)
        )
    )
    found = {}
    for number, trade in trades.items():
        both, first = np.asarray(one_by_one(trade, inputs[:_TRIED])).T
        passed = both <= _NULL**2 * first
        weights = np.random.default_rng(number).normal(size=trade.num_units) * passed
        total = np.zeros(2)
        for start in range(0, len(inputs), _AT_ONCE):
            total += np.asarray(together(trade, weights, inputs[start : start + _AT_ONCE]))
        found[number] = passed & bool(total[0] <= _NULL**2 * total[1])
    return found


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
