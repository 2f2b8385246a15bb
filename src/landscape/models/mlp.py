r"""Fully connected networks with and without skip connections, as pure Linen modules.

Notation: inputs ``x``, hidden layers ``x_1 … x_L`` of width ``n`` with ``L = depth``, activation
``f``, logits ``W_out x_L + b_out``; ``x_1 = f(W_in x + b_in)`` has no skip from the input.
For ``l = 1 … L-1``:

- plain (``skip="none"``): ``x_{l+1} = f(W_l x_l + b_l)``
- residual (``skip="identity"`` or a matrix Q): ``x_{l+1} = f(W_l x_l + b_l) + Q x_l``
- hyper-residual (``skip="hyper"``): ``x_{l+1} = f(W_l x_l + b_l) + x_l +
  1/(l-1) Σ_{k=1}^{l-1} Q_k x_k`` with fixed random orthogonal ``Q_k`` that depend on ``k`` alone;
  the sum is absent for ``l = 1``. It is carried along as one running vector.

All of them have the same trainable parameters. Source: A. E. Orhan and X. Pitkow, *Skip
Connections Eliminate Singularities*, ICLR 2018 (arXiv:1701.09175); that the ``Q_k`` depend on
``k`` alone is our choice.

Two interventions of the same source. *Malicious initialisation* (``cancel_skip``) subtracts the
skip's matrix from every initial W_l, l = 1 … L-1: where f is linear, what is left is the plain
network. ``norm_after=k`` normalises x_k over the batch, with a scale and a shift for
each unit (S. Ioffe and C. Szegedy, *Batch Normalization*, ICML 2015); that it is the layer's output
that is normalised, not its pre-activation, is our choice.

The hidden layers are one stack (leading axis ``L-1``) walked by ``lax.scan``: the compiled program
does not grow with depth. ``benchmarks/stacking.py`` measures what that brings and costs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from landscape.errors import InputError
from landscape.models.skips import RandomSkip, SkipMatrix, random_orthogonal


def _relu(x: Array) -> Array:
    """``max(x, 0)`` with the derivative 0 at 0.

    So is ``nn.relu``, but for jax 0.10: that forgets its rule for the derivative in a ``lax.scan``
    that is differentiated twice, takes ½, and Hessians at biases of 0 come out asymmetric.
    """
    return jnp.where(x <= 0, jnp.zeros_like(x), x)


#: What the units' responses can be, by name.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": _relu,
    "tanh": jnp.tanh,
    "gelu": nn.gelu,
    "erf": jax.scipy.special.erf,
    "identity": lambda x: x,
}
#: Which skips a network can have: none, from the layer below, or from all layers below.
SKIPS = ("none", "identity", "hyper")

# What running statistics keep of themselves at each update.
NORM_MOMENTUM = 0.9


class MLP(nn.Module):
    """A deep network of equal-width hidden layers; see the module's notation.

    Attributes
    ----------
    depth
        Number L ≥ 1 of hidden layers.
    width
        Number n ≥ 1 of units in each.
    num_classes
        Number C of logits.
    skip
        ``"none"``, ``"identity"``, ``"hyper"``, or an (n, n) matrix Q for every hidden-to-hidden
        layer, given or (``RandomSkip``) drawn by each network for itself.
    activation
        One of ``relu``, ``tanh``, ``gelu``, ``erf``, ``identity``, or a function of arrays.
    unroll
        Hidden layers per iteration of the compiled loop; changes speed only.
    cancel_skip
        Whether the initial hidden kernels undo the skip, identity or matrix.
    norm_after
        Number k of the hidden layer whose output is normalised over the batch, from 1 to L; not
        with ``"hyper"``. None normalises nothing.
    param_dtype
        Type of the parameters and of the fixed matrices; float64 needs ``jax.enable_x64``.

    Notes
    -----
    Parameters: ``input/{kernel (d, n), bias (n,)}``, ``hidden/{kernel (L-1, n, n), bias (L-1, n)}``
    (absent if L = 1), ``output/{kernel (n, C), bias (C,)}``; kernels act from the right
    (``x @ kernel``), are drawn Glorot normal (X. Glorot and Y. Bengio, AISTATS 2010), biases
    start at 0. With ``norm_after`` also ``norm/{scale, bias}``, (n,) each, and in the collection
    ``"batch_stats"`` ``norm/{mean, var}``. Fixed matrices live in the collection ``"fixed"``, not
    among the parameters: ``fixed/skip``, (n, n) for a matrix, (L-1, n, n) for ``"hyper"``.

    Examples
    --------
    >>> model = MLP(depth=20, width=16, num_classes=10, skip="identity")
    >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    >>> model.apply(variables, jnp.ones((5, 8, 8, 1))).shape
    (5, 10)
    """

    depth: int
    width: int
    num_classes: int
    skip: Any = "none"
    activation: str | Callable[[Array], Array] = "relu"
    unroll: int = 1
    cancel_skip: bool = False
    norm_after: int | None = None
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        if isinstance(self.skip, np.ndarray | jax.Array | list | tuple):
            object.__setattr__(self, "skip", SkipMatrix(self.skip))
        self._check()
        super().__post_init__()

    def _check(self) -> None:
        for name in ("depth", "width", "num_classes", "unroll"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"MLP {name} must be an integer of at least 1; got {value!r}")
        if isinstance(self.skip, SkipMatrix):
            n = self.skip.values.shape[0]
            if n != self.width:
                raise InputError(
                    f"the skip matrix is {n}×{n} but the layers have {self.width} units"
                )
        elif not isinstance(self.skip, RandomSkip) and self.skip not in SKIPS:
            raise InputError(
                f"skip must be one of {', '.join(SKIPS)} or a matrix; got {self.skip!r}"
            )
        if not callable(self.activation) and self.activation not in ACTIVATIONS:
            raise InputError(
                f"activation must be a function or one of {', '.join(ACTIVATIONS)}; "
                f"got {self.activation!r}"
            )
        if self.cancel_skip and self.skip in ("none", "hyper"):
            raise InputError(
                f"cancel_skip undoes an identity skip or that of a matrix; skip is {self.skip!r}"
            )
        if self.norm_after is not None:
            if self.skip == "hyper":
                raise InputError("norm_after cannot be had with hyper-residual skips")
            if not isinstance(self.norm_after, int) or not 1 <= self.norm_after <= self.depth:
                raise InputError(
                    f"norm_after must be an integer from 1 to {self.depth}, the hidden layers; "
                    f"got {self.norm_after!r}"
                )

    @nn.compact
    def __call__(self, inputs: Float[Array, "N ..."], train: bool = False) -> Float[Array, "N C"]:
        """Logits of a batch.

        Parameters
        ----------
        inputs
            Shape (N, …); everything after the first axis is flattened to d features.
        train
            Normalise by the batch's own statistics, and update the running ones.

        Returns
        -------
        Shape (N, C).
        """
        f = ACTIVATIONS[self.activation] if isinstance(self.activation, str) else self.activation
        x = inputs.reshape(inputs.shape[0], -1)
        dense = partial(
            nn.Dense, kernel_init=nn.initializers.glorot_normal(), param_dtype=self.param_dtype
        )
        x = f(dense(self.width, name="input")(x))
        if self.depth > 1:
            skip = self._skip_matrix(x.dtype)
            kernels, biases = _HiddenStack(
                self.depth - 1, self.width, self.param_dtype, name="hidden"
            )(self._undone(skip))
            walk = partial(self._hidden, f, skip)
            if self.norm_after is None:
                x = walk(x, kernels, biases)
            else:
                before = self.norm_after - 1
                x = walk(x, kernels[:before], biases[:before])
                x = self._normalized(x, train)
                x = walk(x, kernels[before:], biases[before:])
        elif self.norm_after is not None:
            x = self._normalized(x, train)
        return dense(self.num_classes, name="output")(x)

    def _normalized(self, x: Array, train: bool) -> Array:
        return nn.BatchNorm(
            use_running_average=not train,
            momentum=NORM_MOMENTUM,
            param_dtype=self.param_dtype,
            name="norm",
        )(x)

    def _skip_matrix(self, dtype: Any) -> Array | None:
        """The variable of a skip matrix, if there is one."""
        if isinstance(self.skip, str):
            return None

        def start() -> Array:
            if isinstance(self.skip, SkipMatrix):
                return jnp.asarray(self.skip.values, dtype)
            return self.skip.draw(self.make_rng("params"), self.width, dtype)

        values: Array = self.variable("fixed", "skip", start).value
        return values

    def _undone(self, skip: Array | None) -> Array | None:
        """What the initial kernels lack: a skip acts from the left, kernels from the right."""
        if not self.cancel_skip:
            return None
        return jnp.eye(self.width) if skip is None else skip.T

    def _hidden(
        self,
        f: Callable[[Array], Array],
        skip: Array | None,
        x: Array,
        kernels: Array,
        biases: Array,
    ) -> Array:
        """Walk hidden-to-hidden layers, all or some."""
        if self.skip == "hyper":
            return self._hyper(f, x, kernels, biases)

        def layer(x: Array, parameters: tuple[Array, Array]) -> tuple[Array, None]:
            kernel, bias = parameters
            branch = f(x @ kernel + bias[None])
            if self.skip == "none":
                return branch, None
            return branch + (x if skip is None else x @ skip.T), None

        x, _ = jax.lax.scan(layer, x, (kernels, biases), unroll=self.unroll)
        return x

    def _hyper(self, f: Callable[[Array], Array], x: Array, kernels: Array, biases: Array) -> Array:
        """The hyper-residual walk: the carry is (x_l, Σ_{k<l} Q_k x_k)."""
        count = self.depth - 1
        skips = self.variable(
            "fixed",
            "skip",
            lambda: random_orthogonal(self.make_rng("params"), count, self.width, x.dtype),
        ).value
        # 1/(l-1) for l = 2 … L-1; for l = 1 the sum is empty and the factor is arbitrary.
        factors = jnp.asarray([1.0] + [1.0 / (l - 1) for l in range(2, self.depth)], x.dtype)

        def layer(
            carry: tuple[Array, Array], parameters: tuple[Array, Array, Array, Array]
        ) -> tuple[tuple[Array, Array], None]:
            x, past = carry
            kernel, bias, skip, factor = parameters
            return (f(x @ kernel + bias[None]) + x + factor * past, past + x @ skip.T), None

        (x, _), _ = jax.lax.scan(
            layer, (x, jnp.zeros_like(x)), (kernels, biases, skips, factors), unroll=self.unroll
        )
        return x


class _HiddenStack(nn.Module):
    """The stacked kernels and biases of the hidden-to-hidden layers."""

    count: int
    width: int
    param_dtype: Any

    @nn.compact
    def __call__(self, undone: Array | None) -> tuple[Array, Array]:
        shape = (self.count, self.width, self.width)
        glorot, zeros = nn.initializers.glorot_normal(batch_axis=(0,)), nn.initializers.zeros_init()

        def start(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
            kernels = glorot(key, shape, dtype)
            return kernels if undone is None else kernels - undone.astype(dtype)[None]

        kernels = self.param("kernel", start, shape, self.param_dtype)
        biases = self.param("bias", zeros, (self.count, self.width), self.param_dtype)
        return kernels, biases
