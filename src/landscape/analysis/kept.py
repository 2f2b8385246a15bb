"""What a kill cannot undo within a unit of a batch job.

Long runs, of Lanczos and at the ends of a spectrum, write their state down from time to time; what
is done of a unit is kept too, if it took a while.
"""

from __future__ import annotations

import dataclasses
import logging
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from landscape.curvature import LinearOperator
from landscape.errors import InputError, StoppedError
from landscape.runs import netcdf_bytes, write_atomically
from landscape.runs.files import from_netcdf_bytes, short_hash
from landscape.runs.together import agreed, of_the_first
from landscape.spectra import EigenPairs, ExtremalRun, LanczosRun

_logger = logging.getLogger("landscape")

# Lanczos steps between two looks at whether to stop, fewer where they take longer than so many
# seconds; and seconds between two states written down, which may take a tenth of the time at most.
_STEPS = 10
_LOOK_SECONDS = 5.0
_SAVE_SECONDS = 60.0
_SAVE_SHARE = 0.1

# What takes no longer may be done anew after a kill.
_LONG_SECONDS = 2.0

T = TypeVar("T")


def advanced(
    run: LanczosRun, steps: int, place: Path, should_stop: Callable[[], bool]
) -> LanczosRun:
    """All steps, going on from what a run before has written down."""
    path = place.with_suffix(".npz")
    if jax.process_count() > 1:
        # Of this host's part.
        path = place.with_suffix(f".{jax.process_index()}.npz")
    run, saves, stride = _resumed(run, path), _Saves(path), 1
    while run.num_steps < min(steps, run.state.capacity):
        before, begun = run.num_steps, time.perf_counter()
        run = run.advance(min(before + stride, steps))
        jax.block_until_ready(run.state)
        each = max((time.perf_counter() - begun) / stride, 1e-9)
        # Hosts that work together take the same steps.
        stride = of_the_first(max(1, min(_STEPS, int(_LOOK_SECONDS / each))))
        saves.look(run.state, should_stop(), more=run.num_steps < steps)
        if run.num_steps == before:
            break
    return run


def found_at_the_ends(run: ExtremalRun, place: Path, should_stop: Callable[[], bool]) -> EigenPairs:
    """All pairs, going on from what a run before has written down."""
    path = place.with_suffix(".npz")
    found = _read_state(run.state, path) if path.exists() else None
    if found is not None:
        # The basis that was made for it is of no more use, and as large.
        run.state.space.block.delete()
        run = dataclasses.replace(run, state=found)
    saves = _Saves(path)
    while not run.done:
        run = run.advance()
        saves.look(run.state, should_stop(), more=not run.done)
    return run.pairs()


class _Saves:
    """When a run's state is written down: from time to time, and before a stop."""

    def __init__(self, path: Path) -> None:
        self._path, self._saved, self._cost = path, time.perf_counter(), 0.0

    def look(self, state: Any, stop: bool, *, more: bool) -> None:
        """Between two steps; ``more`` if there are some left.

        Raises
        ------
        StoppedError
            If there are, and a stop was asked for.
        """
        since = time.perf_counter() - self._saved
        # Hosts that work together save the same steps.
        due = agreed(since > max(_SAVE_SECONDS, self._cost / _SAVE_SHARE))
        if (stop or due) and more:
            begun = time.perf_counter()
            _save(state, self._path)
            self._saved = time.perf_counter()
            self._cost = self._saved - begun
        if stop and more:
            raise StoppedError("stopped between steps")


