r"""The Jacobian of a model's outputs in its parameters, with its transpose and Gram matrices.

Notation: ``J ∈ R^{NC × P}``, row ``(i, c)`` is ``∂z_ic/∂θ``; ``J v`` is forward mode, ``Jᵀ u`` its
transpose. ``J Jᵀ`` (the empirical neural tangent kernel) and ``Jᵀ J`` have the same nonzero
eigenvalues, the squared singular values of J.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from landscape._convolutions import channels_last
from landscape._pytrees import pytree
from landscape.curvature.batched import check_options
from landscape.curvature.batches import as_arrays
from landscape.curvature.checks import check_outputs, linearize_outputs
from landscape.curvature.operators import LinearOperator
from landscape.curvature.parameters import Predicate, Selection, ravel, select, unravel
from landscape.curvature.retracing import as_it_reads, just_read, note_function
from landscape.curvature.streams import refuse_stream


@pytree
@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class JacobianOperator(LinearOperator):
    """Made by ``jacobian``; the attributes are its arguments.

    Attributes
    ----------
    params, state, batch
        Pytrees of arrays, the operator's leaves.
    model_fn, selection, precision, transposed
        Static: they select the compiled program.
    """

    params: Any
    state: Any
    batch: Any
    model_fn: Callable[..., Array] = dataclasses.field(metadata={"static": True})
    selection: Selection = dataclasses.field(metadata={"static": True})
    precision: str = dataclasses.field(metadata={"static": True})
    transposed: bool = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, int]:
        """(N·C, P), or (P, N·C) of the transpose."""
        size = sum(int(np.prod(jnp.shape(leaf))) for leaf in self._mine())
        shape = (math.prod(self._outputs.shape), size)
        return shape[::-1] if self.transposed else shape

    @property
    def dtype(self) -> np.dtype:
        """The differentiated parameters' common type."""
        return np.dtype(jnp.result_type(*self._mine()))

    @property
    def T(self) -> JacobianOperator:  # noqa: N802 — as NumPy has it
        """The transpose."""
        return dataclasses.replace(self, transposed=not self.transposed)

    def gram(self) -> GramOperator:
        """``A Aᵀ``, symmetric and positive semi-definite: (N·C, N·C), of ``J.T`` (P, P)."""
        return GramOperator(self)

    def example_rows(self, example: Any) -> Float[Array, "C P"]:
        """Rows of J of one example, evaluated alone; of the transpose the same.

        Parameters
        ----------
        example
            A batch of one: the pytree's leaves with a leading axis of length 1.

        Returns
        -------
        (C, P), by C backward passes over one example. It is a part of J only if the outputs of an
        example depend on no other, as with batch statistics that are frozen.
        """
        outputs, mine = self._outputs_of(example), self._mine()
        with jax.default_matmul_precision(self.precision), jax.named_scope("jacobian"):
            return jax.vmap(ravel)(channels_last(jax.jacrev(outputs))(mine))

    def _mine(self) -> list[Array]:
        return self.selection.split(self.params)[0]

    @cached_property
    def _outputs(self) -> Any:
        # Of their shape only.
        return check_outputs(just_read(self.model_fn), self.params, self.state, self.batch)

    def _products(self) -> Callable[[Array], Array]:
        push, pull = self._maps()
        return pull if self.transposed else push

    def _maps(self) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
        """V ↦ Jv and u ↦ Jᵀu on flat vectors, linearised once."""
        outputs, mine = self._outputs_of(self.batch), self._mine()
        with jax.default_matmul_precision(self.precision), jax.named_scope("jacobian"):
            _, push = linearize_outputs(outputs, mine)
            pull = channels_last(jax.linear_transpose(push, mine))
            push = channels_last(push)
        return lambda v: push(unravel(v, mine)), lambda u: ravel(pull(u)[0])

    def _outputs_of(self, batch: Any) -> Callable[[list[Array]], Array]:
        """All outputs as one vector, from the leaves that are differentiated."""
        others = self.selection.split(self.params)[1]
        rest = () if self.state is None else (self.state,)

        def outputs(mine: list[Array]) -> Array:
            return self.model_fn(self.selection.merge(mine, others), *rest, batch).ravel()

        return outputs


@pytree
@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class GramOperator(LinearOperator):
    """Made by ``JacobianOperator.gram``.

    Attributes
    ----------
    factor
        A, of ``A Aᵀ``.
    """

    factor: JacobianOperator

    @property
    def shape(self) -> tuple[int, int]:
        """The factor's rows, twice."""
        return (self.factor.shape[0], self.factor.shape[0])

    @property
    def dtype(self) -> np.dtype:
        """Type of the entries."""
        return self.factor.dtype

    def _products(self) -> Callable[[Array], Array]:
        push, pull = self.factor._maps()
        if self.factor.transposed:
            return lambda v: pull(push(v))
        return lambda u: push(pull(u))


def jacobian(
    model_fn: Callable[..., Array],
    params: Any,
    batch: Any,
    *,
    state: Any = None,
    wrt: Predicate | None = None,
    precision: str = "highest",
) -> JacobianOperator:
    """The Jacobian of a model's outputs in its parameters, as a linear operator.

    Parameters
    ----------
    model_fn
        ``model_fn(params, batch)``, or with ``state`` ``model_fn(params, state, batch)``: outputs
        of shape (N, …).
    params, batch, state, wrt, precision
        As for ``hessian``.

    Returns
    -------
    JacobianOperator, (N·C, P): ``matvec(v)`` is ``J v``, ``.T.matvec(u)`` is ``Jᵀ u``, ``.gram()``
    is ``J Jᵀ`` and ``.T.gram()`` is ``Jᵀ J``, both ready for ``slq``.

    Raises
    ------
    InputError
        For outputs that are no array with a leading axis of N examples, and as ``hessian`` for
        parameters that cannot be differentiated.

    Examples
    --------
    >>> op = jacobian(lambda w, x: x @ w, jnp.ones(2), jnp.eye(3, 2))
    >>> op.shape
    (3, 2)
    >>> op.matvec(jnp.array([1.0, 2.0])).tolist()
    [1.0, 2.0, 0.0]
    """
    check_options(precision, None)
    note_function(model_fn)
    refuse_stream(batch, "jacobian")
    selection = select(params, wrt)
    params, state, batch = as_arrays(params=params, state=state, batch=batch)
    operator = JacobianOperator(params, state, batch, model_fn, selection, precision, False)
    operator._outputs  # noqa: B018 — the door: refuses what are no outputs
    model_fn = as_it_reads(model_fn, params, *(() if state is None else (state,)), batch)
    return dataclasses.replace(operator, model_fn=model_fn)
