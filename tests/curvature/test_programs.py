"""Hashes of programs: of numbers and operations, and of nothing else."""

import os
import subprocess
import sys

SCRIPT = """
import jax, jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec as P
import numpy as np
from landscape.curvature.programs import fingerprint

mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("first", "second"))


def loss(w):
    def inside(w):
        return jnp.tanh(w) * jnp.array([1.0, 2.0])
    over = jax.shard_map(inside, mesh=mesh, in_specs=P(), out_specs=P())
    return over(w).sum() + jax.random.normal(jax.random.key(3), (2,)) @ w


print(fingerprint(jax.make_jaxpr(loss)(jnp.ones(2))))
"""


def test_a_hash_is_the_same_in_every_process():
    found = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=120,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2", "3")
    }  # fmt: skip
    assert len(found) == 1
    assert len(found.pop().strip()) == 16
