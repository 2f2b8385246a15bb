r"""Penalties on the parameters, added to the training loss.

Notation: every hidden unit has a bias b and a target b*, drawn once from N(μ, σ²) before training;
the penalty is ``λ Σ (b − b*)²``. With σ > 0 it keeps units from becoming alike (BiasReg); with
μ = σ = 0 it is ordinary weight decay on the biases, which breaks no symmetry (BiasL2Reg). Source:
A. E. Orhan and X. Pitkow, *Skip Connections Eliminate Singularities*, ICLR 2018.

The targets are part of a network's state, in the collection ``"penalty"``: they differ from network
to network, and are kept with its checkpoints.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from landscape.errors import InputError

COLLECTION = "penalty"


@dataclasses.dataclass(frozen=True)
class BiasRegularization:
    """``λ Σ (b − b*)²`` over the biases of all hidden units; hashable.

    Attributes
    ----------
    strength
        λ ≥ 0.
    mean, std
        μ and σ ≥ 0 of the targets.

    Examples
    --------
    >>> from landscape.models import MLP
    >>> params = MLP(3, 4, 2).init(jax.random.key(0), jnp.ones((1, 5)))["params"]
    >>> penalty = BiasRegularization(strength=0.1, mean=1.0)
    >>> targets = penalty.draw(jax.random.key(1), params)
    >>> float(penalty(params, {"penalty": targets}))  # 3 layers of 4 units, biases 0
    1.2000000476837158
    """

    strength: float
    mean: float = 0.0
    std: float = 0.0

    def __post_init__(self) -> None:
        for name in ("strength", "mean", "std"):
            value = getattr(self, name)
            if not np.isfinite(value) or (name != "mean" and value < 0):
                least = "" if name == "mean" else " and not negative"
                raise InputError(f"{name} must be finite{least}; got {value!r}")

    def draw(self, key: Array, params: Any) -> dict[str, Any]:
        """Targets of all hidden units.

        Parameters
        ----------
        key
            JAX random key.
        params
            A network's parameters.

        Returns
        -------
        The collection ``"penalty"``: the biases' part of the pytree of parameters.

        Raises
        ------
        InputError
            If the network has no hidden unit with a bias.
        """
        biases = _hidden_biases(params)
        if not biases:
            raise InputError("the model has no hidden layer with a bias to regularise")
        keys = jax.random.split(key, len(biases))
        targets = {
            path: self.mean + self.std * jax.random.normal(one, bias.shape, bias.dtype)
            for one, (path, bias) in zip(keys, biases.items(), strict=True)
        }
        return unflatten_dict(targets, sep="/")

    def __call__(self, params: Any, state: Any) -> Float[Array, ""]:
        """The penalty of a network's parameters.

        Parameters
        ----------
        params
            A network's parameters.
        state
            Its other variables, with the collection ``"penalty"``.

        Returns
        -------
        Scalar, to be added to a mean loss in nats.
        """
        targets = flatten_dict(state[COLLECTION], sep="/")
        squares = [jnp.sum((b - targets[p]) ** 2) for p, b in _hidden_biases(params).items()]
        return self.strength * jnp.sum(jnp.stack(squares))


Penalty = BiasRegularization


def penalized(loss: Callable[..., Array], penalty: Penalty) -> Callable[..., Array]:
    """A loss with a penalty added, to take its curvature apart from the data's.

    Parameters
    ----------
    loss
        ``loss(params, state, batch)``, such as ``softmax_cross_entropy(model)``.
    penalty
        What is added.

    Returns
    -------
    A function of the same arguments. Each call makes a new function, for which products compile
    anew: keep it.

    Examples
    --------
    >>> from landscape.models import MLP
    >>> from landscape.training import softmax_cross_entropy
    >>> model = MLP(3, 4, 2)
    >>> batch = jnp.ones((6, 5)), jnp.zeros(6, int)
    >>> params = model.init(jax.random.key(0), batch[0])["params"]
    >>> penalty = BiasRegularization(strength=0.1, mean=1.0)
    >>> state = {"penalty": penalty.draw(jax.random.key(1), params)}
    >>> loss = softmax_cross_entropy(model)
    >>> more = penalized(loss, penalty)(params, state, batch) - loss(params, state, batch)
    >>> print(f"{more:.2f}")
    1.20
    """

    def total(params: Any, state: Any, batch: Any) -> Array:
        return loss(params, state, batch) + penalty(params, state)

    return total


def _hidden_biases(params: Any) -> dict[str, Array]:
    """Biases that stand beside a kernel, but for those of the layer ``output``."""
    flat = flatten_dict(params, sep="/")
    layers = [path.removesuffix("/kernel") for path in flat if path.endswith("/kernel")]
    return {
        f"{layer}/bias": flat[f"{layer}/bias"]
        for layer in layers
        if layer != "output" and f"{layer}/bias" in flat
    }
