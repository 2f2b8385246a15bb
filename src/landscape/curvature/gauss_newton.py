r"""Gauss–Newton and Fisher matrices: curvature through the model's outputs.

Notation: outputs ``z_i = f(θ; x_i)``, ``J_i = ∂z_i/∂θ``, loss ``ℓ = (1/N) Σ_i ℓ_i(z_i)``.

- Gauss–Newton ``(1/N) Σ J_iᵀ ∇²ℓ_i J_i`` (N. N. Schraudolph, *Fast curvature matrix-vector products
  for second-order gradient descent*, Neural Computation 14, 2002). Where ℓ_i is the negative
  logarithm of an exponential family's density in natural parameters (softmax cross-entropy, half
  the squared error) it is the Fisher matrix.
- Empirical Fisher ``(1/N) Σ g_i g_iᵀ`` with the examples' gradients ``g_i = J_iᵀ ∇ℓ_i``.
- Monte-Carlo Fisher: the same with targets drawn from the model's own distribution, whose mean is
  the Fisher matrix. They differ: F. Kunstner, L. Balles and P. Hennig, *Limitations of the
  empirical Fisher approximation*, NeurIPS 2019.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from landscape._pytrees import pytree
from landscape.curvature.batched import BatchOperator, Leaves, LinearMap, check_options
from landscape.curvature.batches import Weight, as_arrays, num_examples, weigh
from landscape.curvature.checks import (
    check_loss,
    check_outputs,
    in_words,
    linearize_gradient,
    linearize_outputs,
)
from landscape.curvature.parameters import Predicate, select
from landscape.curvature.preconditions import expect_key, expect_positive
from landscape.curvature.retracing import as_it_reads, just_read, note_function
from landscape.curvature.streams import StreamedOperator, first_batch, is_stream, refuse_stream
from landscape.errors import InputError

DISTRIBUTIONS = ("categorical", "gaussian")


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class _OutputOperator(BatchOperator):
    """An operator made from a model's outputs.

    Attributes
    ----------
    model_fn
        Static, with those of ``BatchOperator``.
    """

    model_fn: Callable[..., Array] = dataclasses.field(metadata={"static": True})

    def _through(
        self, mine: Leaves, merge: Callable[[Leaves], Any], chunk: Any
    ) -> tuple[Array, Callable[[Leaves], Array], Callable[[Array], Leaves]]:
        """Outputs, and the maps v ↦ Jv and u ↦ Jᵀu."""

        def outputs(mine: Leaves) -> Array:
            return self.model_fn(merge(mine), *self._arguments(), chunk)

        z, push = linearize_outputs(outputs, mine)
        transposed = jax.linear_transpose(push, mine)
        return z, push, lambda u: transposed(u)[0]


@pytree
@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class GaussNewtonOperator(_OutputOperator):
    """Made by ``ggn``; the attributes are its arguments.

    Attributes
    ----------
    output_loss
        Static.
    """

    output_loss: Callable[[Array, Any], Array] = dataclasses.field(metadata={"static": True})

    def _on(self, mine: Leaves, merge: Callable[[Leaves], Any], chunk: Any) -> LinearMap:
        with jax.named_scope("gauss_newton"):
            z, push, pull = self._through(mine, merge, chunk)
            curve = linearize_gradient(lambda z: self.output_loss(z, chunk), z)
            return lambda v: pull(curve(push(v)))


@pytree
@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class EmpiricalFisherOperator(_OutputOperator):
    """Made by ``empirical_fisher``; the attributes are its arguments.

    Attributes
    ----------
    output_loss
        Static.
    """

    output_loss: Callable[[Array, Any], Array] = dataclasses.field(metadata={"static": True})

    def _on(self, mine: Leaves, merge: Callable[[Leaves], Any], chunk: Any) -> LinearMap:
        with jax.named_scope("empirical_fisher"):
            z, push, pull = self._through(mine, merge, chunk)
            count = weigh(chunk, self.weight).astype(z.dtype)
            slopes = count * jax.grad(lambda z: self.output_loss(z, chunk))(z)
            # A chunk that is masked as a whole counts for nothing.
            divisor = jnp.where(count > 0, count, 1)
            return lambda v: pull(_outer(slopes, push(v)) / divisor)


@pytree
@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class MonteCarloFisherOperator(_OutputOperator):
    """Made by ``fisher``; ``batch`` is the pair of the user's batch and the drawn noise.

    Attributes
    ----------
    distribution
        Static.
    """

    distribution: str = dataclasses.field(metadata={"static": True})

    def _on(self, mine: Leaves, merge: Callable[[Leaves], Any], chunk: Any) -> LinearMap:
        inner, noise = chunk
        with jax.named_scope("fisher"):
            z, push, pull = self._through(mine, merge, inner)
            slopes = _drawn_slopes(z, noise, self.distribution)
            count = z.shape[0] * noise.shape[1]

            def product(v: Leaves) -> Leaves:
                # As two contractions: outer products would hold S N C numbers for every vector.
                along = jnp.einsum("snc,nc->sn", slopes, push(v))
                return pull(jnp.einsum("snc,sn->nc", slopes, along) / count)

            return product


def _outer(slopes: Array, image: Array) -> Array:
    """``r_i (r_iᵀ u_i)`` for every example i."""
    axes = tuple(range(1, slopes.ndim))
    return slopes * jnp.sum(slopes * image, axes, keepdims=True)


def _drawn_slopes(z: Array, noise: Array, distribution: str) -> Array:
    """Output gradients of −log p at targets drawn from p itself, (S, N, C)."""
    draws = jnp.moveaxis(noise, 1, 0)
    if distribution == "gaussian":
        return -draws
    probabilities = jax.nn.softmax(z)
    cumulative = jnp.cumsum(probabilities, -1)
    drawn = (cumulative[None] < draws[..., None]).sum(-1)
    # Rounding may leave the last cumulative sum below the draw.
    drawn = jnp.minimum(drawn, z.shape[-1] - 1)
    return probabilities[None] - jax.nn.one_hot(drawn, z.shape[-1], dtype=z.dtype)


def ggn(
    model_fn: Callable[..., Array],
    output_loss: Callable[[Array, Any], Array],
    params: Any,
    batch: Any,
    *,
    state: Any = None,
    wrt: Predicate | None = None,
    weight: Weight | None = None,
    chunk_size: int | None = None,
    precision: str = "highest",
    check: bool = True,
) -> GaussNewtonOperator | StreamedOperator:
    """The generalised Gauss–Newton matrix, as a linear operator.

    Parameters
    ----------
    model_fn
        ``model_fn(params, batch)``, or with ``state`` ``model_fn(params, state, batch)``: outputs
        of shape (N, …).
    output_loss
        ``output_loss(outputs, batch)``: a scalar, the mean over the batch's examples, convex in the
        outputs if the matrix is to be positive semi-definite.
    params, batch, state, wrt, weight, chunk_size, precision, check
        As for ``hessian``, of the loss ``output_loss(model_fn(…), batch)``.

    Returns
    -------
    GaussNewtonOperator, (P, P).

    Raises
    ------
    InputError
        As ``hessian``; and for outputs without a leading axis of N examples.

    Examples
    --------
    >>> def model(params, batch):
    ...     return batch["x"] @ params["w"]
    >>> def half_squared_error(outputs, batch):
    ...     return jnp.mean((outputs - batch["y"]) ** 2) / 2
    >>> batch = {"x": 3 * jnp.eye(3), "y": jnp.zeros(3)}
    >>> op = ggn(model, half_squared_error, {"w": jnp.ones(3)}, batch)
    >>> op.matvec(jnp.array([1.0, 0.0, 0.0])).tolist()
    [3.0, 0.0, 0.0]
    """
    options = _prepare(
        model_fn, output_loss, params, state, batch, wrt, weight, chunk_size, precision, check
    )
    op = GaussNewtonOperator(**options)
    return StreamedOperator(op, batch) if is_stream(batch) else op


def empirical_fisher(
    model_fn: Callable[..., Array],
    output_loss: Callable[[Array, Any], Array],
    params: Any,
    batch: Any,
    *,
    state: Any = None,
    wrt: Predicate | None = None,
    weight: Weight | None = None,
    chunk_size: int | None = None,
    precision: str = "highest",
    check: bool = True,
) -> EmpiricalFisherOperator | StreamedOperator:
    """The mean outer product of the examples' gradients, as a linear operator.

    Parameters
    ----------
    model_fn, output_loss, params, batch, state, wrt, weight, chunk_size, precision, check
        As for ``ggn``. The loss of an example may depend on its own outputs only, and each counts
        fully or not at all: ``weight`` is the number of those that a mask leaves.

    Returns
    -------
    EmpiricalFisherOperator, (P, P), positive semi-definite.

    Raises
    ------
    InputError
        As ``ggn``.

    Examples
    --------
    >>> def model(w, batch):
    ...     return batch[0] @ w
    >>> def half_square(outputs, batch):
    ...     return 0.5 * jnp.mean(jnp.sum((outputs - batch[1]) ** 2, -1))
    >>> x, y = jnp.array([[1.0], [2.0]]), jnp.array([[0.0], [1.0]])
    >>> op = empirical_fisher(model, half_square, jnp.ones((1, 1)), (x, y))
    >>> op.to_dense().tolist()  # gradients 1 and 2
    [[2.5]]
    """
    options = _prepare(
        model_fn, output_loss, params, state, batch, wrt, weight, chunk_size, precision, check
    )
    op = EmpiricalFisherOperator(**options)
    return StreamedOperator(op, batch) if is_stream(batch) else op


def fisher(
    model_fn: Callable[..., Array],
    params: Any,
    batch: Any,
    key: Array,
    *,
    distribution: str = "categorical",
    num_samples: int = 1,
    state: Any = None,
    wrt: Predicate | None = None,
    chunk_size: int | None = None,
    precision: str = "highest",
) -> MonteCarloFisherOperator:
    """The Fisher matrix with targets drawn from the model, as a linear operator.

    Parameters
    ----------
    model_fn, params, batch, state, wrt, chunk_size, precision
        As for ``ggn``.
    key
        JAX random key of the draws; they are made once, so the operator is a fixed matrix.
    distribution
        Of the targets given the outputs: ``"categorical"``, with the outputs as logits, or
        ``"gaussian"``, of unit variance about the outputs.
    num_samples
        Draws per example. The expectation over draws is the Fisher matrix, which ``ggn`` gives
        without noise for softmax cross-entropy and for half the squared error summed over outputs.

    Returns
    -------
    MonteCarloFisherOperator, (P, P), positive semi-definite.

    Raises
    ------
    InputError
        For an unknown distribution, num_samples below 1, or outputs of another shape than (N, C).

    Examples
    --------
    >>> def model(w, batch):
    ...     return batch[0] @ w
    >>> x = jnp.array([[1.0], [2.0]])
    >>> op = fisher(model, jnp.ones((1, 1)), (x, x), jax.random.key(0), distribution="gaussian",
    ...             num_samples=20_000)
    >>> bool(abs(op.to_dense()[0, 0] - 2.5) < 0.1)  # the mean of x²
    True
    """
    check_options(precision, chunk_size)
    note_function(model_fn)
    if distribution not in DISTRIBUTIONS:
        known = ", ".join(DISTRIBUTIONS)
        raise InputError(f"distribution must be one of {known}; got {distribution!r}")
    refuse_stream(batch, "fisher, whose draws belong to the examples,")
    expect_positive(num_samples=num_samples)
    expect_key(key)
    length = num_examples(batch)
    selection = select(params, wrt)
    params, state, batch = as_arrays(params=params, state=state, batch=batch)
    model_fn = as_it_reads(model_fn, params, *(() if state is None else (state,)), batch)
    outputs = check_outputs(model_fn, params, state, batch)
    if len(outputs.shape) != 2:
        raise InputError(f"fisher needs outputs of shape (N, C); got {outputs.shape}")
    shape = (length, num_samples)
    if distribution == "categorical":
        noise = jax.random.uniform(key, shape, outputs.dtype)
    else:
        noise = jax.random.normal(key, (*shape, outputs.shape[1]), outputs.dtype)
    chunk_size = None if chunk_size is not None and chunk_size >= length else chunk_size
    return MonteCarloFisherOperator(
        params=params,
        state=state,
        batch=(batch, noise),
        selection=selection,
        weight=None,
        chunk_size=chunk_size,
        precision=precision,
        model_fn=model_fn,
        distribution=distribution,
    )


def _prepare(
    model_fn: Callable[..., Array],
    output_loss: Callable[[Array, Any], Array],
    params: Any,
    state: Any,
    batch: Any,
    wrt: Predicate | None,
    weight: Weight | None,
    chunk_size: int | None,
    precision: str,
    check: bool,
) -> dict[str, Any]:
    """Check what was given; the arguments of a ``BatchOperator``."""
    note_function(model_fn)
    note_function(output_loss)
    check_options(precision, chunk_size)
    one = first_batch(batch) if is_stream(batch) else batch
    length = num_examples(one)
    # A batch of one chunk needs no scan. A stream's next batch may be larger.
    if chunk_size is not None and chunk_size >= length and not is_stream(batch):
        chunk_size = None
    selection = select(params, wrt)
    params, state, batch = as_arrays(params=params, state=state, batch=one)
    outputs = check_outputs(model_fn, params, state, batch)
    if check:
        model_fn = as_it_reads(model_fn, params, *(() if state is None else (state,)), batch)
        with in_words(batch, "output_loss(outputs, batch)"):
            output_loss = as_it_reads(output_loss, outputs, batch)
        composed = _composed(just_read(model_fn), just_read(output_loss))
        check_loss(composed, params, state, batch, weight, chunk_size)
    return {
        "model_fn": model_fn,
        "output_loss": output_loss,
        "params": params,
        "state": state,
        "batch": batch,
        "selection": selection,
        "weight": weight,
        "chunk_size": chunk_size,
        "precision": precision,
    }


@functools.lru_cache(maxsize=64)
def _composed(
    model_fn: Callable[..., Array], output_loss: Callable[[Array, Any], Array]
) -> Callable[..., Array]:
    """The loss as a function of the parameters; one object for one pair of functions."""

    def loss(params: Any, *rest: Any) -> Array:
        return output_loss(model_fn(params, *rest), rest[-1])

    return loss
