"""Files of a run folder: written whole or not at all, netCDF without file locks, hashes."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import xarray as xr

from landscape._temporary import temporary_prefix
from landscape.errors import StorageError

# Bytes of data up to which a result may be of netCDF's classic format.
_CLASSIC = 2**20

# Files that are made under a temporary name get the rights that others of this process have.
_UMASK = os.umask(0)
os.umask(_UMASK)


def write_atomically(path: Path, content: bytes | Callable[[IO[bytes]], None]) -> None:
    """Write a file whole or not at all.

    Parameters
    ----------
    path
        Where to.
    content
        Its bytes, or what writes them to a stream.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=temporary_prefix(), dir=path.parent)
        with os.fdopen(descriptor, "wb") as stream:
            if isinstance(content, bytes):
                stream.write(content)
            else:
                content(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_UMASK)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


def netcdf_bytes(dataset: xr.Dataset, *, classic: bool = False) -> bytes:
    """A dataset as the bytes of a netCDF file.

    Parameters
    ----------
    dataset
        What is written.
    classic
        Whether the file may be of the classic format instead of HDF5, for data that it holds: of a
        batch job's unit it is written, and read, twenty times as fast.
    """
    if classic and dataset.nbytes <= _CLASSIC and 0 not in dataset.sizes.values():
        try:
            return bytes(dataset.to_netcdf(engine="scipy"))
        except (TypeError, ValueError, KeyError):
            # It has no integers of 64 bits, and no lists of names as attributes.
            pass
    # In memory: HDF5 locks its files, and locks fail on network filesystems; on a full disk it ends
    # the process.
    return bytes(dataset.to_netcdf(engine="h5netcdf"))


def from_netcdf_bytes(content: bytes) -> xr.Dataset:
    """The inverse of ``netcdf_bytes``: no file is opened, so none is locked."""
    engine: Any = "scipy" if content.startswith(b"CDF") else "h5netcdf"
    with xr.open_dataset(io.BytesIO(content), engine=engine) as opened:
        dataset = opened.load()
    if engine != "scipy":
        return dataset
    # The classic format has no wider integers: products of counts would overflow.
    short = [name for name, v in dataset.variables.items() if v.dtype == "int32"]
    return dataset.assign({name: dataset[name].astype("int64") for name in short})


def short_hash(content: bytes) -> str:
    """Sixteen hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()[:16]
