import dataclasses
import itertools
import logging

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from landscape.data import load
from landscape.errors import InputError
from landscape.models import MLP
from landscape.training import Callback, TrainConfig, fit, fit_many, softmax_cross_entropy
from landscape.training.epoch import adam, compile_program


class BatchNormed(nn.Module):
    """Dense, BatchNorm, Dense."""

    @nn.compact
    def __call__(self, inputs, train=False):
        x = nn.Dense(6, name="first")(inputs.reshape(inputs.shape[0], -1))
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)
        return nn.Dense(10, name="last")(nn.relu(x))


@dataclasses.dataclass
class Numbered:
    """N examples whose only input is their number."""

    size: int

    @property
    def digest(self):
        return f"numbered {self.size}"

    def arrays(self):
        return jnp.arange(self.size, dtype=jnp.float32)[:, None], jnp.zeros(self.size, jnp.int32)


class Visits(nn.Module):
    """Counts in its state how often each example was trained on, and keeps the last batch."""

    size: int
    batch_size: int

    @nn.compact
    def __call__(self, inputs, train=False):
        counts = self.variable("visits", "counts", jnp.zeros, (self.size,), jnp.int32)
        last = self.variable("visits", "last", jnp.zeros, (self.batch_size,), jnp.int32)
        if train:
            numbers = inputs[:, 0].astype(jnp.int32)
            counts.value = counts.value.at[numbers].add(1)
            last.value = numbers
        return nn.Dense(2)(inputs)


def numpy_cross_entropy(logits, labels):
    logits = np.asarray(logits, np.float64)
    top = logits.max(1, keepdims=True)
    log_total = np.log(np.exp(logits - top).sum(1)) + top[:, 0]
    return log_total - logits[np.arange(len(labels)), np.asarray(labels)]


def final_difference(first, second):
    pairs = zip(jax.tree.leaves(first.params), jax.tree.leaves(second.params), strict=True)
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)


def test_loss_falls_and_accuracy_rises(model, digits):
    config = TrainConfig(epochs=60, batch_size=25, learning_rate=3e-3)
    run = fit(model, digits, config, jax.random.key(0))
    assert run.loss[-1] < 0.5 * run.loss[0]
    assert run.accuracy[-1] > run.accuracy[0] + 0.4
    assert run.epochs.tolist() == list(range(61))


def test_one_key_gives_the_same_bits_twice(model, digits, config, probe, assert_same_bits):
    key = jax.random.key(3)
    first = fit(model, digits, config, key, callbacks=[probe])
    assert_same_bits(first, fit(model, digits, config, key, callbacks=[probe]))


def test_another_key_gives_another_network_and_another_order(model, digits, config):
    first, second = (fit(model, digits, config, jax.random.key(seed)) for seed in (0, 1))
    assert first.loss[0] != second.loss[0]
    assert final_difference(first, second) > 1e-2


def test_epoch_zero_describes_the_initial_network(model, digits, config):
    key = jax.random.key(5)
    inputs, labels = digits.arrays()
    logits = model.apply(model.init(key, inputs[:1]), inputs)
    run = fit(model, digits, config, key)
    np.testing.assert_allclose(run.loss[0], numpy_cross_entropy(logits, labels).mean(), rtol=1e-6)
    hits = np.asarray(logits).argmax(1) == np.asarray(labels)
    np.testing.assert_allclose(run.accuracy[0], hits.mean(), rtol=1e-6)


def test_last_recorded_loss_is_that_of_the_returned_parameters(model, digits, config):
    run = fit(model, digits, config, jax.random.key(5))
    loss = softmax_cross_entropy(model)(run.params, run.state, digits.arrays())
    np.testing.assert_allclose(run.loss[-1], loss, rtol=1e-6)


