"""What a kill cannot undo within a unit of a batch job.

A long Lanczos run writes its state down from time to time, and a part that is done its results.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import xarray as xr

from landscape.errors import StoppedError
from landscape.runs import netcdf_bytes, write_atomically
from landscape.runs.folder import from_netcdf_bytes, short_hash
from landscape.runs.together import agreed, of_the_first
from landscape.spectra import LanczosRun

_logger = logging.getLogger("landscape")

# Lanczos steps between two looks at whether to stop, and seconds between two states written down;
# writing one may take a tenth of the time at most.
_STEPS = 10
_SAVE_SECONDS = 60.0
_SAVE_SHARE = 0.1


def advanced(
    run: LanczosRun, steps: int, place: Path, should_stop: Callable[[], bool]
) -> LanczosRun:
    """All steps, going on from what a run before has written down."""
    path = place.with_suffix(".npz")
    if jax.process_count() > 1:
        # Of this host's part.
        path = place.with_suffix(f".{jax.process_index()}.npz")
    run = _resumed(run, path)
    saved, cost = time.perf_counter(), 0.0
    while run.num_steps < min(steps, run.state.capacity):
        before = run.num_steps
        run = run.advance(min(before + _STEPS, steps))
        jax.block_until_ready(run.state)
        stop = should_stop()
        # Hosts that work together save the same steps.
        due = agreed(time.perf_counter() - saved > max(_SAVE_SECONDS, cost / _SAVE_SHARE))
        if (stop or due) and run.num_steps < steps:
            begun = time.perf_counter()
            _save(run, path)
            saved = time.perf_counter()
            cost = saved - begun
        if stop and run.num_steps < steps:
            raise StoppedError("stopped between Lanczos steps")
        if run.num_steps == before:
            break
    return run


def _save(run: LanczosRun, path: Path) -> None:
    stream = io.BytesIO()
    pieces = [piece for leaf in jax.tree.leaves(run.state) for piece in _pieces(leaf)]
    np.savez(stream, *map(np.asarray, pieces))
    write_atomically(path, stream.getvalue())


def _pieces(leaf: jax.Array) -> list[jax.Array]:
    """What this host has of an array that is spread over several; else the array."""
    if leaf.is_fully_addressable:
        return [leaf]
    return [shard.data for shard in leaf.addressable_shards]


def _resumed(run: LanczosRun, path: Path) -> LanczosRun:
    """The run as it was written down; as it is if that cannot be read or does not fit."""
    found = _read_state(run, path) if path.exists() else None
    begun = -1 if found is None else found.num_steps
    # Hosts that work together go on together, from the same step.
    same = agreed(begun == of_the_first(begun), everywhere=True)
    return found if found is not None and same else run


def _read_state(run: LanczosRun, path: Path) -> LanczosRun | None:
    leaves, structure = jax.tree.flatten(run.state)
    try:
        with np.load(path, allow_pickle=False) as file:
            kept = iter([file[f"arr_{number}"] for number in range(len(file.files))])
        arrays = [_filled(leaf, kept) for leaf in leaves]
    except (OSError, ValueError, KeyError, EOFError, StopIteration, zipfile.BadZipFile) as error:
        _logger.warning("the state %s cannot be used (%s); its run begins anew", path, error)
        path.unlink(missing_ok=True)
        return None
    return dataclasses.replace(run, state=jax.tree.unflatten(structure, arrays))


def _filled(leaf: jax.Array, kept: Iterator[np.ndarray]) -> jax.Array:
    """An array like this one, of what was written down of it."""

    def fitting(old: jax.Array) -> np.ndarray:
        new = next(kept)
        if new.shape != old.shape or new.dtype != old.dtype:
            raise ValueError(
                f"an array of {new.dtype} {new.shape} instead of {old.dtype} {old.shape}"
            )
        return new

    if leaf.is_fully_addressable:
        return jax.device_put(fitting(leaf), leaf.sharding)
    shards = [jax.device_put(fitting(s.data), s.device) for s in leaf.addressable_shards]
    return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, shards)


def kept_or_done(place: Path, compute: Callable[[Path], xr.Dataset], *, keep: bool) -> xr.Dataset:
    """A part that was finished before a kill, or the part as it is computed now, and kept."""
    done = _kept_part(place)
    # Hosts that work together do what one of them does not see.
    if agreed(done is None):
        done = compute(place)
        if keep and jax.process_index() == 0:
            content = netcdf_bytes(done, classic=True)
            write_atomically(place.with_name(f"{place.name}.{short_hash(content)}.nc"), content)
    assert done is not None
    return done


def _kept_part(place: Path) -> xr.Dataset | None:
    """What was kept, if it is what was written: its name says so."""
    for path in sorted(place.parent.glob(f"{place.name}.*.nc")):
        try:
            content = path.read_bytes()
            if path.name == f"{place.name}.{short_hash(content)}.nc":
                return from_netcdf_bytes(content)
        except OSError:
            pass
        _logger.warning("the part %s is not what was written, and is measured anew", path)
        path.unlink(missing_ok=True)
    return None
