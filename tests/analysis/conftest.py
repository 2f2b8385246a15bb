"""A small problem, four checkpoints of it, and the job that measures them."""

import jax
import numpy as np
import pytest

from landscape.analysis.batch import Job, run_job
from landscape.analysis.measurement import known_problem
from landscape.analysis.options import Options

PROBLEM = """
import jax
import jax.numpy as jnp

from landscape.curvature import Problem
from landscape.models import MLP
from landscape.training import softmax_cross_entropy

MODEL = MLP(3, 5, 3)


def problem():
    x = jax.random.normal(jax.random.key(0), (40, 6))
    params = MODEL.init(jax.random.key(1), x)["params"]
    return Problem(
        softmax_cross_entropy(MODEL), params, (x, jnp.arange(40) % 3), {}, model=MODEL
    )
"""


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    path = tmp_path_factory.mktemp("problem") / "mine.py"
    path.write_text(PROBLEM)
    return f"{path}:problem"


@pytest.fixture(scope="module")
def checkpoints(spec, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    template = known_problem(spec)
    paths = []
    for seed in range(4):
        leaves, structure = jax.tree.flatten(template.params)
        keys = jax.random.split(jax.random.key(10 + seed), len(leaves))
        drawn = [
            leaf + 0.3 * jax.random.normal(key, leaf.shape)
            for leaf, key in zip(leaves, keys, strict=True)
        ]
        tree = jax.tree.unflatten(structure, drawn)
        named = {f"{a}/{b}": np.asarray(v) for a, part in tree.items() for b, v in part.items()}
        paths.append(str(folder / f"{seed}.npz"))
        np.savez(paths[-1], **named)
    return tuple(paths)


@pytest.fixture(scope="module")
def job(spec, checkpoints):
    options = Options(num_steps=30, eps=(1e-2, 1e-1), largest=2, smallest=1)
    return Job(spec, checkpoints, options=options)


@pytest.fixture(scope="module")
def whole(job, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    return run_job(job, out, executor=None), out
