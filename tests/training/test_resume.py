"""Interrupted training continues to the same bits, or says why it cannot."""

import dataclasses
import itertools
import json
import os
import re
import shutil
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from landscape.data import load
from landscape.errors import InputError, StoppedError, StorageError
from landscape.models import MLP
from landscape.training import Callback, checkpoints, fit, fit_many
from landscape.training.identity import identity as identity_of

# Whole runs and processes of their own.
pytestmark = pytest.mark.slow

KEY = 0


def stop_after(epochs):
    """Ask for a stop once so many epochs were trained."""
    count = itertools.count(1)
    return lambda: next(count) >= epochs


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def train(model, digits, config, probe):
    return partial(fit, model, digits, config, jax.random.key(KEY), callbacks=[probe])


@pytest.fixture(scope="module")
def undisturbed(train):
    return train()


@pytest.fixture
def stopped(train, tmp_path):
    """A folder with the checkpoint of a run stopped after epoch 3 of 6."""
    folder = tmp_path / "run"
    with pytest.raises(StoppedError):
        train(checkpoint_dir=folder, should_stop=stop_after(3))
    return folder


def test_checkpoints_change_nothing(train, undisturbed, tmp_path, assert_same_bits):
    assert_same_bits(train(checkpoint_dir=tmp_path), undisturbed)
    assert names(tmp_path) == ["epoch-000006"]


# 2 is an epoch with a checkpoint anyway and 3 one with a callback; 5 is the last before the end.
@pytest.mark.parametrize("epoch", [1, 2, 3, 5])
def test_a_stopped_run_continues_to_the_same_bits(
    epoch, train, undisturbed, tmp_path, assert_same_bits
):
    with pytest.raises(StoppedError, match=f"after epoch {epoch} of 6; run again") as caught:
        train(checkpoint_dir=tmp_path, should_stop=stop_after(epoch))
    assert caught.value.exit_code == 75
    assert names(tmp_path) == [f"epoch-{epoch:06d}"]
    trained = []
    run = train(checkpoint_dir=tmp_path, progress=lambda e, *_: trained.append(e))
    assert trained == list(range(epoch + 1, 7))
    assert_same_bits(run, undisturbed)
    assert names(tmp_path) == ["epoch-000006"]


def test_a_run_stopped_after_every_epoch_ends_with_the_same_bits(
    train, undisturbed, tmp_path, assert_same_bits
):
    for _ in range(5):
        with pytest.raises(StoppedError):
            train(checkpoint_dir=tmp_path, should_stop=stop_after(1))
    assert_same_bits(train(checkpoint_dir=tmp_path, should_stop=stop_after(1)), undisturbed)


@pytest.mark.slow
# 3 networks in blocks of 2 and 1: in the first block, between the blocks, in the second.
@pytest.mark.parametrize("epochs", [3, 7, 10])
def test_stopped_blocks_continue_to_the_same_bits(
    epochs, model, digits, config, probe, tmp_path, assert_same_bits
):
    keys = jax.random.split(jax.random.key(KEY), 3)
    train = partial(fit_many, model, digits, config, keys, block_size=2, callbacks=[probe])
    with pytest.raises(StoppedError):
        train(checkpoint_dir=tmp_path, should_stop=stop_after(epochs))
    trained = []
    run = train(checkpoint_dir=tmp_path, progress=lambda *told: trained.append(told))
    assert len(trained) == 12 - epochs, "finished blocks and epochs are not trained again"
    assert_same_bits(run, train())
    assert names(tmp_path) == ["block-00000", "block-00002"]


def test_a_stop_without_a_folder_keeps_nothing_and_says_so(train):
    with pytest.raises(StoppedError, match=r"stopped after epoch 2 of 6$"):
        train(should_stop=stop_after(2))


def test_a_stop_asked_for_in_the_last_epoch_comes_too_late(train, undisturbed, assert_same_bits):
    assert_same_bits(train(should_stop=stop_after(6)), undisturbed)


def test_a_finished_run_is_read_and_not_trained(train, undisturbed, tmp_path, assert_same_bits):
    train(checkpoint_dir=tmp_path)
    before, told = contents(tmp_path), []
    run = train(checkpoint_dir=tmp_path, progress=lambda *values: told.append(values))
    assert_same_bits(run, undisturbed)
    assert told == []
    assert contents(tmp_path) == before


def test_momentum_survives_an_interruption(model, digits, config, tmp_path, assert_same_bits):
    optimizer = optax.sgd(0.05, momentum=0.9)
    train = partial(fit, model, digits, config, jax.random.key(1), optimizer=optimizer)
    with pytest.raises(StoppedError):
        train(checkpoint_dir=tmp_path, should_stop=stop_after(3))
    assert_same_bits(train(checkpoint_dir=tmp_path), train())


