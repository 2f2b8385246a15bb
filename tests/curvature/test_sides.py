"""Arrays side by side are a concatenation, however they are transformed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape.curvature.sides import side_by_side

PARTS = [jnp.arange(6.0), jnp.arange(4.0) - 3, jnp.ones(1)]


def concatenated(parts):
    return jnp.concatenate(parts, -1)


def quadratic(join):
    return lambda parts: jnp.sum(join(parts) ** 3 * jnp.arange(11.0))


def test_it_is_a_concatenation():
    for transformed in (lambda f: f, jax.jit, jax.jacrev, jax.jacfwd):
        jax.tree.map(
            np.testing.assert_array_equal,
            transformed(side_by_side)(PARTS),
            transformed(concatenated)(PARTS),
        )


@pytest.mark.parametrize("axes", [[0, 0, 0], [None, 0, None], [1, None, 0]])
def test_mapped_over_any_of_its_parts(axes):
    parts = [
        part if axis is None else jnp.stack([part, 2 * part, -part], axis)
        for part, axis in zip(PARTS, axes, strict=True)
    ]
    mapped, wanted = (jax.vmap(join, (axes,)) for join in (side_by_side, concatenated))
    np.testing.assert_array_equal(mapped(parts), wanted(parts))
    twice = [jnp.stack([part, part + 1]) for part in parts]
    np.testing.assert_array_equal(
        jax.vmap(jax.vmap(side_by_side, (axes,)))(twice),
        jax.vmap(jax.vmap(concatenated, (axes,)))(twice),
    )


def test_derivatives_of_any_order():
    for take in (jax.grad, jax.hessian):
        jax.tree.map(
            np.testing.assert_allclose,
            take(quadratic(side_by_side))(PARTS),
            take(quadratic(concatenated))(PARTS),
        )
    # With respect to one part alone, the others held.
    one = jax.grad(lambda part: quadratic(side_by_side)([PARTS[0], part, PARTS[2]]))(PARTS[1])
    np.testing.assert_allclose(one, jax.grad(quadratic(concatenated))(PARTS)[1])


def test_mapped_it_reads_nothing_outside():
    parts = [jnp.stack([part] * 2) for part in PARTS]
    program = jax.jit(jax.vmap(side_by_side)).lower(parts).as_text()
    assert "dynamic_update_slice" in program
    assert "scatter" not in program
