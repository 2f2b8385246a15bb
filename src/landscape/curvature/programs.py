"""Traced programs, looked at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax


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
