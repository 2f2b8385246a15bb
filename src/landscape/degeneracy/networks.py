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

from landscape._pytrees import pytree
from landscape.curvature.parameters import path_name
from landscape.curvature.programs import equations_inside
from landscape.degeneracy.layers import HiddenLayer, Leaf
from landscape.errors import InputError
from landscape.models import ACTIVATIONS, MLP

# Activations of slope 1 at most.
_CONTRACTING = ("relu", "tanh", "identity")

_NORMS = (nn.BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.InstanceNorm)

# What lies between the units of one map and the next that reads more numbers than there are units:
# by these it can be anything.
MIXING = (
    "concatenate", "transpose", "gather", "sort", "rev", "dot_general", "conv_general_dilated",
)  # fmt: skip


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


@dataclasses.dataclass(frozen=True)
class Norm:
    """A batch normalisation that reads the pre-activations of a map as they are.

    Attributes
    ----------
    scale, shift
        γ and β, or None.
    statistics
        Where its mean and its variance are in ``batch_stats``.
    epsilon
        Added to the variance.
    """

    scale: Leaf | None
    shift: Leaf | None
    statistics: tuple[str, ...]
    epsilon: float

    def center(self, state: Any) -> Float[np.ndarray, " n"]:
        """μ/σ of each unit."""
        held = state["batch_stats"]
        for name in self.statistics:
            held = held[name]
        return np.asarray(held["mean"] / jnp.sqrt(held["var"] + self.epsilon), float)


