"""Products of many vectors, side by side or in turns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape.curvature import hessian, lanes
from landscape.curvature.lanes import by_lanes
from landscape.curvature.programs import product_bytes

NAMES = ("dot_general", "conv_general_dilated")


def product(v):
    return jnp.tanh(jnp.eye(5, 4)) @ (jnp.ones((4, 3)) @ v)


@pytest.mark.parametrize(("cached", "turns"), [(2**20, 1), (150, 2), (100, 3), (40, 6), (1, 6)])
def test_every_row_has_its_image_whatever_is_cached(cached, turns, monkeypatch):
    monkeypatch.setattr(lanes, "_CACHED_BYTES", cached)
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)), jnp.float32)
    found = by_lanes(product, rows)
    np.testing.assert_allclose(found, np.stack([product(row) for row in rows]), rtol=1e-6)
    # A vector's products have 4 and 5 entries: 36 bytes.
    program = jax.make_jaxpr(lambda rows: by_lanes(product, rows))(rows)
    scans = [e.params["length"] for e in program.jaxpr.eqns if e.primitive.name == "scan"]
    assert scans == ([turns] if turns > 1 else [])


def test_one_row_is_a_batch_of_one_unless_it_convolves():
    def convolved(v):
        kernel = jnp.array([[[1.0, 2.0, 1.0]]])
        return jax.lax.conv_general_dilated(v[None, None], kernel, (1,), "SAME")[0, 0]

    row = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3)), jnp.float32)
    for function, ranks in ((product, {2}), (convolved, {3})):
        np.testing.assert_allclose(by_lanes(function, row)[0], function(row[0]), rtol=1e-6)
        alone, found = (
            [e.outvars[0].aval.ndim for e in program.jaxpr.eqns if e.primitive.name in NAMES]
            for program in (
                jax.make_jaxpr(function)(row[0]),
                jax.make_jaxpr(lambda row, f=function: by_lanes(f, row))(row),
            )
        )
        assert set(found) == ranks
        assert (found == alone) == (function is convolved)


def test_turns_of_scans_count_each():
    def layers(x, kernels):
        return jax.lax.scan(lambda x, kernel: (jnp.tanh(x @ kernel), None), x, kernels)[0]

    program = jax.make_jaxpr(layers)(jnp.ones((2, 3)), jnp.ones((7, 3, 3)))
    assert product_bytes(program) == 7 * 2 * 3 * 4
    assert product_bytes(jax.make_jaxpr(jnp.tanh)(jnp.ones(3))) == 0


def test_an_operator_of_a_network_has_the_same_products_in_turns(monkeypatch, x64):
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(4, 5)), "v": rng.normal(size=(5,))}

    def loss(params, batch):
        return jnp.mean((jnp.tanh(batch @ params["w"]) @ params["v"]) ** 2)

    op = hessian(loss, params, rng.normal(size=(9, 4)))
    vectors = rng.normal(size=(op.shape[0], 6))
    truth = np.asarray(op.to_dense()) @ vectors
    for cached in (1, 2**30):
        monkeypatch.setattr(lanes, "_CACHED_BYTES", cached)
        jax.clear_caches()
        np.testing.assert_allclose(op.matmat(vectors), truth, atol=1e-12)
        np.testing.assert_allclose(op.linearized().matmat(vectors), truth, atol=1e-12)
        np.testing.assert_allclose(op.matmat(vectors[:, :1]), truth[:, :1], atol=1e-12)