def test_checkpoint_every_may_change_at_a_restart(
    stopped, model, digits, config, probe, undisturbed, assert_same_bits
):
    often = dataclasses.replace(config, checkpoint_every=1)
    run = fit(model, digits, often, jax.random.key(KEY), callbacks=[probe], checkpoint_dir=stopped)
    assert_same_bits(dataclasses.replace(run, config=config), undisturbed)


def test_a_function_inside_a_partial_does_not_name_the_run_by_its_address(digits, config):
    def name(slope):
        # A fresh function object stands for the same function in another process.
        def leaky(x, slope):
            return jax.nn.leaky_relu(x, slope)

        model = MLP(1, 6, 10, activation=partial(leaky, slope=slope))
        key = jax.random.key_data(jax.random.key(0))
        return identity_of(model, config, None, digits.digest, key, "", ())

    assert name(0.1) == name(0.1)
    assert name(0.1) != name(0.2)


@pytest.mark.parametrize(
    "change",
    ["key", "data", "epochs", "batch_size", "learning_rate", "model", "callbacks", "optimizer"],
)
def test_a_checkpoint_of_another_run_is_refused(change, stopped, model, digits, config, probe):
    arguments = {
        "model": model,
        "dataset": digits,
        "config": config,
        "key": jax.random.key(KEY),
        "callbacks": [probe],
    }
    arguments |= {
        "key": {"key": jax.random.key(KEY + 1)},
        "data": {"dataset": load("digits").subset(120, seed=1).standardized()},
        "epochs": {"config": dataclasses.replace(config, epochs=7)},
        "batch_size": {"config": dataclasses.replace(config, batch_size=24)},
        "learning_rate": {"config": dataclasses.replace(config, learning_rate=2e-3)},
        "model": {"model": MLP(2, 6, 10, skip="identity")},
        "callbacks": {"callbacks": []},
        "optimizer": {"optimizer": optax.adam(3e-3)},
    }[change]
    before = contents(stopped)
    with pytest.raises(InputError, match="belongs to another configuration") as caught:
        fit(**arguments, checkpoint_dir=stopped)
    assert str(stopped / "epoch-000003") in str(caught.value)
    assert contents(stopped) == before


@pytest.mark.slow
def test_a_checkpoint_of_another_skip_matrix_is_refused(digits, config, tmp_path):
    def train(skip, **options):
        model = MLP(2, 6, 10, skip=skip)
        return fit(model, digits, config, jax.random.key(0), checkpoint_dir=tmp_path, **options)

    matrix = np.eye(6)[::-1].copy()
    with pytest.raises(StoppedError):
        train(matrix, should_stop=stop_after(1))
    matrix[2, 2] = 1e-3
    with pytest.raises(InputError, match="belongs to another configuration"):
        train(matrix)


