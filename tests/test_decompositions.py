"""Many decompositions in one program: the same numbers, and an end."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape._decompositions import one_by_one

MANY = """
import jax, jax.numpy as jnp
from landscape._decompositions import one_by_one

eigenvalues = one_by_one(jnp.linalg.eigvalsh)

@jax.jit
def largest(batches):
    return sum(jax.vmap(eigenvalues)(batch).max() for batch in batches)

x = jax.random.normal(jax.random.key(0), (20, 3, 32, 32))
batches = list(x + x.swapaxes(2, 3))
for _ in range(400):
    jax.block_until_ready(largest(batches))
"""


def test_batches_in_one_program_do_not_wait_for_one_another():
    # With jnp.linalg.eigvalsh itself jaxlib 0.10.2 stays here, on two cores.
    subprocess.run([sys.executable, "-c", MANY], check=True, timeout=240)


@pytest.mark.parametrize("backend", ["cpu", "another"])
def test_numbers_are_those_of_all_together(monkeypatch, backend):
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 5))
    expected = jnp.linalg.eigvalsh(x)
    if backend != "cpu":
        monkeypatch.setattr(jax, "default_backend", lambda: backend)
    eigenvalues = one_by_one(jnp.linalg.eigvalsh)
    found = jax.jit(jax.vmap(jax.vmap(eigenvalues)))(x)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(eigenvalues(x[0, 0]), expected[0, 0], atol=1e-5)
    loops = "while" in str(jax.make_jaxpr(jax.vmap(eigenvalues))(x[0])) or "scan" in str(
        jax.make_jaxpr(jax.vmap(eigenvalues))(x[0])
    )
    assert loops == (backend == "cpu")
