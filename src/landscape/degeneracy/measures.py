"""All measures of one network at once: how near each layer is to each singularity."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from landscape._pytrees import pytree
from landscape.degeneracy.dependence import LinearDependence, linear_dependence
from landscape.degeneracy.describe import describe, opened
from landscape.degeneracy.elimination import Elimination, elimination
from landscape.degeneracy.overlap import Overlap, overlap
from landscape.errors import InputError
from landscape.results import Result


@pytree
@dataclasses.dataclass(frozen=True)
class Measures(Result):
    """One of each kind; made by ``measures``.

    Attributes
    ----------
    elimination, overlap, dependence
        See there.
    """

    elimination: Elimination
    overlap: Overlap
    dependence: LinearDependence

    def __repr__(self) -> str:
        return f"Measures(\n  {self.elimination},\n  {self.overlap},\n  {self.dependence}\n)"


def measures(model: Any, params: Any, inputs: Any, *, state: Any = None) -> Measures:
    """Elimination, overlap and linear dependence of a network's hidden layers on a batch.

    Parameters
    ----------
    model
        ``MLP``, ``ResNet``, or another Linen module of dense layers and convolutions; an NNX
        module; or any function ``f(params, inputs)`` that is a sequence of such layers. For other
        models call ``elimination``, ``overlap`` and ``linear_dependence`` with layers described by
        hand.
    params, state
        Its parameters (of an NNX module ``nnx.state(model, nnx.Param)``), and its other
        collections.
    inputs
        (N, …), without labels.

    Returns
    -------
    Measures; ready for ``jit`` and ``vmap`` over parameters and state.

    Raises
    ------
    InputError
        If the model's structure is not understood, or there are no examples.

    Examples
    --------
    >>> from landscape.models import MLP
    >>> model = MLP(depth=3, width=4, num_classes=2)
    >>> x = jnp.ones((6, 5))
    >>> params = model.init(jax.random.key(0), x)["params"]
    >>> measures(model, params, x).elimination.mean_incoming_norm.shape
    ()
    """
    model, state = opened(model, state)
    if isinstance(inputs, tuple | list) or not jnp.ndim(inputs) or not len(inputs):
        raise InputError(
            f"inputs must be N ≥ 1 examples, (N, …), without labels; got {_told(inputs)}"
        )
    return _measures(model, params, jnp.asarray(inputs), state)


def _told(inputs: Any) -> str:
    is_array = hasattr(inputs, "shape")
    return f"an array of shape {inputs.shape}" if is_array else f"a {type(inputs).__name__}"


@functools.partial(jax.jit, static_argnums=0)
def _measures(model: Any, params: Any, inputs: Array, state: Any) -> Measures:
    network = describe(model, params, inputs[:1], state=state)
    layers = network.layers()
    if not layers:
        raise InputError("the model has no hidden layer, whose units could be measured")
    walk = network.run(params, state, inputs, None)
    rows = [
        one.rows(x).reshape(-1, layer.incoming_weights(params).shape[0])
        for one, layer, x in zip(network.maps, layers, walk.inputs, strict=False)
    ]
    activities = [
        _by_unit(x, layer.biases(params).shape[0])
        for x, layer in zip(walk.activities, layers, strict=True)
    ]
    # Of what lies between a map and its response nothing is known but for an MLP.
    before = walk.preactivations[:-1] if network.rescalable else None
    skips = None
    if network.skip == "matrix":
        skips = [None, *[state["fixed"]["skip"]] * (len(layers) - 1)]
    return Measures(
        elimination(layers, params, activities, before, inputs=walk.inputs[:-1], skips=skips),
        overlap(layers, params, skips=skips),
        linear_dependence(activities, inputs=rows if network.contracting else None),
    )


def _by_unit(activities: Array, width: int) -> Array:
    """(N, places, n) of images that were flattened, channels last, before they were read."""
    size = activities.shape[-1]
    if size == width or size % width:
        return activities
    return activities.reshape(*activities.shape[:-1], -1, width)
