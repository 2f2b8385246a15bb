import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape.curvature import (
    DiagonalOperator,
    empirical_fisher,
    fisher,
    ggn,
    hessian,
    jacobian,
    noise_floor,
    stack,
)
from landscape.errors import InputError
from landscape.spectra import dense_spectrum, slq

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(23, 4)), RNG.normal(size=(23, 2))
PARAMS = {"w": RNG.normal(size=(4, 3)), "v": RNG.normal(size=(3, 2))}


def model(params, batch):
    return jnp.tanh(batch["x"] @ params["w"]) @ params["v"]


def half_squared_error(outputs, batch):
    return jnp.mean(jnp.sum((outputs - batch["y"]) ** 2, -1)) / 2


def loss(params, batch):
    return half_squared_error(model(params, batch), batch)


class Stream:
    """Batches of a size, the last one ragged; counts how often it is walked through."""

    def __init__(self, size, dtype=np.float64):
        self.size, self.dtype, self.walks = size, dtype, 0

    def __iter__(self):
        self.walks += 1
        for start in range(0, len(X), self.size):
            part = slice(start, start + self.size)
            yield {"x": X[part].astype(self.dtype), "y": Y[part].astype(self.dtype)}


WHOLE = {"x": X, "y": Y}
MAKE = {
    "hessian": lambda batch, **kw: hessian(loss, PARAMS, batch, **kw),
    "ggn": lambda batch, **kw: ggn(model, half_squared_error, PARAMS, batch, **kw),
    "fisher": lambda batch, **kw: empirical_fisher(model, half_squared_error, PARAMS, batch, **kw),
}


@pytest.mark.slow
@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
@pytest.mark.parametrize("chunk_size", [None, 3])
def test_streamed_batches_give_the_operator_of_all_the_data(make, chunk_size, x64):
    op, expected = make(Stream(5), chunk_size=chunk_size), make(WHOLE)
    assert op.num_examples == 23
    assert op.shape == expected.shape
    np.testing.assert_allclose(op.to_dense(block_size=7), expected.to_dense(), atol=1e-12)
    v = RNG.normal(size=(op.shape[0], 3))
    np.testing.assert_allclose(op.matmat(v), expected.matmat(v), atol=1e-12)
    np.testing.assert_allclose(
        op.linearized().matvec(v[:, 0]), expected.matvec(v[:, 0]), atol=1e-12
    )


def test_a_weight_counts_in_a_stream_as_in_one_batch(x64):
    def weight(batch):
        return jnp.sum(batch["x"] > 0).astype(float)

    def masked(params, batch):
        errors = (batch["x"] @ params["w"]) ** 2
        mask = batch["x"] > 0
        return jnp.sum(jnp.where(mask, errors[:, :1], 0)) / mask.sum()

    op = hessian(masked, PARAMS, Stream(5), weight=weight)
    expected = hessian(masked, PARAMS, WHOLE, weight=weight)
    np.testing.assert_allclose(op.to_dense(), expected.to_dense(), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["full", "partial", "none"])
def test_spectra_of_a_stream_are_those_of_the_data(scheme, x64):
    stream = Stream(9)
    options = {"num_steps": 12, "num_probes": 2, "reorthogonalize": scheme}
    found = slq(hessian(loss, PARAMS, stream), jax.random.key(0), **options)
    expected = slq(hessian(loss, PARAMS, WHOLE), jax.random.key(0), **options)
    np.testing.assert_allclose(found.alphas, expected.alphas, rtol=1e-6, atol=1e-9)
    # Both probes walk together: one walk a step, and what the door needs.
    assert stream.walks <= 12 + 4


@pytest.mark.slow
def test_dense_spectra_and_noise_floors_of_a_stream():
    op = hessian(loss, PARAMS, Stream(9, np.float32))
    whole = hessian(loss, jax.tree.map(np.float32, PARAMS), jax.tree.map(np.float32, WHOLE))
    np.testing.assert_allclose(dense_spectrum(op).nodes, dense_spectrum(whole).nodes, atol=1e-5)
    fine = dense_spectrum(op, dtype=np.float64)
    assert fine.noise_floor < 1e-13
    np.testing.assert_allclose(fine.nodes, dense_spectrum(whole).nodes, atol=1e-5)
    floor = noise_floor(op, jax.random.key(0))
    assert 0.2 < floor / noise_floor(whole, jax.random.key(0)) < 5


@pytest.mark.slow
def test_a_streamed_loss_and_a_penalty_add_up(x64):
    decay = DiagonalOperator(jnp.full(18, 0.1))
    op = 2.0 * (hessian(loss, PARAMS, Stream(6)) + decay)
    expected = 2.0 * (hessian(loss, PARAMS, WHOLE) + decay)
    np.testing.assert_allclose(op.to_dense(), expected.to_dense(), atol=1e-12)
    found = slq(op, jax.random.key(0), num_steps=5)
    np.testing.assert_allclose(found.alphas, slq(expected, jax.random.key(0), num_steps=5).alphas)


