import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from landscape._pytrees import pytree
from landscape.curvature import (
    DenseOperator,
    DiagonalOperator,
    hessian,
    noise_floor,
)
from landscape.errors import InputError, ResourceError
from landscape.models import MLP
from landscape.spectra import slq
from landscape.training import softmax_cross_entropy

REFERENCE = np.load(Path(__file__).parent / "reference" / "torch_hessians.npz")
CASES = [
    f"{skip}/{f}" for skip in ("none", "identity", "hyper", "matrix") for f in ("relu", "tanh")
]


def torch_case(case, dtype):
    """Model, params, state and batch of a case of the torch reference."""
    skip, activation = case.split("/")

    def value(name):
        return jnp.asarray(REFERENCE[f"{case}/{name}"], dtype)

    params = {
        layer: {name: value(f"{layer}_{name}") for name in ("kernel", "bias")}
        for layer in ("hidden", "input", "output")
    }
    state = {}
    if skip == "matrix":
        state = {"fixed": {"skip": value("Q")}}
        skip = REFERENCE[f"{case}/Q"]
    elif skip == "hyper":
        # The last of the L-1 matrices is carried but never used.
        state = {"fixed": {"skip": jnp.concatenate([value("Q"), jnp.full((1, 4, 4), 7, dtype)])}}
    batch = (jnp.asarray(REFERENCE["inputs"], dtype), jnp.asarray(REFERENCE["labels"], jnp.int32))
    return MLP(5, 4, 3, skip=skip, activation=activation), params, state, batch