def test_no_epochs_return_the_initial_network(model, digits):
    key = jax.random.key(0)
    run = fit(model, digits, TrainConfig(epochs=0, batch_size=25), key)
    assert run.loss.shape == run.epochs.shape == (1,)
    expected = model.init(key, digits.arrays()[0][:1])["params"]
    for a, b in zip(jax.tree.leaves(run.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)


@pytest.mark.slow
def test_adam_follows_the_published_update(digits):
    """Full batches: Algorithm 1 of Kingma and Ba (arXiv:1412.6980), gradients in float64."""
    model, key, rate, steps = MLP(2, 6, 10, activation="tanh"), jax.random.key(2), 3e-3, 3
    inputs, labels = digits.arrays()
    start = model.init(key, inputs[:1])["params"]
    with jax.enable_x64(True):
        wide = jnp.asarray(np.asarray(inputs), jnp.float64)
        params, structure = jax.tree.flatten(
            jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), start)
        )

        def loss(leaves):
            logits = model.apply({"params": jax.tree.unflatten(structure, leaves)}, wide)
            picked = jnp.take_along_axis(logits, jnp.asarray(labels)[:, None], 1)[:, 0]
            return (jax.scipy.special.logsumexp(logits, 1) - picked).mean()

        derivative = jax.jit(jax.grad(loss))
        first = [np.zeros_like(leaf) for leaf in params]
        second = [np.zeros_like(leaf) for leaf in params]
        for step in range(1, steps + 1):
            gradient = [np.asarray(g) for g in derivative([jnp.asarray(x) for x in params])]
            first = [0.9 * m + 0.1 * g for m, g in zip(first, gradient, strict=True)]
            second = [0.999 * v + 0.001 * g**2 for v, g in zip(second, gradient, strict=True)]
            params = [
                x - rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
                for x, m, v in zip(params, first, second, strict=True)
            ]
    config = TrainConfig(epochs=steps, batch_size=120, learning_rate=rate)
    run = fit(model, digits, config, key)
    for found, expected in zip(jax.tree.leaves(run.params), params, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    moved = final_difference(run, dataclasses.replace(run, params=start))
    assert moved > 2 * rate


def test_every_example_is_visited_in_every_epoch_and_the_last_batch_is_filled_up():
    size, batch_size, epochs = 11, 4, 5
    callback = Callback("visits", range(epochs + 1), lambda snapshot: snapshot.state["visits"])
    config = TrainConfig(epochs=epochs, batch_size=batch_size)
    model = Visits(size, batch_size)
    run = fit(model, Numbered(size), config, jax.random.key(0), callbacks=[callback])
    counts = run.records["visits/counts"]
    assert counts.shape == (epochs + 1, size)
    per_epoch = np.diff(counts, axis=0)
    # 3 batches of 4 for 11 examples: one example a second time, the rest once.
    assert (np.sort(per_epoch, axis=1) == [1] * 10 + [2]).all()
    last = run.records["visits/last"][1:]
    assert (per_epoch[np.arange(epochs), last[:, -1]] == 2).all()
    assert len({tuple(row) for row in last}) == epochs, "the order is drawn anew each epoch"


@pytest.mark.slow
def test_fit_many_equals_fit_in_a_loop(model, digits):
    config = TrainConfig(epochs=2, batch_size=25, learning_rate=3e-3)
    keys = jax.random.split(jax.random.key(0), 3)
    looped = [fit(model, digits, config, key) for key in keys]
    for block_size in (None, 2):
        many = fit_many(model, digits, config, keys, block_size=block_size)
        assert many.loss.shape == many.accuracy.shape == (3, 3)
        assert many.epochs.shape == (3,)
        for index, run in enumerate(looped):
            pairs = zip(jax.tree.leaves(many.params), jax.tree.leaves(run.params), strict=True)
            assert max(float(abs(a[index] - b).max()) for a, b in pairs) < 1e-5
            np.testing.assert_allclose(many.loss[index], run.loss, atol=1e-5)


def test_blocks_of_one_do_not_depend_on_the_other_keys(model, digits, config):
    keys = jax.random.split(jax.random.key(0), 3)
    together = fit_many(model, digits, config, keys, block_size=1)
    for index in range(3):
        alone = fit_many(model, digits, config, keys[index : index + 1], block_size=1)
        assert (together.loss[index] == alone.loss[0]).all()
        for a, b in zip(
            jax.tree.leaves(together.params), jax.tree.leaves(alone.params), strict=True
        ):
            assert (a[index] == b[0]).all()


@pytest.mark.slow
def test_nothing_compiles_for_another_key_or_another_data_set_of_the_same_shape(digits, caplog):
    model, config = MLP(2, 7, 10), TrainConfig(epochs=2, batch_size=25, learning_rate=3e-3)
    fit(model, digits, config, jax.random.key(0))
    other = load("digits").subset(120, seed=1).standardized()
    other.arrays()
    with jax.log_compiles(), caplog.at_level(logging.DEBUG):
        fit(model, other, config, jax.random.key(1))
        assert not [r for r in caplog.records if "ompil" in r.getMessage()]
        jax.jit(lambda x: x + 17)(1.0)
        assert [r for r in caplog.records if "ompil" in r.getMessage()], "compilation is logged"
    program = compile_program(MLP(2, 7, 10), adam(3e-3), 25, False, "threefry2x32")
    sizes = [f._cache_size() for f in (program.init, program.run, program.evaluate)]
    assert sizes == [1, 1, 1]


@pytest.mark.slow
def test_keys_of_another_generator_train_and_give_other_numbers(model, digits, config):
    runs = [
        fit(model, digits, config, jax.random.key(0, impl=impl)) for impl in ("threefry2x32", "rbg")
    ]
    assert not (runs[0].loss == runs[1].loss).any()
    many = fit_many(model, digits, config, jax.random.split(jax.random.key(0, impl="rbg"), 2))
    assert np.isfinite(many.loss).all()


def test_snapshots_stay_valid_and_the_key_is_left_alone(model, digits, config):
    kept, key = [], jax.random.key(0)

    def keep(snapshot):
        kept.append(snapshot)
        return {}

    run = fit(model, digits, config, key, callbacks=[Callback("keep", range(7), keep)])
    assert [snapshot.epoch for snapshot in kept] == list(range(7))
    values = [np.asarray(snapshot.params["hidden"]["kernel"]) for snapshot in kept]
    assert all((a != b).any() for a, b in itertools.pairwise(values))
    initial = model.init(jax.random.key(0), digits.arrays()[0][:1])["params"]
    np.testing.assert_allclose(values[0], initial["hidden"]["kernel"], atol=1e-7)
    assert (values[-1] == run.params["hidden"]["kernel"]).all()
    assert jax.random.key_data(key).tolist() == jax.random.key_data(jax.random.key(0)).tolist()


def test_epoch_program_gives_up_the_state_it_is_given(model, digits):
    program = compile_program(model, adam(3e-3), 25, False)
    inputs, labels = digits.arrays()
    train = program.init(jax.random.key_data(jax.random.key(0)), inputs[:1])
    program.run(train, inputs, labels, jnp.uint32(1))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(train.params))


