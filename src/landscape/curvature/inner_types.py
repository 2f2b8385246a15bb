"""Whether a product computes in a coarser type than its result has.

A network may cast to bfloat16 inside, or leave its matrix products to an accelerator's TF32: what
comes out is float32 by name, and rounds thousands of times as coarsely. No number that follows from
the type of the result would tell.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from landscape.curvature.operators import LinearOperator
from landscape.curvature.programs import equations
from landscape.errors import InputError

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
    float32 in an operator of float64 where numbers are brought into it, and where it is multiplied
    by matrices that are float32 too.
    """
    elsewhere = (platform or jax.default_backend()) != "cpu"
    for equation in equations(program):
        product = equation.primitive.name in _MATRIX_PRODUCTS
        variables = equation.invars if product else equation.outvars
        types = [getattr(variable.aval, "dtype", None) for variable in variables]
        types = [one for one in types if one is not None and jnp.issubdtype(one, np.floating)]
        if product and types:
            # Operands of two types are multiplied in the wider one.
            types = [max(types, key=lambda one: jnp.finfo(one).bits)]
        for found in types:
            bits = jnp.finfo(found).bits
            coarser = jnp.finfo(found).eps > jnp.finfo(dtype).eps
            if coarser and (product or bits < 32 or _narrows(equation)):
                return str(found)
            short = bits <= 32
            if product and elsewhere and short and not _is_highest(equation.params["precision"]):
                return "TF32 or bfloat16"
    return ""


def coarser_products(op: LinearOperator) -> str:
    """``coarser_inside`` of an operator's products, one at a time."""
    for part in op.traceable_parts:
        rows = jax.ShapeDtypeStruct((max(1, int(np.prod(part.batch_shape))), op.shape[1]), op.dtype)
        if found := coarser_inside(_images.trace(part, rows).jaxpr, op.dtype):
            return found
    return ""


@jax.jit
def _images(op: LinearOperator, rows: Array) -> Array:
    return op._lanes()(rows)


def expect_known_rounding(coarser: str, op: LinearOperator, noise_floor: Any) -> None:
    """Refuse products in a coarser type than their results have, unless a noise floor was given.

    Raises
    ------
    InputError
        With the type that was found.
    """
    if coarser and noise_floor is None:
        raise InputError(
            f"products with {op!r} compute in {coarser} inside, so their rounding cannot be told "
            "from their type: measure it by landscape.curvature.noise_floor(op, key) and pass it "
            "as noise_floor, or compute in full precision"
        )


def _narrows(equation: Any) -> bool:
    """Whether an equation brings numbers into a type of fewer bits."""
    if equation.primitive.name != "convert_element_type":
        return False
    before, after = (side.aval.dtype for side in (equation.invars[0], equation.outvars[0]))
    return before.itemsize > after.itemsize and jnp.issubdtype(before, np.floating)


def _is_highest(precision: Any) -> bool:
    sides = precision if isinstance(precision, tuple) else (precision,)
    return all(side == jax.lax.Precision.HIGHEST for side in sides)
