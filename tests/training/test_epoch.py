import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landscape.models import MLP
from landscape.training import epoch as epoch_module
from landscape.training.epoch import _blocks, adam, compile_program


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))))
def test_blocks_hold_every_row_and_fill_the_last_from_the_first(sizes):
    count, size = sizes
    order = np.random.default_rng(count).permutation(count)
    blocks = np.asarray(_blocks(jnp.asarray(order), size))
    assert blocks.shape == (-(-count // size), size)
    flat = blocks.ravel()
    assert (flat[:count] == order).all()
    assert (flat[count:] == order[: flat.size - count]).all()


@pytest.mark.parametrize(("chunk", "vectorized"), [(50, False), (50, True), (119, False)])
def test_evaluation_is_the_mean_over_all_examples(digits, monkeypatch, chunk, vectorized):
    monkeypatch.setattr(epoch_module, "EVALUATION_CHUNK", chunk)
    # Not the cached program: the size of a chunk is part of what is compiled.
    model = MLP(2, 6, 10)
    program = compile_program.__wrapped__(model, adam(1e-3), 25, vectorized)
    inputs, labels = digits.arrays()
    keys = jax.random.split(jax.random.key(0), 2)
    networks = [model.init(key, inputs[:1])["params"] for key in keys]
    expected = []
    for params in networks:
        logits = np.asarray(model.apply({"params": params}, inputs), np.float64)
        top = logits.max(1, keepdims=True)
        logs = logits - top - np.log(np.exp(logits - top).sum(1, keepdims=True))
        losses = -logs[np.arange(120), np.asarray(labels)]
        hits = logits.argmax(1) == np.asarray(labels)
        expected.append((losses.mean(), hits.mean()))
    if vectorized:
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks)
        found = np.stack(program.evaluate(stacked, {}, inputs, labels), 1)
    else:
        found = [program.evaluate(params, {}, inputs, labels) for params in networks]
    np.testing.assert_allclose(found, expected, rtol=2e-6)


def test_an_epoch_depends_on_its_number_and_key_alone(digits):
    program = compile_program(MLP(2, 6, 10), adam(3e-3), 25, False)
    inputs, labels = digits.arrays()
    raw = jax.random.key_data(jax.random.key(0))

    def after(epoch):
        train = program.run(program.init(raw, inputs[:1]), inputs, labels, jnp.uint32(epoch))
        return np.asarray(train.params["output"]["kernel"])

    assert (after(7) == after(7)).all()
    assert (after(7) != after(8)).any()


def test_one_learning_rate_is_one_optimizer():
    assert adam(1e-3) is adam(1e-3)
    assert compile_program(MLP(2, 6, 10), adam(1e-3), 25, False) is compile_program(
        MLP(2, 6, 10), adam(1e-3), 25, False
    )