@pytree
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
        Whether each map reads, unit by unit and by whatever way, what the one before gives.
    contracting
        Whether branches are those of an ``MLP`` and 1-Lipschitz.
    norms
        By the name of a map: the batch normalisation that reads it.
    sources
        Of each map those whose units it reads as they are or added up, by whatever way that keeps
        them apart; by default the one before.
    """

    maps: tuple[AffineMap, ...]
    run: Callable[[Any, Any, Array, Sequence[Array] | None], Walk]
    rescalable: bool
    skip: str
    sequential: bool = True
    contracting: bool = False
    norms: tuple[tuple[str, Norm], ...] = ()
    sources: tuple[tuple[int, ...], ...] | None = None

    @property
    def reads(self) -> tuple[tuple[int, ...], ...]:
        """``sources``, filled in."""
        if self.sources is not None:
            return self.sources
        return ((), *((number,) for number in range(len(self.maps) - 1)))

    @property
    def streams(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Maps that write what the same maps read, and those that read it."""
        groups: list[set[int]] = []
        for sources in map(set, self.reads):
            joined = [group for group in groups if group & sources]
            groups = [group for group in groups if not group & sources]
            groups += [sources.union(*joined)] if sources else []
        return [
            (writers, tuple(n for n, read in enumerate(self.reads) if set(read) & set(writers)))
            for writers in sorted(tuple(sorted(group)) for group in groups)
        ]

    def norm(self, number: int) -> Norm | None:
        """The normalisation that reads a map, if there is one."""
        return dict(self.norms).get(self.maps[number].name)

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
                "gives, unit by unit: describe them by hand as HiddenLayer"
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
    f = model.activation
    rescalable = f in ("relu", jax.nn.relu)
    contracting = f in _CONTRACTING or any(f is ACTIVATIONS[name] for name in _CONTRACTING)
    if model.norm_after is not None:
        # Symmetries reach from one map into the next, and know of nothing in between.
        skip, rescalable, contracting = "unknown", False, False
    run = functools.partial(walk_mlp, model)
    return Network(_mlp_maps(model), run, rescalable, skip, contracting=contracting)


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
        If it calls a layer twice, has parameters that belong to no dense layer, convolution or
        normalisation, or does not end in a dense layer.
    """
    found: list[AffineMap] = []
    norms: list[str] = []
    read_by: dict[str, Norm] = {}

    def look(module: Any, follows: bool) -> None:
        name = "/".join(module.path)
        if isinstance(module, _NORMS):
            norms.extend("/".join((*module.path, kind)) for kind in ("scale", "bias"))
            if follows and isinstance(module, nn.BatchNorm):
                read_by[found[-1].name] = _norm(module)
            return
        if name in [one.name for one in found]:
            raise InputError(f"the module {name!r} is called twice: its weights are not one layer")
        window = None
        if isinstance(module, nn.Conv):
            _expect_plain(module, name)
            window = _window(module)
        kernel, bias = (Leaf("/".join((*module.path, kind))) for kind in ("kernel", "bias"))
        found.append(AffineMap(name, kernel, bias if module.use_bias else None, window))

    run = _runner(model)
    jax.eval_shape(
        lambda p, s, x: run(p, s, x, None, look).logits, params, state, jnp.asarray(inputs)[:1]
    )
    paths = [path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)]
    known = {one.kernel.path for one in found}
    known |= {one.bias.path for one in found if one.bias}
    others = [path for path in paths if path not in known | set(norms)]
    if others or not found or found[-1].window is not None:
        what = (
            f"{', '.join(others)} belong to no dense layer, convolution or normalisation"
            if others
            else "it does not end in a dense layer"
        )
        raise InputError(
            f"the structure of {type(model).__name__} is not understood: {what}. Describe its "
            "layers by hand as HiddenLayer: the measures take those"
        )
    sequential, sources = _order(run, params, state, inputs)
    return Network(
        tuple(found), run, False, "unknown", sequential,
        norms=tuple(read_by.items()), sources=sources,
    )  # fmt: skip


def _norm(module: nn.BatchNorm) -> Norm:
    scale, shift = (
        Leaf("/".join((*module.path, kind))) if used else None
        for kind, used in (("scale", module.use_scale), ("bias", module.use_bias))
    )
    return Norm(scale, shift, tuple(module.path), module.epsilon)


def _order(
    run: Callable[..., Walk], params: Any, state: Any, inputs: Any
) -> tuple[bool, tuple[tuple[int, ...], ...]]:
    """Whether each map reads what the one before gives, and ``Network.sources``.

    By the program that they trace to. A map that reads more numbers than the one before has units
    reads images that were flattened, with the units last: a concatenation, or another order of the
    axes, is no sequence.
    """
    inputs = jnp.asarray(inputs)[:1]
    given = jax.eval_shape(lambda: run(params, state, inputs, None).preactivations)
    program = jax.make_jaxpr(lambda shifts: run(params, state, inputs, shifts).inputs)(
        [jnp.zeros(z.shape, z.dtype) for z in given]
    ).jaxpr
    # Of each variable the maps it is made from, and whether by way of what mixes their units.
    made_from: dict[Any, frozenset[tuple[int, bool]]] = {
        variable: frozenset([(number, False)]) for number, variable in enumerate(program.invars)
    }

    def ways_to(variables: Sequence[Any]) -> frozenset[tuple[int, bool]]:
        known = (made_from.get(v, frozenset()) for v in variables if not hasattr(v, "val"))
        return frozenset[tuple[int, bool]]().union(*known)

    for equation in program.eqns:
        found = ways_to(equation.invars)
        if any(inner.primitive.name in MIXING for inner in (equation, *equations_inside(equation))):
            found = frozenset((number, True) for number, _ in found)
        made_from |= dict.fromkeys(equation.outvars, found)
    sequential = True
    sources: list[tuple[int, ...]] = [()]
    for number, (read, z) in enumerate(zip(program.outvars[1:], given[:-1], strict=True)):
        found = ways_to([read])
        ways = {mixed for source, mixed in found if source == number}
        if not ways or (read.aval.shape[-1] != z.shape[-1] and True in ways):
            sequential = False
        sources.append(tuple(sorted(source for source, mixed in found if not mixed)))
    return sequential, tuple(sources)


def _expect_plain(module: nn.Conv, name: str) -> None:
    """Refuse convolutions that are not read.

    Raises
    ------
    InputError
        With what it is that cannot be read.
    """
    size: Any = module.kernel_size
    axes = 1 if isinstance(size, int) else len(size)
    dilations = (module.kernel_dilation, module.input_dilation)
    why = ""
    if axes != 2:
        why = f"goes along {axes} axes of its inputs, not 2"
    elif module.feature_group_count != 1:
        why = "has groups"
    elif any(np.any(np.asarray(d) != 1) for d in dilations if d is not None):
        why = "is dilated"
    elif isinstance(module.padding, str) and module.padding not in ("SAME", "VALID"):
        why = f"pads by {module.padding}"
    if why:
        raise InputError(
            f"the convolution {name!r} {why}: it is not read. Describe the layers by hand as "
            "HiddenLayer"
        )


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
        look: Callable[[Any, bool], None] | None = None,
    ) -> Walk:
        read: list[Array] = []
        given: list[Array] = []

        def into(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            module = context.module
            if context.method_name != "__call__":
                return call(*args, **kwargs)
            if look and isinstance(module, (nn.Dense, nn.Conv, *_NORMS)):
                look(module, bool(given) and args[0] is given[-1])
            if not isinstance(module, nn.Dense | nn.Conv):
                return call(*args, **kwargs)
            read.append(args[0])
            z = call(*args, **kwargs)
            z = z if shifts is None else z + shifts[len(given)]
            given.append(z)
            return z

        with nn.intercept_methods(into):
            logits: Any = model.apply({"params": params, **(state or {})}, inputs)
        return Walk(logits, tuple(read), tuple(given))

    return run
