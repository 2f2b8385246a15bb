"""What prints itself says what it is, and not the arrays in it; results: test_results.py."""

import jax
import jax.numpy as jnp
import numpy as np

from landscape.curvature import DiagonalOperator, Problem
from landscape.spectra import extremal_run
from landscape.training import Snapshot


def test_what_holds_arrays_does_not_print_them():
    def loss(w, x):
        return jnp.mean(x @ w)

    stream = type("Stream", (), {"__iter__": lambda self: iter([jnp.eye(3)])})()
    assert repr(Problem(loss, jnp.ones(3), jnp.eye(4, 3))) == "Problem('loss', P = 3, N = 4)"
    assert repr(Problem(loss, jnp.ones(3), stream, name="mine")) == "Problem('mine', P = 3)"
    assert repr(Problem(loss, {}, None)) == "Problem('loss', P = 0)"
    seen = Snapshot(3, {"w": jnp.ones(1200)}, {}, np.array([1.0, 2.0]), np.array([0.5, 0.7]))
    assert repr(seen) == "Snapshot(epoch 3, 1,200 parameters, loss 1.5, accuracy 0.6000)"
    run = extremal_run(DiagonalOperator(jnp.arange(30.0)), jax.random.key(0), num_largest=2)
    assert "rray" not in repr(run)
