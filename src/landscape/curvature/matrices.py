"""Matrices that are there, as operators: references, and prescribed spectra of any size."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from landscape._pytrees import pytree
from landscape.curvature.operators import LinearOperator
from landscape.errors import InputError


@pytree
@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class DenseOperator(LinearOperator):
    """A symmetric matrix that is there; the reference the other operators are tested against.

    Attributes
    ----------
    matrix
        Shape (P, P), symmetric.

    Examples
    --------
    >>> op = DenseOperator(jnp.diag(jnp.arange(3.0)))
    >>> op.matvec(jnp.ones(3)).tolist()
    [0.0, 1.0, 2.0]
    """

    matrix: Float[Array, "P P"]

    @property
    def shape(self) -> tuple[int, int]:
        """(P, P)."""
        _expect_array(self.matrix, 2, "a matrix", "DenseOperator")
        return (self.matrix.shape[0], self.matrix.shape[1])

    @property
    def dtype(self) -> np.dtype:
        """Type of the entries."""
        _expect_array(self.matrix, 2, "a matrix", "DenseOperator")
        return np.dtype(self.matrix.dtype)

    @property
    def T(self) -> DenseOperator:  # noqa: N802 — as NumPy has it
        """The transposed matrix: nothing has looked whether it is symmetric."""
        return DenseOperator(self.matrix.T)

    def _products(self) -> Callable[[Array], Array]:
        return lambda v: jnp.matmul(self.matrix, v, precision="highest")


@pytree
@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class DiagonalOperator(LinearOperator):
    """A diagonal matrix: a prescribed spectrum at any size.

    Attributes
    ----------
    diagonal
        Shape (P,), the eigenvalues.

    Examples
    --------
    >>> op = DiagonalOperator(jnp.arange(3.0))
    >>> op.matvec(jnp.ones(3)).tolist()
    [0.0, 1.0, 2.0]
    """

    diagonal: Float[Array, " P"]

    @property
    def shape(self) -> tuple[int, int]:
        """(P, P)."""
        _expect_array(self.diagonal, 1, "a vector", "DiagonalOperator")
        return (self.diagonal.shape[0], self.diagonal.shape[0])

    @property
    def dtype(self) -> np.dtype:
        """Type of the entries."""
        _expect_array(self.diagonal, 1, "a vector", "DiagonalOperator")
        return np.dtype(self.diagonal.dtype)

    def _products(self) -> Callable[[Array], Array]:
        return lambda v: self.diagonal * v


def _expect_array(entries: Any, ndim: int, what: str, name: str) -> None:
    """Refuse entries that are no array of so many axes, when they are first used."""
    shape = getattr(entries, "shape", None)
    if shape is None or len(shape) != ndim:
        found = type(entries).__name__ if shape is None else f"an array of shape {tuple(shape)}"
        raise InputError(f"{name} takes {what} as a JAX array; got {found}")
