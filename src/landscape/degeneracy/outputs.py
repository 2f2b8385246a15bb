r"""What a loss sees of a model's outputs, as outputs whose Jacobian is taken.

Notation: ``Λ_i = ∇²ℓ_i`` of example i in its outputs ``z_i``, ``R_i R_iᵀ = Λ_i``. At fixed ``R_i``
the Jacobian of ``R_iᵀ z_i`` has the rows ``R_iᵀ J_i``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from landscape._decompositions import one_by_one
from landscape.curvature.jacobian import JacobianOperator
from landscape.curvature.operators import LinearOperator
from landscape.errors import InputError

# Outputs and a batch to the mean loss of its examples, as ``ggn`` takes it.
OutputLoss = Callable[[Array, Any], Array]


def weighted_jacobian(
    op: LinearOperator, centered: bool, output_loss: OutputLoss | None
) -> LinearOperator:
    """The Jacobian of what a loss sees of the outputs."""
    if not centered and output_loss is None:
        return op
    if centered and output_loss is not None:
        raise InputError("centered is the weight of a softmax at any probabilities: give one")
    if not isinstance(op, JacobianOperator):
        raise InputError(
            "only a Jacobian's rows belong to outputs that can be centered or weighted"
        )
    if output_loss is None:
        return dataclasses.replace(op, model_fn=centered_outputs(op.model_fn))
    lowest = float(_lowest_curvature(op, output_loss))
    if lowest < -1e-5:
        raise InputError(
            f"the output loss is not convex: an example's Hessian has an eigenvalue {lowest:.1e} "
            "times its largest"
        )
    return dataclasses.replace(op, model_fn=weighted_outputs(op.model_fn, output_loss))


@lru_cache(maxsize=64)
def centered_outputs(model_fn: Callable[..., Array]) -> Callable[..., Array]:
    """Outputs less their mean, example by example; one function for one model."""

    def outputs(params: Any, *rest: Any) -> Array:
        z = model_fn(params, *rest)
        z = z.reshape(len(z), -1)
        return z - z.mean(1, keepdims=True)

    return outputs


@lru_cache(maxsize=64)
def weighted_outputs(
    model_fn: Callable[..., Array], output_loss: OutputLoss
) -> Callable[..., Array]:
    """Outputs times a root of the loss's Hessian in them, held fixed."""

    def outputs(params: Any, *rest: Any) -> Array:
        z = model_fn(params, *rest)
        hessians = jax.lax.stop_gradient(_output_hessians(output_loss, z, rest))
        values, modes = jax.vmap(one_by_one(_eigenpairs))(hessians)
        rounding = values.shape[1] * jnp.finfo(values.dtype).eps
        values = jnp.where(values > rounding * values[:, -1:], values, 0)
        root = modes * jnp.sqrt(values)[:, None, :]
        return jnp.einsum("nck,nc->nk", root, z.reshape(len(z), -1), precision="highest")

    return outputs


def _eigenpairs(matrix: Array) -> tuple[Array, Array]:
    values, modes = jnp.linalg.eigh(matrix)
    return values, modes


def _output_hessians(output_loss: OutputLoss, z: Array, rest: tuple[Any, ...]) -> Array:
    """(N, C, C): of each example's loss, that of a batch of one."""

    def one(row: Array, example: Any) -> Array:
        alone = jax.tree.map(lambda leaf: leaf[None], example)

        def loss(flat: Array) -> Array:
            return output_loss(flat.reshape(1, *row.shape), alone)

        found = jax.hessian(loss)(row.ravel())
        return (found + found.T) / 2

    return jax.vmap(one)(z, rest[-1])


@partial(jax.jit, static_argnames="output_loss")
def _lowest_curvature(op: JacobianOperator, output_loss: OutputLoss) -> Array:
    """The lowest eigenvalue of an example's Hessian over its largest; 0 where that is 0."""
    rest = (op.batch,) if op.state is None else (op.state, op.batch)
    hessians = _output_hessians(output_loss, op.model_fn(op.params, *rest), rest)
    values = jax.vmap(one_by_one(jnp.linalg.eigvalsh))(hessians)
    largest = jnp.abs(values).max(1)
    return jnp.min(jnp.where(largest > 0, values[:, 0] / jnp.where(largest > 0, largest, 1), 0))
