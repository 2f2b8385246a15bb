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
# # Watching a spectrum through training
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/landscape-jax/landscape/blob/main/notebooks/02_through_training.ipynb)
#
# Deep plain networks start flat: at the initialisation most directions of their parameter space change little. Skip
# connections change where training begins. We watch both, with spectra at chosen epochs.

# %%
# Where it is not installed yet, as in Colab, next to the JAX that is there:
import importlib.util
import subprocess
import sys
from importlib.metadata import Distribution, version

SOURCE = "landscape-jax @ git+https://github.com/landscape-jax/landscape"
if not any(Distribution.discover(name="landscape-jax")):
    held = [f"jax=={version('jax')}"] if importlib.util.find_spec("jax") else []
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", SOURCE, *held], check=True)

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

from landscape.curvature import hessian, stack
from landscape.data import load
from landscape.models import MLP
from landscape.plots import look, plot_spectrum, plot_training
from landscape.spectra import degenerate_fraction, negative_fraction, slq
from landscape.training import Callback, TrainConfig, fit_many, softmax_cross_entropy

# %% [markdown]
# ## A callback is a function of a snapshot
#
# `fit` and `fit_many` compile an epoch once and call us back with the network as it stands. What we return is recorded.
# Here: shares of the Hessian's eigenvalues after 900 Lanczos steps, and their certified bounds.

# %%
data = load("digits").subset(600, seed=0).standardized()
inputs, labels = data.arrays()
EPOCHS = (0, 5, 15, 40)
SEEDS, EPS, STEPS = 3, 1e-3, 900


def spectra_of(model):
    """A function of a snapshot that measures the Hessian of the whole training set."""
    loss = softmax_cross_entropy(model)

    def measure(snapshot):
        op = hessian(loss, snapshot.params, (inputs, labels), state=snapshot.state)
        spectrum = slq(op, jax.random.key(1), num_steps=STEPS)
        flat, down = degenerate_fraction(spectrum, EPS), negative_fraction(spectrum, EPS)
        return {
            "degenerate": [flat.lower, flat.estimate, flat.upper],
            "negative": down.estimate,
            "norm": spectrum.norm,
        }

    return measure


# %% [markdown]
# ## Two architectures, three seeds each
#
# Six hidden layers of 16 units. Both have the same parameters; the residual one adds each layer's input to its output.
# The three seeds of an architecture are trained in one program.

# %%
runs = {}
for name, skip in (("plain", "none"), ("residual", "identity")):
    model = MLP(6, 16, 10, skip=skip)
    callback = Callback("spectrum", EPOCHS, spectra_of(model))
    keys = jax.random.split(jax.random.key(0), SEEDS)
    runs[name] = fit_many(model, data, TrainConfig(40, 100, 1e-3), keys, callbacks=[callback])
    print(name, runs[name])

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
for name, run in runs.items():
    plot_training(run, label=name, ax=left)
    style = look(name)
    bounds = 100 * run.records["spectrum/degenerate"]
    for seed in range(SEEDS):
        low, middle, high = bounds[seed].T
        right.fill_between(EPOCHS, low, high, color=style.color, alpha=0.12, linewidth=0)
        label = name if not seed else None
        right.plot(
            EPOCHS, middle, style.marker, color=style.color, linestyle=style.linestyle, label=label
        )
right.set(xlabel="epoch", ylabel="within 10⁻³ of zero (%)", ylim=(0, 102))
_ = left.legend(frameon=False)

# %% [markdown]
# Bands are certified: whatever the spectrum looks like, the probe's share lies inside, up to rounding. Their width says how many steps
# to take. After a third of ours, a residual network's share at the start is hardly known:

# %%
model = MLP(6, 16, 10, skip="identity")
start = model.init(jax.random.key(1), inputs[:1])["params"]
op = hessian(softmax_cross_entropy(model), start, (inputs, labels), state={})
for steps in (STEPS // 3, STEPS):
    print(steps, "steps:", degenerate_fraction(slq(op, jax.random.key(1), num_steps=steps), EPS))

# %% [markdown]
#
# ## The densities themselves
#
# Networks of one shape are a *family*: `stack` puts their Hessians side by side in one compiled program.

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained", sharey=True)
for ax, epochs in zip(axes, ("start", "end"), strict=True):
    for name, run in runs.items():
        model = MLP(6, 16, 10, skip={"plain": "none", "residual": "identity"}[name])
        loss = softmax_cross_entropy(model)
        members = []
        for seed, key in enumerate(jax.random.split(jax.random.key(0), SEEDS)):
            if epochs == "start":
                params = model.init(key, inputs[:1])["params"]
            else:
                params = jax.tree.map(lambda leaf, seed=seed: leaf[seed], run.params)
            members.append(hessian(loss, params, (inputs, labels), state={}))
        family = slq(stack(members), jax.random.key(1), num_steps=STEPS)
        plot_spectrum(family, eps=EPS, label=name, ax=ax)
    ax.set_title({"start": "at a random initialisation", "end": "after 40 epochs"}[epochs])
_ = axes[0].legend(frameon=False)

# %% [markdown]
# At the start the plain network's eigenvalues crowd around the grey band and none is large; the residual network's reach
# a hundred times as far. Training brings the two together.
#
# ε is absolute, and the Hessian's scale differs between architectures and changes through training. Look at the
# norm beside it before you draw a conclusion from one ε.

# %%
for name, run in runs.items():
    norms = run.records["spectrum/norm"].mean(0)
    print(f"{name:9s} ‖H‖ at epochs {EPOCHS}:", np.round(norms, 2))

# %% [markdown]
# ## What came out
#
# At the start half of a plain network's eigenvalues lie within 10⁻³ of zero, and a quarter of a residual one's; after 40
# epochs four in ten and a third, of three seeds each. So the plain networks are flatter, by less the longer they train, and
# ε decides by how much: their ‖H‖ grows by a factor of 70, that of the residual ones falls. Six layers are few: here the residual networks end with a
# higher loss than the plain ones. What skips do for training shows in deeper networks (`landscape reproduce fig3` is this
# notebook at full size, with verdicts), and a spectrum alone does not say who trains better.
#
# In a loop of your own call the same function every so often; `landscape.training.Watch`
# [does](https://github.com/landscape-jax/landscape/blob/main/docs/howto/your-model.md). Nothing is compiled again as long as
# shapes stay the same.
#
# **Next:** *why* is the plain network flatter? [Where the null directions come from](03_where_null_directions_come_from.ipynb).
