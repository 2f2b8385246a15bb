r"""The Hessian of a mean loss, by its products with vectors.

Notation: loss ``ℓ(θ) = Σ_i w_i ℓ_i(θ) / Σ_i w_i`` over N examples, ``θ ∈ R^P``; ``H = ∇²ℓ``.
``H v`` is forward over reverse, ``∂/∂t ∇ℓ(θ + t v)`` (B. A. Pearlmutter, *Fast exact
multiplication by the Hessian*, Neural Computation 6, 1994); linearising the gradient once pays for
the primal pass of any number of products. With a chunk size, each product scans over the chunks
and recomputes, in the memory of one chunk.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

from landscape._pytrees import pytree
from landscape.curvature.batched import BatchOperator, Leaves, LinearMap, check_options
from landscape.curvature.batches import Weight, as_arrays, num_examples
from landscape.curvature.checks import check_loss, in_words, linearize_gradient
from landscape.curvature.parameters import Predicate, select
from landscape.curvature.retracing import as_it_reads, just_read, note_function
from landscape.curvature.streams import StreamedOperator, first_batch, is_stream


@pytree
@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class HessianOperator(BatchOperator):
    """Made by ``hessian``; the attributes are its arguments.

    Attributes
    ----------
    loss
        Static, with those of ``BatchOperator``.
    """

    loss: Callable[..., Array] = dataclasses.field(metadata={"static": True})

    def _on(self, mine: Leaves, merge: Callable[[Leaves], Any], chunk: Any) -> LinearMap:
        def loss(mine: Leaves) -> Array:
            return self.loss(merge(mine), *self._arguments(), chunk)

        with jax.named_scope("hessian"):
            return linearize_gradient(loss, mine)


def hessian(
    loss: Callable[..., Array],
    params: Any,
    batch: Any,
    *,
    state: Any = None,
    wrt: Predicate | None = None,
    weight: Weight | None = None,
    chunk_size: int | None = None,
    precision: str = "highest",
    check: bool = True,
) -> HessianOperator | StreamedOperator:
    """The Hessian of a loss at given parameters, as a linear operator.

    Parameters
    ----------
    loss
        ``loss(params, batch)``, or ``loss(params, state, batch)`` if ``state`` is given: a scalar,
        the mean over the batch's examples. Pass the same function object each time: it is compared
        by identity, and a new lambda compiles anew.
    params
        A pytree of arrays, P numbers in all.
    batch
        A pytree whose leaves share a leading axis of N examples; or an iterable of such batches
        that can be walked through again and again, streamed from the host at each product. A list
        or a tuple is a pytree, not a stream.
    state
        Whatever varies with the checkpoint but is not differentiated: batch statistics, fixed
        matrices, integer leaves.
    wrt
        Predicate on a leaf's path (``"hidden/kernel"``): the leaves to differentiate. Default all.
    weight
        ``weight(batch) -> scalar``: what a chunk counts for in the mean, such as its number of
        unmasked tokens. Default its number of examples.
    chunk_size
        Examples per chunk. None linearises the whole batch at once: the fastest if what the
        backward pass stores fits in memory. Otherwise products recompute chunk by chunk.
    precision
        Of matrix products on accelerators: ``"highest"`` (float32), ``"high"``, ``"default"``.
        TF32 and bfloat16 round at 5·10⁻⁴ and 4·10⁻³ and smear the zero eigenvalues.
    check
        Evaluate the loss at the door: it must be a finite scalar, deterministic, and a mean.
        What it reads outside itself, globals or a module's attributes, is read anew, and must not
        change before a product is compiled: that is refused. Without the check the numbers may be
        those of an earlier call. Skipped under a tracer.

    Returns
    -------
    HessianOperator, or ``StreamedOperator`` for a stream of batches.

    Raises
    ------
    InputError
        With what was found and what to do: a loss that is not a finite scalar, draws random
        numbers, is not a mean over the batch, or (at the first product) cannot be differentiated
        twice; leaves that cannot be differentiated; a batch
        without a common, non-empty leading axis.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> def loss(params, batch):
    ...     return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)
    >>> params = {"w": jnp.ones(3)}
    >>> batch = {"x": jnp.eye(3), "y": jnp.zeros(3)}
    >>> hessian(loss, params, batch).matvec(jnp.array([3.0, 0.0, 0.0])).tolist()
    [2.0, 0.0, 0.0]
    """
    note_function(loss)
    one = first_batch(batch) if is_stream(batch) else batch
    check_options(precision, chunk_size)
    length = num_examples(one)
    selection = select(params, wrt)
    params, state, one = as_arrays(params=params, state=state, batch=one)
    if check:
        with in_words(one):
            read = as_it_reads(loss, params, *(() if state is None else (state,)), one)
        check_loss(just_read(read), params, state, one, weight, chunk_size)
        loss = read
    # A batch of one chunk needs no scan. A stream's next batch may be larger.
    if chunk_size is not None and chunk_size >= length and not is_stream(batch):
        chunk_size = None
    op = HessianOperator(params, state, one, selection, weight, chunk_size, precision, loss)
    return StreamedOperator(op, batch) if is_stream(batch) else op
