"""Functions that select compiled programs: each is noted, and what it reads outside itself.

A word is said about those that are made anew at each call. One that has come to read other things
than when it was compiled is compiled anew.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import logging
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax

from landscape.curvature.programs import fingerprint
from landscape.errors import InputError

# Functions of the same making from which a warning is due.
A_FEW = 4

# What programs depend on besides their functions and arguments.
_CONFIG = ("jax_enable_x64", "jax_default_matmul_precision")

_log = logging.getLogger("landscape")
_seen: dict[Hashable, list[weakref.ref[Any]]] = {}


def note_function(function: Callable[..., Any]) -> None:
    """Remember a function that selects a compiled program, and warn if it is one of many.

    Functions are of the same making if they share their code and what they close over, arrays
    apart. Only what is needed to tell them apart is kept.

    Raises
    ------
    InputError
        If it is no function.
    """
    if not callable(function):
        raise InputError(f"expected a function, as loss(params, batch); got {function!r}")
    inner = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    code = getattr(inner, "__code__", None)
    if code is None:
        return
    making = (code, *map(_identity, getattr(inner, "__closure__", None) or ()))
    known = _seen.setdefault(making, [])
    # Methods of one object are equal, and made anew each time they are named.
    if any(reference() == function for reference in known):
        return
    method = inspect.ismethod(function)
    known.append(weakref.WeakMethod(function) if method else weakref.ref(function))
    if len(known) == A_FEW:
        _log.warning(
            "%d functions made by %s:%d have been passed in; functions are compared by identity, "
            "and each new one is compiled anew. Make it once, outside the loop, and pass what "
            "varies as parameters, state or batch",
            A_FEW,
            code.co_filename,
            code.co_firstlineno,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class AsItRead:
    """A function as what it read outside itself stood when it was traced; made by ``as_it_reads``.

    A program has the globals, attributes and closed-over values in it that its function read when
    it was traced, and that is at the first product, which may be later. So each call, which is one
    of a trace, looks whether the function still reads the same.

    Those of one function that read the same, for arguments of the same shapes, are equal: programs
    are found by them.

    Attributes
    ----------
    function
        The caller's.
    structure, shapes
        Of the arguments that it was traced with.
    version
        The fingerprint of its program.
    x64, precision
        What JAX was told of types and of matrix products then.
    looks
        Whether calls look.
    """

    function: Callable[..., Any]
    structure: Any
    shapes: tuple[jax.ShapeDtypeStruct, ...]
    version: str
    x64: bool
    precision: str | None
    looks: bool = True

    def __call__(self, *arguments: Any) -> Any:
        """What the function makes of them.

        Raises
        ------
        InputError
            If it has come to read something else.
        """
        if self.looks and self._now() != self.version:
            raise InputError(
                f"what {_named(self.function)} reads outside its arguments (a global, an "
                "attribute, a closed-over value) has changed since the operator was made, and what "
                "is asked for had not been compiled yet. Make the operator anew; or pass what "
                "varies as params, state or batch, and nothing is compiled twice"
            )
        return self.function(*arguments)

    def _now(self) -> str:
        with jax.enable_x64(self.x64), jax.default_matmul_precision(self.precision):
            return fingerprint(_traced(self.function, self.structure, self.shapes))

    def __repr__(self) -> str:
        return f"{_named(self.function)} as of {self.version}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsItRead) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @functools.cached_property
    def _key(self) -> Hashable:
        return (_hashable(self.function), self.structure, self.shapes, self.version)


def as_it_reads(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """A function by which programs are kept, as what it reads outside itself stands now.

    Parameters
    ----------
    function
        Of arrays.
    *arguments
        What it is called with; shapes and types are enough. Under a tracer nothing is done.

    Returns
    -------
    One that computes the same: equal to others of the function while it reads the same.
    """
    leaves, structure = jax.tree.flatten(arguments)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return function
    while isinstance(function, AsItRead):
        function = function.function
    shapes = tuple(map(_shape, leaves))
    version = fingerprint(_traced(function, structure, shapes))
    told = (getattr(jax.config, name) for name in _CONFIG)
    return AsItRead(function, structure, shapes, version, *told)


def just_read(function: Callable[..., Any]) -> Callable[..., Any]:
    """Its equal whose calls do not look: for the moment in which ``as_it_reads`` made it."""
    return (
        dataclasses.replace(function, looks=False) if isinstance(function, AsItRead) else function
    )


def of_one_function(one: Any, other: Any) -> bool:
    """Whether both are what ``as_it_reads`` made of one function."""
    both = [_hashable(x.function) for x in (one, other) if isinstance(x, AsItRead)]
    return len(both) == 2 and both[0] == both[1]


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    aval = jax.typeof(leaf)
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type)


def _traced(function: Callable[..., Any], structure: Any, shapes: Sequence[Any]) -> Any:
    """A function's program, of what it reads now."""
    # JAX keeps what it has traced by the function: a new one is traced.
    return jax.make_jaxpr(functools.partial(function))(*structure.unflatten(shapes))


def _hashable(function: Callable[..., Any]) -> Hashable:
    """The function, or which object it is."""
    try:
        hash(function)
    except TypeError:
        return id(function)
    return function


def _named(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _identity(cell: Any) -> Hashable:
    """What a closed-over value is compared by; arrays and the like, which vary, by nothing."""
    try:
        value = cell.cell_contents
        return None if hasattr(value, "shape") else (type(value).__qualname__, hash(value))
    except (TypeError, ValueError):
        return None
