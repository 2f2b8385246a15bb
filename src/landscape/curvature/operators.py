"""Linear operators on flat vectors, with one face for every kind of curvature.

Notation: ``P`` differentiated parameters, ``v`` a vector of R^P, ``V`` k vectors as columns,
(P, k). An operator is a pytree: what varies with the checkpoint (parameters, state, data) are its
leaves, what selects the program (the loss, the chunk size) is static, so a compiled function that
takes an operator does not recompile for another checkpoint of the same shape.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from landscape._pytrees import pytree
from landscape.curvature.lanes import by_lanes
from landscape.curvature.memory import host_memory, readable
from landscape.errors import InputError, ResourceError


class LinearOperator(abc.ABC):
    """A matrix known by its products; symmetric, but for Jacobians.

    Subclasses give ``shape``, ``dtype`` and ``_products``; the rest follows. Operators of one shape
    add up, and can be multiplied with a number.

    Examples
    --------
    An operator of your own is a dataclass that is a pytree, so that compiled programs take it as an
    argument and are not compiled anew for other numbers in it; here ``c I + u uᵀ``.

    >>> import dataclasses
    >>> import jax.numpy as jnp
    >>> from landscape.curvature import LinearOperator
    >>> @jax.tree_util.register_dataclass
    ... @dataclasses.dataclass(frozen=True)
    ... class Spiked(LinearOperator):
    ...     c: Array
    ...     u: Array
    ...
    ...     @property
    ...     def shape(self):
    ...         return (len(self.u), len(self.u))
    ...
    ...     @property
    ...     def dtype(self):
    ...         return self.u.dtype
    ...
    ...     def _products(self):
    ...         return lambda v: self.c * v + self.u * (self.u @ v)
    >>> op = Spiked(jnp.float32(1), jnp.ones(4))
    >>> op.matvec(jnp.arange(4.0)).tolist()
    [6.0, 7.0, 8.0, 9.0]
    >>> from landscape.spectra import extremal_eigenpairs
    >>> pairs = extremal_eigenpairs(op, jax.random.key(0), num_largest=1)
    >>> print(f"{float(pairs.values[0]):.3f}")
    5.000
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
    def T(self) -> LinearOperator:  # noqa: N802 — as NumPy has it
        """The transpose: itself, but of Jacobians.

        Raises
        ------
        InputError
            If it is not square, and keeps no transpose.
        """
        if self.shape[0] != self.shape[1]:
            raise InputError(f"{self!r} keeps no transpose: take that of what it was made from")
        return self

    @property
    def traceable(self) -> bool:
        """Whether its products can be part of a compiled program; not those of a stream."""
        return True

    @property
    def traceable_parts(self) -> tuple[LinearOperator, ...]:
        """What it is made of that can be part of compiled programs: itself, if it can."""
        return (self,)

    def member(self, index: int) -> LinearOperator:
        """One operator of a family.

        Raises
        ------
        InputError
            If this is no family.
        """
        raise InputError(f"{self!r} is one operator and has no members")

    def members(self) -> Iterator[LinearOperator]:
        """All operators of a family, one after the other.

        Raises
        ------
        InputError
            If this is no family.
        """
        if not self.batch_shape:
            self.member(0)
        return map(self.member, range(int(np.prod(self.batch_shape))))

    def astype(self, dtype: Any) -> LinearOperator:
        """The same operator with every floating leaf in another type.

        Parameters
        ----------
        dtype
            For float64 call this, and use the result, under ``jax.enable_x64(True)``.

        Returns
        -------
        Of the same kind.

        Raises
        ------
        InputError
            If what is stored belongs to the type it was computed in, or the type is float64 and
            float64 is switched off.
        """
        expect_switched_on(dtype)

        def cast(leaf: Any) -> Any:
            floating = jnp.issubdtype(jnp.result_type(leaf), np.floating)
            return jnp.asarray(leaf, dtype) if floating else leaf

        return jax.tree.map(cast, self)

    @abc.abstractmethod
    def _products(self) -> Callable[[Array], Array]:
        """The map v ↦ Av at fixed parameters; what can be computed once is computed here."""

    @property
    def recomputes(self) -> bool:
        """Whether products walk through chunks of the data, so that nothing should be stored."""
        return False

    def _lanes(self) -> Callable[[Array], Array]:
        """The map on rows, (L, P) ↦ (L, P), one operator for all lanes or one for each."""
        return partial(by_lanes, self._products(), recomputes=self.recomputes)

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
            If v has another shape, or the operator is of float64 and float64 is switched off.
        """
        self._expect(v, (self.shape[1],), "matvec takes a vector of shape")
        expect_switched_on(self.dtype)
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
            If V has another number of rows, or no column, or float64 is switched off as for
            ``matvec``.
        """
        found = _shape(vectors)
        if found is None or len(found) != 2 or found[0] != self.shape[1] or not found[1]:
            self._expect(vectors, (self.shape[1], "k"), "matmat takes an array of shape")
        expect_switched_on(self.dtype)
        return self._matmat(jnp.asarray(vectors, self.dtype))

    def linearized(self) -> LinearOperator:
        """The same operator with everything that does not depend on ``v`` computed once.

        Returns
        -------
        Linearized, whose products cost no primal pass. An operator that works by chunks stores
        nothing, and one that cannot be traced cannot: both return themselves.

        Raises
        ------
        InputError
            If the operator is of float64 and float64 is switched off.
        """
        expect_switched_on(self.dtype)
        if self.recomputes or not self.traceable:
            return self
        return Linearized(_stored(self), self.shape, self.dtype)

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
        InputError
            If the block size is below 1, this is a family, or float64 is switched off as for
            ``matvec``.
        ResourceError
            If the host's memory cannot hold the matrix.
        """
        if not isinstance(block_size, int | np.integer) or block_size < 1:
            raise InputError(f"block_size must be an integer of at least 1; got {block_size!r}")
        if self.batch_shape:
            # A family refuses: it has no single matrix.
            self._products()
        expect_switched_on(self.dtype)
        _check_dense_memory(self.shape, self.dtype.itemsize)
        if self.traceable:
            return _dense(self, min(block_size, self.shape[1]))
        starts = range(0, self.shape[1], block_size)
        return jnp.concatenate(
            [self._matmat(_unit_columns(self, start, block_size)) for start in starts], 1
        )[:, : self.shape[1]]

    def __matmul__(self, other: ArrayLike) -> Array:
        """``A v`` of a vector, ``A V`` of columns.

        Examples
        --------
        >>> from landscape.curvature import DiagonalOperator
        >>> (DiagonalOperator(jnp.array([1.0, 2.0])) @ jnp.ones(2)).tolist()
        [1.0, 2.0]
        """
        if isinstance(other, LinearOperator):
            return NotImplemented
        return self.matvec(other) if np.ndim(other) == 1 else self.matmat(other)

    def __add__(self, other: LinearOperator) -> SumOperator:
        """The sum of two operators.

        Raises
        ------
        InputError
            If their shapes or types differ.
        """
        if not isinstance(other, LinearOperator):
            return NotImplemented
        if other.shape != self.shape:
            raise InputError(f"operators of shapes {self.shape} and {other.shape} cannot be added")
        if other.dtype != self.dtype:
            raise InputError(
                f"operators of types {self.dtype} and {other.dtype} cannot be added: the sum would "
                "be no more exact than the coarser one; cast one with .astype"
            )
        if self.batch_shape and other.batch_shape and self.batch_shape != other.batch_shape:
            raise InputError(
                f"families of {self.batch_shape[0]} and {other.batch_shape[0]} operators cannot be "
                "added"
            )
        return SumOperator((self, other))

    def __mul__(self, factor: ArrayLike) -> ScaledOperator:
        """The operator times a real number."""
        if isinstance(factor, LinearOperator | str) or np.ndim(factor) or np.iscomplexobj(factor):
            return NotImplemented
        expect_switched_on(self.dtype)
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
        expect_switched_on(self.dtype)
        return self * (1 / jnp.asarray(number, self.dtype))

    def _matmat(self, vectors: Array) -> Array:
        if self.batch_shape:
            # A family refuses: it has no single product.
            self._products()
        return _matmat(self, vectors)

    def _expect(self, v: Any, shape: tuple[Any, ...], what: str) -> None:
        if _shape(v) != shape:
            expected = (
                "(" + ", ".join(str(n) for n in shape) + ("," if len(shape) == 1 else "") + ")"
            )
            found: Any = _shape(v)
            if found is None:
                found = f"a {type(v).__name__}; the operator's ravel makes a vector of a pytree"
            raise InputError(f"{what} {expected}; got {found}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.shape[0]}×{self.shape[1]}, {self.dtype})"


@pytree
@dataclasses.dataclass(frozen=True, repr=False, eq=False)
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
        """That of the terms."""
        return self.terms[0].dtype

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """That of the terms that are families."""
        return max((term.batch_shape for term in self.terms), key=len)

    @property
    def T(self) -> SumOperator:  # noqa: N802 — as NumPy has it
        """The sum of the transposes."""
        return SumOperator(tuple(term.T for term in self.terms))

    def member(self, index: int) -> SumOperator:
        """The sum of the terms' members; a term that is no family belongs to each."""
        if not self.batch_shape:
            super().member(index)
        each = (term.member(index) if term.batch_shape else term for term in self.terms)
        return SumOperator(tuple(each))

    @property
    def traceable(self) -> bool:
        """Whether every term is."""
        return all(term.traceable for term in self.terms)

    @property
    def traceable_parts(self) -> tuple[LinearOperator, ...]:
        """Those of the terms."""
        return sum((term.traceable_parts for term in self.terms), ())

    @property
    def recomputes(self) -> bool:
        """Whether a term does."""
        return any(term.recomputes for term in self.terms)

    def astype(self, dtype: Any) -> SumOperator:
        """The sum of the terms in another type."""
        return dataclasses.replace(self, terms=tuple(term.astype(dtype) for term in self.terms))

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


