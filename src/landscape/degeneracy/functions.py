r"""Affine maps of any JAX function, found in the program that it traces to.

A product of what flows through the function with a parameter of two axes is a dense layer, a
convolution with one of four is a convolution, and a parameter of one axis that is added to either
is its bias. Whatever lies between them (activations, normalisations, skips) is left as it is: the
program is evaluated equation by equation, and the maps are looked into on the way.

Every parameter of two or more axes has to be the kernel of exactly one map, and each map has to
read, by whatever way, what the one before gives.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from landscape.curvature.parameters import path_name
from landscape.curvature.programs import equations_inside
from landscape.degeneracy.layers import Leaf
from landscape.degeneracy.networks import MIXING, AffineMap, Network, Walk
from landscape.errors import InputError

# Programs inside a program that are evaluated as a part of it where parameters go in.
_CALLS = ("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2")

# Last steps of a path that say nothing of the layer.
_KERNELS = ("kernel", "weight", "w", "W")

# (batch, feature, places …) of images with channels last, (out, in, places …) of their kernels.
_CHANNELS_LAST, _KERNEL_LAST = (0, 3, 1, 2), (3, 2, 0, 1)

Function = Callable[..., Array]


@dataclasses.dataclass(frozen=True)
class _Value:
    """An intermediate result and what is known of it.

    Attributes
    ----------
    array
        The result.
    leaf
        The parameter that it is, by its number, and whether it is transposed.
    product
        The map whose pre-activation it is, and the axis of its units.
    made_from
        Maps that it has been made from, but for those that came in by way of later ones; and
        whether by way of what mixes their units.
    """

    array: Any
    leaf: tuple[int, bool] | None = None
    product: tuple[int, int] | None = None
    made_from: frozenset[tuple[int, bool]] = frozenset()


@dataclasses.dataclass
class _Map:
    """A map as it is found: numbers of its leaves, and what it reads from."""

    kernel: int
    transposed: bool
    window: tuple[Any, Any, Any] | None
    reads: frozenset[tuple[int, bool]]
    bias: int | None = None


class _Reader:
    """Evaluates a program, adds shifts to pre-activations, remembers what maps read and give."""

    def __init__(self, shifts: Sequence[Array] | None) -> None:
        self.shifts = shifts
        self.maps: list[_Map] = []
        self.inputs: list[Array] = []
        self.given: list[Array] = []

    def evaluate(
        self, program: Any, constants: Sequence[Any], values: Sequence[_Value]
    ) -> list[_Value]:
        """All results of a program."""
        known: dict[Any, _Value] = {}
        known.update(zip(program.constvars, map(_Value, constants), strict=True))
        known.update(zip(program.invars, values, strict=True))
        for equation in program.eqns:
            given = [_Value(v.val) if hasattr(v, "val") else known[v] for v in equation.invars]
            known.update(zip(equation.outvars, self._results(equation, given), strict=True))
        return [_Value(v.val) if hasattr(v, "val") else known[v] for v in program.outvars]

    def _results(self, equation: Any, given: list[_Value]) -> list[_Value]:
        name = equation.primitive.name
        if name in _CALLS and any(value.leaf for value in given):
            inner = next(p for p in equation.params.values() if hasattr(p, "eqns"))
            constants = getattr(inner, "consts", ())
            return self.evaluate(getattr(inner, "jaxpr", inner), constants, given)
        params = equation.primitive.get_bind_params(equation.params)
        # Before jax 0.9 functions came apart from the other parameters.
        functions, params = params if isinstance(params, tuple) else ((), params)
        found = equation.primitive.bind(*functions, *(v.array for v in given), **params)
        arrays = found if equation.primitive.multiple_results else [found]
        made_from = frozenset[tuple[int, bool]]().union(*(value.made_from for value in given))
        if any(inner.primitive.name in MIXING for inner in (equation, *equations_inside(equation))):
            made_from = frozenset((number, True) for number, _ in made_from)
        if name == "dot_general" and (product := self._product(equation, given, arrays[0])):
            return [product]
        if name == "conv_general_dilated" and given[1].leaf:
            return [self._convolution(equation, given, arrays[0])]
        if name in ("add", "add_any") and (sum_ := self._biased(given, arrays[0])):
            return [sum_]
        if name in ("convert_element_type", "copy"):
            return [dataclasses.replace(given[0], array=arrays[0])]
        if name == "transpose":
            value = dataclasses.replace(given[0], made_from=made_from)
            return [_transposed(value, equation.params["permutation"], arrays[0])]
        if name in ("broadcast_in_dim", "reshape", "squeeze", "expand_dims"):
            leaf = given[0].leaf if _is_vector(given[0].array) else None
            return [_Value(arrays[0], leaf, None, made_from)]
        return [_Value(array, None, None, made_from) for array in arrays]

    def _product(self, equation: Any, given: list[_Value], result: Any) -> _Value | None:
        """If one side is a parameter of two axes, and the other is none."""
        contracted, batched = equation.params["dimension_numbers"]
        side = 1 if given[1].leaf else 0
        kernel, x = given[side], given[1 - side]
        if kernel.leaf is None or x.leaf or np.ndim(kernel.array) != 2 or any(batched):
            return None
        if len(contracted[0]) != 1:
            return None
        number, transposed = kernel.leaf
        units_first = contracted[side][0] == 1
        inputs = jnp.moveaxis(x.array, contracted[1 - side][0], -1)
        axis = result.ndim - 1 if side else 0
        one = _Map(number, transposed != units_first, None, x.made_from)
        return self._found(one, inputs, result, axis)

    def _convolution(self, equation: Any, given: list[_Value], result: Any) -> _Value:
        """With channels last."""
        x, kernel = given
        told = equation.params
        layout = told["dimension_numbers"]
        specs = (tuple(layout.lhs_spec), tuple(layout.rhs_spec), tuple(layout.out_spec))
        plain = (
            told["feature_group_count"] == told["batch_group_count"] == 1
            and math.prod(told["lhs_dilation"]) == math.prod(told["rhs_dilation"]) == 1
        )
        if specs != (_CHANNELS_LAST, _KERNEL_LAST, _CHANNELS_LAST) or not plain:
            raise InputError(
                "convolutions are read with channels last (NHWC, HWIO), in two dimensions, without "
                "groups or dilation"
            )
        assert kernel.leaf is not None
        window = (tuple(kernel.array.shape[:2]), tuple(told["window_strides"]), told["padding"])
        one = _Map(kernel.leaf[0], kernel.leaf[1], window, x.made_from)
        return self._found(one, x.array, result, result.ndim - 1)

    def _found(self, one: _Map, inputs: Any, result: Any, axis: int) -> _Value:
        number = len(self.maps)
        given = jnp.moveaxis(result, axis, -1)
        if self.shifts is not None:
            given = given + self.shifts[number].reshape(given.shape)
            result = jnp.moveaxis(given, -1, axis)
        self.maps.append(one)
        self.inputs.append(inputs)
        self.given.append(given)
        return _Value(result, None, (number, axis), frozenset([(number, False)]))

    def _biased(self, given: list[_Value], result: Any) -> _Value | None:
        """A pre-activation and a parameter of one axis."""
        for z, bias in (given, given[::-1]):
            if z.product and bias.leaf and self.maps[z.product[0]].bias is None:
                number, axis = z.product
                self.maps[number].bias = bias.leaf[0]
                self.given[number] = jnp.moveaxis(result, axis, -1)
                return dataclasses.replace(z, array=result)
        return None


def _is_vector(array: Any) -> bool:
    """Whether all but one axis are of length 1."""
    return max(np.shape(array), default=0) == np.size(array)


def _transposed(value: _Value, permutation: Sequence[int], result: Any) -> _Value:
    leaf = value.leaf and (value.leaf[0], value.leaf[1] != (tuple(permutation) == (1, 0)))
    if np.ndim(value.array) != 2 and not _is_vector(value.array):
        leaf = None
    product = value.product and (value.product[0], permutation.index(value.product[1]))
    return _Value(result, leaf, product, value.made_from)


@functools.cache
def _runner(function: Function) -> Callable[..., Walk]:
    """The function as it is, with its affine maps looked into; one for one function."""

    def run(
        params: Any,
        state: Any,
        inputs: Array,
        shifts: Sequence[Array] | None,
        look: Callable[[_Reader, _Value], None] | None = None,
    ) -> Walk:
        leaves, structure = jax.tree.flatten(params)
        rest = (state, inputs) if state else (inputs,)

        def flat(leaves: Any, rest: Any) -> Array:
            return function(jax.tree.unflatten(structure, leaves), *rest)

        program = jax.make_jaxpr(flat)(leaves, rest)
        values = [_Value(leaf, (number, False)) for number, leaf in enumerate(leaves)]
        values += map(_Value, jax.tree.leaves(rest))
        reader = _Reader(shifts)
        outputs = reader.evaluate(program.jaxpr, program.consts, values)
        if look:
            look(reader, outputs[0])
        return Walk(outputs[0].array, tuple(reader.inputs), tuple(reader.given))

    return run


def function_network(function: Function, params: Any, state: Any, inputs: Any) -> Network:
    """The affine maps of ``function(params, inputs)``, or ``function(params, state, inputs)``.

    Parameters
    ----------
    function, params, state
        As described in the module; ``state`` is left out if it is None or empty.
    inputs
        One example is enough, (1, …): the function is traced, not run.

    Returns
    -------
    Network

    Raises
    ------
    InputError
        If a parameter of two or more axes is not the kernel of one dense layer or convolution, the
        maps are not read one after the other, or the last one does not give the outputs.
    """
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(params)]
    found: list[AffineMap] = []

    def look(reader: _Reader, outputs: _Value) -> None:
        kernels = [one.kernel for one in reader.maps]
        for number in kernels:
            if kernels.count(number) > 1:
                _refuse(f"{paths[number]} is used twice: its weights are not one layer")
        others = [
            path
            for number, (path, shape) in enumerate(zip(paths, shapes, strict=True))
            if len(shape) > 1 and number not in kernels
        ]
        if others:
            _refuse(f"{', '.join(others)} belong to no dense layer or convolution")
        last = len(reader.maps) - 1
        if outputs.product is None or outputs.product[0] != last or reader.maps[last].window:
            _refuse("it does not end in a dense layer")
        for number, one in enumerate(reader.maps):
            if number and not _follows(reader, number):
                before, after = (paths[reader.maps[n].kernel] for n in (number - 1, number))
                _refuse(
                    f"{after} does not read what {before} gives, unit by unit: no sequence of "
                    "layers"
                )
            bias = None if one.bias is None else Leaf(paths[one.bias])
            kernel = Leaf(paths[one.kernel], transposed=one.transposed)
            found.append(AffineMap(_name(kernel.path), kernel, bias, one.window))

    run = _runner(function)
    jax.eval_shape(lambda p, s, x: run(p, s, x, None, look).logits, params, state, inputs[:1])
    return Network(tuple(found), run, False, "unknown")


def _follows(reader: _Reader, number: int) -> bool:
    """Whether a map reads what the one before gives; as in ``networks``."""
    ways = {mixed for source, mixed in reader.maps[number].reads if source == number - 1}
    alike = reader.inputs[number].shape[-1] == reader.given[number - 1].shape[-1]
    return bool(ways) and (alike or True not in ways)


def _name(path: str) -> str:
    """Of a layer, by the path of its kernel."""
    layer, _, last = path.rpartition("/")
    return layer if layer and last in _KERNELS else path


def _refuse(why: str) -> None:
    raise InputError(
        f"the structure of the function is not understood: {why}. Describe its layers by hand as "
        "HiddenLayer: the measures take those"
    )
