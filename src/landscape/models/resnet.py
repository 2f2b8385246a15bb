r"""Convolutional networks for small images, with and without skip connections.

Notation: images ``x`` of H×W pixels and D channels. ``depth = 6k + 2`` layers with weights: one
convolution to ``width`` channels; three stages of ``k`` blocks with ``width``, ``2·width`` and
``4·width`` channels; the mean over pixels; a dense layer to C logits. A block is

    ``x ← f(N(K_2 ∗ f(N(K_1 ∗ x))) + S x)``

with 3×3 kernels ``K``, batch normalisation ``N`` and ``f`` = ReLU. The first block of the second
and of the third stage halves the image: its ``K_1`` has stride 2, and its skip ``S`` takes every
second pixel and fills the new channels with zeros, so that no skip has parameters. With
``skip="none"`` the term ``S x`` is absent, and nothing else changes.

Source: K. He, X. Zhang, S. Ren and J. Sun, *Deep Residual Learning for Image Recognition*, CVPR
2016 (arXiv:1512.03385), section 4.2 and its shortcuts "A"; 20 layers with 16 channels have
P ≈ 0.27 million. Kernels are drawn as in K. He et al., ICCV 2015 (arXiv:1502.01852).
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from landscape.errors import InputError

#: What normalises a residual network's convolutions.
NORMS = ("batch", "none")
_NUM_STAGES = 3
_HE = nn.initializers.he_normal()


class ResNet(nn.Module):
    """A residual network for small images, or its plain counterpart; see the module's notation.

    Attributes
    ----------
    depth
        Number of layers with weights, 6k + 2: 8, 14, 20, 32, 44, 56, 110.
    num_classes
        Number C of logits.
    width
        Channels of the first stage.
    skip
        ``"identity"`` or ``"none"``.
    norm
        ``"batch"``, or ``"none"``: then convolutions have biases, and in a network with skips the
        second kernel of each block starts at 0, so that the signal keeps its size (H. Zhang, Y. N.
        Dauphin and T. Ma, ICLR 2019, arXiv:1901.09321).

    Notes
    -----
    Parameters: ``stem/kernel (3, 3, D, width)``, ``block_i/{first, second}/kernel`` with blocks
    numbered through all stages, ``…_norm/{scale, bias}`` beside each of them, and
    ``output/{kernel, bias}``. The statistics of the normalisation live in the collection
    ``"batch_stats"``. They are read as they are, unless the network is called with ``train=True``:
    so logits are a function of the parameters and of one example.

    Examples
    --------
    >>> import jax
    >>> model = ResNet(depth=8, num_classes=10, width=4)
    >>> variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    >>> model.apply(variables, jnp.ones((2, 32, 32, 3))).shape
    (2, 10)
    """

    depth: int
    num_classes: int
    width: int = 16
    skip: str = "identity"
    norm: str = "batch"

    def __post_init__(self) -> None:
        for name in ("depth", "num_classes", "width"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"ResNet {name} must be an integer of at least 1; got {value!r}")
        if self.depth < 8 or (self.depth - 2) % 6:
            raise InputError(f"ResNet depth must be 6k + 2 with k at least 1; got {self.depth}")
        for name, known in (("skip", ("identity", "none")), ("norm", NORMS)):
            value = getattr(self, name)
            if value not in known:
                raise InputError(f"ResNet {name} must be one of {', '.join(known)}; got {value!r}")
        super().__post_init__()

    @nn.compact
    def __call__(self, inputs: Float[Array, "N H W D"], train: bool = False) -> Float[Array, "N C"]:
        """Logits of a batch.

        Parameters
        ----------
        inputs
            Shape (N, H, W, D); any size of images.
        train
            Normalise by the batch's own statistics, and update the running ones.

        Returns
        -------
        Shape (N, C).
        """
        x = nn.relu(_layer(inputs, self.width, 1, "stem", self.norm, train))
        blocks_per_stage = (self.depth - 2) // 6
        for i in range(_NUM_STAGES * blocks_per_stage):
            stage, place = divmod(i, blocks_per_stage)
            stride = 2 if stage and not place else 1
            block = _Block(self.width * 2**stage, stride, self.skip, self.norm, name=f"block_{i}")
            x = block(x, train)
        kernel_init = nn.initializers.glorot_normal()
        return nn.Dense(self.num_classes, kernel_init=kernel_init, name="output")(x.mean((1, 2)))


class _Block(nn.Module):
    """Two convolutions, and a skip around them."""

    channels: int
    stride: int
    skip: str
    norm: str

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        start = _HE
        if self.norm == "none" and self.skip != "none":
            start = nn.initializers.zeros_init()
        branch = nn.relu(_layer(x, self.channels, self.stride, "first", self.norm, train))
        branch = _layer(branch, self.channels, 1, "second", self.norm, train, start)
        if self.skip == "none":
            return nn.relu(branch)
        # Written out: the same by indices is a gather before jax 0.10.
        x = jax.lax.slice(x, (0,) * 4, x.shape, (1, self.stride, self.stride, 1))
        added = self.channels - x.shape[-1]
        return nn.relu(branch + jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, added))))


def _layer(
    x: Array,
    channels: int,
    stride: int,
    name: str,
    norm: str,
    train: bool,
    start: Callable[..., Array] = _HE,
) -> Array:
    """A convolution and what normalises it, as submodules of the caller."""
    x = nn.Conv(
        channels,
        (3, 3),
        strides=stride,
        padding=1,
        use_bias=norm == "none",
        kernel_init=start,
        name=name,
    )(x)
    if norm == "none":
        return x
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, name=f"{name}_norm")(x)
