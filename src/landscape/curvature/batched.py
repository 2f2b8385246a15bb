"""Operators that are means over a batch: what all of them share.

Subclasses say what the product is on one chunk of the data; here it is taken over the whole batch,
linearised once, or scanned over chunks in the memory of one.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from landscape._convolutions import channels_last
from landscape.curvature.batches import Weight, num_examples, weighted_mean
from landscape.curvature.operators import LinearOperator, expect_switched_on
from landscape.curvature.parameters import Selection, on_vectors
from landscape.curvature.preconditions import expect_positive
from landscape.curvature.sums import warn_of_wrong_sums
from landscape.errors import InputError

Leaves = list[Array]
LinearMap = Callable[[Leaves], Leaves]

PRECISIONS = ("highest", "high", "default")


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class BatchOperator(LinearOperator):
    """A symmetric operator on the parameters that is a mean over a batch.

    Attributes
    ----------
    params, state, batch
        Pytrees of arrays, the operator's leaves.
    selection, weight, chunk_size, precision
        Static: they select the compiled program.
    """

    params: Any
    state: Any
    batch: Any
    selection: Selection = dataclasses.field(metadata={"static": True})
    weight: Weight | None = dataclasses.field(metadata={"static": True})
    chunk_size: int | None = dataclasses.field(metadata={"static": True})
    precision: str = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, int]:
        """(P, P), the differentiated parameters."""
        size = sum(int(np.prod(jnp.shape(leaf))) for leaf in self._mine())
        return (size, size)

    @property
    def dtype(self) -> np.dtype:
        """The differentiated parameters' common type."""
        return np.dtype(jnp.result_type(*self._mine()))

    @property
    def recomputes(self) -> bool:
        """Whether there is a chunk size."""
        return self.chunk_size is not None

    @property
    def num_examples(self) -> int:
        """N, the examples the operator is a mean over."""
        return num_examples(self.batch)

    def ravel(self, tree: Any) -> Array:
        """A pytree like the parameters as a vector of the operator's space.

        Parameters
        ----------
        tree
            Of the parameters' structure and shapes; leaves that are not differentiated are left
            out.

        Returns
        -------
        (P,).

        Raises
        ------
        InputError
            If structure or shapes differ.
        """
        mine: Any = jax.tree.structure(self.params)
        theirs = jax.tree.structure(tree)
        if mine != theirs:
            raise InputError(f"expected a pytree like the parameters, {mine}; got {theirs}")
        shapes = [[jnp.shape(leaf) for leaf in jax.tree.leaves(t)] for t in (self.params, tree)]
        if shapes[0] != shapes[1]:
            raise InputError(f"expected leaves of shapes {shapes[0]}; got {shapes[1]}")
        return self.selection.flatten(tree)[0]

    def unravel(self, vector: Array) -> Any:
        """A vector of the operator's space as a pytree like the parameters.

        Parameters
        ----------
        vector
            (P,), such as an eigenvector.

        Returns
        -------
        Pytree of the parameters' structure; leaves that are not differentiated are zero.

        Raises
        ------
        InputError
            If the vector has another shape, or the operator is of float64 and float64 is switched
            off.
        """
        self._expect(vector, (self.shape[1],), "unravel takes a vector of shape")
        expect_switched_on(self.dtype)
        zeros = jax.tree.map(jnp.zeros_like, self.params)
        return self.selection.flatten(zeros)[1](jnp.asarray(vector, self.dtype))

    @abc.abstractmethod
    def _on(self, mine: Leaves, merge: Callable[[Leaves], Any], chunk: Any) -> LinearMap:
        """The map v ↦ Av of a chunk, linearised, on leaves like those that are differentiated."""

    def _mine(self) -> list[Array]:
        return self.selection.split(self.params)[0]

    def _arguments(self) -> tuple[Any, ...]:
        """What a user's function takes between the parameters and the batch."""
        return () if self.state is None else (self.state,)

    def _products(self) -> Callable[[Array], Array]:
        mine, others = self.selection.split(self.params)
        merge = partial(self.selection.merge, others=others)
        # The precision is read when the products are traced: both here and in the closure.
        if self.chunk_size is None:
            with jax.default_matmul_precision(self.precision):
                return on_vectors(channels_last(self._on(mine, merge, self.batch)), mine)
        chunk_size = self.chunk_size

        def by_chunks(v: Leaves) -> Leaves:
            def image(chunk: Any) -> Leaves:
                return self._on(mine, merge, chunk)(v)

            with jax.default_matmul_precision(self.precision):
                return weighted_mean(channels_last(image), self.batch, chunk_size, self.weight)

        return on_vectors(by_chunks, mine)


def check_options(precision: str, chunk_size: int | None) -> None:
    """Refuse options that no operator can be made with.

    Raises
    ------
    InputError
        For an unknown precision, or a chunk size below 1.
    """
    warn_of_wrong_sums()
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")
    if chunk_size is not None:
        expect_positive(chunk_size=chunk_size)
