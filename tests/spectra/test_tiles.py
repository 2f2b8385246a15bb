"""Vectors in tiles: nothing is lost on the way, and products are exact to a unit of rounding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape.curvature import DiagonalOperator
from landscape.spectra import lanczos_run
from landscape.spectra.tiles import (
    SHARED,
    TILE,
    block_of,
    combination,
    inner_products,
    joined,
    rows_of,
    tile_shape,
    tiled,
)


@pytest.mark.parametrize("size", [1, 7, TILE, TILE + 1, 3 * TILE - 5])
def test_tiles_and_rows_turn_into_each_other(size):
    count, length = tile_shape(size)
    assert length <= TILE
    # Of several, a length that devices can share.
    shared = 1 if count == 1 else SHARED
    assert length % shared == 0
    assert 0 <= count * length - size < count * shared
    rows = np.random.default_rng(size).standard_normal((2, 3, size)).astype(np.float32)
    np.testing.assert_array_equal(rows_of(block_of(jnp.asarray(rows)), size), rows)
    np.testing.assert_array_equal(joined(tiled(jnp.asarray(rows[:, 0])), size), rows[:, 0])


def test_products_are_those_of_the_rows(x64):
    generator = np.random.default_rng(0)
    size = 2 * TILE + 100
    rows = generator.standard_normal((2, 5, size))
    vectors = generator.standard_normal((2, size))
    block = block_of(jnp.asarray(rows))
    found = np.asarray(inner_products(block, tiled(jnp.asarray(vectors))))
    np.testing.assert_allclose(found, np.einsum("lrp,lp->lr", rows, vectors), rtol=1e-11)
    summed = joined(combination(jnp.asarray(found), block), size)
    np.testing.assert_allclose(summed, np.einsum("lr,lrp->lp", found, rows), rtol=1e-10)


def test_overlaps_of_long_vectors_are_exact_to_rounding():
    """Numbers of very different size in long runs, as in the layers of a network."""
    size = 40 * TILE
    scales = np.where(np.arange(size) < size // 10, 10.0, 0.1)
    drawn = np.random.default_rng(1).standard_normal((9, size)) * scales
    units = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    found = inner_products(block_of(jnp.asarray(units[None, :8])), tiled(jnp.asarray(units[8:])))
    exact = units[:8].astype(float) @ units[8].astype(float)
    assert np.abs(np.asarray(found[0]) - exact).max() < 2 * 2.0**-24


@pytest.mark.parametrize("scheme", ["full", "partial"])
def test_lanczos_over_several_tiles_is_orthogonal(scheme):
    size = 2 * TILE + 3
    op = DiagonalOperator(jnp.linspace(0.0, 1.0, size) ** 8)
    run = lanczos_run(op, jax.random.key(0), reorthogonalize=scheme, capacity=40).advance(40)
    rows = np.asarray(run.state.rows()[0], float)
    assert rows.shape == (40, size)
    loss = np.abs(rows @ rows.T - np.eye(40)).max()
    assert loss < {"full": 1e-6, "partial": 2.0**-12}[scheme]
