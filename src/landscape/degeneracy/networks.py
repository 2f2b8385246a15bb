r"""Networks as a sequence of affine maps: what each reads, what each gives, and what it moves.

Notation: map ``l`` reads ``x_l`` and gives pre-activations ``z_l = W_lᵀ x̃_l`` with ``x̃_l = [x_l,
1]``; the last one gives the logits. ``B_j(x) = ∂logits/∂z_j`` is how pre-activation ``j`` moves the
logits at an example. The rows of the network's Jacobian for map ``l`` are ``B_j(x) ⊗ x̃_l``: all
that the null directions of one layer depend on.

``MLP`` is walked by its equations. Any other Linen module is run as it is, and its dense layers and
convolutions are looked into as they are called: they have to be called once each, and no other
module of it may have a kernel. Other functions: ``functions``.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from landscape.curvature.parameters import path_name
from landscape.degeneracy.layers import HiddenLayer, Leaf
from landscape.errors import InputError
from landscape.models import ACTIVATIONS, MLP


@dataclasses.dataclass(frozen=True)
class AffineMap:
    """A dense layer or a convolution.

    Attributes
    ----------
    name
        Path of the module.
    kernel, bias
        Where its parameters are; ``bias`` may be None.
    window
        Of a convolution: shape of the kernel, strides and padding. None for a dense layer.
    """

    name: str
    kernel: Leaf
    bias: Leaf | None
    window: tuple[Any, Any, Any] | None = None

    def weights(self, params: Any) -> np.ndarray:
        """Incoming weights of each unit or channel, and its bias if there is one: (size, n)."""
        kernel = np.asarray(self.kernel.of(params))
        kernel = kernel.reshape(-1, kernel.shape[-1])
        if self.bias is None:
            return kernel
        return np.concatenate([kernel, np.asarray(self.bias.of(params))[None]])

    def rows(self, inputs: Array) -> Float[Array, "N places fan_in"]:
        """What each output is an affine function of: one row for each place in an image."""
        if self.window is None:
            return inputs.reshape(len(inputs), -1, inputs.shape[-1])
        shape, strides, padding = self.window
        patches = jax.lax.conv_general_dilated_patches(
            inputs, shape, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        # They come channel by channel; a kernel has its channels last.
        count, channels = len(inputs), inputs.shape[-1]
        patches = patches.reshape(count, -1, channels, int(np.prod(shape)))
        return jnp.swapaxes(patches, 2, 3).reshape(count, patches.shape[1], -1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Walk:
    """What a batch met on its way.

    Attributes
    ----------
    logits
        (N, C).
    inputs
        Of each map, as it reads them: (N, fan_in) or (N, H, W, channels).
    preactivations
        Of each map: (N, n) or (N, H, W, n).
    """

    logits: Array
    inputs: tuple[Array, ...]
    preactivations: tuple[Array, ...]

    @property
    def activities(self) -> tuple[Array, ...]:
        """Of each hidden layer: what the next map reads."""
        return self.inputs[1:]


@dataclasses.dataclass(frozen=True)
class Network:
    """A model as its affine maps; made by ``describe.describe``.

    Attributes
    ----------
    maps
        In the order in which they are called; the last gives the logits.
    run
        ``run(params, state, inputs, shifts) -> Walk``: ``shifts``, None or one array for each map,
        are added to the pre-activations.
    rescalable
        Whether its units are ReLUs, so that weights into and out of a unit can be traded.
    skip
        ``"none"``, ``"identity"``, ``"hyper"``, ``"matrix"``, or ``"unknown"``.
    sequential
        Whether each map reads, by whatever way, what the one before gives.
    """

    maps: tuple[AffineMap, ...]
    run: Callable[[Any, Any, Array, Sequence[Array] | None], Walk]
    rescalable: bool
    skip: str
    sequential: bool = True

    def layers(self) -> tuple[HiddenLayer, ...]:
        """All but the last map, each with the kernel that reads it.

        Raises
        ------
        InputError
            If the maps are no sequence.
        """
        if not self.sequential:
            raise InputError(
                "the model's layers are no sequence, in which each reads what the one before "
                "gives: describe them by hand as HiddenLayer"
            )
        return tuple(
            HiddenLayer(
                one.name,
                one.kernel,
                one.bias,
                following.kernel,
                identity_skip=number > 0 and self.skip == "identity",
            )
            for number, (one, following) in enumerate(
                zip(self.maps[:-1], self.maps[1:], strict=True)
            )
        )

    @functools.partial(jax.jit, static_argnums=0)
    def walk(self, params: Any, state: Any, inputs: Array) -> Walk:
        """``run`` without shifts, compiled."""
        return self.run(params, state, inputs, None)

    @functools.partial(jax.jit, static_argnums=0)
    def effects(self, params: Any, state: Any, inputs: Array) -> tuple[Array, ...]:
        """B of every map, (N, C, places, n) each."""

        def one(example: Array) -> tuple[Array, ...]:
            given = jax.eval_shape(
                lambda: self.run(params, state, example[None], None).preactivations
            )
            shifts = [jnp.zeros(z.shape, z.dtype) for z in given]

            def logits(shifts: Sequence[Array]) -> Array:
                return self.run(params, state, example[None], shifts).logits[0]

            found = jax.jacrev(logits)(shifts)
            return tuple(b.reshape(b.shape[0], -1, b.shape[-1]) for b in found)

        return jax.vmap(one)(inputs)


@functools.cache
def mlp_network(model: MLP) -> Network:
    """An ``MLP``, whose symmetries are known."""
    skip = model.skip if isinstance(model.skip, str) else "matrix"
    # The first layer has no skip, and a hyper-residual network's second one only the identity.
    if model.depth == 1:
        skip = "none"
    elif model.depth == 2 and skip == "hyper":
        skip = "identity"
    rescalable = model.activation == "relu"
    if model.norm_after is not None:
        # Symmetries reach from one map into the next, and know of nothing in between.
        skip, rescalable = "unknown", False
    return Network(_mlp_maps(model), functools.partial(walk_mlp, model), rescalable, skip)


@functools.cache
def _mlp_maps(model: MLP) -> tuple[AffineMap, ...]:
    names = ["input", *(f"hidden/{l}" for l in range(model.depth - 1)), "output"]

    def leaf(name: str, kind: str) -> Leaf:
        stack, _, entry = name.partition("/")
        return Leaf(f"{stack}/{kind}", int(entry) if entry else None)

    return tuple(AffineMap(name, leaf(name, "kernel"), leaf(name, "bias")) for name in names)


def walk_mlp(
    model: MLP,
    params: Any,
    state: Any,
    inputs: Array,
    shifts: Sequence[Array] | None = None,
    moved: Sequence[Array] | None = None,
) -> Walk:
    """The equations of ``landscape.models.mlp``, layer by layer.

    Parameters
    ----------
    model, params, state, inputs
        The network, and its batch.
    shifts
        Added to the pre-activations, one (N, n) for each map.
    moved
        Added to the layers' outputs x_1 … x_L, (N, n) each.
    """
    activation = model.activation
    f = ACTIVATIONS[activation] if isinstance(activation, str) else activation
    fixed = (state or {}).get("fixed", {}).get("skip")
    x = inputs.reshape(len(inputs), -1)
    past, read, given = jnp.zeros(()), [], []
    for l, one in enumerate(_mlp_maps(model)):
        read.append(x)
        z = jnp.matmul(x, one.kernel.of(params), precision="highest")
        assert one.bias is not None
        z = z + one.bias.of(params)[None]
        z = z if shifts is None else z + shifts[l]
        given.append(z)
        if l == model.depth:
            break
        branch = f(z)
        if l == 0 or model.skip == "none":
            x = branch
        elif model.skip == "identity":
            x = branch + x
        elif model.skip != "hyper":
            x = branch + jnp.matmul(x, fixed.T, precision="highest")
        else:
            new = branch + x + (past / (l - 1) if l > 1 else 0)
            past = past + jnp.matmul(x, fixed[l - 1].T, precision="highest")
            x = new
        if l + 1 == model.norm_after:
            x = _normalized(params, state, x)
        x = x if moved is None else x + moved[l]
    return Walk(z, tuple(read), tuple(given))


def _normalized(params: Any, state: Any, x: Array) -> Array:
    """By the running statistics."""
    variables = {"params": params["norm"], "batch_stats": state["batch_stats"]["norm"]}
    result: Any = nn.BatchNorm(use_running_average=True).apply(variables, x)
    return result


def linen_network(model: nn.Module, params: Any, state: Any, inputs: Any) -> Network:
    """Any other Linen module, by looking into its layers as they are called.

    Raises
    ------
    InputError
        If it calls a layer twice, calls one of another kind that has a kernel, or does not end in a
        dense layer.
    """
    found: list[AffineMap] = []

    def look(module: Any) -> None:
        name = "/".join(module.path)
        if name in [one.name for one in found]:
            raise InputError(f"the module {name!r} is called twice: its weights are not one layer")
        window = None
        if isinstance(module, nn.Conv):
            if module.feature_group_count != 1 or module.kernel_dilation not in (None, 1):
                raise InputError(f"the convolution {name!r} has groups or is dilated")
            window = _window(module)
        kernel, bias = (Leaf("/".join((*module.path, kind))) for kind in ("kernel", "bias"))
        found.append(AffineMap(name, kernel, bias if module.use_bias else None, window))

    run = _runner(model)
    jax.eval_shape(
        lambda p, s, x: run(p, s, x, None, look).logits, params, state, jnp.asarray(inputs)[:1]
    )
    paths = [path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)]
    known = {one.kernel.path for one in found}
    others = [path for path in paths if path.endswith("kernel") and path not in known]
    if others or not found or found[-1].window is not None:
        what = (
            f"{', '.join(others)} belong to no dense layer or convolution"
            if others
            else ("it does not end in a dense layer")
        )
        raise InputError(
            f"the structure of {type(model).__name__} is not understood: {what}. Describe its "
            "layers by hand as HiddenLayer: the measures take those"
        )
    return Network(tuple(found), run, False, "unknown", _is_sequence(run, params, state, inputs))


def _is_sequence(run: Callable[..., Walk], params: Any, state: Any, inputs: Any) -> bool:
    """Whether each map reads what the one before gives, by the program that they trace to."""
    inputs = jnp.asarray(inputs)[:1]
    given = jax.eval_shape(lambda: run(params, state, inputs, None).preactivations)
    program = jax.make_jaxpr(lambda shifts: run(params, state, inputs, shifts).inputs)(
        [jnp.zeros(z.shape, z.dtype) for z in given]
    ).jaxpr
    made_from: dict[Any, frozenset[int]] = {
        variable: frozenset([number]) for number, variable in enumerate(program.invars)
    }

    def sources(variables: Sequence[Any]) -> frozenset[int]:
        known = (made_from.get(v, frozenset()) for v in variables if not hasattr(v, "val"))
        return frozenset[int]().union(*known)

    for equation in program.eqns:
        made_from |= dict.fromkeys(equation.outvars, sources(equation.invars))
    return all(number in sources([variable]) for number, variable in enumerate(program.outvars[1:]))


def _window(module: nn.Conv) -> tuple[Any, Any, Any]:
    """Kernel, strides and padding, one entry for each axis."""
    size: Any = module.kernel_size
    strides: Any = module.strides or 1
    padding: Any = module.padding
    shape = (size,) if isinstance(size, int) else tuple(size)

    def each(value: Any) -> tuple[Any, ...]:
        return (value,) * len(shape) if isinstance(value, int) else tuple(value)

    if not isinstance(padding, str):
        padding = tuple((p, p) if isinstance(p, int) else tuple(p) for p in each(padding))
    return shape, each(strides), padding


@functools.cache
def _runner(model: nn.Module) -> Callable[..., Walk]:
    """The module as it is, with its affine maps looked into; one function for one model."""

    def run(
        params: Any,
        state: Mapping[str, Any] | None,
        inputs: Array,
        shifts: Sequence[Array] | None,
        look: Callable[[Any], None] | None = None,
    ) -> Walk:
        read: list[Array] = []
        given: list[Array] = []

        def into(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            module = context.module
            if not isinstance(module, nn.Dense | nn.Conv) or context.method_name != "__call__":
                return call(*args, **kwargs)
            if look:
                look(module)
            read.append(args[0])
            z = call(*args, **kwargs)
            z = z if shifts is None else z + shifts[len(given)]
            given.append(z)
            return z

        with nn.intercept_methods(into):
            logits: Any = model.apply({"params": params, **(state or {})}, inputs)
        return Walk(logits, tuple(read), tuple(given))

    return run
