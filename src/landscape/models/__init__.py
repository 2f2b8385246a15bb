"""Networks as pure-functional Flax (Linen) modules; fixed matrices in a collection of their own."""

from landscape.models.mlp import ACTIVATIONS, MLP, SKIPS
from landscape.models.resnet import NORMS, ResNet
from landscape.models.skips import SkipMatrix, random_orthogonal

__all__ = ["ACTIVATIONS", "MLP", "NORMS", "SKIPS", "ResNet", "SkipMatrix", "random_orthogonal"]
