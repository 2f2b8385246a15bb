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

The hidden layers are one stack (leading axis ``L-1``) walked by ``lax.scan``: the compiled program
does not grow with depth. ``benchmarks/stacking.py`` measures what that brings and costs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from landscape.errors import InputError
from landscape.models.skips import SkipMatrix, random_orthogonal

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "tanh": jnp.tanh,
    "gelu": nn.gelu,
    "erf": jax.scipy.special.erf,
    "identity": lambda x: x,
}
SKIPS = ("none", "identity", "hyper")


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
        layer.
    activation
        One of ``relu``, ``tanh``, ``gelu``, ``erf``, ``identity``, or a function of arrays.
    unroll
        Hidden layers per iteration of the compiled loop; changes speed only.

    Notes
    -----
    Parameters: ``input/{kernel (d, n), bias (n,)}``, ``hidden/{kernel (L-1, n, n), bias (L-1, n)}``
    (absent if L = 1), ``output/{kernel (n, C), bias (C,)}``; kernels act from the right
    (``x @ kernel``), are drawn Glorot normal (X. Glorot and Y. Bengio, AISTATS 2010), biases
    start at 0. Fixed matrices live in the collection ``"fixed"``, not among the parameters:
    ``fixed/skip``, (n, n) for a matrix, (L-1, n, n) for ``"hyper"``.

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
        elif self.skip not in SKIPS:
            raise InputError(
                f"skip must be one of {', '.join(SKIPS)} or a matrix; got {self.skip!r}"
            )
        if not callable(self.activation) and self.activation not in ACTIVATIONS:
            raise InputError(
                f"activation must be a function or one of {', '.join(ACTIVATIONS)}; "
                f"got {self.activation!r}"
            )

    @nn.compact
    def __call__(self, inputs: Float[Array, "N ..."]) -> Float[Array, "N C"]:
        """Logits of a batch.

        Parameters
        ----------
        inputs
            Shape (N, …); everything after the first axis is flattened to d features.

        Returns
        -------
        Shape (N, C).
        """
        f = ACTIVATIONS[self.activation] if isinstance(self.activation, str) else self.activation
        x = inputs.reshape(inputs.shape[0], -1)
        x = f(nn.Dense(self.width, kernel_init=nn.initializers.glorot_normal(), name="input")(x))
        if self.depth > 1:
            kernels, biases = _HiddenStack(self.depth - 1, self.width, name="hidden")()
            x = self._hidden(f, x, kernels, biases)
        return nn.Dense(
            self.num_classes, kernel_init=nn.initializers.glorot_normal(), name="output"
        )(x)

    def _hidden(
        self, f: Callable[[Array], Array], x: Array, kernels: Array, biases: Array
    ) -> Array:
        """Walk the hidden-to-hidden layers."""
        if self.skip == "hyper":
            return self._hyper(f, x, kernels, biases)
        if isinstance(self.skip, SkipMatrix):
            matrix = self.skip
            skip = self.variable("fixed", "skip", lambda: jnp.asarray(matrix.values, x.dtype)).value

        def layer(x: Array, parameters: tuple[Array, Array]) -> tuple[Array, None]:
            kernel, bias = parameters
            branch = f(x @ kernel + bias[None])
            if self.skip == "none":
                return branch, None
            if self.skip == "identity":
                return branch + x, None
            return branch + x @ skip.T, None

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

    @nn.compact
    def __call__(self) -> tuple[Array, Array]:
        shape = (self.count, self.width, self.width)
        # The type of nn.Dense's parameters; an initializer's own default follows jax_enable_x64.
        glorot, zeros = nn.initializers.glorot_normal(batch_axis=(0,)), nn.initializers.zeros_init()
        kernels = self.param("kernel", glorot, shape, jnp.float32)
        biases = self.param("bias", zeros, (self.count, self.width), jnp.float32)
        return kernels, biases