@pytest.mark.parametrize(
    ("case", "chunk_size"),
    [(case, None) for case in CASES]
    + [
        pytest.param(case, (4, 22, 50)[i % 3], marks=pytest.mark.slow)
        for i, case in enumerate(CASES)
    ],
)
def test_hessian_equals_torch_in_float64_with_ragged_chunks(case, chunk_size, x64):
    model, params, state, batch = torch_case(case, jnp.float64)
    op = hessian(softmax_cross_entropy(model), params, batch, state=state, chunk_size=chunk_size)
    expected = REFERENCE[f"{case}/hessian"]
    np.testing.assert_allclose(op.to_dense(), expected, atol=1e-10 * np.abs(expected).max())
    v = np.random.default_rng(0).normal(size=op.shape[0])
    np.testing.assert_allclose(op.matvec(v), expected @ v, atol=1e-10 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("case", "chunk_size"), [(case, (None, 7)[i % 2]) for i, case in enumerate(CASES)]
)
def test_hessian_equals_torch_in_float32(case, chunk_size):
    model, params, state, batch = torch_case(case, jnp.float32)
    op = hessian(softmax_cross_entropy(model), params, batch, state=state, chunk_size=chunk_size)
    expected = REFERENCE[f"{case}/hessian"]
    assert op.dtype == np.float32
    np.testing.assert_allclose(op.to_dense(), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("case", CASES)
def test_loss_and_logits_equal_torch(case, x64):
    model, params, state, batch = torch_case(case, jnp.float64)
    logits = model.apply({"params": params, **state}, batch[0])
    np.testing.assert_allclose(logits, REFERENCE[f"{case}/logits"], atol=1e-12)
    loss = softmax_cross_entropy(model)(params, state, batch)
    np.testing.assert_allclose(loss, REFERENCE[f"{case}/loss"], atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [None, 5])
def test_weighted_mean_equals_torch(chunk_size, x64):
    model, params, _, (inputs, labels) = torch_case("identity/tanh", jnp.float64)
    weights = jnp.asarray(REFERENCE["weights"])

    def loss(params, batch):
        inputs, labels, weights = batch
        log_p = jax.nn.log_softmax(model.apply({"params": params}, inputs))
        losses = -jnp.take_along_axis(log_p, labels[:, None], 1)[:, 0]
        return (weights * losses).sum() / weights.sum()

    op = hessian(
        loss, params, (inputs, labels, weights), weight=lambda b: b[2].sum(), chunk_size=chunk_size
    )
    expected = REFERENCE["weighted/hessian"]
    np.testing.assert_allclose(op.to_dense(), expected, atol=1e-10 * np.abs(expected).max())


def quadratic(params, batch):
    """Mean of ½ (x·w)² + c |w|⁴: a Hessian known in closed form."""
    w = jnp.concatenate([params["a"], params["b"]])
    return 0.5 * jnp.mean((batch @ w) ** 2) + 0.1 * jnp.sum(w**2) ** 2


def quadratic_case(seed=0, size=6, dtype=jnp.float64):
    rng = np.random.default_rng(seed)
    w, x = rng.normal(size=size), rng.normal(size=(9, size))
    params = {"a": jnp.asarray(w[:2], dtype), "b": jnp.asarray(w[2:], dtype)}
    exact = x.T @ x / 9 + 0.4 * (w @ w) * np.eye(size) + 0.8 * np.outer(w, w)
    return params, jnp.asarray(x, dtype), exact


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_closed_form(chunk_size, x64):
    params, batch, exact = quadratic_case()
    op = hessian(quadratic, params, batch, chunk_size=chunk_size)
    np.testing.assert_allclose(op.to_dense(), exact, atol=1e-12)
    np.testing.assert_allclose(op.linearized().to_dense(), exact, atol=1e-12)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_products_are_linear_and_symmetric(seed):
    with jax.enable_x64(True):
        params, batch, _ = quadratic_case(seed)
        op = hessian(quadratic, params, batch, check=False)
        u, v = np.random.default_rng(seed).normal(size=(2, 6))
        scale = np.abs(op.to_dense()).max()
        np.testing.assert_allclose(
            op.matvec(2 * u - v), 2 * op.matvec(u) - op.matvec(v), atol=1e-12 * scale
        )
        assert u @ op.matvec(v) == pytest.approx(v @ op.matvec(u), abs=1e-11 * scale)


def test_matmat_is_the_matvec_of_each_column(x64):
    params, batch, exact = quadratic_case()
    vectors = np.random.default_rng(1).normal(size=(6, 3))
    for op in (hessian(quadratic, params, batch), hessian(quadratic, params, batch).linearized()):
        np.testing.assert_allclose(op.matmat(vectors), exact @ vectors, atol=1e-12)


def test_wrt_gives_the_block_of_the_chosen_leaves(x64):
    params, batch, exact = quadratic_case()
    op = hessian(quadratic, params, batch, wrt=lambda path: path == "b")
    assert op.shape == (4, 4)
    np.testing.assert_allclose(op.to_dense(), exact[2:, 2:], atol=1e-12)


def test_second_checkpoint_does_not_recompile():
    params, batch, _ = quadratic_case(dtype=jnp.float32)
    other, other_batch, _ = quadratic_case(seed=1, dtype=jnp.float32)
    traces = []

    def loss(params, batch):
        traces.append(1)
        return quadratic(params, batch)

    hessian(loss, params, batch).matvec(jnp.ones(6))
    before = len(traces)
    hessian(loss, other, other_batch).matvec(jnp.zeros(6))
    # The door traces the loss anew, once for what it reads outside itself and twice to compare what
    # it draws; nothing else is traced.
    assert len(traces) - before <= 3


def test_operators_vmap_over_checkpoints(x64):
    params, batch, exact = quadratic_case()
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    v = jnp.arange(6.0)
    images = jax.vmap(lambda p: hessian(quadratic, p, batch).matvec(v))(many)
    np.testing.assert_allclose(images[0], exact @ v, atol=1e-12)
    twice = hessian(quadratic, jax.tree.map(lambda leaf: 2 * leaf, params), batch)
    np.testing.assert_allclose(images[1], twice.matvec(v), atol=1e-12)


def test_integer_state_is_passed_through(x64):
    def loss(params, state, batch):
        return jnp.mean((batch @ params[state["order"]]) ** 2)

    batch = jnp.eye(3)
    op = hessian(loss, jnp.ones(3), batch, state={"order": jnp.array([2, 0, 1])})
    np.testing.assert_allclose(op.to_dense(), 2 / 3 * np.eye(3), atol=1e-14)


def test_parameters_without_influence_have_zero_rows(x64):
    op = hessian(
        lambda p, b: jnp.mean((b @ p["used"]) ** 2),
        {"idle": jnp.ones(2), "used": jnp.ones(3)},
        jnp.eye(3),
    )
    dense = np.asarray(op.to_dense())
    assert not dense[:2].any()
    assert not dense[:, :2].any()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda p, b: jnp.mean(b @ p, keepdims=True), "scalar"),
        (lambda p, b: b @ p, "scalar"),
        (lambda p, b: jnp.sum((b @ p) ** 2), "mean over the examples"),
        (lambda p, b: jnp.mean(jnp.log(-(p**2).sum()) + b @ p), "nan"),
    ],
    ids=["shape", "vector", "sum", "nan"],
)
def test_unusable_losses_are_refused_at_the_door(loss, message):
    with pytest.raises(InputError, match=message):
        hessian(loss, jnp.ones(3), jnp.eye(3))


