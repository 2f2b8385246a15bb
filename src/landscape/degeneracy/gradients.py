"""How much of the loss's gradient comes back to each layer."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from landscape.degeneracy.networks import walk_mlp
from landscape.errors import InputError
from landscape.models import MLP
from landscape.training.losses import example_losses


def activity_gradient_norms(
    model: Any, params: Any, batch: tuple[Array, Array], *, state: Any = None
) -> Float[Array, " L"]:
    """Norms of the gradients of the examples' losses with respect to each layer's output.

    Parameters
    ----------
    model
        The network; with batch normalisation, at its running statistics.
    params, state
        Its parameters and its other collections.
    batch
        Inputs (N, …) and labels (N,).

    Returns
    -------
    (L,): ``mean_i ‖∂ℓ_i/∂x_l(x_i)‖₂`` over the examples, ℓ in nats, x_l whatever the layer passes
    on, skip included; from the first hidden layer to the last. Ready for ``jit`` and ``vmap`` over
    parameters and state.

    Raises
    ------
    InputError
        If the model is no ``MLP``.

    Examples
    --------
    >>> model = MLP(depth=3, width=4, num_classes=2)
    >>> x = jnp.ones((6, 5))
    >>> params = model.init(jax.random.key(0), x)["params"]
    >>> activity_gradient_norms(model, params, (x, jnp.zeros(6, int))).shape
    (3,)
    """
    if not isinstance(model, MLP):
        raise InputError(f"activity gradients are taken of an MLP; got {type(model).__name__}")
    inputs, labels = batch
    return _norms(model, params, state, jnp.asarray(inputs), jnp.asarray(labels))


@functools.partial(jax.jit, static_argnums=0)
def _norms(model: MLP, params: Any, state: Any, inputs: Array, labels: Array) -> Array:
    def total(moved: list[Array]) -> Array:
        logits = walk_mlp(model, params, state, inputs, moved=moved).logits
        return example_losses(logits, labels).sum()

    zeros = jnp.zeros((len(inputs), model.width), inputs.dtype)
    slopes = jax.grad(total)([zeros] * model.depth)
    return jnp.stack([jnp.linalg.norm(slope, axis=1).mean() for slope in slopes])
