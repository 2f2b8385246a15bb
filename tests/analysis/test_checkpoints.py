"""Checkpoints of every format give the parameters that were saved; others are refused by name."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from landscape.analysis.checkpoints import digest, find_checkpoints, load_checkpoint
from landscape.curvature import Problem
from landscape.errors import InputError, StoppedError
from landscape.models import MLP, ResNet
from landscape.training import softmax_cross_entropy


def problem(seed=0, model=None, **options):
    model = model or MLP(3, 4, 2)
    shape = (5, 8, 8, 1) if isinstance(model, ResNet) else (5, 3)
    x = jax.random.normal(jax.random.key(0), shape)
    variables = dict(model.init(jax.random.key(seed), x))
    params = variables.pop("params")
    batch = (x, jnp.zeros(5, int))
    return Problem(softmax_cross_entropy(model), params, batch, variables, model=model, **options)


def flat(tree, separator="/"):
    return {k: np.asarray(v) for k, v in flatten_dict(tree, sep=separator).items()}


def same(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


FORMATS = {
    "npz": lambda tree, path: np.savez(path, **flat(tree)),
    "dots.npz": lambda tree, path: np.savez(path, **flat(tree, ".")),
    "safetensors": lambda tree, path: save_file(flat(tree, "."), path),
    "orbax": lambda tree, path: orbax.checkpoint.PyTreeCheckpointer().save(path.absolute(), tree),
}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("key", ["", "params", "state/inner"])
def test_what_was_saved_comes_back(kind, key, tmp_path):
    saved, template = problem(seed=1), problem(seed=2)
    tree = saved.params
    for name in reversed([part for part in key.split("/") if part]):
        tree = {name: tree}
    path = tmp_path / f"checkpoint.{kind}"
    FORMATS[kind](tree, path)
    params, state = load_checkpoint(path, template, key if "/" in key else "")
    same(params, saved.params)
    same(state, template.state)


def test_a_train_state_with_statistics(tmp_path):
    saved, template = (problem(seed, ResNet(8, 2, width=2)) for seed in (1, 2))
    saved = dataclasses.replace(saved, state=jax.tree.map(lambda leaf: leaf + 3, saved.state))
    opt = optax.adam(1e-3).init(saved.params)
    tree = {"step": 7, "params": saved.params, **saved.state, "opt_state": opt}
    path = tmp_path / "1000"
    orbax.checkpoint.PyTreeCheckpointer().save(path.absolute() / "default", tree)
    params, state = load_checkpoint(path, template)
    same(params, saved.params)
    same(state, saved.state)


def _saved_by_a_manager(tree, path, kind):
    """Where it is, in the layouts of Orbax's managers and of its second interface."""
    if kind == "composite":
        with orbax.checkpoint.CheckpointManager(path.absolute()) as manager:
            parts = {
                "params": orbax.checkpoint.args.StandardSave(tree),
                "extra": orbax.checkpoint.args.JsonSave({"step": 3}),
            }
            manager.save(3, args=orbax.checkpoint.args.Composite(**parts))
        return path / "3"
    from orbax.checkpoint import v1

    if kind == "pytree":
        v1.save_pytree(path.absolute(), tree)
        return path
    with v1.training.Checkpointer(path.absolute()) as manager:
        manager.save_pytree(3, tree)
    return path / "3"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["composite", "pytree", "training"])
def test_what_managers_have_saved_comes_back(kind, tmp_path):
    saved, template = problem(seed=1), problem(seed=2)
    place = _saved_by_a_manager(saved.params, tmp_path / "run", kind)
    same(load_checkpoint(place, template)[0], saved.params)


def test_lists_and_variables_of_nnx_come_back(tmp_path):
    def listed(scale):
        return [(scale * jnp.ones((2, 3)), scale * jnp.ones(3)), scale * jnp.arange(2.0)]

    def loss(params, batch):
        return jnp.sum(params[1])

    with orbax.checkpoint.StandardCheckpointer() as saver:
        saver.save((tmp_path / "list").absolute(), listed(2.0))
    template = Problem(loss, listed(1.0), jnp.ones(1))
    same(load_checkpoint(tmp_path / "list", template)[0], listed(2.0))

    first, second = (nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(seed))) for seed in (0, 1))
    with orbax.checkpoint.StandardCheckpointer() as saver:
        saver.save((tmp_path / "nnx").absolute(), first)
    found, _ = load_checkpoint(tmp_path / "nnx", Problem(loss, second, jnp.ones(1)))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(first), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_else_is_in_a_file_may_be_of_any_type(tmp_path):
    saved = problem(seed=1)
    names = {**flat(saved.params), "notes": np.array([{"any": "thing"}], object)}
    np.savez(tmp_path / "a.npz", **names)
    same(load_checkpoint(tmp_path / "a.npz", problem(seed=2))[0], saved.params)
    header = dict(safetensors_entries(flat(saved.params)), strange={"dtype": "F8_E4M3", "size": 4})
    write_safetensors(tmp_path / "a.safetensors", header)
    same(load_checkpoint(tmp_path / "a.safetensors", problem(seed=2))[0], saved.params)
    (tmp_path / "b.npz").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"b.npz cannot be read: it is damaged, or no .npz file"):
        load_checkpoint(tmp_path / "b.npz", problem(seed=2))


def safetensors_entries(arrays):
    return {name: {"dtype": "F32", "array": array} for name, array in arrays.items()}


