"""Losses of Flax models, in the form that training and curvature share.

A loss is ``loss(params, state, batch)``: the mean over the batch's examples, with ``batch =
(inputs, labels)`` and ``state`` every variable collection that is not differentiated.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from landscape.models import hashable

Loss = Callable[[Any, Any, Any], Float[Array, ""]]


def softmax_cross_entropy(model: nn.Module) -> Loss:
    """Mean softmax cross-entropy of a classifier, at frozen state.

    Parameters
    ----------
    model
        A Linen module from inputs (N, …) to logits (N, C).

    Returns
    -------
    ``loss(params, state, (inputs, labels))`` with integer labels of shape (N,); natural
    logarithm. The same model gives the same function object, so nothing is compiled twice.

    Examples
    --------
    >>> from landscape.models import MLP
    >>> model = MLP(depth=2, width=4, num_classes=3)
    >>> softmax_cross_entropy(model) is softmax_cross_entropy(MLP(depth=2, width=4, num_classes=3))
    True
    """
    return _cross_entropy(hashable(model))


@functools.cache
def _cross_entropy(model: nn.Module) -> Loss:
    def loss(params: Any, state: Any, batch: tuple[Array, Array]) -> Array:
        inputs, labels = batch
        return example_losses(apply(model, params, state, inputs), labels).mean()

    return loss


def logits_of(model: nn.Module) -> Callable[[Any, Any, Any], Float[Array, "N C"]]:
    """A classifier as ``logits(params, state, inputs)``, at frozen state: for ``jacobian``.

    Parameters
    ----------
    model
        A Linen module from inputs (N, …) to logits (N, C).

    Returns
    -------
    The same function object for the same model, so nothing is compiled twice.
    """
    return _logits(hashable(model))


@functools.cache
def _logits(model: nn.Module) -> Callable[[Any, Any, Any], Float[Array, "N C"]]:
    return lambda params, state, inputs: apply(model, params, state, inputs)


def apply(model: nn.Module, params: Any, state: Mapping[str, Any], inputs: Array) -> Array:
    """Logits (N, C) in evaluation mode: every collection is read, none is written."""
    logits: Any = model.apply({"params": params, **state}, inputs)
    return logits


def example_losses(logits: Float[Array, "N C"], labels: jax.Array) -> Float[Array, " N"]:
    """Cross-entropy of each example, shape (N,), in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def train_logits(
    model: nn.Module, params: Any, state: Mapping[str, Any], inputs: Array
) -> tuple[Array, Mapping[str, Any]]:
    """Logits in training mode, and the state after it.

    Collections other than ``"fixed"`` and ``"penalty"`` (batch statistics) are updated; a model
    that has some is called with ``train=True``.
    """
    mutable = [name for name in state if name not in ("fixed", "penalty")]
    if not mutable:
        return apply(model, params, state, inputs), state
    logits: Any
    logits, updated = model.apply({"params": params, **state}, inputs, train=True, mutable=mutable)
    return logits, {**state, **updated}


def accuracy(logits: Float[Array, "N C"], labels: jax.Array) -> Float[Array, " N"]:
    """1 where the largest logit is the label's, else 0; shape (N,)."""
    return (jnp.argmax(logits, -1) == labels).astype(logits.dtype)
