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
# # Singularities by hand
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/landscape-jax/landscape/blob/main/notebooks/05_singularities_by_hand.ipynb)
#
# Orhan and Pitkow name three ways in which a layer of hidden units becomes singular: a unit is *eliminated*, two units
# *overlap*, some are *linearly dependent*. We plant each of them in a small network, count what becomes null, and do the
# same with skip connections. Everything is exact: float64, all eigenvalues.

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
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from landscape.curvature import ggn
from landscape.degeneracy import check_directions, degeneracy_budget, null_directions
from landscape.models import MLP
from landscape.plots import look, plot_checks

DEPTH, WIDTH, CLASSES = 3, 5, 3
LAYER = 1  # the middle one: in a residual network it receives a skip
rng = np.random.default_rng(3)
x = rng.normal(size=(150, 4))
labels = rng.integers(0, CLASSES, len(x))
models = {
    "plain": MLP(DEPTH, WIDTH, CLASSES),
    "residual": MLP(DEPTH, WIDTH, CLASSES, skip="identity"),
}

# %% [markdown]
# Biases are chosen such that every unit is active on about half of the examples: a network without accidents, in which
# nothing is null but its symmetries.


# %%
def generic(model, seed):
    """Parameters, biases at the middle of what each unit sees."""
    with jax.enable_x64(True):
        params = model.init(jax.random.key(seed), x[:1])["params"]
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64).copy(), params)
    response, carried = x, 0
    for layer in range(DEPTH):
        leaves = (
            params["input"] if not layer else {k: v[layer - 1] for k, v in params["hidden"].items()}
        )
        inputs = response @ leaves["kernel"]
        leaves["bias"][:] = [
            -np.quantile(column, q)
            for column, q in zip(inputs.T, rng.uniform(0.3, 0.6, WIDTH), strict=True)
        ]
        carried = response if layer and model.skip == "identity" else 0
        response = np.maximum(inputs + leaves["bias"], 0) + carried
    return params


points = {name: generic(model, 3) for name, model in models.items()}


def planted(name, change):
    """A copy with a change to the middle layer: its kernel, its bias, and the kernel that reads it."""
    copy = jax.tree.map(np.copy, points[name])
    hidden = copy["hidden"]
    change(hidden["kernel"][LAYER - 1], hidden["bias"][LAYER - 1], hidden["kernel"][LAYER])
    return copy


def silence(kernel, bias, _):
    """Unit 2 never fires."""
    bias[2] = -1e3


def unread(kernel, bias, readers):
    """Nobody reads unit 2."""
    readers[2] = 0


def twins(kernel, bias, _):
    """Units 1 and 3 have the same incoming weights."""
    kernel[:, 1], bias[1] = kernel[:, 3], bias[3]


SINGULARITIES = {
    "unit never fires": silence,
    "unit is not read": unread,
    "two units overlap": twins,
}

# %% [markdown]
# ## What becomes null
#
# The nullity of the Gauss–Newton matrix at each planted point, less that of the network it was planted in.


# %%
def nullity(name, params):
    """Of the Gauss–Newton matrix."""
    return degeneracy_budget(models[name], params, (x, labels)).total


base = {name: nullity(name, points[name]) for name in models}
print("null before anything is planted:", base)
more = {
    name: [nullity(name, planted(name, change)) - base[name] for change in SINGULARITIES.values()]
    for name in models
}
figure, ax = plt.subplots(figsize=(6.5, 2.6), layout="constrained")
for place, (name, counts) in enumerate(more.items()):
    bars = ax.barh(
        np.arange(3) + 0.38 * (place - 0.5), counts, 0.34, color=look(name).color, label=name
    )
    ax.bar_label(bars, padding=3)
ax.set_yticks(range(3), list(SINGULARITIES))
ax.invert_yaxis()
ax.set_xlabel("directions that become null")
_ = ax.legend(frameon=False)

# %% [markdown]
# In the plain network a unit that never fires frees its incoming weights *and* everything that reads it, 6 + 5, of which
# one was null before: the unit's rescaling. With a skip the
# unit still carries what it skips: only its own incoming weights are free. Two units that overlap free the difference of
# their outgoing weights; with skips they are different units, and nothing is freed. A unit that nobody reads
# frees its incoming weights in the plain network; the skip carries the unit past its reader, and nothing is freed.
#
# ## The directions, one by one