def write_safetensors(path, entries):
    """By hand, as the format says: NumPy lacks some of its types."""
    header, body = {}, b""
    for name, entry in entries.items():
        array = entry.get("array")
        data = bytes(entry["size"]) if array is None else np.ascontiguousarray(array).tobytes()
        shape = [entry["size"]] if array is None else list(array.shape)
        ends = [len(body), len(body) + len(data)]
        header[name] = {"dtype": entry["dtype"], "shape": shape, "data_offsets": ends}
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def test_a_load_function_reads_everything_else(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("2.5")

    def load(name):
        return jnp.full(3, float(Path(name).read_text())), None

    def stop(name):
        raise StoppedError("stopped by SIGTERM")

    mine = Problem(lambda w, x: (x @ w).mean(), jnp.ones(3), jnp.eye(3), load=load)
    params, state = load_checkpoint(path, mine)
    np.testing.assert_array_equal(params, [2.5] * 3)
    assert state is None
    stopped = dataclasses.replace(mine, load=stop)
    with pytest.raises(StoppedError):
        load_checkpoint(path, stopped)
    path.write_text("no number")
    with pytest.raises(InputError, match=r"load function failed on .*ValueError"):
        load_checkpoint(path, mine)


@pytest.mark.parametrize(
    ("loaded", "told"),
    [
        ({"a": jnp.ones(3), "b": None}, r"must return \(params, state\).* it gave a dict"),
        (jnp.ones(3), "it gave a ArrayImpl"),
        (({"a/w": jnp.ones(3)}, None), r"lack \['a'\]\['v'\], .* and have \['a/w'\], unlike"),
        (({"a": {"w": jnp.ones(3)}}, None), r"lack \['a'\]\['v'\], unlike the problem's"),
    ],
)
def test_what_a_load_function_gives_is_looked_at(tmp_path, loaded, told):
    params = {"a": {"w": jnp.ones(3), "v": jnp.ones(2)}}
    mine = Problem(lambda p, x: (x @ p["a"]["w"]).mean(), params, jnp.eye(3), load=lambda _: loaded)
    with pytest.raises(InputError, match=told):
        load_checkpoint(tmp_path, mine)


def test_what_does_not_fit_is_refused_by_name(tmp_path):
    template = problem()
    path = tmp_path / "other.npz"
    np.savez(path, **flat({"input": template.params["input"]}))
    with pytest.raises(InputError, match=r"lacks hidden/bias, hidden/kernel, .*it has input/"):
        load_checkpoint(path, template)
    wide = problem(model=MLP(3, 5, 2))
    np.savez(path, **flat(wide.params))
    with pytest.raises(InputError, match=r"has shape \(2, 5\), but the problem's has \(2, 4\)"):
        load_checkpoint(path, template)
    for name, content in (("a.npz", b"PK broken"), ("a.safetensors", b"broken"), ("a.pt", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=r"cannot be read|no checkpoint that can be read"):
            load_checkpoint(tmp_path / name, template)


def test_types_stand_for_others_where_nothing_is_lost(tmp_path):
    template = Problem(lambda p, x: (x @ p["a.w"]).mean(), {"a.w": jnp.ones(2)}, jnp.eye(2))
    path = tmp_path / "types.npz"
    for array in (
        np.array([1, 2]), np.array([True, False]), np.array([1.5, 2]),
        np.asarray(jnp.array([1.5, 2], jnp.bfloat16)),
    ):  # fmt: skip
        np.savez(path, **{"a.w": array})
        params, _ = load_checkpoint(path, template)
        np.testing.assert_array_equal(params["a.w"], array.astype(np.float32))
        assert params["a.w"].dtype == jnp.float32
    for array in (np.array([1j, 2]), np.array(["a", "b"])):
        np.savez(path, **{"a.w": array})
        with pytest.raises(InputError, match=r"has the type .* cannot stand for the problem's"):
            load_checkpoint(path, template)
    counted = dataclasses.replace(template, params={"a.w": jnp.ones(2, int)})
    np.savez(path, **{"a.w": np.array([1.5, 2])})
    with pytest.raises(InputError, match="has the type float64"):
        load_checkpoint(path, counted)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty"):
        load_checkpoint(tmp_path / "empty", template)


def test_patterns_are_found_in_order_and_once(tmp_path):
    for name in ("b.npz", "a.npz", "c.txt"):
        (tmp_path / name).touch()
    found = find_checkpoints([f"{tmp_path}/*.npz", f"{tmp_path}/a.npz"])
    assert [path.name for path in found] == ["a.npz", "b.npz"]
    with pytest.raises(InputError, match=r"no checkpoint .*nothing"):
        find_checkpoints([f"{tmp_path}/nothing*"])


def test_digests_are_of_names_types_shapes_and_bytes():
    tree = {"a": jnp.arange(4.0), "b": jax.random.key(0)}
    known = digest(tree)
    assert digest(jax.tree.map(jnp.copy, tree)) == known
    for other in (
        {"a": jnp.arange(4.0).at[0].set(1), "b": jax.random.key(0)},
        {"a": jnp.arange(4.0).reshape(2, 2), "b": jax.random.key(0)},
        {"a": jnp.arange(4.0, dtype=jnp.float16), "b": jax.random.key(0)},
        {"c": jnp.arange(4.0), "b": jax.random.key(0)},
        {"a": jnp.arange(4.0), "b": jax.random.key(1)},
    ):
        assert digest(other) != known

    class Stream:
        def __iter__(self):
            return iter([tree, tree])

    assert digest(Stream()) == digest(Stream()) != known
