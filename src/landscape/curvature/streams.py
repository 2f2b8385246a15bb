r"""Operators over data that does not fit on the device: batches streamed from the host.

Notation: batches ``b = 1 … B`` of counts ``n_b``; the mean over the data of a product is
``Av = Σ_b n_b A_b v / Σ_b n_b``. Each product walks through all batches, in the memory of one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from landscape.curvature.batched import BatchOperator
from landscape.curvature.batches import num_examples, weigh
from landscape.curvature.operators import LinearOperator
from landscape.errors import InputError


def is_stream(batch: Any) -> bool:
    """Whether this is an iterable of batches: no array, and no pytree but a leaf."""
    if isinstance(batch, Iterator):
        return True
    if not isinstance(batch, Iterable) or isinstance(batch, str | bytes) or hasattr(batch, "shape"):
        return False
    return jax.tree_util.treedef_is_leaf(jax.tree.structure(batch))


def first_batch(batches: Iterable[Any]) -> Any:
    """The first batch of a stream.

    Raises
    ------
    InputError
        If the stream is empty, or can be walked through only once.
    """
    iterator = iter(batches)
    if iterator is batches:
        raise InputError(
            f"a stream of batches is walked through at every product, and a "
            f"{type(batches).__name__} can be only once: pass an object whose __iter__ starts anew"
        )
    first, again = next(iterator, None), next(iter(batches), None)
    if first is not None and again is None:
        raise InputError(
            "the stream of batches is empty when it is walked through a second time: its __iter__ "
            "must start anew"
        )
    if first is None:
        raise InputError("the stream of batches is empty")
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=False)
    if not all(_same(a, b) for a, b in pairs):
        raise InputError(
            "two walks through the stream begin with different batches: the operator must be of "
            "the same data at every product, so switch shuffling off"
        )
    return first


def _same(first: Any, again: Any) -> bool:
    # Tensors of another framework have types of their own.
    first, again = np.asarray(first), np.asarray(again)
    floating = jnp.issubdtype(first.dtype, np.floating)
    return bool(np.array_equal(first, again, equal_nan=floating))


def refuse_stream(batch: Any, what: str) -> None:
    """Refuse a stream where one batch is needed.

    Raises
    ------
    InputError
        If it is a stream.
    """
    if is_stream(batch):
        raise InputError(f"{what} takes one batch, not a stream of batches; use chunk_size")


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class StreamedOperator(LinearOperator):
    """A mean over a stream of batches; made by ``hessian`` and the others from such a stream.

    No pytree: its products are driven from the host, and it cannot be traced.

    Attributes
    ----------
    template
        The operator on the first batch.
    batches
        Re-iterable of batches.
    type
        What floating leaves of the batches are cast to; None leaves them.
    """

    template: BatchOperator
    batches: Iterable[Any]
    type: np.dtype | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(P, P), the differentiated parameters."""
        return self.template.shape

    @property
    def dtype(self) -> np.dtype:
        """The differentiated parameters' common type."""
        return self.template.dtype

    @property
    def traceable(self) -> bool:
        """False."""
        return False

    @property
    def traceable_parts(self) -> tuple[LinearOperator, ...]:
        """The operator on one batch."""
        return (self.template,)

    @property
    def num_examples(self) -> int:
        """N, the examples the operator is a mean over."""
        return sum(num_examples(batch) for batch in self.batches)

    def ravel(self, tree: Any) -> Array:
        """A pytree like the parameters as a vector; as ``BatchOperator.ravel``."""
        return self.template.ravel(tree)

    def unravel(self, vector: Array) -> Any:
        """A vector as a pytree like the parameters; as ``BatchOperator.unravel``."""
        return self.template.unravel(vector)

    def astype(self, dtype: Any) -> StreamedOperator:
        """The same operator with every floating leaf in another type; as ``BatchOperator``."""
        template = cast(BatchOperator, self.template.astype(dtype))
        return dataclasses.replace(self, template=template, type=np.dtype(dtype))

    def _products(self) -> Callable[[Array], Array]:
        raise InputError(
            "an operator over a stream of batches cannot be traced: its products are driven from "
            "the host. Use it outside jit and vmap, or pass the data as one batch with a chunk_size"
        )

    def _matmat(self, vectors: Array) -> Array:
        wide = jnp.promote_types(vectors.dtype, jnp.float32)
        total = (jnp.zeros(vectors.shape, wide), jnp.zeros((), jnp.result_type(float)))
        for op in self._operators():
            total = _add(total, _weighted_images(op, vectors))
        return (total[0] / total[1].astype(wide)).astype(vectors.dtype)

    def _operators(self) -> Iterator[BatchOperator]:
        form: Any = jax.tree.structure(self.template.batch)
        for batch in self.batches:
            if jax.tree.structure(batch) != form:
                raise InputError(
                    "the batches of a stream must be of one form; the first is "
                    f"{form}, another {jax.tree.structure(batch)}"
                )
            op = dataclasses.replace(self.template, batch=jax.tree.map(jnp.asarray, batch))
            # A batch of one chunk needs no scan.
            if op.chunk_size is not None and op.chunk_size >= op.num_examples:
                op = dataclasses.replace(op, chunk_size=None)
            yield op if self.type is None else cast(BatchOperator, op.astype(self.type))


@jax.jit
def _weighted_images(op: BatchOperator, vectors: Array) -> tuple[Array, Array]:
    count = weigh(op.batch, op.weight)
    images = op._lanes()(vectors.T).T
    return count.astype(jnp.promote_types(images.dtype, jnp.float32)) * images, count


@jax.jit
def _add(total: Any, more: Any) -> Any:
    return jax.tree.map(lambda a, b: a + b.astype(a.dtype), total, more)
