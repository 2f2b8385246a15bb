"""Other people's checkpoints: parameters and state, by the names of a problem's own leaves.

``.npz`` and ``.safetensors`` files hold arrays by name; a folder is one of Orbax's. Names may be
separated by slashes or dots. What a problem's parameters need is looked up by name, and all else in
the file (optimizers, counters) is left.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path, tree_leaves_with_path

from landscape.curvature import Problem
from landscape.curvature.parameters import path_name
from landscape.errors import InputError, LandscapeError

# Where parameters usually are in a train state, tried after the name alone.
_USUAL = ("params", "model", "model/params")


def find_checkpoints(patterns: Sequence[str]) -> list[Path]:
    """Files and folders that match, in order, each once.

    Raises
    ------
    InputError
        If a pattern matches nothing.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        try:
            path = Path(pattern).expanduser()
        except RuntimeError as error:
            raise InputError(f"there is no checkpoint {pattern}: {error}") from error
        # Of what cannot be reached it says no.
        matching = (
            [str(path)] if os.path.exists(path) else sorted(glob.glob(str(path), recursive=True))
        )
        if not matching:
            raise InputError(f"there is no checkpoint {pattern}, or none that can be reached")
        found.update(dict.fromkeys(map(Path, matching)))
    return list(found)


def load_checkpoint(path: Path, problem: Problem, params_key: str = "") -> tuple[Any, Any]:
    """Parameters and state of one checkpoint, in the form that the problem's own have.

    Parameters
    ----------
    path
        A file or folder. ``Problem.load`` reads it if there is such a function.
    problem
        Whose parameters and state say what is needed, by names, shapes and types.
    params_key
        Where in the checkpoint the parameters are, such as ``"state/params"``; by default they are
        looked for at its top and under ``params`` and ``model``.

    Returns
    -------
    The parameters and the state.

    Raises
    ------
    InputError
        If it cannot be read, lacks a leaf, or has one of another shape.
    """
    if problem.load is not None:
        try:
            loaded = problem.load(str(path))
        except (LandscapeError, MemoryError):
            # A signal, or no memory: not what the checkpoint is.
            raise
        except Exception as error:
            raise InputError(
                f"the problem's load function failed on {path}: {type(error).__name__}: {error}"
            ) from error
        if not (isinstance(loaded, tuple | list) and len(loaded) == 2):
            raise InputError(
                f"the problem's load function must return (params, state), (params, None) without "
                f"a state; of {path} it gave a {type(loaded).__name__}"
            )
        _expect_names(loaded[0], problem.params, path)
        return tuple(loaded)
    named = _read(path)
    params = _filled(problem.params, named, _prefixes(params_key), path)
    state = problem.state
    if state is not None:
        state = _filled(state, named, ("", "state", *_prefixes(params_key)), path)
    return params, state


def _expect_names(params: Any, own: Any, path: Path) -> None:
    """Refuse parameters that a loss of the problem's own cannot be given; shapes may be others."""

    def names(tree: Any) -> dict[tuple[str, ...], str]:
        # A variable of Flax's NNX is a leaf, or holds one called value.
        found = {
            tuple(path_name((key,)) for key in where): keystr(where)
            for where, _ in tree_leaves_with_path(tree)
        }
        return {
            name[:-1] if name[-1:] == ("value",) else name: told for name, told in found.items()
        }

    found, wanted = names(params), names(own)
    if found.keys() != wanted.keys():
        lacking = [told for name, told in wanted.items() if name not in found]
        more = [told for name, told in found.items() if name not in wanted]
        parts = [f"lack {_listed(lacking, 5)}"] * bool(lacking)
        parts += [f"have {_listed(more, 5)}"] * bool(more)
        raise InputError(
            f"the parameters that the problem's load function gave of {path} "
            f"{' and '.join(parts)}, unlike the problem's"
        )


def _prefixes(params_key: str) -> tuple[str, ...]:
    return (params_key.replace(".", "/"),) if params_key else ("", *_USUAL)


def _read(path: Path) -> dict[str, Any]:
    """Arrays by name, with slashes."""
    try:
        if path.is_dir():
            arrays: Mapping[str, Any] = _orbax(path)
        elif path.suffix == ".npz":
            arrays = _npz(path)
        elif path.suffix == ".safetensors":
            arrays = _safetensors(path)
        else:
            raise InputError(
                f"{path} is no checkpoint that can be read: .npz, .safetensors, or a folder of "
                "Orbax's; for others give the problem a load function"
            )
    except (LandscapeError, MemoryError):
        raise
    except Exception as error:
        raise InputError(
            f"the checkpoint {path} cannot be read: {type(error).__name__}: {error}"
        ) from error
    return {name.replace(".", "/"): array for name, array in arrays.items()}


def _npz(path: Path) -> dict[str, Any]:
    """Arrays, or why one cannot be read: what else is in the file may be of any type, or broken."""
    if not zipfile.is_zipfile(path):
        raise InputError(f"the checkpoint {path} cannot be read: it is damaged, or no .npz file")
    found: dict[str, Any] = {}
    with np.load(path, allow_pickle=False) as file:
        for name in file.files:
            try:
                found[name] = file[name]
            except (ValueError, OSError, zipfile.BadZipFile) as error:
                found[name] = error
    return found


