r"""Many operators of one shape in one program: networks, seeds, checkpoints.

Notation: a family holds S operators on R^P. What its members share (the data, as a rule) is kept
once; what they differ in is stacked. Its vectors come as rows ("lanes"), those of the first member
first.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from landscape._pytrees import pytree
from landscape.curvature.operators import LinearOperator
from landscape.curvature.parameters import path_name
from landscape.curvature.retracing import of_one_function
from landscape.errors import InputError


@pytree
@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class FamilyOperator(LinearOperator):
    """S operators of one shape; made by ``stack``.

    Attributes
    ----------
    stacked, shared
        Leaves of the members: (S, …) where they differ, and those that are common.
    structure, differs
        Static: how the members are put together, and which leaves differ.
    size
        S, static.
    """

    stacked: list[Any]
    shared: list[Any]
    structure: Any = dataclasses.field(metadata={"static": True})
    differs: tuple[bool, ...] = dataclasses.field(metadata={"static": True})
    size: int = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, int]:
        """(P, P) of each member."""
        return self._each[0]

    @property
    def dtype(self) -> np.dtype:
        """Type of the entries."""
        return self._each[1]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """(S,)."""
        return (self.size,)

    @functools.cached_property
    def _each(self) -> tuple[tuple[int, int], np.dtype, bool]:
        """What is the same for all members. Making one touches all arrays, and is done once."""
        one = self.member(0)
        return one.shape, one.dtype, one.recomputes

    def member(self, index: int) -> LinearOperator:
        """One of the operators.

        Raises
        ------
        InputError
            If there is none of that number.
        """
        if not -self.size <= index < self.size:
            raise InputError(f"a family of {self.size} has no member number {index}")
        return self.built([leaf[index] for leaf in self.stacked])

    def built(self, mine: list[Any]) -> LinearOperator:
        """The operator with these leaves for those that differ: what is mapped over."""
        first, second = iter(mine), iter(self.shared)
        leaves = [next(first) if differs else next(second) for differs in self.differs]
        return jax.tree.unflatten(self.structure, leaves)

    def _products(self) -> Callable[[Array], Array]:
        raise InputError(
            f"{self!r} has no single product: take one of its .members(), or give it to slq"
        )

    def _lanes(self) -> Callable[[Array], Array]:
        def images(rows: Array) -> Array:
            """(S, P) to (S, P)."""
            return jax.vmap(lambda mine, v: self.built(mine)._products()(v))(self.stacked, rows)

        product = images
        if not self.recomputes:
            # The map is linear: linearised anywhere, what is stored is what no vector changes.
            zeros = jnp.zeros((self.size, self.shape[0]), self.dtype)
            _, product = jax.linearize(images, zeros)

        def lanes(rows: Array) -> Array:
            by_member = rows.reshape(self.size, -1, rows.shape[-1])
            return jax.vmap(product, in_axes=1, out_axes=1)(by_member).reshape(rows.shape)

        return lanes

    @property
    def T(self) -> FamilyOperator:  # noqa: N802 — as NumPy has it
        """The family of the transposes."""
        return stack([member.T for member in self.members()])

    @property
    def recomputes(self) -> bool:
        """Whether the members do."""
        return self._each[2]

    def __repr__(self) -> str:
        return f"FamilyOperator({self.size} × {self.member(0)!r})"


def stack(operators: Iterable[LinearOperator]) -> FamilyOperator:
    """Make a family of operators, for ``slq`` in one program.

    Parameters
    ----------
    operators
        At least one, of the same kind: the same loss, options and shapes, with other parameters,
        state or data. States and data that are equal in all of them are kept once.

    Returns
    -------
    FamilyOperator

    Raises
    ------
    InputError
        If there is none, or they differ in more than the values of their arrays.

    Examples
    --------
    >>> from landscape.curvature import DiagonalOperator
    >>> family = stack([DiagonalOperator(jnp.arange(3.0)), DiagonalOperator(jnp.ones(3))])
    >>> family.batch_shape
    (2,)
    """
    if isinstance(operators, LinearOperator):
        raise InputError("stack takes a list of operators; got one operator")
    operators = list(operators)
    for op in operators:
        if not isinstance(op, LinearOperator):
            raise InputError(f"stack takes a list of operators; got a {type(op).__name__} in it")
    if not operators:
        raise InputError("a family needs at least one operator")
    if not all(op.traceable and not op.batch_shape for op in operators):
        raise InputError("families, and operators over a stream of batches, cannot be stacked")
    flattened = [jax.tree.flatten(op) for op in operators]
    structure: Any = flattened[0][1]
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(operators[0])[0]]
    columns = list(zip(*(leaves for leaves, _ in flattened), strict=False))
    alike = all(structure == other for _, other in flattened) and all(
        jnp.shape(leaf) == jnp.shape(column[0])
        and jnp.result_type(leaf) == jnp.result_type(column[0])
        for column in columns
        for leaf in column
    )
    if not alike:
        told = next(filter(None, (_difference(operators[0], other) for other in operators)), "")
        raise InputError(
            "the operators of a family must be of one kind, with the same loss, options and "
            f"shapes; got {', '.join(sorted({repr(op) for op in operators}))}{told}"
        )
    differs = tuple(
        _are_parameters(path) or not all(_equal(column[0], leaf) for leaf in column[1:])
        for path, column in zip(paths, columns, strict=True)
    )
    pairs = list(zip(columns, differs, strict=True))
    return FamilyOperator(
        stacked=[jnp.stack(column) for column, differ in pairs if differ],
        shared=[column[0] for column, differ in pairs if not differ],
        structure=structure,
        differs=differs,
        size=len(operators),
    )


def _are_parameters(path: tuple[Any, ...]) -> bool:
    """Parameters are stacked even where they agree: their values must not choose the program."""
    return any(getattr(entry, "name", None) == "params" for entry in path)


def _equal(first: Any, other: Any) -> bool:
    return first is other or bool(np.array_equal(first, other))


def _difference(first: LinearOperator, other: LinearOperator) -> str:
    """In which way an operator is not of another's kind; empty if that is not known."""
    if type(first) is not type(other):
        return ""
    read_anew = ""
    for field in dataclasses.fields(first):  # type: ignore[arg-type]
        one, two = getattr(first, field.name), getattr(other, field.name)
        if not field.metadata.get("static") or one == two:
            continue
        # A function of other shapes is another as it was read: these are told first.
        if of_one_function(one, two):
            read_anew = f". What {field.name} reads outside itself has changed between them"
        else:
            return f". They differ in {field.name}: {one!r} and {two!r}"
    pairs = zip(jax.tree_util.tree_leaves_with_path(first), jax.tree.leaves(other), strict=False)
    for (path, one), two in pairs:
        shapes = [(jnp.shape(leaf), str(jnp.result_type(leaf))) for leaf in (one, two)]
        if shapes[0] != shapes[1]:
            (a, kind), (b, other_kind) = shapes
            return f". They differ in {path_name(path)}: {a} {kind} and {b} {other_kind}"
    return read_anew