def test_callbacks_are_recorded_at_their_epochs(model, digits, config, probe):
    seen = []

    def watch(snapshot):
        seen.append((snapshot.epoch, snapshot.loss, snapshot.accuracy))
        return {"epoch": snapshot.epoch}

    watcher = Callback("watch", [1, 6], watch)
    run = fit(model, digits, config, jax.random.key(0), callbacks=[probe, watcher])
    assert set(run.records) == {"probe/bias", "probe/norm", "watch/epoch"}
    assert run.records["probe/bias"].shape == (3, 6)
    assert run.records["probe/norm"].shape == (3,)
    assert run.records["watch/epoch"].tolist() == [1, 6]
    assert (run.records["probe/bias"][-1] == run.params["input"]["bias"]).all()
    assert (run.records["probe/bias"][0] == 0).all()
    assert seen == [(e, float(run.loss[e]), float(run.accuracy[e])) for e in (1, 6)]
    assert {k: v.tolist() for k, v in run.record_epochs.items()} == {
        "probe": list(probe.epochs), "watch": [1, 6],
    }  # fmt: skip
    table = run.to_xarray()
    assert table["epoch_of_watch"].values.tolist() == [1, 6]
    assert float(table["probe_norm"].sel(epoch_of_probe=6)) == run.records["probe/norm"][-1]


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (lambda at: 1.0, "a mapping of names to arrays, such as .*; got a float"),
        (lambda at: None, "got a NoneType"),
        (lambda at: {"word": "flat"}, "arrays of numbers; 'word' is a str"),
        (
            lambda at: {"a": np.ones(at.epoch + 1)},
            r"gave {'a': \(1,\)} at first, and {'a': \(3,\)}",
        ),
        (lambda at: {f"at {at.epoch}": 1.0}, "names and shapes must not change"),
    ],
)
def test_what_a_callback_gives_is_checked_at_once(model, digits, config, found, told):
    callback = Callback("mine", [0, 2], found)
    with pytest.raises(InputError, match=told):
        fit(model, digits, config, jax.random.key(0), callbacks=[callback])


