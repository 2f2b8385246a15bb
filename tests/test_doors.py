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
import numpy as np

from flax import nnx

from landscape.curvature import DiagonalOperator, LinearOperator, ggn, hessian, noise_floor
from landscape.degeneracy import degeneracy_budget
from landscape.errors import InputError
from landscape.spectra import (
    degenerate_fraction,
    dense_spectrum,
    density,
    distribution_function,
    extremal_eigenpairs,
    fraction_between,
    fraction_curve,
    lanczos_run,
    slq,
    spectral_moments,
    trace,
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


class Unregistered(LinearOperator):
    shape, dtype = (3, 3), jnp.dtype("float32")

    def _products(self):
        return lambda v: v


def traced(take):
    return jax.jit(lambda d: jnp.sum(jnp.asarray(take(DiagonalOperator(d)))))(jnp.ones(3))


def with_state(w, state, x):
    return loss(w, x)


def used_up(look):
    run = lanczos_run(op, jax.random.key(0))
    run.advance(1)
    assert "used up" in repr(run)
    return look(run)


key = jax.random.key(0)
CASES = {
    "floating type; got int32": lambda: hessian(lambda w, x: jnp.int32(3), w, x),
    "floating type; got complex64": lambda: hessian(lambda w, x: 1j * loss(w, x), w, x),
    "got a str at note": lambda: hessian(with_state, w, x, state={"note": "x"}),
    "batch must be a pytree of numeric": lambda: hessian(loss, w, np.array(["a"] * 8)),
    "as model_fn(params, batch)": lambda: ggn(lambda w: w, lambda z, x: jnp.mean(z), w, x),
    "as output_loss(outputs, batch)": lambda: ggn(lambda w, x: x @ w, lambda z: 0.0, w, x),
    "got a dict; the operator's ravel": lambda: op.matvec({"w": w}),
    "got a list; the operator's ravel": lambda: op.matmat([w, x]),
    "Unregistered is no pytree": lambda: slq(Unregistered(), key, num_steps=2),
    "ends on the host": lambda: traced(lambda op: trace(op, key, num_matvecs=9).value),
    "cannot be taken inside jit": lambda: traced(lambda op: dense_spectrum(op).nodes),
    "inside jit, vmap": lambda: traced(
        lambda op: extremal_eigenpairs(op, key, num_largest=1).values
    ),
    "jit, vmap or grad": lambda: traced(lambda op: spectral_moments(op, key).moments),
    "take it outside": lambda: traced(lambda op: noise_floor(op, key)),
    "this run is used up": lambda: used_up(lambda run: run.spectrum()),
    "Write run = run.advance": lambda: used_up(lambda run: run.ritz_values()),
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
    assert "35 refused" in done.stdout
