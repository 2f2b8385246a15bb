"""The network of the README's picture.

landscape analyze docs/images/example.py:problem --num-steps 1000 --out runs/example
"""

import jax

from landscape.curvature import Problem
from landscape.data import load
from landscape.models import MLP
from landscape.training import TrainConfig, fit, softmax_cross_entropy


def problem():
    """A plain network of 10 layers of 12 units, 100 epochs on the digits."""
    data = load("digits").subset(1000, seed=0).standardized()
    model = MLP(10, 12, 10)
    run = fit(model, data, TrainConfig(100, 50, 5e-4), jax.random.key(0))
    name = "a plain 10×12 network on the digits"
    return Problem(
        softmax_cross_entropy(model), run.params, data.arrays(), run.state, model=model, name=name
    )