def test_batch_normalisation_in_training_mode_is_caught():
    def loss(p, b):
        z = b @ p
        return jnp.mean(((z - z.mean()) / (z.std() + 1e-3)) ** 4)

    with pytest.raises(InputError, match="mean over the examples"):
        hessian(loss, jnp.ones(3), jnp.asarray(np.random.default_rng(0).normal(size=(10, 3))))


def test_a_loss_that_draws_random_numbers_is_caught():
    rng = np.random.default_rng(0)

    def loss(p, b):
        noise = jax.pure_callback(
            lambda: rng.normal(size=()).astype(np.float32), jax.ShapeDtypeStruct((), jnp.float32)
        )
        return jnp.mean(b @ p) + noise

    with pytest.raises(InputError, match="random"):
        hessian(loss, jnp.ones(3), jnp.eye(3))


@pytest.mark.parametrize(
    ("params", "batch", "options", "message"),
    [
        ({"n": jnp.arange(3)}, jnp.eye(3), {}, "type int32"),
        ({}, jnp.eye(3), {}, "no parameter"),
        (jnp.ones(3), jnp.eye(3), {"wrt": lambda path: False}, "no parameter"),
        (jnp.ones(3), jnp.zeros((0, 3)), {}, "empty"),
        (jnp.ones(3), (jnp.eye(3), jnp.ones(2)), {}, "leading axis"),
        (jnp.ones(3), jnp.eye(3), {"chunk_size": 0}, "chunk_size"),
        (jnp.ones(3), jnp.eye(3), {"precision": "fast"}, "precision"),
    ],
)
def test_unusable_arguments_are_refused_by_name(params, batch, options, message):
    with pytest.raises(InputError, match=message):
        hessian(lambda p, b: jnp.mean(b @ p), params, batch, **options)


def test_wrong_vector_shapes_are_refused():
    op = DiagonalOperator(jnp.ones(3))
    with pytest.raises(InputError, match=r"\(3,\); got \(4,\)"):
        op.matvec(jnp.ones(4))
    with pytest.raises(InputError, match=r"\(3, k\); got \(2, 2\)"):
        op.matmat(jnp.ones((2, 2)))


def test_a_dense_matrix_that_cannot_fit_is_refused_before_it_is_made():
    with pytest.raises(ResourceError, match="slq"):
        DiagonalOperator(jnp.ones(10**6)).to_dense()


def test_to_dense_with_blocks_that_do_not_divide(x64):
    matrix = np.random.default_rng(0).normal(size=(7, 7))
    matrix += matrix.T
    np.testing.assert_allclose(DenseOperator(jnp.asarray(matrix)).to_dense(block_size=3), matrix)


@pytest.mark.slow
def test_noise_floor_is_rounding_of_the_operators_type():
    model, params, state, batch = torch_case("identity/tanh", jnp.float32)
    op = hessian(softmax_cross_entropy(model), params, batch, state=state)
    norm = np.abs(np.linalg.eigvalsh(REFERENCE["identity/tanh/hessian"])).max()
    assert 2**-24 * norm * 0.9 <= noise_floor(op, jax.random.key(0)) <= 100 * 2**-24 * norm
    with jax.enable_x64(True):
        floor = noise_floor(op.astype(jnp.float64), jax.random.key(0))
    assert 2**-53 * norm * 0.9 <= floor <= 100 * 2**-53 * norm


@pytest.mark.slow
def test_noise_floor_sees_a_coarse_operator():
    @pytree
    @dataclasses.dataclass(frozen=True, repr=False)
    class Coarse(DiagonalOperator):
        def _products(self):
            return lambda v: (self.diagonal * v).astype(jnp.bfloat16).astype(jnp.float32)

    diagonal = jnp.linspace(0, 1, 500)
    assert noise_floor(Coarse(diagonal), jax.random.key(0)) > 1e-3
    assert noise_floor(DiagonalOperator(diagonal[1:]), jax.random.key(0)) < 1e-6


