"""A word to those who make a new function at each call: each one is compiled anew."""

from __future__ import annotations

import functools
import inspect
import logging
import weakref
from collections.abc import Callable, Hashable
from typing import Any

from landscape.errors import InputError

# Functions of the same making from which a warning is due.
A_FEW = 4

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


def _identity(cell: Any) -> Hashable:
    """What a closed-over value is compared by; arrays and the like, which vary, by nothing."""
    try:
        value = cell.cell_contents
        return None if hasattr(value, "shape") else (type(value).__qualname__, hash(value))
    except (TypeError, ValueError):
        return None
