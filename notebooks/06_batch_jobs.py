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
# # From one checkpoint to a batch job
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/landscape-jax/landscape/blob/main/notebooks/06_batch_jobs.ipynb)
#
# One spectrum is a cell in a notebook. Six hundred are a job that will be killed, continued, and shared. The same
# problem serves both: a function that returns a `Problem`.

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
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict

import landscape
from landscape.analysis import analyze, load_problem
from landscape.spectra import degenerate_fraction, slq
from landscape.training import Callback, TrainConfig, fit

place = Path(tempfile.mkdtemp())

# %% [markdown]
# ## The problem, in a file
#
# A loss, parameters of the right shapes, a batch; and the model, if causes are wanted.

# %%
(place / "digits.py").write_text('''
import jax
from landscape.curvature import Problem
from landscape.data import load
from landscape.models import MLP
from landscape.training import softmax_cross_entropy

MODEL = MLP(6, 12, 10, skip="identity")
DATA = load("digits").subset(500, seed=0).pooled(2).standardized()


def problem():
    """A residual network on 500 digits."""
    batch = DATA.arrays()
    params = MODEL.init(jax.random.key(0), batch[0][:1])["params"]
    return Problem(softmax_cross_entropy(MODEL), params, batch, {}, model=MODEL, name="digits")
''')
problem = load_problem(f"{place}/digits.py:problem")

# %% [markdown]
# ## One checkpoint, from every side

# %%
analyze(problem)

# %% [markdown]
# ## Many checkpoints
#
# Train, and keep the parameters every few epochs as plain `.npz` files. (safetensors and Orbax folders do as well, and
# for anything else a `Problem` takes a function that loads it.)

# %%
sys.path.insert(0, str(place))
from digits import DATA, MODEL


def keep(snapshot):
    """Write the parameters."""
    named = {k: np.asarray(v) for k, v in flatten_dict(snapshot.params, sep="/").items()}
    np.savez(place / f"epoch-{snapshot.epoch:02d}.npz", **named)
    return {}


epochs = tuple(range(0, 31, 5))
config = TrainConfig(30, 50, 2e-3)
fit(MODEL, DATA, config, jax.random.key(0), callbacks=[Callback("keep", epochs, keep)])
print(len(list(place.glob("epoch-*.npz"))), "checkpoints")

# %% [markdown]
# The command shows its plan before it begins. `--dry-run` stops there.

# %%
command = [
    sys.executable, "-m", "landscape", "spectrum", f"{place}/digits.py:problem",
    "--checkpoint", f"{place}/epoch-*.npz", "--out", f"{place}/run", "--num-steps", "400", "--workers", "1",
]  # fmt: skip


def show(*arguments):
    """Run the command, print what it says."""
    # Notebooks ask for colours; this goes through a pipe.
    plain = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "CLICOLOR_FORCE")}
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, env={**plain, "NO_COLOR": "1"}
    )
    print(done.stdout, done.stderr, sep="")
    print("exit code", done.returncode)


show("--dry-run")

# %% [markdown]
# ## Kill it
#
# Without warning, as power cuts and schedulers do. What is finished stays; the next start does the rest.

# %%
job = subprocess.Popen(
    command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
)
while job.poll() is None and len(list((place / "run" / "units").glob("*.nc"))) < 3:
    time.sleep(0.05)
os.killpg(job.pid, signal.SIGKILL)
job.wait()
print(len(list((place / "run" / "units").glob("*.nc"))), "checkpoints were done when it was killed")

# %%
show()

# %% [markdown]
# ## One labelled dataset

# %%
found = landscape.open_run(place / "run")
found

# %%
import matplotlib.pyplot as plt

one = found.sel(part="all", eps=1e-3)
when = [int(Path(name).stem.split("-")[1]) for name in found["checkpoint"].values]
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
left.fill_between(when, one["degenerate_lower"], one["degenerate_upper"], alpha=0.2, linewidth=0)
left.plot(when, one["degenerate"], "o-")
left.set(xlabel="epoch", ylabel="share within 10⁻³ of zero", ylim=(0, 1))
right.plot(when, one["eigenvalue"].sel(rank=1), "o-", label="largest")
right.plot(when, one["eigenvalue"].sel(rank=-1), "s--", label="smallest")
right.set(xlabel="epoch", ylabel="eigenvalue")
_ = right.legend(frameon=False)

# %% [markdown]
# A number by hand, from the last checkpoint, agrees with the job's:

# %%
import dataclasses

from flax.traverse_util import unflatten_dict

with np.load(place / "epoch-30.npz") as file:
    params = unflatten_dict({tuple(name.split("/")): file[name] for name in file})
mine = dataclasses.replace(problem, params=params).hessian()
share = degenerate_fraction(slq(mine, jax.random.key(5), num_steps=400), 1e-3)
told = one.isel(checkpoint=-1)
by_job = [float(told[name]) for name in ("degenerate", "degenerate_low", "degenerate_high")]
by_hand = [float(share.estimate), *map(float, share.confidence_interval())]
for who, (estimate, low, high) in (("the job:", by_job), ("by hand, another probe:", by_hand)):
    print(f"{who:24s} {estimate:.3f} [{low:.3f}, {high:.3f}]")

# %% [markdown]
# ## On a cluster
#
# The same command shares the folder among as many processes as you start: units are claimed, no locks are needed.
# `--shard i/n` splits a list by number, in a Slurm array by itself; `--executor dask` sends units to a Dask cluster;
# `--across-devices` and `--distributed` spread one network that does not fit on one device. `landscape runs show` tells
# from outside how far a job is.

# %%
print(
    subprocess.run(
        [sys.executable, "-m", "landscape", "runs", "show", f"{place}/run"],
        capture_output=True, text=True,
    ).stdout
)  # fmt: skip

# %% [markdown]
# **Next:** `landscape spectrum --help`, and the page on
# [batch jobs](https://github.com/landscape-jax/landscape/blob/main/docs/jobs.md), with a table of everything that can go
# wrong and what happens then.