@pytest.mark.parametrize("scale", [1e20, 1e-20])
def test_norms_that_cannot_be_squared_have_no_noise_floor(scale):
    with pytest.raises(InputError, match="leaves the range"):
        noise_floor(DiagonalOperator(jnp.linspace(-1, 1, 100) * scale), jax.random.key(0))


def test_a_loss_that_changes_something_outside_itself_is_caught():
    generator, held = np.random.default_rng(0), {"key": jax.random.key(0)}

    def draws(params, batch):
        return jnp.mean((batch @ params) ** 2) + generator.normal() * jnp.sum(params)

    def splits(params, batch):
        held["key"], key = jax.random.split(held["key"])
        return jnp.mean((batch @ params) ** 2) * jax.random.normal(key)

    for loss in (draws, splits):
        with pytest.raises(InputError, match="draws random numbers"):
            hessian(loss, jnp.ones(2), jnp.ones((9, 2)))


def test_methods_of_one_object_are_one_function(caplog):
    class Model:
        def loss(self, params, batch):
            return jnp.mean((batch @ params) ** 2)

    model = Model()
    for _ in range(6):
        hessian(model.loss, jnp.ones(2), jnp.ones((9, 2)), check=False)
    assert not caplog.records


@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_a_sum_is_refused_however_small_the_loss(scale):
    batch = jnp.ones((9, 2))
    with pytest.raises(InputError, match="mean over the examples"):
        hessian(lambda p, b: scale * jnp.sum((b @ p) ** 2), jnp.ones(2), batch)
    hessian(lambda p, b: scale * jnp.mean((b @ p) ** 2), jnp.ones(2), batch)


def test_a_mean_whose_terms_cancel_is_accepted():
    batch = jnp.asarray([[1.0], [-1.0]] * 50) * 1e3
    hessian(lambda p, b: jnp.mean(b @ p) + jnp.mean((b @ p) ** 2) * 1e-9, jnp.ones(1), batch)


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [None, 4])
def test_a_linearized_operator_is_an_operator(chunk_size):
    batch = jax.random.normal(jax.random.key(0), (10, 5))
    op = hessian(
        lambda p, b: jnp.mean(jnp.tanh(b @ p) ** 2), jnp.ones(5), batch, chunk_size=chunk_size
    )
    linear = op.linearized()
    assert linear.linearized() is linear
    np.testing.assert_allclose(linear.to_dense(), op.to_dense(), atol=1e-6)
    assert noise_floor(linear, jax.random.key(1)) > 0
    first, second = (slq(each, jax.random.key(2), num_steps=4) for each in (op, linear))
    np.testing.assert_allclose(first.alphas, second.alphas, atol=1e-5)


@jax.custom_vjp
def fused(x):
    return jnp.sin(x)


def fused_forward(x):
    return jnp.sin(x), x


def fused_backward(x, g):
    cosine = jax.pure_callback(np.cos, jax.ShapeDtypeStruct(x.shape, x.dtype), x)
    return (g * cosine,)


fused.defvjp(fused_forward, fused_backward)


def test_a_kernel_without_a_second_derivative_is_refused_by_name():
    def loss(params, batch):
        return jnp.mean(fused(batch @ params))

    op = hessian(loss, jnp.ones(3), jnp.eye(3))
    with pytest.raises(InputError, match=r"differentiated twice.*implementation='xla'"):
        op.matvec(jnp.ones(3))


@pytest.mark.parametrize("error", [TypeError, ValueError, NotImplementedError])
def test_an_error_of_the_loss_itself_is_not_dressed_up(error):
    def loss(params, batch):
        raise error("my own mistake")

    op = hessian(loss, jnp.ones(3), jnp.eye(3), check=False)
    with pytest.raises(error, match="my own mistake") as caught:
        op.matvec(jnp.ones(3))
    assert not isinstance(caught.value, InputError)


