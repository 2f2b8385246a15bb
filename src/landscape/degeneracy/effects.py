"""What the maps of a network read and move on many examples, as far as memory allows."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from landscape.curvature.memory import host_memory, readable
from landscape.degeneracy.networks import Network, Walk
from landscape.errors import ResourceError

# Bytes of the effects of a chunk of examples on their way.
_CHUNK_BYTES = 2**27


def walk_and_effects(
    network: Network, params: Any, state: Any, inputs: Any
) -> tuple[Walk, list[np.ndarray]]:
    """``Network.walk``, and ``Network.effects`` by chunks of the examples.

    Raises
    ------
    ResourceError
        If what the layers read and move does not fit in the host's memory.
    """
    _expect_room(network, params, state, inputs)
    return network.walk(params, state, inputs), _effects(network, params, state, inputs)


def _expect_room(network: Network, params: Any, state: Any, inputs: Any) -> None:
    """Refuse examples whose effects do not fit in the host's memory."""
    one = inputs[:1]

    def kept() -> tuple[Any, Any]:
        walk = network.run(params, state, one, None)
        rows = [a_map.rows(x) for a_map, x in zip(network.maps, walk.inputs, strict=True)]
        return rows, network.effects(params, state, one)

    read, effects = jax.eval_shape(kept)
    # Each twice: rows with a constant, effects centered.
    each = 2 * sum(array.size * array.dtype.itemsize for array in (*read, *effects))
    total = host_memory()
    if each * len(inputs) > 0.9 * total:
        raise ResourceError(
            f"what the layers read and move on {len(inputs):,} examples takes "
            f"{readable(each * len(inputs))}, there are {readable(total)}: take at most "
            f"{int(0.9 * total / each):,} examples"
        )


def _effects(network: Network, params: Any, state: Any, inputs: Any) -> list[np.ndarray]:
    """B of every map, chunk by chunk of the examples; the last chunk is filled up."""
    shapes = jax.eval_shape(network.effects, params, state, inputs)
    count = len(inputs)
    step = max(1, min(count, _CHUNK_BYTES * count // sum(8 * b.size for b in shapes)))
    found = [np.empty(b.shape, b.dtype) for b in shapes]
    for start in range(0, count, step):
        places = np.minimum(np.arange(start, start + step), count - 1)
        part = network.effects(params, state, inputs[places])
        for whole, piece in zip(found, part, strict=True):
            whole[start : start + step] = np.asarray(piece)[: count - start]
    return found