class Shuffled(Stream):
    def __iter__(self):
        self.walks += 1
        yield {"x": X[self.walks :], "y": Y[self.walks :]}


def test_streams_that_cannot_be_used_are_refused():
    with pytest.raises(InputError, match="only once"):
        hessian(loss, PARAMS, iter(Stream(5)))
    with pytest.raises(InputError, match="is empty"):
        hessian(loss, PARAMS, Stream.__new__(EmptyStream))
    with pytest.raises(InputError, match="shuffling"):
        hessian(loss, PARAMS, Shuffled(5))
    with pytest.raises(InputError, match="second time"):
        hessian(loss, PARAMS, OnePass())
    with pytest.raises(InputError, match="one batch"):
        jacobian(model, PARAMS, Stream(5))
    with pytest.raises(InputError, match="one batch"):
        fisher(model, PARAMS, Stream(5), jax.random.key(0))
    op = hessian(loss, PARAMS, Stream(5))
    with pytest.raises(InputError, match="cannot be stacked"):
        stack([op, op])
    with pytest.raises(InputError, match="cannot be traced"):
        op._products()


class OnePass:
    def __init__(self):
        self.batches = iter([next(iter(Stream(5)))])

    def __iter__(self):
        yield from self.batches


class EmptyStream(Stream):
    def __iter__(self):
        return iter(())


def coarse(params, batch):
    hidden = jnp.tanh(batch["x"].astype(jnp.bfloat16) @ params["w"].astype(jnp.bfloat16))
    return jnp.mean((hidden.astype(jnp.float32) @ params["v"] - batch["y"]) ** 2)


class Given:
    """These batches."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


@pytest.mark.slow
def test_a_coarser_type_inside_a_stream_needs_a_measured_noise_floor():
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), PARAMS)
    batches = [jax.tree.map(np.float32, {"x": X[i::2], "y": Y[i::2]}) for i in (0, 1)]
    op = hessian(coarse, params, Given(batches), check=False)
    for each in (op, 2 * op, op + DiagonalOperator(jnp.ones(op.shape[0]))):
        with pytest.raises(InputError, match="compute in bfloat16"):
            slq(each, jax.random.key(0), num_steps=2)
        with pytest.raises(InputError, match="compute in bfloat16"):
            dense_spectrum(each)
    floor = noise_floor(op, jax.random.key(0))
    assert dense_spectrum(op, noise_floor=floor).noise_floor >= floor > 1e-4


@pytest.mark.parametrize("make", [hessian, ggn])
def test_a_streams_later_batches_go_by_chunks_however_small_the_first(make):
    sizes = (3, 15, 5)
    parts = np.split(np.arange(23), np.cumsum(sizes)[:-1])
    batches = Given([{"x": X[part], "y": Y[part]} for part in parts])
    arguments = (loss,) if make is hessian else (model, half_squared_error)
    op = make(*arguments, PARAMS, batches, chunk_size=5)
    assert [each.chunk_size for each in op._operators()] == [None, 5, None]
    whole = make(*arguments, PARAMS, {"x": X, "y": Y})
    v = np.random.default_rng(1).normal(size=op.shape[1])
    np.testing.assert_allclose(op.matvec(v), whole.matvec(v), rtol=1e-4, atol=1e-5)


def test_batches_of_another_form_are_refused():
    def loss(w, batch):
        return jnp.mean((batch[0] @ w - batch[1]) ** 2)

    x, y = jnp.ones((3, 2)), jnp.zeros(3)

    class Stream:
        def __iter__(self):
            return iter([(x, y), (x, y, y)])

    op = hessian(loss, jnp.ones(2), Stream())
    with pytest.raises(InputError, match="of one form"):
        op.matvec(jnp.ones(2))


class Tensor:
    """An array of another framework, with a type of its own."""

    dtype = "theirs.float32"

    def __init__(self, values):
        self.values = np.asarray(values, np.float32)
        self.shape = self.values.shape

    def __array__(self, dtype=None, copy=None):
        return self.values

    def __getitem__(self, place):
        return Tensor(self.values[place])


def test_tensors_of_another_framework_can_be_streamed():
    x = np.random.default_rng(0).normal(size=(6, 3))
    whole = hessian(lambda w, x: jnp.mean((x @ w) ** 2), jnp.ones(3), jnp.asarray(x, jnp.float32))
    stream = [Tensor(x[:2]), Tensor(x[2:])]

    class Loader:
        def __iter__(self):
            return iter(stream)

    op = hessian(lambda w, x: jnp.mean((x @ w) ** 2), jnp.ones(3), Loader())
    np.testing.assert_allclose(op.to_dense(), whole.to_dense(), rtol=1e-6)
