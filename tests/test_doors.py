"""What is passed in wrongly is told in words, not by an error from deep inside.

In a process of its own: the suite's own checks of types would speak first.
"""

import subprocess
import sys
import textwrap

CASES = """
import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp

from flax import nnx

from landscape.curvature import DiagonalOperator, hessian
from landscape.degeneracy import degeneracy_budget
from landscape.errors import InputError
from landscape.spectra import (
    degenerate_fraction,
    density,
    distribution_function,
    fraction_between,
    fraction_curve,
    slq,
)

x = jnp.ones((8, 3))
w = jnp.ones((3, 2))
op = DiagonalOperator(jnp.arange(6.0))
spectrum = slq(op, jax.random.key(0), num_steps=4)
model = eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0))


def loss(w, x):
    return jnp.mean((x @ w) ** 2)


class Net(nnx.Module):
    def __init__(self, layer):
        self.first, self.other = nnx.Linear(3, 2, rngs=nnx.Rngs(0)), layer

    def __call__(self, x):
        return self.other(self.first(x))


def in_training(layer):
    graph, params, rest = nnx.split(Net(layer), nnx.Param, ...)
    return hessian(lambda p, r, x: jnp.mean(nnx.merge(graph, p, r)(x) ** 2), params, x, state=rest)


def eight(w, x):
    return jnp.mean((x @ w) * jnp.arange(8.0)[:, None])


CASES = {
    "eqx.partition": lambda: hessian(lambda m, x: jnp.mean(jax.vmap(m)(x)), model, x),
    "module's init": lambda: hessian(loss, nn.Dense(2), x),
    "expected a function": lambda: hessian(3, w, x),
    "wrt must be a function": lambda: hessian(loss, w, x, wrt="w"),
    "chunk_size must be an integer": lambda: hessian(loss, w, x, chunk_size="3"),
    "model.eval(); Linen": lambda: in_training(nnx.Dropout(0.5, rngs=nnx.Rngs(1))),
    "Running statistics of a layer": lambda: in_training(nnx.BatchNorm(2, rngs=nnx.Rngs(1))),
    "2 parts of one form": lambda: hessian(lambda w, b: jnp.mean(b[0] @ w), w, [(x, x), (x, x)]),
    "called as loss(params, batch)": lambda: hessian(lambda w, x, y: 0.0, w, (x, x)),
    "holds arrays of its own": lambda: degeneracy_budget(model, w, (x, jnp.zeros(8, int))),
    "but not of 3 of them": lambda: hessian(eight, w, x),
    "got DiagonalOperator": lambda: degenerate_fraction(op, 0.1),
    "return; got list": lambda: fraction_between([0.0], 0.0, 1.0),
    "return; got function": lambda: density(loss, jnp.ones(3), bandwidth=0.1),
    "eps must be numbers": lambda: degenerate_fraction(spectrum, "small"),
    "take fraction_curve": lambda: degenerate_fraction(spectrum, [0.1, 0.2]),
    "epsilons must have 1 axis": lambda: fraction_curve(spectrum, 0.1),
    "points must have 1 axis": lambda: distribution_function(spectrum, 0.1),
    "grid must be numbers": lambda: density(spectrum, "x", bandwidth=0.1),
}
for told, case in CASES.items():
    try:
        case()
    except InputError as error:
        assert told in str(error), (told, str(error))
    else:
        raise AssertionError(f"not refused: {told}")
print(len(CASES), "refused")
"""


def test_wrong_arguments_are_refused_in_words():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CASES)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "19 refused" in done.stdout
