"""What an operator must be before its spectrum can be taken."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from landscape.curvature.operators import LinearOperator
from landscape.errors import InputError


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