@pytree
@dataclasses.dataclass(frozen=True, repr=False, eq=False)
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
    def T(self) -> ScaledOperator:  # noqa: N802 — as NumPy has it
        """The transpose, times the same number."""
        return ScaledOperator(self.op.T, self.factor)

    def member(self, index: int) -> ScaledOperator:
        """A member of the family, scaled."""
        return ScaledOperator(self.op.member(index), self.factor)

    @property
    def traceable(self) -> bool:
        """Whether the operator is."""
        return self.op.traceable

    @property
    def traceable_parts(self) -> tuple[LinearOperator, ...]:
        """Those of the operator."""
        return self.op.traceable_parts

    @property
    def recomputes(self) -> bool:
        """Whether the operator does."""
        return self.op.recomputes

    def astype(self, dtype: Any) -> ScaledOperator:
        """The operator in another type, times the same number."""
        op = self.op.astype(dtype)
        return dataclasses.replace(self, op=op, factor=jnp.asarray(self.factor, dtype))

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


@pytree
@dataclasses.dataclass(frozen=True, repr=False, eq=False)
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

    @property
    def T(self) -> LinearOperator:  # noqa: N802 — as NumPy has it
        """Refused: what it was made from has one."""
        raise InputError(f"{self!r} keeps no transpose: call .T before .linearized")

    def _products(self) -> Callable[[Array], Array]:
        return self.product

    def linearized(self) -> Linearized:
        """Itself."""
        return self

    def astype(self, dtype: Any) -> Linearized:
        """Refused: take the operator that it was made from."""
        raise InputError(
            f"what {self!r} has stored was computed in {self.type}: call .astype before .linearized"
        )


