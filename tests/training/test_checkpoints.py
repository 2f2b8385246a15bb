from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape.errors import InputError
from landscape.training.checkpoints import load_checkpoint, save_checkpoint

TREE = {
    "kernel": jnp.arange(6, dtype=jnp.float32).reshape(2, 3),
    "half": jnp.ones(3, jnp.bfloat16),
    "count": jnp.int32(7),
    "none": jnp.zeros((0, 4)),
    "nested": (jnp.array([True, False]), {"nan": jnp.array([np.nan, -0.0])}),
}
HISTORY = {
    "loss": np.array([2.5, 1.5]),
    "spectrum/τ = 0.1": np.ones((2, 3), np.float32),
    "a.b/c": np.zeros((2, 0)),
}


def test_a_checkpoint_comes_back_with_its_bits_types_and_shapes(tmp_path):
    save_checkpoint(tmp_path, 12, TREE, HISTORY, "me")
    epoch, tree, history = load_checkpoint(tmp_path, TREE, "me")
    assert epoch == 12
    assert jax.tree.structure(tree) == jax.tree.structure(TREE)
    for found, expected in zip(jax.tree.leaves(tree), jax.tree.leaves(TREE), strict=True):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == np.asarray(expected).tobytes()
    assert history.keys() == HISTORY.keys()
    for name, expected in HISTORY.items():
        assert history[name].dtype == expected.dtype
        np.testing.assert_array_equal(history[name], expected)


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_no_checkpoint_is_none(tmp_path, name):
    (tmp_path / "empty").mkdir()
    assert load_checkpoint(tmp_path / name, TREE, "me") is None


def test_only_the_newest_is_kept(tmp_path):
    for epoch in (1, 2, 10):
        save_checkpoint(tmp_path, epoch, {"x": jnp.float32(epoch)}, {}, "me")
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-000010"]
    assert load_checkpoint(tmp_path, {"x": jnp.float32(0)}, "me")[1]["x"] == 10


def test_saving_an_epoch_again_replaces_it(tmp_path):
    for value in (1.0, 2.0):
        save_checkpoint(tmp_path, 3, {"x": jnp.float32(value)}, {}, "me")
    assert load_checkpoint(tmp_path, {"x": jnp.float32(0)}, "me")[1]["x"] == 2


@pytest.mark.parametrize("like", [{"x": jnp.zeros(2)}, {"x": jnp.zeros(3), "y": jnp.zeros(3)}])
def test_arrays_of_other_shapes_are_refused(tmp_path, like):
    save_checkpoint(tmp_path, 1, {"x": jnp.zeros(3)}, {}, "me")
    with pytest.raises(InputError, match="other shapes than this model's"):
        load_checkpoint(tmp_path, like, "me")


def test_other_files_in_the_folder_are_left_alone(tmp_path):
    (tmp_path / "epoch-notes").write_text("mine")
    save_checkpoint(tmp_path, 1, {"x": jnp.zeros(3)}, {}, "me")
    save_checkpoint(tmp_path, 2, {"x": jnp.zeros(3)}, {}, "me")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-000002", "epoch-notes"]


def test_threads_write_side_by_side(tmp_path):
    tree = {name: np.full((8, 8), index, np.float32) for index, name in enumerate("abcd")}

    def save(thread):
        for epoch in range(1, 9):
            save_checkpoint(tmp_path / str(thread), epoch, tree, {}, "me")
            found = load_checkpoint(tmp_path / str(thread), tree, "me")
            assert found[0] == epoch

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(save, range(3)))


def test_a_relative_folder_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree = {"a": jnp.arange(3.0)}
    save_checkpoint(Path("run"), 2, tree, {"loss": np.zeros(3)}, "me")
    epoch, found, _ = load_checkpoint(Path("run"), tree, "me")
    assert epoch == 2
    np.testing.assert_array_equal(found["a"], tree["a"])
