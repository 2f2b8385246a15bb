r"""Convolutions in the order of axes that a CPU computes fast, in the bodies of loops too.

On a CPU, XLA hands a convolution to a library if its axes are in one order: images as (batch,
places …, features), kernels as (places …, in, out). Those of a program's outermost computation it
brings into that order; those in the body of a loop it leaves as they are (jax issue 12868), and
most of a backward pass comes in other orders. A product with the Hessian of a ResNet-20 (16 images)
took 4.5 s in a loop, 0.3 s outside, and takes 0.16 s in either place with its axes transposed here
(two cores, jaxlib 0.10.2; 2.9 and 0.15 s with 0.12).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jaxtyping import Array


def channels_last(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, its convolutions in a CPU's order of axes; for use while tracing.

    Parameters
    ----------
    function
        From pytrees of arrays to a pytree of arrays.

    Returns
    -------
    Computes the same numbers. Elsewhere than on a CPU it is the function itself.
    """
    if jax.default_backend() != "cpu":
        return function

    @functools.wraps(function)
    def reordered(*arguments: Any) -> Any:
        program, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        results = jaxpr_as_fun(_reordered(program))(*jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return reordered


def convolves(program: Any) -> bool:
    """Whether there is a convolution in a program or in one inside it."""
    return any(equation.primitive.name == _NAME for equation in _equations(program))


_NAME = "conv_general_dilated"


def _equations(program: Any) -> Iterator[Any]:
    """Of a program, closed or not, and of those inside it."""
    for equation in getattr(program, "jaxpr", program).eqns:
        yield equation
        for part in _parts(equation.params):
            if _is_program(part):
                yield from _equations(part)


def _is_program(value: Any) -> bool:
    return hasattr(value, "eqns")


def _parts(params: dict[str, Any]) -> list[Any]:
    return jax.tree.leaves(list(params.values()), is_leaf=_is_program)


def _reordered(program: Any) -> Any:
    """A closed program with its convolutions reordered; itself if there are none to reorder."""
    if not any(_is_out_of_order(equation) for equation in _equations(program)):
        return program
    arguments = [
        jax.ShapeDtypeStruct(
            v.aval.shape, v.aval.dtype, weak_type=getattr(v.aval, "weak_type", False)
        )
        for v in program.jaxpr.invars
    ]
    return jax.make_jaxpr(functools.partial(_evaluate, program))(*arguments)


def _evaluate(program: Any, *arguments: Any) -> list[Any]:
    known = dict(zip(program.jaxpr.constvars, program.consts, strict=True))
    known.update(zip(program.jaxpr.invars, arguments, strict=True))

    def value(variable: Any) -> Any:
        return variable.val if hasattr(variable, "val") else known[variable]

    for equation in program.jaxpr.eqns:
        given = [value(variable) for variable in equation.invars]
        if _is_out_of_order(equation):
            results = [_convolution(equation, *given)]
        else:
            params = {k: _with_reordered(v) for k, v in equation.params.items()}
            found = equation.primitive.bind(*given, **equation.primitive.get_bind_params(params))
            results = found if equation.primitive.multiple_results else [found]
        known.update(zip(equation.outvars, results, strict=True))
    return [value(variable) for variable in program.jaxpr.outvars]


def _with_reordered(value: Any) -> Any:
    """A parameter of an equation: a program, several in a tuple, or anything else."""
    if isinstance(value, tuple):
        return tuple(map(_with_reordered, value)) if any(map(_is_program, value)) else value
    if not _is_program(value):
        return value
    if hasattr(value, "jaxpr"):
        return _reordered(value)
    # Not closed, and without constants: what is rematerialised comes so.
    return value if value.constvars else _reordered(ClosedJaxpr(value, ())).jaxpr


def _order(axes: int) -> jax.lax.ConvDimensionNumbers:
    """(batch, feature, places …) of images and results, (out, in, places …) of kernels."""
    places = range(1, axes - 1)
    images = (0, axes - 1, *places)
    return jax.lax.ConvDimensionNumbers(images, (axes - 1, axes - 2, *range(axes - 2)), images)


def _is_out_of_order(equation: Any) -> bool:
    if equation.primitive.name != _NAME:
        return False
    return equation.params["dimension_numbers"] != _order(equation.invars[0].aval.ndim)


def _convolution(equation: Any, images: Array, kernel: Array) -> Array:
    """With all axes transposed to the wanted order, and back."""
    had, wanted = equation.params["dimension_numbers"], _order(images.ndim)
    images = _transposed(images, had.lhs_spec, wanted.lhs_spec)
    kernel = _transposed(kernel, had.rhs_spec, wanted.rhs_spec)
    params = {**equation.params, "dimension_numbers": wanted}
    return _transposed(
        equation.primitive.bind(images, kernel, **params), wanted.out_spec, had.out_spec
    )


def _transposed(array: Array, had: Sequence[int], wanted: Sequence[int]) -> Array:
    """The axis that was ``had[i]`` becomes ``wanted[i]``."""
    return jax.lax.transpose(array, np.asarray(had)[np.argsort(wanted)])
