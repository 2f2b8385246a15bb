r"""Which leaves of a parameter pytree are a hidden layer, and what flows through it.

Notation: hidden layer ``l`` has ``n`` units. Unit ``j`` has incoming weights ``w_j`` (column ``j``
of a kernel of ``fan_in`` rows), a bias ``b_j``, and outgoing weights (row ``j`` of the next
kernel). A channel of a convolution is a unit whose incoming weights are its whole filter; its
activities at all places count as so many examples.

A layer is a static description, so measures are compiled once and mapped over checkpoints.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from landscape.curvature.parameters import path_name
from landscape.errors import InputError


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array of a parameter pytree, or an entry of a stack.

    Attributes
    ----------
    path
        As ``wrt`` sees it: ``"hidden/kernel"``.
    index
        Which entry along the leading axis of a stack.
    transposed
        Whether units that are read lie along the last axis and units that are fed along the one
        before it, as in Equinox; in Flax it is the other way round.
    """

    path: str
    index: int | None = None
    transposed: bool = False

    def of(self, params: Any) -> Array:
        """The array, (…, fan_in, n) for a kernel.

        Raises
        ------
        InputError
            If there is none at this path, or no such entry.
        """
        named = {path_name(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(params)}
        if self.path not in named:
            raise InputError(
                f"the parameters have no leaf {self.path!r}; they have {', '.join(sorted(named))}"
            )
        array = jnp.asarray(named[self.path])
        if self.index is not None:
            if not array.ndim or not -len(array) <= self.index < len(array):
                raise InputError(
                    f"{self.path!r} of shape {array.shape} has no entry {self.index} along its "
                    "leading axis"
                )
            array = array[self.index]
        return jnp.swapaxes(array, -1, -2) if self.transposed else array


@dataclasses.dataclass(frozen=True)
class HiddenLayer:
    """A layer of hidden units, by the leaves of its weights; describe your own model with it.

    Attributes
    ----------
    name
        As it is called in tables.
    kernel
        Incoming weights, (fan_in, n), or (…, channels, n) of a convolution.
    bias
        (n,), or None.
    outgoing
        The next kernel, (n, …), (…, n, …) of a convolution, or (places · n, …) where images were
        flattened, channels last; None if it is not one kernel.
    identity_skip
        Whether the layer adds what it reads to its branch, unit by unit.
    """

    name: str
    kernel: Leaf
    bias: Leaf | None = None
    outgoing: Leaf | None = None
    identity_skip: bool = False

    def incoming_weights(self, params: Any) -> Float[Array, "fan_in n"]:
        """Column j: what unit j reads with."""
        kernel = self.kernel.of(params)
        return kernel.reshape(-1, kernel.shape[-1])

    def biases(self, params: Any) -> Float[Array, " n"]:
        """Zeros if the layer has none."""
        if self.bias is None:
            kernel = self.kernel.of(params)
            return jnp.zeros(kernel.shape[-1], kernel.dtype)
        return self.bias.of(params)

    def outgoing_weights(self, params: Any) -> Float[Array, "n fan_out"] | None:
        """Row j: what unit j is read with.

        Raises
        ------
        InputError
            If the next kernel does not read as many units.
        """
        if self.outgoing is None:
            return None
        kernel, width = self.outgoing.of(params), self.kernel.of(params).shape[-1]
        if kernel.shape[-2] % width:
            raise InputError(
                f"layer {self.name!r} has {width} units, but {self.outgoing.path!r} reads "
                f"{kernel.shape[-2]}"
            )
        rows = kernel.reshape(-1, width, kernel.shape[-1])
        return jnp.moveaxis(rows, 1, 0).reshape(width, -1)


def flat_activities(activities: Float[Array, "*places n"]) -> Float[Array, "N n"]:
    """Examples, and places in images, along the first axis."""
    return activities.reshape(-1, activities.shape[-1])


def expect_layers(layers: Any) -> tuple[HiddenLayer, ...]:
    """Refuse what describes no layers.

    Raises
    ------
    InputError
        With what was given.
    """
    found = tuple(layers) if not isinstance(layers, HiddenLayer | Mapping) else ()
    if not found or not all(isinstance(layer, HiddenLayer) for layer in found):
        raise InputError(f"layers must be a sequence of HiddenLayer; got {layers!r}")
    return found
