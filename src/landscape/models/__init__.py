"""Networks as pure-functional Flax (Linen) modules; fixed matrices in a collection of their own."""

from landscape.models.hashing import hashable
from landscape.models.mlp import ACTIVATIONS, MLP, SKIPS
from landscape.models.resnet import NORMS, ResNet
from landscape.models.skips import (
    RandomSkip,
    SkipMatrix,
    random_orthogonal,
    repeated_orthogonal,
    unit_circle,
)

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "NORMS",
    "SKIPS",
    "RandomSkip",
    "ResNet",
    "SkipMatrix",
    "hashable",
    "random_orthogonal",
    "repeated_orthogonal",
    "unit_circle",
]
