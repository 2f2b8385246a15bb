"""Operators as objects: types, members, what is stored; and what is refused at the door."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from landscape.curvature import (
    DenseOperator,
    DiagonalOperator,
    data_mesh,
    ggn,
    hessian,
    jacobian,
    noise_floor,
    place,
    stack,
)
from landscape.curvature.inner_types import coarser_inside as coarser_type
from landscape.errors import InputError
from landscape.models import MLP
from landscape.spectra import (
    degenerate_fraction,
    dense_spectrum,
    lanczos_run,
    resolve_fraction,
    slq,
)
from landscape.spectra.slq import expect_positive
from landscape.training import softmax_cross_entropy

INPUTS = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)


def loss(params, batch):
    return jnp.mean(jnp.tanh(batch @ params["w"]) ** 2) + 0.1 * jnp.sum(params["w"] ** 4)


def checkpoint(seed):
    return {"w": jax.random.normal(jax.random.key(seed), (4,))}


def operators():
    """One of each kind that is put together from others."""
    op = hessian(loss, checkpoint(0), INPUTS)
    factor = jacobian(lambda p, b: jnp.sin(b @ p["w"]), checkpoint(0), INPUTS)
    squares = ggn(
        lambda p, b: jnp.sin(b @ p["w"]), lambda z, b: jnp.mean(z**2), checkpoint(0), INPUTS
    )
    return [op, 2 * op + DiagonalOperator(jnp.arange(4.0)), factor.T.gram(), squares]


def test_linearized_products_are_compiled_once_for_all_checkpoints():
    first = hessian(loss, checkpoint(0), INPUTS).linearized()
    second = hessian(loss, checkpoint(1), INPUTS).linearized()
    assert jax.tree.structure(first) == jax.tree.structure(second)
    exact = hessian(loss, checkpoint(1), INPUTS).to_dense()
    np.testing.assert_allclose(second.to_dense(), exact, atol=1e-6)


def test_what_is_stored_can_be_made_inside_a_compiled_function():
    v = jnp.arange(4.0)
    for op in operators():
        found = jax.jit(lambda op, v: op.linearized().matvec(v))(op, v)
        np.testing.assert_allclose(found, op.matvec(v), atol=1e-5)


def test_an_operator_by_chunks_stores_nothing():
    op = hessian(loss, checkpoint(0), INPUTS, chunk_size=5)
    assert op.linearized() is op


def test_every_operator_can_be_had_in_float64():
    for op in operators():
        exact = dense_spectrum(op, dtype=np.float64)
        assert exact.noise_floor < 1e-14
        np.testing.assert_allclose(exact.nodes, dense_spectrum(op).nodes, atol=1e-5)
    with pytest.raises(InputError, match="before"):
        dense_spectrum(operators()[0].linearized(), dtype=np.float64)


def test_members_of_sums_and_multiples_of_families():
    ones = [hessian(loss, checkpoint(seed), INPUTS) for seed in range(3)]
    penalty = DiagonalOperator(jnp.arange(4.0))
    family = 2 * stack(op for op in ones) + penalty
    assert family.batch_shape == (3,)
    for member, op in zip(family.members(), ones, strict=True):
        np.testing.assert_allclose(member.to_dense(), (2 * op + penalty).to_dense(), atol=1e-5)
    for single in (penalty, 2 * penalty, penalty + penalty):
        with pytest.raises(InputError, match="no members"):
            single.member(0)


def test_operators_of_two_types_do_not_add_up(x64):
    with pytest.raises(InputError, match="float32"):
        DiagonalOperator(jnp.ones(2)) + DiagonalOperator(jnp.ones(2, jnp.float32))


def test_parameters_of_two_types_are_refused():
    params = {"a": jnp.ones(2), "b": jnp.ones(2, jnp.bfloat16)}
    with pytest.raises(InputError, match="bfloat16, float32"):
        hessian(lambda p, b: jnp.mean(b @ (p["a"] * p["b"])), params, jnp.ones((3, 2)))
    # One of them may be held fixed.
    hessian(
        lambda p, b: jnp.mean(b @ (p["a"] * p["b"]) ** 2),
        params,
        jnp.ones((3, 2)),
        wrt=lambda path: path == "a",
    )


def test_a_sum_is_refused_where_the_loss_is_zero():
    """At a perfect fit a sum and a mean are both 0."""
    params = jnp.ones(4)
    batch = (jnp.asarray(INPUTS), jnp.asarray(INPUTS @ np.ones(4, np.float32)))

    def squares(params, batch):
        return (batch[0] @ params - batch[1]) ** 2

    hessian(lambda p, b: jnp.mean(squares(p, b)), params, batch)
    for scale in (1.0, 1e-2):
        with pytest.raises(InputError, match="mean over the examples"):
            hessian(lambda p, b, s=scale: s * jnp.sum(squares(p, b)), params, batch)


def test_leaves_of_an_nnx_model_are_named_without_their_last_step():
    model = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
    graph, params = nnx.split(model, nnx.Param)

    def mean_square(params, batch):
        return jnp.mean(nnx.merge(graph, params)(batch) ** 2)

    op = hessian(mean_square, params, INPUTS, wrt=lambda path: path == "kernel")
    assert op.shape == (8, 8)


def test_partial_functions_made_anew_are_warned_about(caplog):
    def scaled(scale, params, batch):
        return scale * loss(params, batch)

    kept = [hessian(functools.partial(scaled, 2.0), checkpoint(0), INPUTS) for _ in range(5)]
    assert len(kept) == 5
    assert sum("compiled anew" in record.message for record in caplog.records) == 1


def test_a_spectrum_under_a_tracer_is_refused():
    with pytest.raises(InputError, match="cannot be taken inside jit"):
        jax.jit(lambda d: slq(DiagonalOperator(d), jax.random.key(0), num_steps=2))(jnp.ones(3))


def test_a_run_that_was_advanced_is_used_up():
    run = lanczos_run(DiagonalOperator(jnp.arange(9.0)), jax.random.key(0))
    further = run.advance(3)
    with pytest.raises(InputError, match="used up"):
        run.advance(4)
    assert further.advance(4).num_steps == 4


@pytest.mark.parametrize("steps", [2.5, "3", None])
def test_counts_are_integers(steps):
    with pytest.raises(InputError, match="num_steps must be an integer"):
        expect_positive(num_steps=steps)


def test_blocks_have_columns():
    with pytest.raises(InputError, match="block_size"):
        DenseOperator(jnp.eye(3)).to_dense(block_size=0)


def test_all_spaces_exhausted_at_once_is_final():
    op = DiagonalOperator(jnp.asarray([0.0] * 30 + [1.0] * 30))
    result = resolve_fraction(op, jax.random.key(0), _never_narrow, width=0.1, num_probes=2)
    assert set(result.status.ravel().tolist()) == {"exhausted"}


def _never_narrow(spectrum):
    fraction = degenerate_fraction(spectrum, 0.5)
    lower, upper = (np.asarray(x) for x in (fraction.lower - 1, fraction.upper + 1))
    return dataclasses.replace(fraction, lower=lower, upper=upper)


def coarse(params, batch):
    hidden = jnp.tanh(batch.astype(jnp.bfloat16) @ params["w"].astype(jnp.bfloat16))
    return jnp.mean(hidden.astype(jnp.float32) ** 2)


def coarser_inside(op, platform=None):
    columns = jax.ShapeDtypeStruct((op.shape[1], 1), op.dtype)
    return coarser_type(jax.jit(op.matmat).trace(columns).jaxpr, op.dtype, platform)


def test_a_coarser_type_inside_needs_a_measured_noise_floor():
    op = hessian(coarse, checkpoint(0), INPUTS, check=False)
    assert coarser_inside(op) == "bfloat16"
    with pytest.raises(InputError, match="compute in bfloat16"):
        slq(op, jax.random.key(0), num_steps=2)
    with pytest.raises(InputError, match="compute in bfloat16"):
        resolve_fraction(op, jax.random.key(0))
    run = lanczos_run(op, jax.random.key(0)).advance(2)
    with pytest.raises(InputError, match="compute in bfloat16"):
        run.spectrum()
    assert run.spectrum(noise_floor=0.01).noise_floor >= 0.01


@pytest.mark.slow
def test_full_precision_is_not_mistaken_for_a_coarser_type(x64):
    model = MLP(3, 5, 3, skip="identity")
    batch = (jnp.asarray(INPUTS, jnp.float64), jnp.arange(12) % 3)
    variables = model.init(jax.random.key(0), batch[0])
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(variables)} == {"float32"}
    op = hessian(softmax_cross_entropy(model), variables["params"], batch, state={})
    assert coarser_inside(op.astype(jnp.float64)) == ""
    for chunk_size in (None, 5):
        op = hessian(loss, {"w": jnp.ones(4)}, jnp.asarray(INPUTS, float), chunk_size=chunk_size)
        assert coarser_inside(op) == ""


def test_matrix_products_left_to_an_accelerator_are_seen():
    def quadratic(params, batch):
        return jnp.mean((batch @ params) ** 2)

    exact, loose = (
        hessian(quadratic, jnp.ones((4, 2)), INPUTS, precision=p) for p in ("highest", "default")
    )
    assert coarser_inside(exact, platform="gpu") == ""
    assert coarser_inside(loose, platform="gpu") == "TF32 or bfloat16"
    assert coarser_inside(loose, platform="cpu") == ""


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (3.0, "must be a function"),
        (lambda batch: batch[1], "must return a scalar"),
        (lambda batch: 0.0, "must be positive"),
        (lambda batch: -1.0, "must be positive"),
    ],
)
def test_weights_that_weigh_nothing_are_refused(weight, words, unchecked):
    def loss(w, batch):
        return jnp.mean((batch[0] @ w - batch[1]) ** 2)

    batch = (jnp.ones((6, 2)), jnp.zeros(6))
    with pytest.raises(InputError, match=words):
        hessian(loss, jnp.ones(2), batch, weight=weight, chunk_size=2)


class Stream:
    def __iter__(self):
        return iter([INPUTS[:5], INPUTS[5:]])


def test_float64_that_is_switched_off_is_refused_and_not_replaced():
    every = [*operators(), hessian(loss, checkpoint(0), Stream())]
    with jax.enable_x64(True):
        fine = [op.astype(np.float64) for op in every]
        columns = [np.ones((op.shape[1], 2)) for op in fine]
    for op, vectors in zip(fine, columns, strict=True):
        assert op.dtype == np.float64
        for product in (
            lambda op, vectors: op.matvec(vectors[:, 0]),
            lambda op, vectors: op.matmat(vectors),
            lambda op, _: op.to_dense(),
            lambda op, _: op.linearized(),
        ):
            with pytest.raises(InputError, match="float64 is switched off"):
                product(op, vectors)
        for scaled in (lambda op: 0.1 * op, lambda op: op / 3):
            with pytest.raises(InputError, match="float64 is switched off"):
                scaled(op)
    for op in every:
        with pytest.raises(InputError, match="float64 is switched off"):
            op.astype(np.float64)


def test_operators_are_compared_by_identity():
    first, again = operators(), operators()
    assert all(op == op for op in first)
    assert not any(op == other for op, other in zip(first, again, strict=True))
    assert first[1] in first
    assert len({*first, *again, *first}) == 8


def test_float64_is_nowhere_multiplied_in_tf32(x64):
    matrix, vector = jnp.eye(3), jnp.ones(3)
    for dtype, found in ((np.float64, ""), (np.float32, "TF32 or bfloat16")):
        program = jax.make_jaxpr(jnp.matmul)(matrix.astype(dtype), vector.astype(dtype))
        assert coarser_type(program, np.dtype(dtype), "gpu") == found


def test_chunks_of_half_precision_hold_as_many_examples_as_there_are():
    def quadratic(w, batch):
        return jnp.mean((batch[0].astype(jnp.float32) * w.astype(jnp.float32)[None]) ** 2)

    half = jnp.ones(1, jnp.float16), (jnp.ones((70_000, 1), jnp.float16),)
    op = hessian(quadratic, *half, chunk_size=10_000)
    assert op.matvec(jnp.ones(1)).tolist() == [2.0]


def test_a_family_of_equals_has_a_noise_floor():
    for many in (1, 2):
        family = stack([DiagonalOperator(jnp.arange(3.0))] * many)
        assert noise_floor(family, jax.random.key(0)).shape == (many,)


def test_what_is_driven_from_the_host_is_not_placed():
    with pytest.raises(InputError, match="driven from the host"):
        place(hessian(loss, checkpoint(0), Stream()), data_mesh())


def test_keys_are_one_key(unchecked):
    with pytest.raises(InputError, match="JAX random key"):
        slq(DiagonalOperator(jnp.arange(3.0)), np.zeros((3, 2), np.uint32), num_steps=2)


def test_operands_of_two_types_are_multiplied_in_the_wider_one(x64):
    def quadratic(w, batch):
        return jnp.mean((batch @ w) ** 2)

    op = hessian(quadratic, jnp.arange(1.0, 5.0), jnp.asarray(INPUTS))
    assert op.dtype == np.float64
    assert slq(op, jax.random.key(0), num_steps=3).noise_floor < 1e-10
    narrow = hessian(lambda w, x: quadratic(w.astype(jnp.float32), x), jnp.ones(4), INPUTS)
    with pytest.raises(InputError, match="compute in float32"):
        slq(narrow.astype(np.float64), jax.random.key(0), num_steps=3)
