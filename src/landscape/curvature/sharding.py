r"""Operators over several devices, and over several hosts.

An operator is *placed* on a mesh: its batch is split among the devices along the axis ``"data"``,
everything else is on each of them. Products are then data-parallel without a word more: the
compiler adds up what the devices find. Lanczos follows the operator (``Layout``): each device keeps
a slice of every basis vector, so that what one device has to hold falls as devices are added; and
along the axis ``"probes"``, if the mesh has it, each row of devices has probes of its own, which
need no word from those of another row.

Numbers differ from those of one device by rounding: sums are taken in another order.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from landscape.curvature.batched import BatchOperator
from landscape.curvature.batches import num_examples
from landscape.curvature.operators import LinearOperator
from landscape.curvature.preconditions import expect_positive
from landscape.errors import InputError

PROBES, DATA = "probes", "data"

T = TypeVar("T")


def data_mesh(devices: Any = None, *, probes: int = 1) -> Mesh:
    """A mesh of two axes, ``"probes"`` and ``"data"``.

    Parameters
    ----------
    devices
        Default all of them, those of other hosts included.
    probes
        Rows of devices that share the probes out, with the whole batch in each; the devices of a
        row share the batch. As many as there are devices is the fastest where a device holds the
        batch: nothing has to be added up.

    Raises
    ------
    InputError
        If the number of devices is no multiple of ``probes``.

    Examples
    --------
    >>> import jax
    >>> mesh = data_mesh(jax.devices()[:1])
    >>> dict(mesh.shape)
    {'probes': 1, 'data': 1}
    """
    found = np.asarray(jax.devices() if devices is None else devices).ravel()
    expect_positive(probes=probes)
    if len(found) % probes:
        raise InputError(f"{len(found)} devices cannot be split into {probes} equal rows")
    return Mesh(found.reshape(probes, -1), (PROBES, DATA))


def place(op: LinearOperator, mesh: Mesh) -> LinearOperator:
    """The same operator over the devices of a mesh.

    Parameters
    ----------
    op
        Made by ``hessian``, ``ggn``, ``fisher`` or ``empirical_fisher`` of a batch in memory, whose
        examples are then shared out; or any other operator that is a pytree (a Jacobian, a sum),
        which is then whole on each device.
    mesh
        With an axis ``"data"``. Of several hosts, each has to call this with the same operator.

    Returns
    -------
    LinearOperator

    Raises
    ------
    InputError
        If the number of examples, or of those in a chunk, is no multiple of the devices', or the
        operator is driven from the host.

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
    if not op.traceable:
        raise InputError(
            f"{op!r} is driven from the host, one batch after the other: place an operator of one "
            "batch, by chunks if need be"
        )
    if not isinstance(op, BatchOperator):
        return replicate(op, mesh)
    batch = split_examples(op.batch, mesh)
    if op.chunk_size is not None:
        _expect_multiple(op.chunk_size, "examples of a chunk", mesh)
    rest: Any = replicate(dataclasses.replace(op, batch=()), mesh)
    return dataclasses.replace(rest, batch=batch)


def split_examples(batch: T, mesh: Mesh) -> T:
    """A batch whose examples are shared out among the devices of a mesh.

    Raises
    ------
    InputError
        If their number is no multiple of the devices'.
    """
    _expect_multiple(num_examples(batch), "examples", mesh)
    split = NamedSharding(mesh, PartitionSpec(DATA))
    return jax.tree.map(lambda leaf: _put(leaf, split), batch)


def replicate(tree: T, mesh: Mesh) -> T:
    """A pytree that is whole on each device of a mesh.

    Raises
    ------
    InputError
        If it is another one on another host.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda leaf: _put(leaf, everywhere), tree)


def _put(leaf: Any, sharding: NamedSharding) -> Array:
    """An array where a sharding says; of several hosts each has to have the same.

    ``jax.device_put`` compares their numbers, and takes NaN for different ones.
    """
    array = jnp.asarray(leaf)
    key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
    if sharding.is_fully_addressable or not array.is_fully_addressable or key:
        return jax.device_put(array, sharding)
    values = np.asarray(array)
    digest = hashlib.sha256(np.ascontiguousarray(values).view(np.uint8).data).digest()
    mine = np.frombuffer(digest, np.uint8)
    if (multihost_utils.broadcast_one_to_all(mine) != mine).any():
        raise InputError("hosts that work together were given different arrays")
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def _expect_multiple(number: int, name: str, mesh: Mesh) -> None:
    devices = mesh.shape[DATA]
    if number % devices:
        raise InputError(
            f"{number} {name} cannot be split among {devices} devices: take a multiple of them"
        )


def mesh_of(op: LinearOperator) -> Mesh | None:
    """The mesh that an operator has been placed on; None for one device."""
    for leaf in jax.tree.leaves(op):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and sharding.mesh.size > 1:
            return sharding.mesh  # type: ignore[return-value]
    return None


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the vectors of L Lanczos runs are split among devices; hashable.

    Attributes
    ----------
    mesh
        The operator's.
    groups
        Rows of devices that share the lanes out; 1 if each has all of them.
    parts
        Devices that share each vector of a basis; 1 if each has whole ones.
    """

    mesh: Mesh
    groups: int
    parts: int

    def lanes(self, vectors: Array) -> Array:
        """Vectors, (L, P), where they belong."""
        return self._split(vectors, None)

    def block(self, block: Array) -> Array:
        """A block of a basis, (L, T, r, p), where it belongs."""
        return self._split(block, DATA if self.parts > 1 else None)

    def _split(self, array: Array, last: str | None) -> Array:
        between = [None] * (array.ndim - 2)
        spec = PartitionSpec(PROBES if self.groups > 1 else None, *between, last)
        return jax.lax.with_sharding_constraint(array, NamedSharding(self.mesh, spec))


def on_host(array: Any) -> np.ndarray:
    """An array's numbers, those that other hosts hold included: each host has to ask for them."""
    if isinstance(array, jax.Array):
        sharding = array.sharding
        if not (array.is_fully_addressable or sharding.is_fully_replicated):
            assert isinstance(sharding, NamedSharding)
            everywhere = NamedSharding(sharding.mesh, PartitionSpec())
            array = jax.jit(lambda x: x, out_shardings=everywhere)(array)
    return np.asarray(array)


def layout(op: LinearOperator, num_probes: int, length: int) -> Layout | None:
    """How lanes of an operator are split.

    Parameters
    ----------
    op
        Placed on a mesh, or not.
    num_probes
        Of each operator of a family.
    length
        Of the last axis of a basis's blocks: whole where it is no multiple of the devices.

    Returns
    -------
    None for one device.

    Raises
    ------
    InputError
        If the probes cannot be shared out equally.
    """
    mesh = mesh_of(op)
    if mesh is None:
        return None
    rows, columns = (mesh.shape.get(name, 1) for name in (PROBES, DATA))
    if num_probes % rows and not op.batch_shape:
        raise InputError(
            f"{num_probes} probes cannot be split among {rows} rows of devices: take a multiple"
        )
    return Layout(mesh, 1 if op.batch_shape else rows, columns if length % columns == 0 else 1)