# %%
point = planted("plain", twins)
for family in null_directions(models["plain"], point, (x, labels)):
    print(family)

# %%
families = null_directions(models["plain"], point, (x, labels))
checks = check_directions(families, models["plain"], point, (x, labels))
figure, ax = plt.subplots(figsize=(6.5, 3), layout="constrained")
_ = plot_checks(checks, ax=ax)

# %% [markdown]
# The families overlap: together they have more vectors than there are null directions (26), and a budget counts each
# direction once.
#
# Null for G to rounding. For the Hessian an overlap is null only where the gradient vanishes: say which matrix you speak
# of.
#
# ## Near is nearly null
#
# Training never sits on a singularity, it passes by. Move the twins apart by a distance t, and follow the smallest
# eigenvalues of G.


# %%
def logits_of(model):
    """One function for each model, made once: functions are compared by identity."""
    return lambda params, batch: model.apply({"params": params}, batch[0])


def mean_loss(outputs, batch):
    """Softmax cross-entropy."""
    return -jnp.mean(jax.nn.log_softmax(outputs)[jnp.arange(len(outputs)), batch[1]])


functions = {name: logits_of(model) for name, model in models.items()}


def smallest(name, params, count):
    """Eigenvalues of G just above those that are null in any case."""
    with jax.enable_x64(True):
        leaves, batch = jax.tree.map(jnp.asarray, (params, (x, labels)))
        matrix = ggn(functions[name], mean_loss, leaves, batch).to_dense()
        values = np.linalg.eigvalsh(np.asarray(matrix))
    return values[base[name] : base[name] + count]


distances = np.geomspace(1e-3, 1, 7)
way = rng.normal(size=WIDTH) / np.sqrt(WIDTH)


def apart(name, distance):
    """The twins, that far from each other."""

    def change(kernel, bias, _):
        kernel[:, 1], bias[1] = kernel[:, 3] + distance * way, bias[3]

    return planted(name, change)


figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
for ax, name in zip(axes, models, strict=True):
    values = np.array([smallest(name, apart(name, t), 6) for t in distances])
    ax.loglog(distances, np.abs(values), color=look(name).color)
    ax.set(xlabel="distance t between the twins' weights", title=name)
axes[0].loglog(distances, 1e-4 * distances**2, ":", color="0.3", label="∝ t²")
axes[0].set_ylabel("smallest eigenvalues of G")
_ = axes[0].legend(frameon=False)

# %% [markdown]
# In the plain network some eigenvalues fall with t²: at a tenth of the distance the landscape is a hundred times flatter
# along them. Others are zero to rounding once the twins are active on the same examples: then moving what one reads to
# the other is null as well. In the residual network the same approach changes nothing.
#
# ## Ghosts
#
# Skips do not abolish singularities, they move them. A residual ReLU unit is eliminated where its branch undoes its skip:
# incoming weights −e_j and a bias above the largest input make it a constant, which the next bias already is.


# %%
ghost = planted("residual", lambda *_: None)
first = np.maximum(x @ ghost["input"]["kernel"] + ghost["input"]["bias"], 0)
constant = first[:, 2].max() + 0.1
hidden = ghost["hidden"]
hidden["kernel"][0][:, 2] = -np.eye(WIDTH)[2]
hidden["bias"][0][2] = constant
# What reads the unit now reads a constant, which its bias takes back.
hidden["bias"][1] -= constant * hidden["kernel"][1][2]
print("more that is null at the ghost:", nullity("residual", ghost) - base["residual"])
degeneracy_budget(models["residual"], ghost, (x, labels))

# %% [markdown]
# Random initialisations lie far from the ghosts, and close to the singularities of the plain network: that is the
# paper's argument. `measures` gives both distances for your own networks.
#
# **Next:** [from one checkpoint to a batch job](06_batch_jobs.ipynb). Or plant a singularity in your own model: describe
# its layers with `HiddenLayer` and ask `measures` how near it is.