@pytest.mark.parametrize("block_size", [1, 2, 3])
def test_a_callback_may_be_given_all_networks_of_a_block_together(
    model, digits, config, block_size
):
    calls = []

    def biases(snapshot):
        calls.append(snapshot.loss.shape)
        return {"bias": snapshot.params["input"]["bias"], "loss": snapshot.loss}

    keys = jax.random.split(jax.random.key(0), 3)
    whole = Callback("whole", [0, 2], biases, together=True)
    one_by_one = Callback("each", [0, 2], lambda s: {"bias": s.params["input"]["bias"]})
    run = fit_many(
        model, digits, config, keys, block_size=block_size, callbacks=[whole, one_by_one]
    )
    np.testing.assert_array_equal(run.records["whole/bias"], run.records["each/bias"])
    np.testing.assert_array_equal(run.records["whole/loss"], run.loss[:, [0, 2]])
    assert len(calls) == 2 * -(-3 // block_size)
    alone = fit(model, digits, config, keys[0], callbacks=[whole])
    assert alone.records["whole/bias"].shape == (2, 6)
    np.testing.assert_array_equal(alone.records["whole/loss"], alone.loss[[0, 2]])


def test_a_callback_must_return_a_row_for_each_network(model, digits, config):
    callback = Callback("mean", [0], lambda s: {"loss": s.loss.mean()}, together=True)
    keys = jax.random.split(jax.random.key(0), 3)
    with pytest.raises(InputError, match=r"is given 3 networks .* 'loss' has shape \(\)"):
        fit_many(model, digits, config, keys, block_size=3, callbacks=[callback])


@pytest.mark.parametrize("block_size", [1, 2])
def test_callbacks_of_many_networks_have_a_leading_axis(model, digits, config, probe, block_size):
    keys = jax.random.split(jax.random.key(0), 3)
    losses = Callback("seen", [2], lambda snapshot: {"loss": snapshot.loss})
    run = fit_many(model, digits, config, keys, block_size=block_size, callbacks=[probe, losses])
    assert run.records["probe/bias"].shape == (3, 3, 6)
    assert run.records["probe/norm"].shape == (3, 3)
    assert (run.records["probe/bias"][:, -1] == run.params["input"]["bias"]).all()
    np.testing.assert_array_equal(run.records["seen/loss"][:, 0], run.loss[:, 2])
    assert len(set(run.loss[:, 2].tolist())) == 3


def test_custom_optimizer_is_used(model, digits):
    key, inputs_labels = jax.random.key(4), digits.arrays()
    start = model.init(key, inputs_labels[0][:1])["params"]
    config = TrainConfig(epochs=1, batch_size=120)
    run = fit(model, digits, config, key, optimizer=optax.sgd(0.1))
    gradient = jax.jit(jax.grad(softmax_cross_entropy(model)))(start, {}, inputs_labels)
    expected = jax.tree.map(lambda x, g: x - 0.1 * g, start, gradient)
    assert final_difference(run, dataclasses.replace(run, params=expected)) < 1e-6


def test_batch_statistics_are_updated_in_training_and_used_in_evaluation(digits):
    model, key = BatchNormed(), jax.random.key(0)
    inputs, labels = digits.arrays()
    start = model.init(key, inputs[:1])
    run = fit(model, digits, TrainConfig(epochs=1, batch_size=120), key)
    first = start["params"]["first"]
    hidden = np.asarray(inputs, np.float64).reshape(120, -1) @ np.asarray(first["kernel"])
    found = run.state["batch_stats"]["norm"]
    np.testing.assert_allclose(found["mean"], 0.1 * hidden.mean(0), atol=1e-5)
    np.testing.assert_allclose(found["var"], 0.9 + 0.1 * hidden.var(0), rtol=1e-4)
    logits = model.apply({"params": run.params, **run.state}, inputs)
    np.testing.assert_allclose(run.loss[-1], numpy_cross_entropy(logits, labels).mean(), rtol=1e-5)


@pytest.mark.slow
def test_batch_statistics_of_many_networks_are_their_own(digits):
    keys = jax.random.split(jax.random.key(0), 2)
    config = TrainConfig(epochs=2, batch_size=120)
    many = fit_many(BatchNormed(), digits, config, keys, block_size=2)
    for index, key in enumerate(keys):
        one = fit(BatchNormed(), digits, config, key)
        found = many.state["batch_stats"]["norm"]["var"][index]
        np.testing.assert_allclose(found, one.state["batch_stats"]["norm"]["var"], rtol=1e-4)


def test_fixed_matrices_are_not_trained(digits, config):
    model, key = MLP(2, 6, 10, skip=np.eye(6)[::-1]), jax.random.key(0)
    start = model.init(key, digits.arrays()[0][:1])
    run = fit(model, digits, config, key)
    assert (run.state["fixed"]["skip"] == start["fixed"]["skip"]).all()


def test_progress_is_told_after_each_epoch(model, digits, config):
    told = []
    run = fit(
        model, digits, config, jax.random.key(0), progress=lambda *values: told.append(values)
    )
    expected = zip(range(1, 7), run.loss[1:].tolist(), run.accuracy[1:].tolist(), strict=True)
    assert told == list(expected)


def test_progress_bar_leaves_standard_output_alone(model, digits, config, capsys):
    fit(model, digits, config, jax.random.key(0), progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "training" in err or "loss" in err


@pytest.mark.parametrize("epoch", [-1, 7])
def test_callback_outside_the_run_is_refused(model, digits, config, epoch):
    callback = Callback("late", [0, epoch], lambda snapshot: {})
    with pytest.raises(InputError, match=rf"'late' asks for epochs \[{epoch}\].*0 to 6"):
        fit(model, digits, config, jax.random.key(0), callbacks=[callback])


def test_batch_larger_than_the_data_is_refused(model, digits):
    config = TrainConfig(epochs=1, batch_size=121)
    with pytest.raises(InputError, match="121 is larger than the 120"):
        fit(model, digits, config, jax.random.key(0))
    with pytest.raises(InputError, match="121 is larger than the 120"):
        fit_many(model, digits, config, jax.random.split(jax.random.key(0), 2))


def test_empty_data_are_refused(config):
    with pytest.raises(InputError, match="empty"):
        fit(Visits(1, 1), Numbered(0), config, jax.random.key(0))


def test_many_keys_are_refused_by_fit_and_one_by_fit_many(model, digits, config):
    keys = jax.random.split(jax.random.key(0), 3)
    with pytest.raises(InputError, match="use fit_many"):
        fit(model, digits, config, keys)
    for wrong in (jax.random.key(0), keys[:0]):
        with pytest.raises(InputError, match="array of keys"):
            fit_many(model, digits, config, wrong)


def test_block_size_below_one_is_refused(model, digits, config):
    keys = jax.random.split(jax.random.key(0), 3)
    with pytest.raises(InputError, match="block_size must be at least 1; got 0"):
        fit_many(model, digits, config, keys, block_size=0)


def test_run_prints_in_a_line(model, digits, config):
    run = fit_many(model, digits, config, jax.random.split(jax.random.key(0), 2))
    assert repr(run).startswith("TrainingRun(2 networks, 6 epochs, final loss ")


def test_labels_without_a_logit_are_refused(digits, config):
    with pytest.raises(InputError, match=r"labels go from 0 to 9.* 3 logits.*at least 10"):
        fit(MLP(2, 6, 3), digits, config, jax.random.key(0))


def test_two_callbacks_of_one_name_are_refused(model, digits, config):
    callbacks = [Callback("same", [0], lambda snapshot: {}) for _ in range(2)]
    with pytest.raises(InputError, match="same name"):
        fit(model, digits, config, jax.random.key(0), callbacks=callbacks)


def test_a_run_that_diverges_says_so(model, digits, caplog):
    config = TrainConfig(epochs=1, batch_size=25, learning_rate=float("inf"))
    run = fit(model, digits, config, jax.random.key(0))
    assert not np.isfinite(run.loss).all()
    assert "infinite or NaN" in caplog.text
