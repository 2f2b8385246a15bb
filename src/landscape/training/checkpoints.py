"""Checkpoints on disk: written whole or not at all, checked when read.

A checkpoint is a folder ``epoch-000010`` with the arrays as Orbax writes them and a
``manifest.json`` that names what they belong to and carries their SHA-256. It is written under a
temporary name and renamed, so a kill at any moment leaves the previous checkpoint. This is the
only module that imports Orbax.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from landscape._temporary import stale, temporary_prefix
from landscape.errors import InputError, StorageError

FORMAT = 1
_PREFIX = "epoch-"

# Orbax confuses the folders of two threads that write at once (seen with 0.12.8).
_one_at_a_time = threading.Lock()


def save_checkpoint(
    folder: Path, epoch: int, tree: Any, history: Mapping[str, np.ndarray], identity: str
) -> None:
    """Write a checkpoint and remove the older ones.

    Parameters
    ----------
    folder
        Holds the checkpoints of one training run; made if missing.
    epoch
        Epochs finished.
    tree
        The training state, a pytree of arrays.
    history
        What was recorded so far; names to arrays.
    identity
        Names the run (configuration, data, key); ``load_checkpoint`` insists on it.

    Raises
    ------
    StorageError
        If the folder cannot be written.
    """
    arrays = {f"{i:04d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}
    payload = {"state": arrays, "history": {k: np.asarray(v) for k, v in history.items()}}
    # Orbax refuses arrays without entries; their shapes are all there is to keep.
    empty = [
        (group, name, list(array.shape), str(array.dtype))
        for group, arrays in payload.items()
        for name, array in arrays.items()
        if array.size == 0
    ]
    manifest = {
        "format": FORMAT,
        "epoch": epoch,
        "identity": identity,
        "sha256": _digest(payload),
        "empty": empty,
    }
    for group, name, _, _ in empty:
        del payload[group][name]
    final = folder / f"{_PREFIX}{epoch:06d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=temporary_prefix(), dir=folder))
        try:
            _orbax_save(temporary / "arrays", payload)
            (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1))
            if final.exists():
                shutil.rmtree(final)
            temporary.rename(final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        for older in _epochs(folder):
            if older != epoch:
                shutil.rmtree(folder / f"{_PREFIX}{older:06d}")
        for stray in stale(folder):
            shutil.rmtree(stray, ignore_errors=True)
    except OSError as error:
        raise StorageError(f"cannot write a checkpoint to {folder}: {error}") from error


def load_checkpoint(
    folder: Path, like: Any, identity: str
) -> tuple[int, Any, dict[str, np.ndarray]] | None:
    """Read the newest checkpoint.

    Parameters
    ----------
    folder
        As given to ``save_checkpoint``.
    like
        A pytree with the structure, shapes and types of the training state.
    identity
        As given to ``save_checkpoint``.

    Returns
    -------
    ``(epoch, tree, history)``, or None if there is no checkpoint.

    Raises
    ------
    StorageError
        If the checkpoint is damaged; its path and what to do are in the message.
    InputError
        If it belongs to another configuration, data set or key, or to another version.
    """
    epochs = _epochs(folder)
    if not epochs:
        return None
    path = folder / f"{_PREFIX}{epochs[-1]:06d}"
    damaged = f"the checkpoint {path} is damaged; delete that folder to train again from the start"
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        version, owner, epoch = manifest["format"], manifest["identity"], manifest["epoch"]
        expected, empty = manifest["sha256"], manifest["empty"]
        if version == FORMAT and epoch != epochs[-1]:
            raise ValueError(f"it says epoch {epoch}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{damaged} (manifest.json: {error})") from error
    if version != FORMAT:
        raise InputError(
            f"the checkpoint {path} has format {version}; this version reads format {FORMAT}: "
            "continue with the version that wrote it, or start in an empty folder"
        )
    if owner != identity:
        raise InputError(
            f"the checkpoint {path} belongs to another configuration, data set or key; "
            "use the settings it was made with, or an empty folder"
        )
    try:
        payload = _orbax_load(path / "arrays")
        for group, name, shape, dtype in empty:
            payload.setdefault(group, {})[name] = np.zeros(shape, dtype)
        found = _digest(payload)
    # Orbax and TensorStore raise many types for damaged files; all of them mean the same here.
    except Exception as error:
        raise StorageError(f"{damaged} ({type(error).__name__})") from error
    if found != expected:
        raise StorageError(f"{damaged} (its content does not match its checksum)")
    leaves, structure = jax.tree.flatten(like)
    stored = [payload["state"][name] for name in sorted(payload["state"])]
    shapes = [(np.shape(leaf), np.dtype(leaf.dtype)) for leaf in leaves]
    if shapes != [(leaf.shape, leaf.dtype) for leaf in stored]:
        raise InputError(f"the checkpoint {path} holds arrays of other shapes than this model's")
    tree = jax.tree.unflatten(structure, [jnp.asarray(leaf) for leaf in stored])
    return epoch, tree, payload.get("history", {})


def _epochs(folder: Path) -> list[int]:
    """Epochs that have a checkpoint, in order."""
    names = (path.name.removeprefix(_PREFIX) for path in folder.glob(f"{_PREFIX}*"))
    return sorted(int(name) for name in names if name.isdigit())


def _digest(payload: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """SHA-256 over names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for group in sorted(payload):
        for name in sorted(payload[group]):
            array = np.ascontiguousarray(payload[group][name])
            digest.update(f"{group}/{name} {array.dtype} {array.shape}\n".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def _orbax() -> Any:
    # Imported late: Orbax takes a second. In 0.12 the v1 API lives under ``experimental``.
    import orbax.checkpoint.experimental.v1 as orbax

    return orbax


def _orbax_save(path: Path, payload: Any) -> None:
    orbax = _orbax()
    try:
        with _one_at_a_time:
            # Orbax refuses relative paths.
            orbax.save(path.absolute(), payload)
    # A full disk reaches us as TensorStore's ValueError, among other types.
    except Exception as error:
        raise OSError(str(error).partition("\n")[0]) from error


def _orbax_load(path: Path) -> dict[str, dict[str, np.ndarray]]:
    with _one_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = _orbax().load(path.absolute())
    return {
        group: {name: np.asarray(value) for name, value in arrays.items()}
        for group, arrays in loaded.items()
    }
