r"""Whether what was found of a network's structure is all of it, before anything is counted.

Notation: map ``l`` of the description has the block ``J_l`` of the Jacobian of the logits, made of
what it reads and what it moves; ``v`` is a direction of parameter space with the parts ``v_l``. A
description is right if the maps have no parameters in common and ``J v = Σ_l J_l v_l`` for a random
``v`` that leaves all other parameters where they are.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from landscape.curvature.parameters import path_name
from landscape.curvature.programs import equations
from landscape.degeneracy.describe import describe, logits_function
from landscape.degeneracy.networks import Network
from landscape.errors import InputError
from landscape.models import MLP

# Relative difference of the two sides, in float64, up to which they are equal.
_EQUAL = 1e-6

# Examples that they are compared on.
_EXAMPLES = 4


def expect_labelled(batch: Any) -> None:
    """Refuse a batch that is no pair of inputs and as many labels.

    Raises
    ------
    InputError
        With what was given.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise InputError(f"batch must be (inputs, labels); got {type(batch).__name__}")
    inputs, labels = (np.shape(part) for part in batch)
    if not inputs or len(labels) != 1 or labels != inputs[:1] or not labels[0]:
        raise InputError(
            f"batch must be N ≥ 1 inputs and as many labels; got shapes {inputs} and {labels}. "
            "Labels are numbers of classes: causes are known of classifiers only"
        )
    dtype = np.asarray(batch[1]).dtype
    if not np.issubdtype(dtype, np.integer):
        raise InputError(f"labels must be integers, the numbers of classes; got {dtype}")


def expect_classes(labels: Any, num_classes: int) -> None:
    """Refuse labels that are no classes of the model.

    Raises
    ------
    InputError
        With the range that they have.
    """
    lowest, highest = int(np.min(labels)), int(np.max(labels))
    if lowest < 0 or highest >= num_classes:
        raise InputError(
            f"the labels go from {lowest} to {highest}, but the model gives {num_classes} logits"
        )


def classifier_network(model: Any, params: Any, state: Any, inputs: Any) -> Network:
    """A classifier's affine maps, which are all there is; call it under ``jax.enable_x64``.

    Parameters
    ----------
    model, state
        As ``opened`` gives them.
    params
        In float64, as are the state and the inputs.
    inputs
        A few are looked at.

    Returns
    -------
    Network

    Raises
    ------
    InputError
        If the outputs are no logits of two classes or more; if the model computes in a coarser type
        than its parameters have; if its structure is not understood.
    """
    logits, state = logits_function(model), state or {}
    shape = jax.eval_shape(logits, params, state, inputs).shape
    if len(shape) != 2 or shape[0] != len(inputs) or shape[1] < 2:
        raise InputError(
            f"null directions are those of a softmax over C ≥ 2 classes, of logits (N, C); the "
            f"model gives {shape} for N = {len(inputs)}"
        )
    _expect_double(jax.make_jaxpr(logits)(params, state, inputs[:1]))
    network = describe(model, params, inputs[:1], state=state)
    if not isinstance(model, MLP):
        name = type(model).__name__ if isinstance(model, nn.Module) else "the function"
        _expect_leaves(network, params, name)
        _expect_complete(network, logits, params, state, inputs[:_EXAMPLES], name)
    return network


def _expect_double(program: Any) -> None:
    for equation in equations(program):
        for variable in equation.outvars:
            dtype = getattr(variable.aval, "dtype", None)
            if dtype is None or not jnp.issubdtype(dtype, np.floating):
                continue
            if jnp.finfo(dtype).bits < 64:
                raise InputError(
                    f"the model computes in {dtype} inside ({equation.primitive.name}) where its "
                    "parameters are of float64: null directions cannot be told from rounding. "
                    "Leave its types to those of the parameters (in Flax dtype=None)"
                )


def _expect_leaves(network: Network, params: Any, name: str) -> None:
    """Each belongs to one map, and biases have an entry for each unit."""
    leaves = [leaf for one in network.maps for leaf in (one.kernel, one.bias) if leaf is not None]
    places = [(leaf.path, leaf.index) for leaf in leaves]
    for place in places:
        if places.count(place) > 1:
            _refuse(name, f"{place[0]} belongs to two layers")
    for one in network.maps:
        count = one.kernel.of(params).shape[-1]
        if one.bias is not None and one.bias.of(params).shape != (count,):
            shape = one.bias.of(params).shape
            _refuse(name, f"{one.bias.path} of shape {shape} is no bias of {count} units")


def _expect_complete(
    network: Network, logits: Any, params: Any, state: Any, inputs: Any, name: str
) -> None:
    """The last map gives the logits, and along v they move as the maps' blocks have it."""
    direct, summed, effects = (
        np.asarray(found) for found in _both_sides(network, logits, params, state, inputs)
    )
    identity = np.eye(direct.shape[1])[None, :, None, :]
    if effects.shape[1:] != identity.shape[1:] or np.abs(effects - identity).max() > _EQUAL:
        _refuse(name, f"what its last layer {network.maps[-1].name!r} gives are not the logits")
    if not np.abs(direct - summed).max() <= _EQUAL * np.abs(direct).max():
        _refuse(
            name,
            "its layers move the logits in other ways than those that were found (which make up "
            f"{np.linalg.norm(summed):.3g} of {np.linalg.norm(direct):.3g} along a random "
            "direction): weights are used twice, or examples depend on one another",
        )


def _both_sides(network: Network, logits: Any, params: Any, state: Any, inputs: Any) -> Any:
    """J v, Σ_l J_l v_l, and the effects of the last map."""
    mine = {leaf.path for one in network.maps for leaf in (one.kernel, one.bias) if leaf}

    def generic(path: Any, leaf: Any) -> Any:
        if path_name(path) not in mine:
            return jnp.zeros_like(leaf)
        return jnp.cos(jnp.arange(1.0, leaf.size + 1, dtype=leaf.dtype)).reshape(leaf.shape)

    def both(params: Any, state: Any, inputs: Any) -> Any:
        direction = jax.tree_util.tree_map_with_path(generic, params)
        direct = jax.jvp(lambda p: logits(p, state, inputs), (params,), (direction,))[1]
        walk = network.run(params, state, inputs, None)
        effects = network.effects(params, state, inputs)
        summed = jnp.zeros_like(direct)
        for one, x, moves in zip(network.maps, walk.inputs, effects, strict=True):
            kernel = one.kernel.of(direction)
            moved = one.rows(x) @ kernel.reshape(-1, kernel.shape[-1])
            if one.bias is not None:
                moved += one.bias.of(direction)[None, None]
            summed += jnp.einsum("npj,ncpj->nc", moved, moves, precision="highest")
        return direct, summed, effects[-1]

    return jax.jit(both)(params, state, inputs)


def _refuse(name: str, why: str) -> None:
    raise InputError(
        f"the structure of {name} is not understood: {why}. Describe its layers by hand as "
        "HiddenLayer: the measures take those"
    )
