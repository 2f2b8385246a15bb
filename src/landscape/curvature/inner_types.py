"""Whether a product computes in a coarser type than its result has.

A network may cast to bfloat16 inside, or leave its matrix products to an accelerator's TF32: what
comes out is float32 by name, and rounds thousands of times as coarsely. No number that follows from
the type of the result would tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_MATRIX_PRODUCTS = ("dot_general", "conv_general_dilated")


def coarser_inside(program: Any, dtype: np.dtype, platform: str | None = None) -> str:
    """Name a type inside the products of an operator that is coarser than the operator's.

    Parameters
    ----------
    program
        A jaxpr that contains the products, such as ``jax.jit(op.matmat).trace(columns).jaxpr``.
    dtype
        Of the operator.
    platform
        Where the products run; default JAX's. Matrix products that leave their precision to the
        platform are TF32 or bfloat16 on other platforms than ``"cpu"``.

    Returns
    -------
    ``"bfloat16"``, say, or an empty string. Types narrower than 32 bits count wherever they occur;
    float32 in an operator of float64 where it is multiplied by matrices.
    """
    elsewhere = (platform or jax.default_backend()) != "cpu"
    for equation in _equations(program):
        product = equation.primitive.name in _MATRIX_PRODUCTS
        for variable in equation.invars if product else equation.outvars:
            found = getattr(variable.aval, "dtype", None)
            if found is None or not jnp.issubdtype(found, np.floating):
                continue
            coarser = jnp.finfo(found).eps > jnp.finfo(dtype).eps
            if coarser and (product or jnp.finfo(found).bits < 32):
                return str(found)
        if product and elsewhere and not _is_highest(equation.params.get("precision")):
            return "TF32 or bfloat16"
    return ""


def _is_highest(precision: Any) -> bool:
    sides = precision if isinstance(precision, tuple) else (precision,)
    return all(side == jax.lax.Precision.HIGHEST for side in sides)


def _equations(jaxpr: Any) -> Iterator[Any]:
    """Of a program and of all programs inside it."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            if hasattr(inner, "eqns"):
                yield from _equations(inner)