def expect_switched_on(dtype: Any) -> None:
    """Refuse a type that JAX would replace by a coarser one.

    Raises
    ------
    InputError
        For float64 outside ``jax.enable_x64(True)``.
    """
    if jax.dtypes.canonicalize_dtype(dtype) != np.dtype(dtype):
        raise InputError(
            f"{np.dtype(dtype)} is switched off here, and JAX would compute in float32: work "
            "inside `with jax.enable_x64(True):`"
        )


def _shape(v: Any) -> tuple[int, ...] | None:
    """Of an array, or of what can be made one; None of anything else."""
    try:
        return None if isinstance(v, dict) else np.shape(v)
    except ValueError:
        return None


@jax.jit
def _stored(op: LinearOperator) -> jax.tree_util.Partial:
    """The map v ↦ Av with what it needs as leaves; one program for all of a shape."""
    # The map is linear: linearised anywhere, what is stored is what no vector changes.
    _, product = jax.linearize(op._products(), jnp.zeros(op.shape[1], op.dtype))
    return product  # type: ignore[return-value]  # a Partial, annotated as any callable


@jax.jit
def _matmat(op: LinearOperator, vectors: Array) -> Array:
    return op._lanes()(vectors.T).T


def _unit_columns(op: LinearOperator, start: Array | int, count: int) -> Array:
    """Columns of the identity, zero beyond the last; (columns, count)."""
    return jax.nn.one_hot(start + jnp.arange(count), op.shape[1], dtype=op.dtype).T


@partial(jax.jit, static_argnames="block_size")
def _dense(op: LinearOperator, block_size: int) -> Array:
    num_rows, num_columns = op.shape
    product = op._lanes()
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
            f"a dense {shape[0]}×{shape[1]} matrix needs {readable(needed)}, the machine has "
            f"{readable(total)}; use slq instead of the dense spectrum"
        )
