"""The door for models: any classifier as its affine maps, its logits, and its loss.

A model is ``MLP``, another Linen module, an NNX module, or a function ``f(params, inputs)`` (with
``state``: ``f(params, state, inputs)``) of logits, such as one of an Equinox module's arrays.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from landscape.degeneracy.functions import function_network
from landscape.degeneracy.layers import HiddenLayer
from landscape.degeneracy.networks import Network, linen_network, mlp_network
from landscape.errors import InputError
from landscape.models import MLP, hashable
from landscape.training.losses import example_losses, logits_of, softmax_cross_entropy

# Parameters, state and inputs to logits.
Logits = Callable[[Any, Any, Any], Array]


def opened(model: Any, state: Any = None) -> tuple[Any, Any]:
    """A model and its state as the rest of this room takes them: a Linen module or a function.

    Parameters
    ----------
    model, state
        As they were given. Of an NNX module everything but its parameters is its state.

    Returns
    -------
    The model and the state.

    Raises
    ------
    InputError
        If the model is none of those named in the module.
    """
    if isinstance(model, nn.Module):
        return hashable(model), state
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None and isinstance(model, nnx.Module):
        definition, _, rest = nnx.split(model, nnx.Param, ...)
        return _merged(definition), rest if state is None else state
    if not callable(model) or isinstance(model, type):
        raise InputError(
            "a model is a Linen or NNX module, or a function of parameters and inputs; got "
            f"{type(model).__name__}"
        )
    if dataclasses.is_dataclass(model) and jax.tree.leaves(model) not in ([], [model]):
        raise InputError(
            f"{type(model).__name__} holds arrays of its own, as a module of Equinox does: pass a "
            "function of its arrays and inputs, lambda arrays, x: "
            "jax.vmap(eqx.combine(arrays, static))(x), and the arrays of eqx.partition"
        )
    if getattr(type(model), "__hash__", None) is None:
        # What compares by its contents has no hash: known by itself, it has one.
        return functools.partial(model), state
    return model, state


@functools.cache
def _merged(definition: Any) -> Callable[..., Array]:
    """An NNX module as a function; one for one definition."""
    from flax import nnx

    def outputs(params: Any, *rest: Any) -> Any:
        *state, inputs = rest
        return nnx.merge(definition, params, *state)(inputs)

    return outputs


def describe(model: Any, params: Any, inputs: Any, *, state: Any = None) -> Network:
    """A model's affine maps.

    Parameters
    ----------
    model, state
        As ``opened`` gives them.
    params
        Its parameters.
    inputs
        One example is enough, (1, …): the model is traced, not run.

    Returns
    -------
    Network

    Raises
    ------
    InputError
        If the structure of the model is not understood.
    """
    if isinstance(model, MLP):
        return mlp_network(model)
    if isinstance(model, nn.Module):
        return linen_network(model, params, state, inputs)
    return function_network(model, params, state, jnp.asarray(inputs))


def logits_function(model: Any) -> Logits:
    """``logits(params, state, inputs)``; the same function object for the same model."""
    return logits_of(model) if isinstance(model, nn.Module) else _with_state(model)


def loss_function(model: Any) -> Callable[[Any, Any, Any], Array]:
    """Mean softmax cross-entropy, ``loss(params, state, (inputs, labels))``."""
    return softmax_cross_entropy(model) if isinstance(model, nn.Module) else _cross_entropy(model)


@functools.cache
def _with_state(function: Callable[..., Array]) -> Logits:
    def logits(params: Any, state: Any, inputs: Any) -> Array:
        return function(params, state, inputs) if state else function(params, inputs)

    return logits


@functools.cache
def _cross_entropy(function: Callable[..., Array]) -> Callable[[Any, Any, Any], Array]:
    logits = _with_state(function)

    def loss(params: Any, state: Any, batch: Any) -> Array:
        return example_losses(logits(params, state, batch[0]), batch[1]).mean()

    return loss


def hidden_layers(
    model: Any, params: Any, inputs: Any = None, *, state: Any = None
) -> tuple[HiddenLayer, ...]:
    """Which leaves are a layer's incoming weights, bias and outgoing weights.

    Parameters
    ----------
    model
        ``MLP``, ``ResNet``, or another Linen module of dense layers and convolutions; an NNX
        module; or any function ``f(params, inputs)`` that is a sequence of such layers.
    params, state
        Its parameters (of an NNX module ``nnx.state(model, nnx.Param)``), and its other
        collections.
    inputs
        One example; ``MLP`` needs none.

    Returns
    -------
    One for each hidden layer, in the order in which a batch meets them.

    Raises
    ------
    InputError
        If the structure is not understood: a layer that is called twice, weights that belong to no
        layer, no dense layer at the end.

    Examples
    --------
    >>> import jax
    >>> model = MLP(depth=3, width=4, num_classes=2)
    >>> params = model.init(jax.random.key(0), jnp.zeros((1, 5)))["params"]
    >>> [layer.name for layer in hidden_layers(model, params)]
    ['input', 'hidden/0', 'hidden/1']

    Of a function:

    >>> def outputs(params, x):
    ...     hidden = x @ params["into"]["w"] + params["into"]["b"][None]
    ...     return jax.nn.relu(hidden) @ params["out"]
    >>> params = {"into": {"w": jnp.ones((5, 4)), "b": jnp.zeros(4)}, "out": jnp.ones((4, 2))}
    >>> hidden_layers(outputs, params, jnp.zeros((1, 5)))[0].bias.path
    'into/b'
    """
    if not isinstance(model, MLP) and inputs is None:
        raise InputError("to find a model's layers one example of its inputs is needed")
    model, state = opened(model, state)
    return describe(model, params, inputs, state=state).layers()