def test_vectors_and_pytrees_turn_into_each_other():
    params = {"a": jnp.ones(2), "b": jnp.ones((2, 2))}

    def loss(params, batch):
        return jnp.mean((batch @ params["a"]) ** 2) + jnp.sum(params["b"] ** 2)

    batch = jnp.eye(4, 2)
    op = hessian(loss, params, batch)
    tree = jax.tree.map(lambda x: 2 * x, params)
    found = op.unravel(op.ravel(tree))
    jax.tree.map(np.testing.assert_array_equal, found, tree)
    part = hessian(loss, params, batch, wrt=lambda path: path == "b")
    assert part.ravel(tree).shape == (4,)
    np.testing.assert_array_equal(part.unravel(jnp.ones(4))["a"], np.zeros(2))
    with pytest.raises(InputError, match="like the parameters"):
        op.ravel({"a": jnp.ones(2)})
    with pytest.raises(InputError, match="shapes"):
        op.ravel({"a": jnp.ones(3), "b": jnp.ones((2, 2))})
    with pytest.raises(InputError, match="unravel"):
        op.unravel(jnp.ones(5))


def test_a_new_function_at_each_call_is_warned_about_once(caplog):
    def once(scale):
        return hessian(lambda w, x: jnp.mean(x @ w) ** 2 + scale, jnp.ones(2), jnp.eye(2))

    kept = [once(1) for _ in range(6)]
    assert sum("compiled anew" in record.message for record in caplog.records) == 1
    caplog.clear()
    # The same function again and again, or functions that differ in what they close over: no word.
    kept += [hessian(quadratic, *quadratic_case(dtype=jnp.float32)[:2]) for _ in range(6)]
    kept += [once(scale) for scale in range(10, 16)]
    assert not caplog.records


@pytest.mark.parametrize("seed", range(8))
def test_a_mask_without_a_weight_is_refused_in_chunks_too(seed):
    keys = jax.random.split(jax.random.key(seed), 3)
    x = jax.random.normal(keys[0], (48, 7, 5))
    mask = (jax.random.uniform(keys[1], (48, 7)) < 0.6).astype(jnp.float32)
    params = jax.random.normal(keys[2], (5,))
    with pytest.raises(InputError, match="must be a mean"):
        hessian(masked_mean, params, (x, mask), chunk_size=8)
    hessian(masked_mean, params, (x, mask), chunk_size=8, weight=lambda batch: batch[1].sum())


def masked_mean(params, batch):
    x, mask = batch
    return jnp.sum(mask * jnp.tanh(x @ params) ** 2) / jnp.sum(mask)


def test_running_statistics_are_no_parameters():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.layer = nnx.Linear(3, 4, rngs=rngs)
            self.norm = nnx.BatchNorm(4, rngs=rngs)

        def __call__(self, x):
            return self.norm(self.layer(x))

    net = Net(nnx.Rngs(0))
    net.eval()
    graph, everything = nnx.split(net)
    x = jnp.ones((5, 3))

    def loss(params, batch):
        return jnp.mean(nnx.merge(graph, params)(batch) ** 2)

    with pytest.raises(InputError, match=r"norm/mean \(BatchStat\).*nnx.split\(model, nnx.Param"):
        hessian(loss, everything, x)
    chosen = hessian(loss, everything, x, wrt=lambda path: path.startswith("layer"))
    assert chosen.shape == (16, 16)
    variables = {"params": {"w": jnp.ones(3)}, "batch_stats": {"mean": jnp.ones(2)}}
    with pytest.raises(InputError, match="running statistics would count as parameters"):
        hessian(lambda v, batch: jnp.mean(batch @ v["params"]["w"]), variables, x)


def test_rounding_of_coarse_parameters_is_no_sum():
    # The whole and its parts differ by rounding of bfloat16, though the loss ends in float32.
    x = jnp.asarray(np.random.default_rng(0).normal(size=(48, 20)), jnp.bfloat16)
    w = jnp.asarray(np.random.default_rng(1).normal(size=20), jnp.bfloat16)

    def loss(w, x):
        return jnp.mean((x @ w) ** 2).astype(jnp.float32)

    assert hessian(loss, w, x).dtype == jnp.bfloat16
    with pytest.raises(InputError, match="must be a mean"):
        hessian(lambda w, x: jnp.sum((x @ w) ** 2).astype(jnp.float32), w, x)
