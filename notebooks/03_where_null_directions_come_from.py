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
# # Plain against residual: where the null directions come from
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/landscape-jax/landscape/blob/main/notebooks/03_where_null_directions_come_from.ipynb)
#
# A direction in parameter space along which no logit moves, for any training example, is null for the Gauss–Newton
# matrix. Such directions have causes: units that never fire, units that copy one another, symmetries. We count them.

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

from landscape.curvature import jacobian
from landscape.data import load
from landscape.degeneracy import (
    check_directions,
    degeneracy_budget,
    jacobian_rank,
    measures,
    null_directions,
)
from landscape.models import MLP
from landscape.plots import plot_budgets, plot_checks, plot_measures
from landscape.training import TrainConfig, fit

# %% [markdown]
# Three networks with the same parameters, trained alike: plain, residual, and hyper-residual (skips from all layers
# below). Small, so that the counts are exact.

# %%
data = load("digits").subset(400, seed=0).pooled(2).standardized()
inputs, labels = data.arrays()
batch = (inputs, labels)
models = {
    "plain": MLP(6, 8, 10, skip="none"),
    "residual": MLP(6, 8, 10, skip="identity"),
    "hyper-residual": MLP(6, 8, 10, skip="hyper"),
}
runs = {
    name: fit(model, data, TrainConfig(60, 50, 2e-3), jax.random.key(0))
    for name, model in models.items()
}
for name, run in runs.items():
    print(f"{name:15s} accuracy {run.accuracy[-1]:.3f}")

# %% [markdown]
# ## The budget
#
# Counts add up: each cause is what it adds to the null space over the causes before it, and what is left is said to be
# unexplained.

# %%
budgets = {
    name: degeneracy_budget(models[name], run.params, batch, state=run.state)
    for name, run in runs.items()
}
figure, ax = plt.subplots(figsize=(8, 2.8), layout="constrained")
_ = plot_budgets(budgets, ax=ax)

# %%
budgets["plain"]

# %%
budgets["residual"]

# %% [markdown]
# A third of the plain network's directions are null, an eighth of the residual network's, and fewer of the
# hyper-residual one's. Most of the difference is in units that never fire, which free what feeds them and what they feed,
# and in rescaling, a symmetry of every ReLU unit that nothing bypasses. A skip carries units past their layer: what
# reads them is not free then, and they cannot be rescaled one by one (what is left is a rescaling of all layers at once).
#
# What this does not say: it is one seed, and the three have not been trained equally far. Over seeds, that plain networks
# end more degenerate holds on the digits for the first five and is undecided for five others; at matched training loss it
# is undecided ([results](https://github.com/landscape-jax/landscape/blob/main/docs/results.md)).
#
# The exact rank behind them is taken in float64 from the singular values of the Jacobian. A count is only as good as the
# gap at its cut, so the gap is shown.

# %%
model, run = models["plain"], runs["plain"]


def logits(params, x):
    """Of the plain network."""
    return model.apply({"params": params, **run.state}, x)


with jax.enable_x64(True):
    params64, inputs64 = jax.tree.map(lambda leaf: leaf.astype("float64"), (run.params, inputs))
    rank = jacobian_rank(jacobian(logits, params64, inputs64), centered=True)
rank

# %% [markdown]
# ## The directions themselves
#
# `null_directions` gives them as vectors, and `check_directions` multiplies each with the real matrices. For the
# Gauss–Newton matrix they are null; for the Hessian only dead units and the softmax shift are, the others as far as the
# gradient is small.

# %%
families = null_directions(model, run.params, batch, state=run.state)
checks = check_directions(families, model, run.params, batch, state=run.state)
figure, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
_ = plot_checks(checks, ax=ax)

# %%
families[0]

# %% [markdown]
# ## How near is the rest?
#
# Away from exact singularities there are distances. Of each layer: how often units are silent (elimination), how alike
# they are (overlap), how much of a layer's variance lies in three directions (linear dependence). 1 is a singularity.

# %%
figure, axes = plt.subplots(1, 3, figsize=(11, 3), sharey=True, layout="constrained")
for ax, (name, run) in zip(axes, runs.items(), strict=True):
    plot_measures(measures(models[name], run.params, inputs, state=run.state), ax=ax)
    ax.set_title(name)
    ax.get_legend().remove()
    ax.label_outer()
_ = axes[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)

# %% [markdown]
# **Next:** these are few images and small networks. `landscape analyze` does the same to yours and writes a report.
# [Certified fractions, and when moments mislead](04_certified_fractions.ipynb) looks at the eigenvalues that are nearly,
# not exactly, zero.
