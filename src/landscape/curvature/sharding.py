r"""Operators over several devices, and over several hosts.

An operator is *placed* on a mesh: its batch is split among the devices along the axis ``"data"``,
everything else is on each of them. Products are then data-parallel without a word more: the
compiler adds up what the devices find. Lanczos bases follow the operator (``basis_sharding``): each
device keeps a slice of every basis vector, so that what one device has to hold falls as devices are
added.

Numbers differ from those of one device by rounding: sums are taken in another order.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from landscape.curvature.batched import BatchOperator
from landscape.curvature.batches import num_examples
from landscape.curvature.operators import LinearOperator
from landscape.errors import InputError

DATA = "data"


def data_mesh(devices: Any = None) -> Mesh:
    """A mesh of one axis, ``"data"``.

    Parameters
    ----------
    devices
        Default all of them, those of other hosts included.
    """
    return Mesh(np.asarray(jax.devices() if devices is None else devices), (DATA,))


def place(op: LinearOperator, mesh: Mesh) -> LinearOperator:
    """The same operator over the devices of a mesh.

    Parameters
    ----------
    op
        Made by ``hessian``, ``ggn``, ``fisher``, ``empirical_fisher`` or ``jacobian``, of a batch
        in memory; or any other operator that is a pytree, which is then on each device.
    mesh
        With an axis ``"data"``. Of several hosts, each has to call this with the same operator.

    Returns
    -------
    LinearOperator

    Raises
    ------
    InputError
        If the number of examples, or of those in a chunk, is no multiple of the devices'.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from landscape.curvature import hessian
    >>> op = hessian(lambda w, x: ((x @ w) ** 2).mean() / 2, jnp.ones(2), jnp.eye(4, 2))
    >>> place(op, data_mesh()).matvec(jnp.ones(2)).tolist()
    [0.25, 0.25]
    """
    if DATA not in mesh.axis_names:
        raise InputError(f"the mesh has to have an axis {DATA!r}; it has {mesh.axis_names}")
    everywhere = NamedSharding(mesh, PartitionSpec())
    if not isinstance(op, BatchOperator):
        return jax.tree.map(lambda leaf: jax.device_put(leaf, everywhere), op)
    count, devices = num_examples(op.batch), mesh.shape[DATA]
    for name, number in (("examples", count), ("examples of a chunk", op.chunk_size)):
        if number is not None and number % devices:
            raise InputError(
                f"{number} {name} cannot be split among {devices} devices: take a multiple of them"
            )
    split = NamedSharding(mesh, PartitionSpec(DATA))
    batch = jax.tree.map(lambda leaf: jax.device_put(leaf, split), op.batch)
    rest = dataclasses.replace(op, batch=())
    rest = jax.tree.map(lambda leaf: jax.device_put(leaf, everywhere), rest)
    return dataclasses.replace(rest, batch=batch)


def mesh_of(op: LinearOperator) -> Mesh | None:
    """The mesh that an operator has been placed on; None for one device."""
    for leaf in jax.tree.leaves(op):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and sharding.mesh.size > 1:
            return sharding.mesh  # type: ignore[return-value]
    return None


def basis_sharding(op: LinearOperator, length: int) -> NamedSharding | None:
    """How blocks of a basis, (L, T, r, p), are split: along their last axis, of that length.

    None for one device, and where the length is no multiple of the devices.
    """
    mesh = mesh_of(op)
    if mesh is None or DATA not in mesh.axis_names or length % mesh.shape[DATA]:
        return None
    return NamedSharding(mesh, PartitionSpec(None, None, None, DATA))
