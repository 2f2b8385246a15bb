"""Other people's checkpoints: parameters and state, by the names of a problem's own leaves.

``.npz`` and ``.safetensors`` files hold arrays by name; a folder is one of Orbax's. Names may be
separated by slashes or dots. What a problem's parameters need is looked up by name, and all else in
the file (optimizers, counters) is left.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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
        path = Path(pattern).expanduser()
        matching = [str(path)] if path.exists() else sorted(glob.glob(str(path), recursive=True))
        if not matching:
            raise InputError(f"there is no checkpoint {pattern}")
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
            params, state = problem.load(str(path))
        except (LandscapeError, MemoryError):
            # A signal, or no memory: not what the checkpoint is.
            raise
        except Exception as error:
            raise InputError(
                f"the problem's load function failed on {path}: {type(error).__name__}: {error}"
            ) from error
        return params, state
    named = _read(path)
    params = _filled(problem.params, named, _prefixes(params_key), path)
    state = problem.state
    if state is not None:
        state = _filled(state, named, ("", "state", *_prefixes(params_key)), path)
    return params, state


def _prefixes(params_key: str) -> tuple[str, ...]:
    return (params_key.replace(".", "/"),) if params_key else ("", *_USUAL)


def _read(path: Path) -> dict[str, Any]:
    """Arrays by name, with slashes."""
    try:
        if path.is_dir():
            arrays: Mapping[str, Any] = _orbax(path)
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
        elif path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            arrays = load_file(path)
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


def _orbax(path: Path) -> dict[str, Any]:
    import orbax.checkpoint

    # A manager keeps what it saved in a folder of that name.
    place = (path / "default" if (path / "default").is_dir() else path).absolute()
    checkpointer = orbax.checkpoint.PyTreeCheckpointer()
    # As arrays of the host, whatever devices have written it.
    shapes = checkpointer.metadata(place)
    shapes = getattr(shapes, "item_metadata", shapes)
    as_numpy = orbax.checkpoint.RestoreArgs(restore_type=np.ndarray)
    tree = checkpointer.restore(place, restore_args=jax.tree.map(lambda _: as_numpy, dict(shapes)))
    return {path_name(where): leaf for where, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _filled(template: Any, named: Mapping[str, Any], prefixes: Iterable[str], path: Path) -> Any:
    leaves, structure = jax.tree_util.tree_flatten_with_path(template)
    names = [path_name(where) for where, _ in leaves]
    for prefix in prefixes:
        full = [f"{prefix}/{name}".strip("/") for name in names]
        if all(name in named for name in full):
            break
    else:
        missing = [name for name in names if name not in named]
        raise InputError(
            f"the checkpoint {path} lacks {', '.join(missing[:5])}"
            f"{', …' if len(missing) > 5 else ''}; it has {', '.join(sorted(named)[:8])}"
            f"{', …' if len(named) > 8 else ''}. Say where the parameters are (--params-key), or "
            "give the problem a load function"
        )
    found = []
    for name, (_, leaf) in zip(full, leaves, strict=True):
        array = np.asarray(named[name])
        if array.shape != np.shape(leaf):
            raise InputError(
                f"{name} of the checkpoint {path} has shape {array.shape}, but the problem's has "
                f"{np.shape(leaf)}"
            )
        found.append(jnp.asarray(array, jnp.result_type(leaf)))
    return jax.tree.unflatten(structure, found)


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
        for where, leaf in jax.tree_util.tree_leaves_with_path(batch):
            if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
                leaf = jax.random.key_data(leaf)
            array = np.ascontiguousarray(leaf)
            content.update(f"{path_name(where)} {array.dtype.str} {array.shape}\n".encode())
            content.update(array.tobytes())
    return content.hexdigest()[:16]
