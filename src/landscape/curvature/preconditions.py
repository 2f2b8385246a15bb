"""What an operator must be before its spectrum can be taken."""

from __future__ import annotations

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from landscape.curvature.matrices import DenseOperator, DiagonalOperator
from landscape.curvature.operators import LinearOperator, expect_switched_on
from landscape.errors import InputError

# Asymmetry, relative to the norm, from which an operator is refused; below it is a noise floor.
# Products of trained networks in float32 leave 2·10⁻⁷, of ill-conditioned matrices 3·10⁻⁶. A bound
# moves by some hundred times as much: in float32 by less than its rounding η from 10⁻⁴, in float64
# by 6·10⁻⁸ from 10⁻⁹.
ASYMMETRY = {"float32": 1e-4, "float64": 2e-11}


def expect_square(op: Any) -> None:
    """Refuse an operator whose spectrum cannot be taken.

    Raises
    ------
    InputError
        If it is no operator, not square, empty, of a type that products cannot be made in, or part
        of a program that is being traced.
    """
    if not isinstance(op, LinearOperator):
        raise InputError(
            f"expected a linear operator, such as hessian(…) or DenseOperator(matrix); got "
            f"{type(op).__name__}"
        )
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(op)):
        raise InputError(
            "what is asked for ends on the host, and cannot be taken inside jit, vmap or grad: "
            "return the parameters, and take it outside"
        )
    if op.dtype not in (np.float32, np.float64):
        raise InputError(
            f"spectra are taken in float32 or float64; {op!r} is of type {op.dtype}: cast its "
            "parameters"
        )
    expect_switched_on(op.dtype)
    if not op.shape[0]:
        raise InputError(f"{op!r} has no parameters")
    if op.shape[0] != op.shape[1]:
        raise InputError(
            f"{op!r} is not square and has no spectrum"
            + (
                "; take its .gram(), whose eigenvalues are the squared singular values"
                if hasattr(op, "gram")
                else ""
            )
        )


def expect_range(norms: float | np.ndarray, op: LinearOperator) -> None:
    """Refuse norms whose square, or that of their rounding, leaves the type's range.

    Raises
    ------
    InputError
        If one is too large or too small, but for 0.
    """
    info = jnp.finfo(op.dtype)
    smallest, largest = (
        float(info.tiny) ** 0.5 / (10 * float(info.eps)),
        float(info.max) ** 0.5 / 10,
    )
    norms = np.ravel(norms).astype(float)
    beyond = norms[(norms != 0) & ~((smallest <= norms) & (norms <= largest))]
    if len(beyond):
        raise InputError(
            f"an operator of norm {beyond[0]:.1e} leaves the range in which {op.dtype} can be "
            f"squared, {smallest:.0e} to {largest:.0e}: multiply it with a number"
        )


def expect_pytree(op: LinearOperator) -> None:
    """Refuse an operator that cannot be an argument of a compiled program, and should be.

    Raises
    ------
    InputError
        If it is no pytree, and not driven from the host.
    """
    if op.traceable and any(isinstance(leaf, LinearOperator) for leaf in jax.tree.leaves(op)):
        raise InputError(
            f"{type(op).__name__} is no pytree, and cannot be part of a compiled program: decorate "
            "it with jax.tree_util.register_dataclass, as in the example of LinearOperator"
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


def expect_key(key: Any) -> None:
    """Refuse what is no JAX random key.

    Raises
    ------
    InputError
        For a number, say.
    """
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    raw = getattr(key, "dtype", None) == np.uint32 and np.ndim(key) == 1
    if not ((typed and not key.shape) or raw):
        raise InputError(f"key must be a JAX random key, jax.random.key(0); got {key!r}")
    if isinstance(key, jax.core.Tracer):
        raise InputError(
            "what is asked for ends on the host, and cannot be taken inside jit or vmap: pass the "
            "key from outside"
        )


def is_used_up(array: Any) -> bool:
    """Whether an array was given to a program that reused its memory."""
    return isinstance(array, jax.Array) and array.is_deleted()


def expect_kept(array: Any) -> None:
    """Refuse a run, given one of its arrays, that has been advanced.

    Raises
    ------
    InputError
        If its arrays have been reused.
    """
    if is_used_up(array):
        raise InputError(
            "this run is used up: it was advanced before, and the run that came back holds its "
            "arrays. Write run = run.advance(…)"
        )


def expect_integer(**values: Any) -> None:
    """Refuse what is no integer.

    Raises
    ------
    InputError
        With the name that it was given under.
    """
    for name, value in values.items():
        try:
            operator.index(value)
        except TypeError:
            raise InputError(f"{name} must be an integer; got {value!r}") from None


def expect_real(**values: Any) -> None:
    """Refuse what is no single real number.

    Raises
    ------
    InputError
        With the name that it was given under.
    """
    for name, value in values.items():
        if isinstance(value, str) or np.ndim(value) or np.iscomplexobj(value):
            raise InputError(f"{name} must be a number; got {value!r}")
        try:
            float(value)
        except TypeError:
            raise InputError(f"{name} must be a number; got {value!r}") from None


def not_finite() -> InputError:
    """The refusal of an operator one of whose products is not finite."""
    return InputError(
        "a product with the operator is NaN or infinite: the loss has no finite second derivative "
        "at these parameters, or its norm overflows"
    )


def not_symmetric(op: LinearOperator, found: str) -> InputError:
    """The refusal of an operator, with what was found and what to look at first."""
    if isinstance(op, DenseOperator | DiagonalOperator):
        hint = ""
    elif not op.traceable:
        hint = (
            ". A stream must give the same batches in every walk, so switch shuffling and "
            "augmentation off"
        )
    else:
        hint = (
            "; a loss has no Hessian where a kink is met exactly, as by max(x, 0) at 0, and jax "
            "0.10 differs with itself there for jax.nn.relu in a lax.scan"
        )
    return InputError(f"the operator is not symmetric: {found}{hint}")


def expect_positive(**values: Any) -> None:
    """Refuse what is no integer of at least 1.

    Raises
    ------
    InputError
        With the name that it was given under.
    """
    expect_integer(**values)
    for name, value in values.items():
        if value < 1:
            raise InputError(f"{name} must be at least 1; got {value}")


def expect_level(level: float) -> None:
    """Refuse what is no probability that a confidence interval can have.

    Raises
    ------
    InputError
        With what was given.
    """
    expect_real(level=level)
    if not 0 < level < 1:
        raise InputError(f"level must lie between 0 and 1; got {level!r}")
