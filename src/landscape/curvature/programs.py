"""Traced programs, looked at."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# What an equation's parameters tell of the source, and not of the numbers.
_OF_THE_SOURCE = ("name", "debug_info")


def equations(jaxpr: Any) -> Iterator[Any]:
    """Of a program and of all programs inside it."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    for equation in jaxpr.eqns:
        yield equation
        yield from equations_inside(equation)


def equations_inside(equation: Any) -> Iterator[Any]:
    """Of all programs inside one equation: the body of a loop, a function that is called."""
    for inner in jax.tree.leaves(
        list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
    ):
        if hasattr(inner, "eqns"):
            yield from equations(inner)


def product_bytes(jaxpr: Any) -> int:
    """Bytes of all results of matrix products and convolutions, each turn of a scan's counted."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            total += sum(var.aval.size * var.aval.dtype.itemsize for var in equation.outvars)
        inner = jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        )
        turns = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        total += turns * sum(product_bytes(part) for part in inner if hasattr(part, "eqns"))
    return total


def fingerprint(*programs: Any) -> str:
    """A hash of what traced programs compute: of their operations and of every number in them.

    Names of functions and of variables make no difference, nor where anything stands in a source.
    Custom derivatives are those of a program that takes them.
    """
    content = hashlib.sha256()
    for program in programs:
        for piece in _pieces(program):
            content.update(piece)
            content.update(b"\n")
    return content.hexdigest()[:16]


def _pieces(program: Any) -> Iterator[bytes]:
    """A program, or one inside it, by the numbers of its variables instead of their names."""
    jaxpr = getattr(program, "jaxpr", program)
    numbers: dict[Any, int] = {}

    def number(variable: Any) -> str:
        if hasattr(variable, "val"):
            return f"{variable.aval} {variable.val!r}"
        return f"{variable.aval} #{numbers.setdefault(variable, len(numbers))}"

    for constant in getattr(program, "consts", ()):
        yield from _told(constant)
    yield " ".join(map(number, [*jaxpr.constvars, *jaxpr.invars])).encode()
    for equation in jaxpr.eqns:
        told = [equation.primitive.name, *map(number, [*equation.invars, *equation.outvars])]
        yield " ".join(told).encode()
        parameters = equation.params
        yield from _told({k: v for k, v in parameters.items() if k not in _OF_THE_SOURCE})
    yield " ".join(map(number, jaxpr.outvars)).encode()


def _told(value: Any) -> Iterator[bytes]:
    """A parameter of an equation, or a constant."""
    if hasattr(value, "eqns"):
        yield from _pieces(value)
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield str(key).encode()
            yield from _told(value[key])
    elif isinstance(value, set | frozenset):
        # In an order of their own in each process.
        yield from sorted(b" ".join(_told(one)) for one in value)
    elif isinstance(value, tuple | list):
        yield f"{len(value)} of them".encode()
        for one in value:
            yield from _told(one)
    elif isinstance(value, jax.Array | np.ndarray | np.generic):
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            value = jax.random.key_data(value)
        array = np.asarray(value)
        numbers = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        # Copied once: what a loss closes over may be as large as the data.
        yield b"".join((f"{array.dtype} {array.shape}".encode(), numbers.data))
    elif callable(value) and not isinstance(value, type):
        # A function that has been traced, or will be where a derivative is taken.
        yield type(value).__name__.encode()
    else:
        yield re.sub(r" at 0x[0-9a-f]+", "", repr(value)).encode()
