"""Linear operators on flat vectors, with one face for every kind of curvature.

Notation: ``P`` differentiated parameters, ``v`` a vector of R^P, ``V`` k vectors as columns,
(P, k). An operator is a pytree: what varies with the checkpoint (parameters, state, data) are its
leaves, what selects the program (the loss, the chunk size) is static, so a compiled function that
takes an operator does not recompile for another checkpoint of the same shape.
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
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from landscape.curvature.memory import host_memory
from landscape.errors import InputError, ResourceError


class LinearOperator(abc.ABC):
    """A matrix known by its products; symmetric, but for Jacobians.

    Subclasses give ``shape``, ``dtype`` and ``_products``; the rest follows. Operators of one shape
    add up, and can be multiplied with a number.
    """

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int]:
        """Rows and columns; (P, P) for a curvature."""

    @property
    @abc.abstractmethod
    def dtype(self) -> np.dtype:
        """Type of the entries."""

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """() for one operator, (S,) for a family of S."""
        return ()

    @property
    def traceable(self) -> bool:
        """Whether its products can be part of a compiled program; not those of a stream."""
        return True

    @abc.abstractmethod
    def _products(self) -> Callable[[Array], Array]:
        """The map v ↦ Av at fixed parameters; what can be computed once is computed here."""

    @property
    def recomputes(self) -> bool:
        """Whether products walk through chunks of the data, so that nothing should be stored."""
        return False

    def _lanes(self) -> Callable[[Array], Array]:
        """The map on rows, (L, P) ↦ (L, P), one operator for all lanes or one for each."""
        return jax.vmap(self._products())

    def matvec(self, v: ArrayLike) -> Float[Array, " rows"]:
        """Return ``A v``.

        Parameters
        ----------
        v
            As many entries as the operator has columns.

        Returns
        -------
        As many entries as it has rows. Each call linearises anew: for many products use
        ``linearized()``.

        Raises
        ------
        InputError
            If v has another shape.
        """
        self._expect(v, (self.shape[1],), "matvec takes a vector of shape")
        return self._matmat(jnp.asarray(v, self.dtype)[:, None])[:, 0]

    def matmat(self, vectors: ArrayLike) -> Float[Array, "rows k"]:
        """Return ``A V``, all columns in one pass.

        Parameters
        ----------
        vectors
            One column each, k of them.

        Returns
        -------
        Their images, k columns.

        Raises
        ------
        InputError
            If V has another number of rows.
        """
        if np.ndim(vectors) != 2 or np.shape(vectors)[0] != self.shape[1]:
            self._expect(vectors, (self.shape[1], "k"), "matmat takes an array of shape")
        return self._matmat(jnp.asarray(vectors, self.dtype))

    def linearized(self) -> LinearOperator:
        """The same operator with everything that does not depend on ``v`` computed once.

        Returns
        -------
        Linearized, whose products cost no primal pass. Where the operator works by chunks nothing
        is stored and the products recompute; an operator that cannot be traced returns itself.
        """
        if not self.traceable:
            return self
        product = self._products()
        # A map that is no pytree keeps what it closes over; it is compared by identity.
        if not isinstance(product, jax.tree_util.Partial):
            product = jax.tree_util.Partial(product)
        return Linearized(product, self.shape, self.dtype)

    def to_dense(self, *, block_size: int = 128) -> Float[Array, "rows columns"]:
        """All entries, by products with blocks of the identity.

        Parameters
        ----------
        block_size
            Columns per product.

        Returns
        -------
        As computed: a curvature is symmetric up to rounding.

        Raises
        ------
        ResourceError
            If the host's memory cannot hold the matrix.
        """
        _check_dense_memory(self.shape, self.dtype.itemsize)
        if self.traceable:
            return _dense(self, min(block_size, self.shape[1]))
        starts = range(0, self.shape[1], block_size)
        return jnp.concatenate(
            [self._matmat(_unit_columns(self, start, block_size)) for start in starts], 1
        )[:, : self.shape[1]]

    def __add__(self, other: LinearOperator) -> SumOperator:
        """The sum of two operators.

        Raises
        ------
        InputError
            If their shapes differ.
        """
        if not isinstance(other, LinearOperator):
            return NotImplemented
        if other.shape != self.shape:
            raise InputError(f"operators of shapes {self.shape} and {other.shape} cannot be added")
        if self.batch_shape and other.batch_shape and self.batch_shape != other.batch_shape:
            raise InputError(
                f"families of {self.batch_shape[0]} and {other.batch_shape[0]} operators cannot be "
                "added"
            )
        return SumOperator((self, other))

    def __mul__(self, factor: ArrayLike) -> ScaledOperator:
        """The operator times a number."""
        if isinstance(factor, LinearOperator) or np.ndim(factor):
            return NotImplemented
        return ScaledOperator(self, jnp.asarray(factor, self.dtype))

    __rmul__ = __mul__

    def __radd__(self, other: Any) -> LinearOperator:
        """``sum`` starts from 0."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __neg__(self) -> ScaledOperator:
        """The operator times −1."""
        return self * -1.0

    def __sub__(self, other: LinearOperator) -> SumOperator:
        """The difference of two operators."""
        return self + -other if isinstance(other, LinearOperator) else NotImplemented

    def __truediv__(self, number: ArrayLike) -> ScaledOperator:
        """The operator divided by a number."""
        return self * (1 / jnp.asarray(number, self.dtype))

    def _matmat(self, vectors: Array) -> Array:
        return _matmat(self, vectors)

    def _expect(self, v: Any, shape: tuple[Any, ...], what: str) -> None:
        if np.shape(v) != shape:
            expected = (
                "(" + ", ".join(str(n) for n in shape) + ("," if len(shape) == 1 else "") + ")"
            )
            raise InputError(f"{what} {expected}; got {np.shape(v)}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.shape[0]}×{self.shape[1]}, {self.dtype})"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class SumOperator(LinearOperator):
    """A sum, such as a loss's curvature and a penalty's.

    Attributes
    ----------
    terms
        Operators of one shape.
    """

    terms: tuple[LinearOperator, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """That of the terms."""
        return self.terms[0].shape

    @property
    def dtype(self) -> np.dtype:
        """The terms' common type."""
        return np.dtype(jnp.result_type(*(term.dtype for term in self.terms)))

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """That of the terms that are families."""
        return max((term.batch_shape for term in self.terms), key=len)

    @property
    def traceable(self) -> bool:
        """Whether every term is."""
        return all(term.traceable for term in self.terms)

    @property
    def recomputes(self) -> bool:
        """Whether a term does."""
        return any(term.recomputes for term in self.terms)

    def _products(self) -> Callable[[Array], Array]:
        return _sum_of([term._products() for term in self.terms])

    def _lanes(self) -> Callable[[Array], Array]:
        return _sum_of([term._lanes() for term in self.terms])

    def _matmat(self, vectors: Array) -> Array:
        if self.traceable:
            return super()._matmat(vectors)
        return _sum_of([term._matmat for term in self.terms])(vectors)


def _sum_of(maps: list[Callable[[Array], Array]]) -> Callable[[Array], Array]:
    return lambda v: sum((product(v) for product in maps[1:]), maps[0](v))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class ScaledOperator(LinearOperator):
    """An operator times a number.

    Attributes
    ----------
    op
        The operator.
    factor
        (), the number.
    """

    op: LinearOperator
    factor: Float[Array, ""]

    @property
    def shape(self) -> tuple[int, int]:
        """That of the operator."""
        return self.op.shape

    @property
    def dtype(self) -> np.dtype:
        """Type of the entries."""
        return self.op.dtype

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """That of the operator."""
        return self.op.batch_shape

    @property
    def traceable(self) -> bool:
        """Whether the operator is."""
        return self.op.traceable

    @property
    def recomputes(self) -> bool:
        """Whether the operator does."""
        return self.op.recomputes

    def _products(self) -> Callable[[Array], Array]:
        product, factor = self.op._products(), self.factor
        return lambda v: factor * product(v)

    def _lanes(self) -> Callable[[Array], Array]:
        product, factor = self.op._lanes(), self.factor
        return lambda v: factor * product(v)

    def _matmat(self, vectors: Array) -> Array:
        return (
            super()._matmat(vectors) if self.traceable else self.factor * self.op._matmat(vectors)
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class Linearized(LinearOperator):
    """An operator whose primal pass is done; made by ``LinearOperator.linearized``.

    Attributes
    ----------
    product
        The map v ↦ Av; what the primal pass stored are its leaves.
    size
        Rows and columns.
    type
        Of the entries.
    """

    product: jax.tree_util.Partial
    size: tuple[int, int] = dataclasses.field(metadata={"static": True})
    type: np.dtype = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.size

    @property
    def dtype(self) -> np.dtype:
        """Type of the entries."""
        return self.type

    def _products(self) -> Callable[[Array], Array]:
        return self.product

    def linearized(self) -> Linearized:
        """Itself."""
        return self


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
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
        return (self.matrix.shape[0], self.matrix.shape[1])

    @property
    def dtype(self) -> np.dtype:
        """Type of the entries."""
        return np.dtype(self.matrix.dtype)

    def _products(self) -> Callable[[Array], Array]:
        return lambda v: jnp.matmul(self.matrix, v, precision="highest")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class DiagonalOperator(LinearOperator):
    """A diagonal matrix: a prescribed spectrum at any size.

    Attributes
    ----------
    diagonal
        Shape (P,), the eigenvalues.
    """

    diagonal: Float[Array, " P"]

    @property
    def shape(self) -> tuple[int, int]:
        """(P, P)."""
        return (self.diagonal.shape[0], self.diagonal.shape[0])

    @property
    def dtype(self) -> np.dtype:
        """Type of the entries."""
        return np.dtype(self.diagonal.dtype)

    def _products(self) -> Callable[[Array], Array]:
        return lambda v: self.diagonal * v


def expect_square(op: LinearOperator) -> None:
    """Refuse an operator whose spectrum cannot be taken.

    Raises
    ------
    InputError
        If it is not square, is empty, or of a type that products cannot be made in.
    """
    if op.dtype not in (np.float32, np.float64):
        raise InputError(
            f"spectra are taken in float32 or float64; {op!r} is of type {op.dtype}: cast its "
            "parameters"
        )
    if jax.dtypes.canonicalize_dtype(op.dtype) != op.dtype:
        raise InputError(
            f"{op!r} was made in float64 and float64 is switched off here: JAX would compute in "
            "float32. Work inside `with jax.enable_x64(True):`"
        )
    if not op.shape[0]:
        raise InputError(f"{op!r} has no parameters")
    if op.shape[0] != op.shape[1]:
        raise InputError(
            f"{op!r} is not square and has no spectrum; take its .gram(), whose eigenvalues are "
            "the squared singular values"
        )


def expect_range(norm: float, op: LinearOperator) -> None:
    """Refuse a norm whose square, or that of its rounding, leaves the type's range.

    Raises
    ------
    InputError
        If it is too large or too small, but for 0.
    """
    info = jnp.finfo(op.dtype)
    smallest, largest = (
        float(info.tiny) ** 0.5 / (10 * float(info.eps)),
        float(info.max) ** 0.5 / 10,
    )
    if norm and not smallest <= norm <= largest:
        raise InputError(
            f"an operator of norm {norm:.1e} leaves the range in which {op.dtype} can be squared, "
            f"{smallest:.0e} to {largest:.0e}: multiply it with a number"
        )


def expect_single(op: LinearOperator) -> None:
    """Refuse what is no single operator with a spectrum.

    Raises
    ------
    InputError
        If it is not square, or a family.
    """
    expect_square(op)
    if op.batch_shape:
        raise InputError(f"{op!r} is a family: take its .members() one by one")


@jax.jit
def _matmat(op: LinearOperator, vectors: Array) -> Array:
    return jax.vmap(op._products(), in_axes=1, out_axes=1)(vectors)


def _unit_columns(op: LinearOperator, start: Array | int, count: int) -> Array:
    """Columns of the identity, zero beyond the last; (columns, count)."""
    return jax.nn.one_hot(start + jnp.arange(count), op.shape[1], dtype=op.dtype).T


@partial(jax.jit, static_argnames="block_size")
def _dense(op: LinearOperator, block_size: int) -> Array:
    num_rows, num_columns = op.shape
    product = jax.vmap(op._products())
    starts = jnp.arange(0, num_columns, block_size)

    def columns(start: Array) -> Array:
        # The last block goes on past the end, with zeros; they are cut off below.
        return product(_unit_columns(op, start, block_size).T)

    return jax.lax.map(columns, starts).reshape(-1, num_rows)[:num_columns].T


def _check_dense_memory(shape: tuple[int, int], itemsize: int) -> None:
    """Refuse a matrix the host cannot hold: itself, its float64 copy, and LAPACK's work."""
    needed = shape[0] * shape[1] * (itemsize + 16)
    total = host_memory()
    if needed > 0.9 * total:
        raise ResourceError(
            f"a dense {shape[0]}×{shape[1]} matrix needs {needed / 2**30:.1f} GiB, the machine has "
            f"{total / 2**30:.1f} GiB; use slq instead of the dense spectrum"
        )
