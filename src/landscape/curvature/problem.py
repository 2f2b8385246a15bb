"""What a command is pointed at: a loss, the parameters it is looked at, and its data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from landscape.curvature.batches import Weight
from landscape.curvature.hessian import HessianOperator, hessian
from landscape.curvature.streams import StreamedOperator, is_stream


@dataclasses.dataclass(frozen=True, repr=False)
class Problem:
    """A mean loss at given parameters.

    Attributes
    ----------
    loss
        ``loss(params, batch)``, or ``loss(params, state, batch)`` if there is a state: the mean
        over the batch's examples.
    params
        A pytree of arrays.
    batch
        A pytree whose leaves share a leading axis of N examples, or a stream of such batches.
    state
        Whatever varies with the checkpoint but is not differentiated.
    load
        ``load(path) -> (params, state)``: reads a checkpoint of a format of its own.
    model
        Of a classifier whose batch is (inputs, labels): what ``degeneracy_budget`` takes, a Linen
        or NNX module or a function of logits. Without it causes are not looked for.
    weight, chunk_size
        As for ``hessian``.
    name
        For people.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> def loss(w, x):
    ...     return ((x @ w) ** 2).mean() / 2
    >>> Problem(loss, jnp.ones(2), jnp.eye(2)).hessian().to_dense().tolist()
    [[0.5, 0.0], [0.0, 0.5]]
    """

    loss: Callable[..., Array]
    params: Any
    batch: Any
    state: Any = None
    load: Callable[[str], tuple[Any, Any]] | None = None
    model: Any = dataclasses.field(default=None, kw_only=True)
    weight: Weight | None = dataclasses.field(default=None, kw_only=True)
    chunk_size: int | None = dataclasses.field(default=None, kw_only=True)
    name: str = dataclasses.field(default="", kw_only=True)

    def __repr__(self) -> str:
        size = sum(math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(self.params))
        name = self.name or getattr(self.loss, "__name__", type(self.loss).__name__)
        leaves = () if is_stream(self.batch) else jax.tree.leaves(self.batch)
        lengths = {length for leaf in leaves for length in jnp.shape(leaf)[:1]}
        examples = f", N = {lengths.pop():,}" if len(lengths) == 1 else ""
        return f"Problem({name!r}, P = {size:,}{examples})"

    def hessian(self) -> HessianOperator | StreamedOperator:
        """The loss's Hessian, (P, P)."""
        return hessian(
            self.loss,
            self.params,
            self.batch,
            state=self.state,
            weight=self.weight,
            chunk_size=self.chunk_size,
        )