def _safetensors(path: Path) -> dict[str, Any]:
    """The same."""
    from safetensors import safe_open

    found = {}
    with safe_open(path, framework="numpy") as file:
        names = file.keys()
        for name in names:
            # Of types that NumPy does not have.
            with contextlib.suppress(AttributeError, TypeError):
                found[name] = file.get_tensor(name)
    return found


def _orbax(path: Path) -> dict[str, Any]:
    # A tree has such a file in its folder; a manager has folders of trees, by the names of items.
    items = [path] if (path / "_METADATA").exists() else []
    items = items or sorted(file.parent for file in path.glob("*/_METADATA"))
    if not items:
        steps = sorted({file.parent.parent.name for file in path.glob("*/*/_METADATA")})
        told = f": name one of its steps, {_listed(steps, 5)}" if steps else ""
        raise InputError(f"the folder {path} holds no pytree of Orbax's{told}")
    trees = {item.name: _orbax_tree(item.absolute()) for item in items}
    found = {f"{item}/{name}": leaf for item, tree in trees.items() for name, leaf in tree.items()}
    # What is saved alone is called by names of the library's own.
    return found | next(iter(trees.values())) if len(trees) == 1 else found


def _orbax_tree(place: Path) -> dict[str, Any]:
    import orbax.checkpoint

    checkpointer = orbax.checkpoint.PyTreeCheckpointer()
    shapes = checkpointer.metadata(place)
    shapes = getattr(shapes, "item_metadata", shapes)
    shapes = getattr(shapes, "tree", shapes)
    # As arrays of the host, whatever devices have written it.
    as_numpy = orbax.checkpoint.RestoreArgs(restore_type=np.ndarray)
    tree = checkpointer.restore(place, restore_args=jax.tree.map(lambda _: as_numpy, shapes))
    leaves = {path_name(where): leaf for where, leaf in tree_leaves_with_path(tree)}
    # Variables of Flax's NNX are saved as dictionaries with one entry.
    variables = {name.removesuffix("/value"): leaf for name, leaf in leaves.items()}
    return variables | leaves


def _filled(template: Any, named: Mapping[str, Any], prefixes: Sequence[str], path: Path) -> Any:
    leaves, structure = tree_flatten_with_path(template)
    names = [path_name(where).replace(".", "/") for where, _ in leaves]
    for prefix in prefixes:
        full = [f"{prefix}/{name}".strip("/") for name in names]
        if all(name in named for name in full):
            break
    else:
        # Of the place where most of them are.
        best = max(prefixes, key=lambda p: sum(f"{p}/{n}".strip("/") in named for n in names))
        full = [f"{best}/{name}".strip("/") for name in names]
        missing = [name for name in full if name not in named]
        raise InputError(
            f"the checkpoint {path} lacks {_listed(missing, 5)}; it has "
            f"{_listed(sorted(named), 8) or 'nothing'}. Say where the parameters are "
            "(--params-key), or give the problem a load function"
        )
    found = []
    for name, (_, leaf) in zip(full, leaves, strict=True):
        if isinstance(named[name], Exception):
            raise InputError(f"{name} of the checkpoint {path} cannot be read: {named[name]}")
        array = _as_type(named[name], jnp.result_type(leaf), name, path)
        if array.shape != np.shape(leaf):
            raise InputError(
                f"{name} of the checkpoint {path} has shape {array.shape}, but the problem's has "
                f"{np.shape(leaf)}"
            )
        found.append(jnp.asarray(array, jnp.result_type(leaf)))
    return jax.tree.unflatten(structure, found)


def _listed(names: Sequence[str], most: int) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def _as_type(array: Any, wanted: np.dtype, name: str, path: Path) -> np.ndarray:
    """Numbers that can stand for those of a problem without losing what they are."""
    array = np.asarray(array)
    if array.dtype == np.dtype("V2"):
        # What NumPy's own format makes of bfloat16.
        array = array.view(jnp.bfloat16)
    if not 0 <= _level(array.dtype) <= _level(wanted):
        raise InputError(
            f"{name} of the checkpoint {path} has the type {array.dtype}, which cannot stand for "
            f"the problem's {wanted}"
        )
    return array


def _level(dtype: np.dtype) -> int:
    """Of booleans, integers, floating and complex numbers: each can stand for the next."""
    kinds = (np.bool_, np.integer, np.floating, np.complexfloating)
    return next((level for level, k in enumerate(kinds) if jnp.issubdtype(dtype, k)), -1)


def digest(tree: Any) -> str:
    """A hash of names, types, shapes and bytes of a pytree's leaves, or of a stream's batches.

    Parameters
    ----------
    tree
        A pytree of arrays, or something that yields such trees each time it is walked.
    """
    content = hashlib.sha256()
    batches = [tree]
    if hasattr(tree, "__iter__") and not isinstance(
        tree, Mapping | list | tuple | np.ndarray | jax.Array
    ):
        batches = tree
    for batch in batches:
        for where, leaf in tree_leaves_with_path(batch):
            if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
                leaf = jax.random.key_data(leaf)
            array = np.ascontiguousarray(leaf)
            content.update(f"{path_name(where)} {array.dtype.str} {array.shape}\n".encode())
            content.update(array.tobytes())
    return content.hexdigest()[:16]
