"""Functions that select compiled programs: each is noted, and what it reads outside itself.

A word is said about those that are made anew at each call. One that has come to read other things
than when it was compiled is compiled anew.
"""

from __future__ import annotations

import functools
import inspect
import logging
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import jax

from landscape.curvature.programs import fingerprint
from landscape.errors import InputError

# Functions of the same making from which a warning is due.
A_FEW = 4

# What stands for a function, by the structure and shapes of its arguments and by the fingerprint of
# its program; in the order in which they were met. None is the function itself, and the others last
# as long as something that was made of them: what it closes over may be as large as the data.
_Versions = dict[tuple[Hashable, Hashable, str], Callable[[], Callable[..., Any] | None] | None]

_log = logging.getLogger("landscape")
_seen: dict[Hashable, list[weakref.ref[Any]]] = {}
_versions: weakref.WeakKeyDictionary[Any, dict[str, _Versions]] = weakref.WeakKeyDictionary()


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


def as_it_reads(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """A function by which programs are kept, as what it reads outside itself stands now.

    A compiled program has the globals, attributes and closed-over values in it that its function
    read when it was traced, and is found again by that function. Here it is traced anew: if another
    program comes of it than at first, another function stands for it from now on.

    Parameters
    ----------
    function
        Of arrays.
    *arguments
        What it is called with; shapes and types are enough. Under a tracer nothing is done.

    Returns
    -------
    The function itself, or one that calls it: always the same while it reads the same.
    """
    leaves, structure = jax.tree.flatten(arguments)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return function
    owner: Any = function
    name = ""
    if inspect.ismethod(function):
        owner, name = function.__self__, function.__name__
    try:
        known = _versions.setdefault(owner, {}).setdefault(name, {})
    except TypeError:
        # Neither can it be the key of a compiled program.
        return function
    # JAX keeps what it has traced by the function: a new one is traced.
    program = jax.make_jaxpr(functools.partial(function))(*arguments)
    shapes = tuple(map(str, program.in_avals))
    version = (structure, shapes, fingerprint(program))
    if version not in known:
        # For new shapes nothing has been compiled, and the newest will do.
        fresh = all(other[:2] != version[:2] for other in known)
        known[version] = next(reversed(known.values()), None) if fresh else _gone
    reference = known[version]
    if reference is None:
        return function
    standing = reference()
    if standing is None:
        standing = functools.partial(function)
        known[version] = weakref.ref(standing)
    return standing


def _gone() -> None:
    """A reference to nothing yet."""


def _identity(cell: Any) -> Hashable:
    """What a closed-over value is compared by; arrays and the like, which vary, by nothing."""
    try:
        value = cell.cell_contents
        return None if hasattr(value, "shape") else (type(value).__qualname__, hash(value))
    except (TypeError, ValueError):
        return None