class Interruptible(LinearOperator):
    """An operator that looks whether to stop before each product; driven from the host.

    Parameters
    ----------
    op
        Whose products these are.
    should_stop
        What is asked.
    """

    def __init__(self, op: LinearOperator, should_stop: Callable[[], bool]) -> None:
        self._op, self._should_stop = op, should_stop

    @property
    def shape(self) -> tuple[int, int]:
        """As the operator's."""
        return self._op.shape

    @property
    def dtype(self) -> np.dtype:
        """As the operator's."""
        return self._op.dtype

    @property
    def traceable(self) -> bool:
        """False."""
        return False

    @property
    def traceable_parts(self) -> tuple[LinearOperator, ...]:
        """As the operator's."""
        return self._op.traceable_parts

    def _matmat(self, vectors: jax.Array) -> jax.Array:
        if self._should_stop():
            raise StoppedError("stopped between products")
        return self._op.matmat(vectors)

    def _products(self) -> Callable[[jax.Array], jax.Array]:
        raise InputError("products that can be stopped are driven from the host")


def _save(state: Any, path: Path) -> None:
    pieces = [piece for leaf in jax.tree.leaves(state) for piece in _pieces(leaf)]
    # To the file itself: a second copy of the basis may not fit into memory.
    write_atomically(path, lambda stream: _write_arrays(stream, pieces))


def _write_arrays(stream: IO[bytes], arrays: list[Any]) -> None:
    """As ``numpy.savez`` does, one array at a time."""
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as file:
        for number, array in enumerate(arrays):
            with file.open(f"arr_{number}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)


def _pieces(leaf: Any) -> list[Any]:
    """What this host has of an array that is spread over several; else the array."""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return [_numbers(leaf)]
    return [shard.data for shard in leaf.addressable_shards]


def _numbers(leaf: Any) -> Any:
    """A random key as its numbers; all else as it is."""
    key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if key else leaf


def _resumed(run: LanczosRun, path: Path) -> LanczosRun:
    """The run as it was written down; as it is if that cannot be read or does not fit."""
    found = _read_state(run.state, path) if path.exists() else None
    resumed = run if found is None else dataclasses.replace(run, state=found)
    begun = -1 if found is None else resumed.num_steps
    # Hosts that work together go on together, from the same step.
    same = agreed(begun == of_the_first(begun), everywhere=True)
    return resumed if same else run


def _read_state(state: T, path: Path) -> T | None:
    leaves, structure = jax.tree.flatten(state)
    try:
        with np.load(path, allow_pickle=False) as file:
            kept = iter([file[f"arr_{number}"] for number in range(len(file.files))])
        arrays = [_filled(leaf, kept) for leaf in leaves]
    except (MemoryError, jax.errors.JaxRuntimeError):
        # Too little memory, or a lost device: the state is as good as it was.
        raise
    except Exception as error:
        # Of a damaged file zipfile and NumPy raise what they come upon.
        _logger.warning("the state %s cannot be used (%s); its run begins anew", path, error)
        path.unlink(missing_ok=True)
        return None
    return jax.tree.unflatten(structure, arrays)


def _filled(leaf: Any, kept: Iterator[np.ndarray]) -> Any:
    """An array like this one, of what was written down of it."""

    def fitting(old: Any) -> np.ndarray:
        new = next(kept)
        if new.shape != old.shape or new.dtype != old.dtype:
            raise ValueError(
                f"an array of {new.dtype} {new.shape} instead of {old.dtype} {old.shape}"
            )
        return new

    numbers = _numbers(leaf)
    if not isinstance(leaf, jax.Array):
        return fitting(leaf)
    if numbers is not leaf:
        bits = jnp.asarray(fitting(numbers))
        return jax.random.wrap_key_data(bits, impl=jax.random.key_impl(leaf))
    if leaf.is_fully_addressable:
        return jax.device_put(fitting(leaf), leaf.sharding)
    shards = [jax.device_put(fitting(s.data), s.device) for s in leaf.addressable_shards]
    return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, shards)


def kept_or_done(place: Path, compute: Callable[[Path], xr.Dataset], *, keep: bool) -> xr.Dataset:
    """What was finished before a kill, or what is computed now.

    It is kept if it took a while, or if that is asked for.
    """
    done = _kept_part(place)
    # Hosts that work together do what one of them does not see.
    if agreed(done is None):
        begun = time.perf_counter()
        done = compute(place)
        keep = keep or time.perf_counter() - begun > _LONG_SECONDS
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
