"""Ranks against numpy's singular values in float64, on matrices that a linear model makes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape.curvature import DenseOperator, ggn, jacobian, stack
from landscape.degeneracy import jacobian_rank, singular_values
from landscape.errors import InputError, ResourceError
from landscape.models import MLP

SHAPES = [(3, 2, 9), (6, 2, 5), (4, 3, 12), (1, 1, 4), (7, 1, 7), (10, 2, 1)]


def outputs(w, rows):
    """(N, C) from rows (N, C, P): their Jacobian is the rows."""
    return rows @ w


def matrix(rng, rows, columns, values):
    """With these singular values."""
    k = min(rows, columns)
    left, right = (np.linalg.qr(rng.normal(size=(n, k)))[0] for n in (rows, columns))
    return left * np.resize(values, k) @ right.T


def operator(dense, examples):
    rows = jnp.asarray(dense.reshape(examples, -1, dense.shape[1]))
    return jacobian(outputs, jnp.zeros(dense.shape[1], rows.dtype), rows)


def spectra(rng, k, cut):
    """Singular values with gaps above, at and below a cut, in turn; zero and rank one too."""
    kinds = [
        np.zeros(k),
        np.r_[1.0, np.zeros(k - 1)],
        np.ones(k),
        10.0 ** -rng.uniform(0, 2, k),
        np.where(rng.random(k) < 0.5, 1.0, 30 * cut),
        np.where(rng.random(k) < 0.5, 1.0, 1.01 * cut),
        np.where(rng.random(k) < 0.5, 1.0, 0.99 * cut),
        np.where(rng.random(k) < 0.5, 1.0, cut / 30),
    ]
    for values in kinds[2:]:
        values[0] = 1
    return kinds


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("method", "cut"), [("exact", 1e-9), ("gram", 1e-5)])
def test_two_hundred_ranks_are_numpys(method, cut, shape, x64):
    examples, classes, columns = shape
    rng = np.random.default_rng(sum(shape))
    rows = examples * classes
    for _ in range(3):
        for values in spectra(rng, min(rows, columns), cut):
            dense = matrix(rng, rows, columns, values)
            found = jacobian_rank(operator(dense, examples), rtol=cut, method=method)
            truth = np.linalg.svd(dense, compute_uv=False)
            expected = int((truth > cut * truth[0]).sum())
            assert found.rank == found.lower == found.upper == expected
            assert found.nullity == columns - expected
            atol = 1e-15 if method == "exact" else 3e-8
            np.testing.assert_allclose(found.singular_values, truth, atol=atol * max(truth[0], 1))
            above, below = np.r_[np.nan, truth / (truth[0] or 1), np.nan][expected : expected + 2]
            if method == "exact":
                clear = not above < 1e3 * below
                assert found.status == ("gap" if clear else "no_gap")
                assert found.above == pytest.approx(above, rel=1e-4, abs=1e-14, nan_ok=True)


def test_blocks_of_rows_give_what_the_whole_gives(x64):
    rng = np.random.default_rng(0)
    dense = matrix(rng, 66, 5, [1, 0.1, 1e-4, 1e-7, 0])
    op = operator(dense, 11)
    whole = np.linalg.svd(dense, compute_uv=False)
    for block_bytes in (1, 8 * 5 * 18, 8 * 5 * 40):
        found = singular_values(op, block_bytes=block_bytes)
        np.testing.assert_allclose(found, whole, atol=1e-15)
        gram = singular_values(op, block_bytes=block_bytes, gram=True)
        np.testing.assert_allclose(gram, whole, atol=3e-8)


def test_the_default_tolerance_is_numpys(x64):
    rng = np.random.default_rng(1)
    dense = rng.normal(size=(20, 4)) @ rng.normal(size=(4, 9))
    found = jacobian_rank(operator(dense, 10))
    assert found.rank == np.linalg.matrix_rank(dense) == 4
    assert found.status == "gap"
    assert found.rtol == 20 * np.finfo(float).eps


def test_float32_operators_are_evaluated_in_float64():
    rng = np.random.default_rng(1)
    dense = (rng.normal(size=(20, 4)) @ rng.normal(size=(4, 9))).astype(np.float32)
    # Rounding the entries to float32 has made the rank full.
    found = jacobian_rank(operator(dense, 10))
    assert found.rank == np.linalg.matrix_rank(dense.astype(float)) == 9
    assert jacobian_rank(operator(dense, 10), rtol=1e-5).rank == 4
    assert jacobian_rank(operator(dense, 10), rtol=1e-5, method="gram").status == "numerical"


def test_transposes_other_matrices_and_part_of_the_parameters(x64):
    rng = np.random.default_rng(2)
    dense = matrix(rng, 12, 7, [1, 1, 1, 0, 0, 0, 0])
    assert jacobian_rank(operator(dense, 4).T).rank == 3
    assert jacobian_rank(operator(dense, 4).T).nullity == 9
    assert jacobian_rank(DenseOperator(jnp.asarray(dense[:7]))).rank == 3
    params = {"a": jnp.zeros(3), "b": jnp.zeros(4)}
    rows = jnp.asarray(dense.reshape(4, 3, 7))

    def model(p, rows):
        return rows[..., :3] @ p["a"] + rows[..., 3:] @ p["b"]

    for name, part in (("a", dense[:, :3]), ("b", dense[:, 3:])):
        op = jacobian(model, params, rows, wrt=lambda path, name=name: path == name)
        assert jacobian_rank(op).rank == np.linalg.matrix_rank(part)


@pytest.mark.slow
def test_centered_rows_have_the_kernel_of_the_softmax_gauss_newton_matrix(x64):
    model = MLP(2, 4, 3)
    x = jax.random.normal(jax.random.key(0), (30, 5), jnp.float64)
    params = model.init(jax.random.key(1), x)["params"]
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)

    def logits(params, x):
        return model.apply({"params": params}, x)

    op = jacobian(logits, params, x)
    dense = np.asarray(op.to_dense()).reshape(30, 3, -1)
    p = np.asarray(jax.nn.softmax(logits(params, x)))
    root = np.sqrt(p)[:, :, None] * (np.eye(3)[None] - p[:, None, :])
    weighted = np.einsum("nij,njp->nip", root, dense).reshape(90, -1)
    found = jacobian_rank(op, centered=True)
    assert found.rank == np.linalg.matrix_rank(weighted, tol=1e-12) < jacobian_rank(op).rank
    # Weighted by the loss the singular values are those of the Gauss–Newton matrix.
    truth = np.linalg.svd(weighted, compute_uv=False)
    found = jacobian_rank(op, output_loss=cross_entropy, rtol=1e-9)
    np.testing.assert_allclose(found.singular_values, truth, atol=1e-7 * truth[0])
    assert found.rank == (truth > 1e-9 * truth[0]).sum()
    values = np.linalg.eigvalsh(ggn(logits, cross_entropy, params, x).to_dense())[::-1]
    np.testing.assert_allclose(found.singular_values[: len(values)] ** 2 / 30, values, atol=1e-9)
    found = jacobian_rank(
        op, output_loss=cross_entropy, rtol=0.05, method="lanczos", key=jax.random.key(0)
    )
    assert found.lower <= (truth > 0.05 * truth[0]).sum() <= found.upper
    assert found.norm == pytest.approx(truth[0])
    found = jacobian_rank(op, centered=True, rtol=0.05, method="lanczos", key=jax.random.key(0))
    plain = np.linalg.svd((dense - dense.mean(1, keepdims=True)).reshape(90, -1), compute_uv=False)
    assert found.lower <= (plain > 0.05 * plain[0]).sum() <= found.upper


def cross_entropy(z, batch):
    """To labels that are all 0."""
    return -jnp.mean(jax.nn.log_softmax(z)[:, 0])


def test_weights_are_the_hessians_of_each_examples_loss(x64):
    rng = np.random.default_rng(3)
    rows, scale = rng.normal(size=(6, 2, 5)), rng.uniform(1, 9, size=(6, 2))

    def model(w, batch):
        return batch["rows"] @ w

    def loss(z, batch):
        return jnp.mean(jnp.sum(batch["scale"] * z**2, -1)) / 2

    op = jacobian(model, jnp.zeros(5), {"rows": rows, "scale": scale})
    truth = np.linalg.svd((np.sqrt(scale)[..., None] * rows).reshape(12, 5), compute_uv=False)
    for method, atol in (("exact", 1e-12), ("gram", 1e-6)):
        found = jacobian_rank(op, output_loss=loss, method=method)
        np.testing.assert_allclose(found.singular_values, truth, atol=atol)
    family = stack([op, op])
    assert jacobian_rank(family, output_loss=loss).rank.tolist() == [5, 5]

    def concave(z, batch):
        return -loss(z, batch)

    with pytest.raises(InputError, match="not convex: an example's Hessian"):
        jacobian_rank(op, output_loss=concave)
    with pytest.raises(InputError, match="give one"):
        jacobian_rank(op, output_loss=loss, centered=True)
    with pytest.raises(InputError, match="only a Jacobian's rows"):
        jacobian_rank(DenseOperator(jnp.eye(3)), output_loss=loss)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_vmapped_equals_looped(shape, x64):
    examples, classes, columns = shape
    rng = np.random.default_rng(0)
    stacked = jnp.asarray(rng.normal(size=(4, examples, classes, columns)))

    def values(rows):
        return singular_values(jacobian(outputs, jnp.zeros(columns), rows))

    looped = np.stack([values(rows) for rows in stacked])
    np.testing.assert_allclose(jax.vmap(values)(stacked), looped, atol=1e-14)


def test_a_family_has_a_rank_for_each_member(x64):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(9, 3)))

    def model(w, x):
        return jnp.maximum(x @ w["in"], 0) @ w["out"]

    def member(alive):
        w = {"in": jnp.asarray(rng.normal(size=(3, 4))), "out": jnp.ones((4, 2))}
        return jacobian(model, {**w, "out": w["out"].at[alive:].set(0)}, x)

    family = [member(alive) for alive in (0, 2, 4)]
    found = jacobian_rank(stack(family))
    each = [jacobian_rank(op) for op in family]
    assert found.rank.tolist() == [int(one.rank) for one in each]
    assert found.status.shape == found.above.shape == (3,)
    assert "3 ranks between" in repr(found)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(10, 2, 60), (40, 2, 30)], ids=str)
def test_the_interval_of_lanczos_holds_the_rank(shape, x64):
    examples, classes, columns = shape
    rng = np.random.default_rng(3)
    k = min(examples * classes, columns)
    values = np.r_[np.linspace(1, 0.5, k // 2), np.full(k - k // 2, 1e-5)]
    op = operator(matrix(rng, examples * classes, columns, values), examples)
    widths = {}
    for probes in (1, 20):
        every = [
            jacobian_rank(
                op,
                method="lanczos",
                rtol=1e-2,
                key=jax.random.key(seed),
                num_steps=k,
                num_probes=probes,
            )
            for seed in range(40)
        ]
        assert all(found.status == "interval" for found in every)
        # Of 40 intervals at 95 %, more than 6 miss with a probability of 3 in 1,000.
        assert sum(not found.lower <= k // 2 <= found.upper for found in every) <= 6
        widths[probes] = np.mean([found.upper - found.lower for found in every])
    assert widths[20] < widths[1] / 2


def test_refusals(x64):
    op = operator(np.eye(4), 2)
    key = jax.random.key(0)
    for options, message in (
        ({"method": "svd"}, "method must be one of exact, gram, lanczos; got 'svd'"),
        ({"rtol": 1.0}, "0 ≤ τ < 1"),
        ({"rtol": 1e-8, "method": "gram"}, "cannot see below 1e-07"),
        ({"method": "lanczos", "key": key}, "needs rtol"),
        ({"method": "lanczos", "rtol": 1e-2}, "and a key"),
        ({"method": "lanczos", "rtol": 1e-9, "key": key}, "below the noise floor"),
    ):
        with pytest.raises(InputError, match=message):
            jacobian_rank(op, **options)
    with pytest.raises(InputError, match="NaN"):
        jacobian_rank(operator(np.full((4, 3), np.nan), 2))
    with pytest.raises(InputError, match="belong to outputs"):
        jacobian_rank(DenseOperator(jnp.eye(3)), centered=True)
    with pytest.raises(InputError, match="change with the other examples"):
        jacobian_rank(jacobian(lambda w, x: x @ w - (x @ w).mean(0), jnp.ones(3), jnp.eye(4, 3)))


def test_a_matrix_too_large_is_refused_before_it_is_made():
    op = jacobian(lambda w, x: x[:, :1] * w[None, :2], jnp.zeros(10**7), jnp.ones((10**7, 1)))
    with pytest.raises(ResourceError, match="use method='lanczos'"):
        jacobian_rank(op)