def flip_a_byte(checkpoint):
    path = max((p for p in (checkpoint / "arrays").rglob("*") if p.is_file()), key=size_of)
    content = bytearray(path.read_bytes())
    for index in range(len(content) // 4, len(content), 7):
        content[index] ^= 0x10
    path.write_bytes(content)


def size_of(path: Path):
    return path.stat().st_size


def truncate_the_arrays(checkpoint):
    path = max((p for p in (checkpoint / "arrays").rglob("*") if p.is_file()), key=size_of)
    path.write_bytes(path.read_bytes()[: size_of(path) // 2])


def remove_the_arrays(checkpoint):
    shutil.rmtree(checkpoint / "arrays")


def truncate_the_manifest(checkpoint):
    path = checkpoint / "manifest.json"
    path.write_bytes(path.read_bytes()[: size_of(path) // 2])


def remove_the_manifest(checkpoint):
    (checkpoint / "manifest.json").unlink()


def change_the_manifest(checkpoint, **values):
    path = checkpoint / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_byte,
        truncate_the_arrays,
        remove_the_arrays,
        truncate_the_manifest,
        remove_the_manifest,
        partial(change_the_manifest, sha256="0" * 64),
        partial(change_the_manifest, epoch=2),
        partial(change_the_manifest, epoch="3"),
        partial(change_the_manifest, empty=None),
    ],
    ids=[
        "bytes flipped", "arrays truncated", "no arrays", "manifest truncated", "no manifest",
        "other checksum", "other epoch", "epoch as text", "no list of empty arrays",
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_is_named_and_left_alone(damage, stopped, train):
    checkpoint = stopped / "epoch-000003"
    damage(checkpoint)
    before = contents(stopped)
    with pytest.raises(StorageError, match="is damaged; delete that folder") as caught:
        train(checkpoint_dir=stopped)
    assert str(checkpoint) in str(caught.value)
    assert contents(stopped) == before


def test_deleting_the_damaged_folder_trains_from_the_start(
    stopped, train, undisturbed, assert_same_bits
):
    flip_a_byte(stopped / "epoch-000003")
    shutil.rmtree(stopped / "epoch-000003")
    assert_same_bits(train(checkpoint_dir=stopped), undisturbed)


def test_another_format_is_refused_and_left_alone(stopped, train):
    checkpoint = stopped / "epoch-000003"
    change_the_manifest(checkpoint, format=checkpoints.FORMAT + 1)
    before = contents(stopped)
    expected = re.escape(f"{checkpoint} has format 2; this version reads format 1")
    with pytest.raises(InputError, match=expected):
        train(checkpoint_dir=stopped)
    assert contents(stopped) == before


def test_a_file_in_place_of_the_folder_is_a_storage_error(train, tmp_path):
    path = tmp_path / "occupied"
    path.write_text("mine")
    with pytest.raises(StorageError, match=re.escape(str(path))):
        train(checkpoint_dir=path)
    assert path.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_a_storage_error(train, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match=re.escape(str(tmp_path))):
        train(checkpoint_dir=tmp_path)
    tmp_path.chmod(0o700)


class FullDisk:
    """What TensorStore reports through Orbax when the disk is full, and leaves behind."""

    def save(self, path, payload):
        path.mkdir()
        (path / "half").write_bytes(b"x")
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device\nand a page of details")


def test_a_full_disk_is_a_storage_error_and_keeps_the_last_checkpoint(
    stopped, train, undisturbed, monkeypatch, assert_same_bits
):
    before = contents(stopped)
    with monkeypatch.context() as patch:
        orbax = checkpoints._orbax()
        full = FullDisk()
        full.load = orbax.load
        patch.setattr(checkpoints, "_orbax", lambda: full)
        with pytest.raises(
            StorageError, match=r"cannot write a checkpoint to .*No space"
        ) as caught:
            train(checkpoint_dir=stopped)
    assert "\n" not in str(caught.value)
    assert contents(stopped) == before
    assert names(stopped) == ["epoch-000003"]
    assert_same_bits(train(checkpoint_dir=stopped), undisturbed)


@pytest.mark.parametrize(
    ("interruption", "reported"),
    [(OSError("gone"), StorageError), (KeyboardInterrupt(), KeyboardInterrupt)],
    ids=["disk", "kill"],
)
def test_an_interrupted_rename_keeps_the_last_checkpoint(
    interruption, reported, stopped, train, undisturbed, monkeypatch, assert_same_bits
):
    def fail(self, target):
        raise interruption

    before = contents(stopped)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail)
        with pytest.raises(reported):
            train(checkpoint_dir=stopped)
    assert contents(stopped) == before
    assert_same_bits(train(checkpoint_dir=stopped), undisturbed)


def test_what_a_killed_process_left_is_ignored_and_cleared(
    stopped, train, undisturbed, assert_same_bits
):
    half = stopped / ".writing-killed" / "arrays"
    half.mkdir(parents=True)
    (half / "data").write_bytes(b"half")
    assert_same_bits(train(checkpoint_dir=stopped), undisturbed)
    assert names(stopped) == ["epoch-000006"]


def test_the_newest_of_two_checkpoints_counts(
    train, undisturbed, tmp_path, stopped, assert_same_bits
):
    """A kill between the rename and the removal of the older one leaves both."""
    folder = tmp_path / "killed"
    with pytest.raises(StoppedError):
        train(checkpoint_dir=folder, should_stop=stop_after(2))
    shutil.copytree(stopped / "epoch-000003", folder / "epoch-000003")
    trained = []
    run = train(checkpoint_dir=folder, progress=lambda epoch, *_: trained.append(epoch))
    assert trained == [4, 5, 6]
    assert_same_bits(run, undisturbed)
    assert names(folder) == ["epoch-000006"]


def test_callbacks_are_not_called_again_for_finished_epochs(model, digits, config, tmp_path):
    called = []
    callback = Callback("watch", (0, 2, 4), lambda s: called.append(s.epoch) or {"epoch": s.epoch})
    train = partial(
        fit, model, digits, config, jax.random.key(0), callbacks=[callback],
        checkpoint_dir=tmp_path,
    )  # fmt: skip
    with pytest.raises(StoppedError):
        train(should_stop=stop_after(3))
    assert train().records["watch/epoch"].tolist() == [0, 2, 4]
    assert called == [0, 2, 4]


@pytest.mark.parametrize("what", ["optimizer", "function"])
def test_closures_are_told_apart_by_what_they_compute(what, digits, config, tmp_path):
    def train(value, **options):
        activation = (lambda x: jnp.tanh(value * x)) if what == "function" else "relu"
        optimizer = optax.sgd(value) if what == "optimizer" else None
        model = MLP(2, 6, 10, activation=activation)
        key = jax.random.key(0)
        options |= {"checkpoint_dir": tmp_path, "optimizer": optimizer}
        return fit(model, digits, config, key, **options)

    with pytest.raises(StoppedError):
        train(0.1, should_stop=stop_after(1))
    with pytest.raises(InputError, match="belongs to another configuration"):
        train(0.2)
    assert np.isfinite(train(0.1).loss).all()
