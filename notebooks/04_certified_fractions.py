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
# # Certified fractions, and when moments mislead
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/landscape-jax/landscape/blob/main/notebooks/04_certified_fractions.ipynb)
#
# What share of a Hessian's eigenvalues is nearly zero? Three answers to the same question: count them all; fit a mixture
# to the first four moments; bound the share from a Lanczos run. We give each a spectrum whose truth we know.

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

from landscape.curvature import DiagonalOperator, hessian
from landscape.data import load
from landscape.models import MLP
from landscape.plots import plot_fraction_of_eps, plot_mixture
from landscape.spectra import (
    degenerate_fraction,
    dense_spectrum,
    fit_mixture,
    fraction_curve,
    slq,
    spectral_moments,
)
from landscape.training import TrainConfig, fit, softmax_cross_entropy

KEY = jax.random.key(0)

# %% [markdown]
# ## A spectrum that suits the moments
#
# Seven tenths of the eigenvalues in a narrow bell of width 10⁻³ about zero, the rest spread like a skewed one.

# %%
rng = np.random.default_rng(0)
size = 4000
narrow = 1e-3 * rng.normal(size=int(0.7 * size))
broad = rng.gamma(4.0, 0.25, size - len(narrow)) - 0.2
kind = DiagonalOperator(jnp.asarray(np.concatenate([narrow, broad]), jnp.float32))
fit_mixture(spectral_moments(kind, KEY, num_probes=10))

# %% [markdown]
# The mixture is a narrow Gaussian of width 10⁻³ and a skew-normal, matched to four moments (J. Skilling's route, as used
# by Orhan and Pitkow). Its weight should be 0.7, and is near.
#
# ## A spectrum that networks have
#
# Add a few outliers, as every trained classifier has. All moments but the first are now theirs.

# %%
outliers = np.array([40.0, 32, 27, 21, 18, 14, 11, 9, 6])
eigenvalues = np.concatenate([narrow, broad[: len(broad) - 9], outliers])
hard = DiagonalOperator(jnp.asarray(eigenvalues, jnp.float32))
mixture = fit_mixture(spectral_moments(hard, KEY, num_probes=10))
mixture

# %% [markdown]
# No mixture meets these moments, and the status says so: the weight beside it is no estimate of anything. Nine
# eigenvalues of 4,000 decide the second, the third and the fourth moment.
#
# ## Bounds from the same products
#
# Lanczos with as many products as you like, and an interval that provably holds the probe's share, up to rounding (0.006 in
# float32, less than the line is thick).

# %%
truth = float(np.mean(np.abs(eigenvalues) <= 3e-3))
rows = []
for steps in (10, 20, 40, 80, 160):
    share = degenerate_fraction(slq(hard, KEY, num_steps=steps), 3e-3)
    rows.append((steps, float(share.lower), float(share.estimate), float(share.upper)))
steps, low, middle, high = np.array(rows).T

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.3), layout="constrained")
left.fill_between(steps, low, high, alpha=0.2, color="#0072B2", linewidth=0, label="certified")
left.plot(steps, middle, "o-", color="#0072B2", label="estimate")
left.axhline(truth, color="0.3", linestyle=":", label="truth")
left.axhline(mixture.weight, color="#D55E00", linestyle=(0, (5, 2)), label="mixture's weight")
left.set(xlabel="Hessian products", ylabel="share within 3·10⁻³", xscale="log", ylim=(-0.02, 1.02))
left.legend(frameon=False, fontsize="small")
plot_mixture(mixture, spectrum=slq(hard, KEY, num_steps=160), ax=right)
right.legend(frameon=False, fontsize="x-small")
print(
    f"truth {truth:.4f}; mixture {mixture.weight:.4f}; certified after 160 products [{low[-1]:.4f}, {high[-1]:.4f}]"
)

# %% [markdown]
# One probe sees its own share, not everybody's; that is what the 95 % interval is for. With 4,000 eigenvalues a
# probe is off by about ±0.02 (95 %), with a million by ±0.001; what the steps leave open comes on top.

# %%
share = degenerate_fraction(slq(hard, KEY, num_steps=160), 3e-3)
covered = [
    low <= truth <= high
    for low, high in (
        degenerate_fraction(
            slq(hard, jax.random.key(seed), num_steps=160), 3e-3
        ).confidence_interval()
        for seed in range(40)
    )
]
print(f"the 95 % interval covered the truth for {sum(covered)} of {len(covered)} probes")
share

# %% [markdown]
# ## A trained network
#
# The same on a Hessian, small enough to count every eigenvalue.

# %%
data = load("digits").subset(500, seed=0).pooled(2).standardized()
model = MLP(8, 12, 10, skip="identity")
run = fit(model, data, TrainConfig(40, 50, 2e-3), KEY)
op = hessian(softmax_cross_entropy(model), run.params, data.arrays(), state=run.state)
exact = dense_spectrum(op)
spectrum = slq(op, KEY, num_steps=300)
moments = fit_mixture(spectral_moments(op, KEY, num_probes=10))
print("counted:  ", degenerate_fraction(exact, 1e-3))
print("certified:", degenerate_fraction(spectrum, 1e-3))
print("moments:  ", moments)

# %%
ax = plot_fraction_of_eps(spectrum, eps=1e-3, label="estimate", color="#0072B2")
grid = np.geomspace(*ax.get_xlim(), 200)
ax.plot(
    grid, 100 * fraction_curve(exact, grid).estimate, "--", color="black", label="every eigenvalue"
)
_ = ax.legend(frameon=False)

# %% [markdown]
# The band is the certified one of the probe; the count of every eigenvalue may lie as far beside it as one probe errs,
# two to three points here. Where no node of the quadrature lies within ±ε the estimate is 0, on the left: there the band is
# all that is known. There is nothing special about 10⁻³ (dotted): the whole curve f(ε) comes from the same products. Where it is steep, a claim
# about "the degenerate fraction" is a claim about ε.
#
# **Next:** [singularities by hand](05_singularities_by_hand.ipynb): make eigenvalues exactly zero, one at a time.
