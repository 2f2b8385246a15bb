# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your model in five minutes
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/landscape-jax/landscape/blob/main/notebooks/01_your_model.ipynb)
#
# You have a JAX model and a loss. How flat is the landscape at your parameters? Three lines answer that, with bounds
# and error bars. We bring a small NNX classifier; Linen, Equinox and plain functions work alike.

# %% [markdown]
# **An accelerator stays an accelerator.** Installing `landscape` must not replace the `jax` that knows your GPU or TPU,
# and this cell makes sure of it.

# %%
import importlib.metadata
import importlib.util
import subprocess
import sys

SOURCE = "landscape-jax @ git+https://github.com/landscape-jax/landscape"


def jax_there_is():
    """Backend and version, asked in a fresh process."""
    if importlib.util.find_spec("jax") is None:
        return None
    code = "import jax; print(jax.default_backend(), jax.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


before = jax_there_is()
# By its own name: another distribution is imported as landscape too.
if not any(importlib.metadata.Distribution.discover(name="landscape-jax")):
    # Held to the version that is there, pip refuses rather than replace it.
    held = [] if before is None else [f"jax=={before[1]}"]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", SOURCE, *held], check=True)
assert before is None or jax_there_is() == before, f"JAX was {before}, and now is {jax_there_is()}"
print("JAX:", *jax_there_is())

# %% [markdown]
# ## A model of your own
#
# Handwritten digits, two hidden layers, Adam. Nothing here knows of `landscape` but the loader of the data.

# %%
import jax
import optax
from flax import nnx

from landscape.data import load

images, labels = load("digits").standardized().arrays()
x = images.reshape(len(images), -1)
print(x.shape, labels.shape)


class Net(nnx.Module):
    """Two hidden layers of 16 ReLU units."""

    def __init__(self, rngs):
        self.first = nnx.Linear(64, 16, rngs=rngs)
        self.second = nnx.Linear(16, 16, rngs=rngs)
        self.readout = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.first(x))
        return self.readout(nnx.relu(self.second(x)))


graph, params = nnx.split(Net(nnx.Rngs(0)), nnx.Param)


def loss(params, batch):
    """Mean cross-entropy: one number for parameters and a batch."""
    inputs, targets = batch
    logits = nnx.merge(graph, params)(inputs)
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


# %%
optimizer = optax.adam(3e-3)


@jax.jit
def train(params):
    """A hundred steps of Adam on all images."""

    def step(carry, _):
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params, (x, labels))
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    (params, _), values = jax.lax.scan(step, (params, optimizer.init(params)), length=100)
    return params, values


params, values = train(params)
print(f"loss {values[0]:.3f} -> {loss(params, (x, labels)):.3f}")

# %% [markdown]
# ## Three lines
#
# `hessian` wants the loss, the parameters and the batch. `slq` makes 200 Hessian–vector products. Of what they know of
# the spectrum, `degenerate_fraction` reads the share of the eigenvalues within ε of zero: the flat directions.

# %%
from landscape.curvature import hessian
from landscape.spectra import degenerate_fraction, slq

op = hessian(loss, params, (x, labels))
spectrum = slq(op, jax.random.key(0), num_steps=200)
degenerate_fraction(spectrum, 1e-3)

# %% [markdown]
# Read it from the inside out. The *estimate* is what Gauss quadrature says. The *certified bounds* hold for the probe
# that was used, whatever the spectrum looks like, up to the *rounding* beside them. The *95 % confidence* interval adds
# what one random probe leaves open. The *noise floor* is where eigenvalues become rounding.
#
# The whole spectrum in one picture: linear in the grey band, logarithmic outside it.

# %%
spectrum

# %% [markdown]
# ## Are 200 steps enough?
#
# Do not guess: ask for a width. Lanczos goes on until the bounds are that close, or says why they cannot be.

# %%
from landscape.spectra import resolve_fraction

resolve_fraction(op, jax.random.key(0), eps=1e-3, width=0.03, max_steps=1500)

# %% [markdown]
# ## The ends, and the sum
#
# Each eigenvalue comes with the norm of its residual (an eigenvalue lies that near), the trace with its error.

# %%
from landscape.spectra import extremal_eigenpairs, trace

extremal_eigenpairs(op, jax.random.key(1), num_largest=5, num_smallest=2)

# %%
trace(op, jax.random.key(2), num_matvecs=60)

# %% [markdown]
# ## Layer by layer
#
# `wrt` picks the parameters that are differentiated, by their paths.

# %%
from landscape.plots import plot_intervals

shares = {}
for layer in ("first", "second", "readout"):
    block = hessian(loss, params, (x, labels), wrt=lambda path, layer=layer: path.startswith(layer))
    shares[layer] = degenerate_fraction(slq(block, jax.random.key(0), num_steps=200), 1e-3)
ax = plot_intervals(shares)
_ = ax.set_title("within 10⁻³ of zero")

# %% [markdown]
# ## And why?
#
# Directions along which the logits do not move at all are null for the Gauss–Newton matrix. The budget counts them by
# cause, so that the counts add up.

# %%
from landscape.degeneracy import degeneracy_budget

budget = degeneracy_budget(nnx.merge(graph, params), params, (x[::5], labels[::5]))
budget

# %% [markdown]
# Of every fifth image: 360 of them, so that there are twice as many equations, N (C − 1), as parameters. Pixels that are
# the same in all of these images make weights that nobody notices; ReLU units can be rescaled; units that never
# fire free the weights that feed them, and those that they feed. Below about 10⁻⁴ the curve f(ε) falls to 0 all the same:
# an estimate without a node of the quadrature within ±ε is 0, and the bounds around it say how little is known there.
#
# ## Keep it
#
# Every result can be saved, loaded, and turned into a labelled dataset.

# %%
import tempfile
from pathlib import Path

import landscape

path = spectrum.save(Path(tempfile.mkdtemp()) / "spectrum")
landscape.load(path).to_xarray()

# %% [markdown]
# **Next:** put your own model in place of `Net`. A loss with a mask needs `weight=`, batch statistics go in `state=`, data
# that do not fit in memory are walked through by `chunk_size=`. Then [watch a spectrum through
# training](02_through_training.ipynb).
