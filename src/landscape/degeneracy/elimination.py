r"""How near units are to being eliminated: to carrying nothing, or to being read by nobody.

Notation: unit ``j`` of a hidden layer has incoming weights ``w_j``, bias ``b_j``, outgoing weights
``v_j``; its response is what the next layer reads, skip included; its branch is ``f(z_j)`` alone.

Elimination is the first of the singularities of A. E. Orhan and X. Pitkow, ICLR 2018: with ``w_j =
0``, or a branch that is never active, the outgoing weights are free; with ``v_j = 0`` the incoming
ones. Under a skip Q a unit still carries its skip input ``q_j · x``; there the ghost of elimination
is ``w_j = −q_j`` with ``b_j`` above the largest ``q_j · x``: branch and skip add up to a constant.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from landscape._pytrees import pytree
from landscape.degeneracy.layers import HiddenLayer, expect_layers, flat_activities
from landscape.errors import InputError
from landscape.results import Result


@pytree
@dataclasses.dataclass(frozen=True)
class Elimination(Result):
    """Per unit, one array of a layer's n units for each layer; and means.

    Attributes
    ----------
    incoming_norms, outgoing_norms
        ‖w_j‖ and ‖v_j‖; NaN where no one kernel reads the layer.
    zero_probability
        Share of the examples (and of the places in their images) for which the response is exactly
        0.
    never_active
        Whether the branch is 0 for all of them: ``z_j ≤ 0`` for a ReLU; where no pre-activations
        were given, a response of exactly 0.
    distances
        An upper bound of the distance, in the units of the parameters, to the nearest point at
        which the unit is eliminated in this batch: 0 if it is never active, else the least of
        ‖v_j‖; ‖w_j‖ with ``b_j`` brought to 0 (of a ReLU if it is above) for branches that are 0
        there; and of a ReLU with a bias the bias's way down to where ``z_j ≤ 0`` everywhere.
    ghost_distances
        For layers with a skip of the identity or a matrix Q whose inputs were given: the distance
        to ``w_j = −q_j``, row j of Q, with ``b_j`` at least the largest ``q_j · x``; NaN for
        others.
    mean_incoming_norm, mean_zero_probability
        Over all units of all layers: the former is the paper's distance from elimination.
    """

    incoming_norms: tuple[Float[Array, "... _"], ...]
    outgoing_norms: tuple[Float[Array, "... _"], ...]
    zero_probability: tuple[Float[Array, "... _"], ...]
    never_active: tuple[Bool[Array, "... _"], ...]
    distances: tuple[Float[Array, "... _"], ...]
    ghost_distances: tuple[Float[Array, "... _"], ...]
    mean_incoming_norm: Float[Array, "*batch"]
    mean_zero_probability: Float[Array, "*batch"]

    def __repr__(self) -> str:
        silent = sum(int(layer.sum()) for layer in self.never_active)
        return (
            f"Elimination({len(self.never_active)} layers: mean norm of incoming weights "
            f"{jnp.mean(self.mean_incoming_norm):.4g}, probability of a zero response "
            f"{jnp.mean(self.mean_zero_probability):.4g}, {silent:,} units never active)"
        )


def elimination(
    layers: Sequence[HiddenLayer],
    params: Any,
    activities: Sequence[Array],
    preactivations: Sequence[Array] | None,
    *,
    inputs: Sequence[Array] | None = None,
    skips: Sequence[Array | None] | None = None,
) -> Elimination:
    """Norms of weights, zero responses, and distances to elimination.

    Parameters
    ----------
    layers
        As ``hidden_layers`` finds them, or described by hand.
    params
        The pytree they point into.
    activities, preactivations
        Of each layer, (N, n) or (N, H, W, n): what the next layer reads, and z of ReLUs; None for
        other units.
    inputs
        Of each layer: what it reads; for the ghosts of skips.
    skips
        Of each layer: the matrix of its skip, or None. Default the identity where the layer is
        described with ``identity_skip``.

    Returns
    -------
    Elimination; ready for ``jit`` and ``vmap`` over parameters.

    Raises
    ------
    InputError
        If there is not one array for each layer, or one has another number of units.

    Examples
    --------
    A layer described by hand: its second unit answers nothing, and nothing reads its first.

    >>> from landscape.degeneracy import HiddenLayer, Leaf
    >>> params = {"in": jnp.array([[1.0, -1.0]]), "out": jnp.array([[0.0], [2.0]])}
    >>> layer = HiddenLayer("hidden", kernel=Leaf("in"), outgoing=Leaf("out"))
    >>> z = jnp.array([[1.0], [3.0]]) @ params["in"]
    >>> found = elimination([layer], params, [jnp.maximum(z, 0)], [z])
    >>> found.outgoing_norms[0].tolist(), found.never_active[0].tolist()
    ([0.0, 2.0], [False, True])
    """
    layers = expect_layers(layers)
    activities = [jnp.asarray(x) for x in activities]
    expect_one_each(layers, params, "activities", activities)
    if preactivations is not None:
        expect_one_each(layers, params, "preactivations", preactivations)
    norms, outgoing, zeros, never, distances = [], [], [], [], []
    given = [None] * len(layers) if preactivations is None else preactivations
    for layer, x, z in zip(layers, activities, given, strict=True):
        weights, bias = layer.incoming_weights(params), layer.biases(params)
        read = layer.outgoing_weights(params)
        x = flat_activities(x)
        norms.append(jnp.linalg.norm(weights, axis=0))
        unread = jnp.full_like(norms[-1], jnp.nan)
        outgoing.append(unread if read is None else jnp.linalg.norm(read, axis=1))
        zeros.append(jnp.mean(x == 0, 0, dtype=x.dtype))
        never.append(jnp.all(x == 0, 0) if z is None else jnp.all(flat_activities(z) <= 0, 0))
        nearest = jnp.hypot(norms[-1], jnp.abs(bias) if z is None else jnp.maximum(bias, 0))
        if z is not None and layer.bias is not None:
            nearest = jnp.minimum(nearest, jnp.maximum(flat_activities(z).max(0), 0))
        distances.append(jnp.where(never[-1], 0, jnp.fmin(nearest, outgoing[-1])))
    if inputs is None:
        reads: list[Array | None] = [None] * len(layers)
    else:
        expect_one_each_of(layers, "inputs", inputs)
        reads = list(inputs)
    ghosts = [
        _ghost(layer, params, x, skip)
        for layer, x, skip in zip(layers, reads, skip_matrices(layers, params, skips), strict=True)
    ]
    return Elimination(
        tuple(norms),
        tuple(outgoing),
        tuple(zeros),
        tuple(never),
        tuple(distances),
        tuple(ghosts),
        jnp.concatenate(norms).mean(),
        jnp.concatenate(zeros).mean(),
    )


def _ghost(layer: HiddenLayer, params: Any, x: Array | None, skip: Array | None) -> Array:
    """Distance to w_j = −q_j, b_j ≥ max q_j · x."""
    weights, bias = layer.incoming_weights(params), layer.biases(params)
    if x is None or skip is None:
        return jnp.full_like(bias, jnp.nan)
    undone = jnp.linalg.norm(weights + skip.T, axis=0)
    carried = jnp.matmul(flat_activities(x), skip.T, precision="highest")
    return jnp.hypot(undone, jnp.maximum(carried.max(0) - bias, 0))


def skip_matrices(
    layers: Sequence[HiddenLayer], params: Any, given: Sequence[Array | None] | None
) -> list[Array | None]:
    """Of each layer the matrix of its skip: as given, or the identity where it is described so.

    Raises
    ------
    InputError
        If there is not one for each layer, or one does not fit its layer's weights.
    """
    weights = [layer.incoming_weights(params) for layer in layers]
    shapes = [w.shape for w in weights]
    if given is None:
        given = [
            jnp.eye(len(w), dtype=w.dtype) if layer.identity_skip else None
            for layer, w in zip(layers, weights, strict=True)
        ]
    expect_one_each_of(layers, "skips", given)
    for layer, (fan_in, width), skip in zip(layers, shapes, given, strict=True):
        if skip is not None and jnp.shape(skip) != (width, fan_in):
            raise InputError(
                f"the skip of layer {layer.name!r} is {jnp.shape(skip)}, but the layer has "
                f"{width} units that read {fan_in} numbers"
            )
    return [None if skip is None else jnp.asarray(skip) for skip in given]


def expect_one_each_of(layers: Sequence[HiddenLayer], name: str, given: Sequence[Any]) -> None:
    """Refuse what does not have an entry for each layer.

    Raises
    ------
    InputError
        With how many there are.
    """
    if len(given) != len(layers):
        raise InputError(f"{name} must be one for each of {len(layers)} layers; got {len(given)}")


def expect_one_each(
    layers: Sequence[HiddenLayer], params: Any, name: str, arrays: Sequence[Array]
) -> None:
    """Refuse arrays that do not belong to the layers.

    Raises
    ------
    InputError
        With what was expected.
    """
    widths = [layer.kernel.of(params).shape[-1] for layer in layers]
    found = [jnp.shape(a)[-1:] for a in arrays]
    if found != [(width,) for width in widths]:
        raise InputError(
            f"{name} must be one array for each of {len(layers)} layers, with {widths} units on "
            f"their last axes; got shapes {[jnp.shape(a) for a in arrays]}"
        )
