"""A run folder: one configuration, results written whole or not at all, resumable.

::

    run/
      config.json            what was asked for, and the environments it ran in
      units/<name>.<inputs>.<content>.nc   one finished unit of work each
      checkpoints/<name>.<inputs>/         of units under way
      claims/                who works on what (``claims``)
      events/                what happened (``events``)
      set-aside/             results that were not what their names say
      results-*.nc (with checksums), claims.json, figures/, report.html   made from the units

A unit's file is named by the hash of its inputs and by the hash of its own bytes, is written under
a temporary name and renamed: a kill leaves it finished or absent, and damage shows. It holds the
inputs too: a file of another unit that was given a unit's name shows as well.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import xarray as xr

from landscape._temporary import stale
from landscape._version import __version__
from landscape.errors import InputError, StorageError
from landscape.runs.claims import Claims
from landscape.runs.events import EventLog
from landscape.runs.files import from_netcdf_bytes, netcdf_bytes, short_hash, write_atomically

FORMAT = 3
# Raised by hand when the same inputs give other numbers; part of every unit's name.
NUMERICS_VERSION = 3

# A unit's file: name, hash of the inputs, hash of the content.
UNIT_NAME = re.compile(r"[A-Za-z0-9-]+\.[0-9a-f]{16}\.[0-9a-f]{16}\.nc")

# The attribute of a unit's file with what its name is a hash of.
_INPUTS = "landscape_unit"

_logger = logging.getLogger("landscape")

# What may lie in a folder before it is a run folder.
_BEFORE = ("digests.json",)


class DamagedError(StorageError):
    """A result is not what was written."""


class ConfigDamagedError(InputError):
    """A configuration is not what was written."""


class RunFolder:
    """An open run folder; made by ``open_run_folder``.

    Attributes
    ----------
    path
        The folder.
    config
        What was asked for, as JSON values.
    environments
        Those it was started and continued in, each once.
    """

    def __init__(
        self, path: Path, config: Mapping[str, Any], environments: Sequence[Mapping[str, Any]]
    ) -> None:
        self.path, self.config, self.environments = path, config, environments
        self.claims, self.events = Claims(path / "claims"), EventLog(path / "events")

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens it anew: claims are those of a process."""
        return RunFolder, (self.path, self.config, self.environments)

    def finished_units(self) -> dict[str, Path]:
        """The files of all finished units, by their names and the hashes of their inputs."""
        found: dict[str, Path] = {}
        for path in sorted((self.path / "units").glob("*.nc")):
            if UNIT_NAME.fullmatch(path.name) is None:
                continue
            found.setdefault(path.name.rsplit(".", 2)[0], path)
        return found

    def set_aside(self, path: Path) -> Path:
        """Move a file that is not what its name says out of the way.

        Raises
        ------
        StorageError
            If it cannot be moved.
        """
        place = self.path / "set-aside"
        target, number = place / path.name, 0
        try:
            place.mkdir(exist_ok=True)
            while target.exists():
                number += 1
                target = place / f"{path.name}.{number}"
            os.replace(path, target)
        except FileNotFoundError:
            # Another process was first.
            return target
        except OSError as error:
            raise StorageError(f"cannot move {path} to {place}: {error.strerror}") from error
        return target

    def unit_path(self, name: str, inputs: Mapping[str, Any]) -> Path | None:
        """Where a finished unit's file is; None if it is not finished."""
        found = sorted((self.path / "units").glob(f"{unit_stem(name, inputs)}.*.nc"))
        return found[0] if found else None

    def checkpoint_path(self, name: str, inputs: Mapping[str, Any]) -> Path:
        """Where a unit keeps its checkpoints while it trains."""
        return self.path / "checkpoints" / unit_stem(name, inputs)

    def write_unit(self, name: str, inputs: Mapping[str, Any], dataset: xr.Dataset) -> Path:
        """Write a unit's result; atomic.

        Returns
        -------
        Its file; an earlier one that is whole, if somebody else has been faster.

        Raises
        ------
        StorageError
            If the folder cannot be written.
        """
        content = netcdf_bytes(dataset.assign_attrs({_INPUTS: _unit_text(inputs)}), classic=True)
        path = self.path / "units" / f"{unit_stem(name, inputs)}.{short_hash(content)}.nc"
        earlier = self.unit_path(name, inputs)
        if earlier is not None:
            try:
                self.read_unit(earlier)
            except StorageError:
                pass
            else:
                return earlier
        write_atomically(path, content)
        return path

    def inputs_of(self, path: Path) -> dict[str, Any]:
        """The inputs that a finished unit's file was made from.

        Raises
        ------
        StorageError, DamagedError
            As ``read_unit``.
        """
        inputs: dict[str, Any] = json.loads(self._read(path).attrs[_INPUTS])["inputs"]
        return inputs

    def read_unit(self, path: Path) -> xr.Dataset:
        """Read a unit's result into memory.

        Raises
        ------
        StorageError
            If the file cannot be read.
        DamagedError
            If it is not what was written, or another unit's.
        """
        dataset = self._read(path)
        del dataset.attrs[_INPUTS]
        return dataset

    def is_whole(self, path: Path) -> bool:
        """Whether a finished unit's file can be read and has the checksum that its name says."""
        try:
            return short_hash(path.read_bytes()) == path.name.split(".")[-2]
        except OSError:
            return False

    def _read(self, path: Path) -> xr.Dataset:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror}") from error
        *_, inputs, own, _ = path.name.split(".")
        if short_hash(content) != own:
            raise DamagedError(
                f"the result {path} is damaged: it does not match the checksum in its name"
            )
        dataset = from_netcdf_bytes(content)
        if short_hash(str(dataset.attrs.get(_INPUTS, "")).encode()) != inputs:
            raise DamagedError(
                f"the result {path} is damaged: it is another unit's than its name says"
            )
        return dataset

    def write_dataset(self, name: str, dataset: xr.Dataset) -> Path:
        """Write a labelled result beside the configuration, and its checksum; each atomic."""
        path, content = self.path / name, netcdf_bytes(dataset)
        write_atomically(path, content)
        write_atomically(_checksum_path(path), f"{short_hash(content)}\n".encode())
        return path

    def read_dataset(self, name: str) -> xr.Dataset | None:
        """Read such a result into memory; None if there is none.

        Raises
        ------
        StorageError
            If it cannot be read, or is not what was written.
        """
        path = self.path / name
        if not path.exists():
            return None
        try:
            content, expected = path.read_bytes(), _checksum_path(path).read_text().strip()
        except OSError as error:
            raise StorageError(f"cannot read {error.filename}: {error.strerror}") from error
        if short_hash(content) != expected:
            raise StorageError(
                f"the results {path} are damaged: they do not match {_checksum_path(path).name}. "
                "Run again with --resume to make them anew from the finished units"
            )
        return from_netcdf_bytes(content)

    def write_json(self, name: str, value: Any) -> Path:
        """Write JSON beside the configuration; atomic."""
        path = self.path / name
        write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())
        return path


def open_run_folder(path: Path, config: Mapping[str, Any], *, resume: bool) -> RunFolder:
    """Make a run folder, or continue one.

    A damaged ``config.json`` is set aside and made anew: results are named by their own inputs.

    Parameters
    ----------
    path
        The folder.
    config
        JSON values; a folder is continued only under the configuration it was made with.
    resume
        Without it a non-empty folder is refused; with it a missing or empty one starts fresh.

    Raises
    ------
    InputError
        A non-empty folder without ``resume``, one that is no run folder, one made by another
        format or with another configuration.
    StorageError
        A folder that cannot be made, read or written.
    """
    config = json.loads(json.dumps(config))
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot use {path} as a run folder: {error.strerror}") from error
    if not os.access(path, os.W_OK):
        read_only = hasattr(os, "statvfs") and os.statvfs(path).f_flag & os.ST_RDONLY
        reason = "read-only file system" if read_only else "permission denied"
        raise StorageError(f"cannot write to {path}: {reason}; choose another --out")
    occupied = expect_free(path, resume=resume)
    if occupied and _aside_if_damaged(path):
        occupied = False
    if occupied:
        _expect_config(path, config)
        _note_environment(path)
        _remove_stray_files(path)
    else:
        _write_config(path, {"format": FORMAT, "config": config, "environments": [environment()]})
    for name in ("units", "checkpoints"):
        try:
            (path / name).mkdir(exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make {path / name}: {error.strerror}") from error
    return RunFolder(path, config, _read_config(path)["environments"])


def expect_free(path: Path, *, resume: bool) -> bool:
    """Refuse a folder that is not empty, unless it is to be continued.

    Returns
    -------
    Whether there is something in it.

    Raises
    ------
    InputError
        If there is, without ``resume``.
    StorageError
        If it cannot be read.
    """
    try:
        occupied = path.exists() and any(
            not entry.name.startswith(".writing-") and entry.name not in _BEFORE
            for entry in path.iterdir()
        )
    except OSError as error:
        raise StorageError(f"cannot use {path} as a run folder: {error.strerror}") from error
    if occupied and not resume:
        raise InputError(
            f"{path} is not empty; add --resume to continue the run in it, or choose another --out"
        )
    return occupied


def look_into(path: Path, config: Mapping[str, Any]) -> RunFolder:
    """Open a run folder that is there, and leave it as it is.

    Raises
    ------
    InputError
        If there is none, or it was made with another configuration.
    """
    _expect_config(path, json.loads(json.dumps(config)))
    return read_run_folder(path)


def read_run_folder(path: Path) -> RunFolder:
    """Open a run folder that is there, under its own configuration.

    Raises
    ------
    InputError
        If there is none, or it was written by another format.
    """
    record = _read_config(path)
    return RunFolder(path, record["config"], record["environments"])


def environment() -> dict[str, Any]:
    """What a run depends on besides its configuration: versions, machine, devices."""
    import jax

    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "orbax-checkpoint")
    return {
        "landscape": __version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "devices": [str(device.device_kind) for device in jax.local_devices()],
        **{name: metadata.version(name) for name in packages},
    }


def _processor() -> str:
    """The CPU's name; empty if the system does not tell."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def unit_stem(name: str, inputs: Mapping[str, Any]) -> str:
    """A unit's file name without its content hash: readable name and hash of the inputs."""
    return f"{re.sub('[^A-Za-z0-9-]+', '-', name)}.{short_hash(_unit_text(inputs).encode())}"


def _unit_text(inputs: Mapping[str, Any]) -> str:
    return json.dumps({"inputs": inputs, "numerics": NUMERICS_VERSION}, sort_keys=True)


def _checksum_path(path: Path) -> Path:
    return path.with_suffix(".sha256")


def places_of_strays(path: Path) -> list[Path]:
    """Where in a run folder temporary files are made."""
    nested = [place for place in (path / "checkpoints").glob("*") if place.is_dir()]
    names = ("units", "figures", "checkpoints", "claims")
    return [path, *(path / name for name in names), *nested]


def _remove_stray_files(path: Path) -> None:
    for folder in places_of_strays(path):
        for stray in stale(folder):
            if stray.is_dir():
                shutil.rmtree(stray, ignore_errors=True)
            else:
                stray.unlink(missing_ok=True)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        record = json.loads((path / "config.json").read_text())
        version = record["format"]
        if version == FORMAT:
            if not isinstance(record["config"], dict):
                raise ValueError("no configuration")
            for each in record["environments"]:
                each["landscape"]
    except OSError as error:
        raise InputError(f"{path} is not a run folder: it has no readable config.json") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigDamagedError(
            f"{path / 'config.json'} is damaged. Give the run's own command again: it makes this "
            "file anew, and what is finished stays"
        ) from error
    if version != FORMAT:
        raise InputError(
            f"{path} was written in run format {version}; this version reads format {FORMAT}: use "
            "the version that wrote it, or choose another --out"
        )
    return record


def _aside_if_damaged(path: Path) -> bool:
    """Put a run's configuration that is not what was written out of the way, and say so.

    One that is gone from beside results, or from where a run has begun, is made anew as well.
    """
    place, missing = path / "config.json", not os.path.exists(path / "config.json")
    # It may be somebody else's folder.
    begun = all((path / name).is_dir() for name in ("units", "checkpoints", "events"))
    if not (begun or RunFolder(path, {}, []).finished_units()):
        return False
    try:
        if not missing:
            _read_config(path)
    except ConfigDamagedError:
        target = RunFolder(path, {}, []).set_aside(place)
        _logger.warning("%s is damaged; it is now %s, and made anew", place, target)
        return True
    except InputError:
        pass
    return missing


def _write_config(path: Path, record: Mapping[str, Any]) -> None:
    write_atomically(path / "config.json", (json.dumps(record, indent=1) + "\n").encode())


def _note_environment(path: Path) -> None:
    """Record the present environment, if the run has not seen it yet."""
    record, now = _read_config(path), json.loads(json.dumps(environment()))
    if now not in record["environments"]:
        _write_config(path, {**record, "environments": [*record["environments"], now]})


def _expect_config(path: Path, config: Mapping[str, Any]) -> None:
    found, config = _flat(_read_config(path)["config"]), _flat(config)
    different = [key for key in {**found, **config} if found.get(key) != config.get(key)]
    if different:
        listed = "; ".join(
            f"{key} was {_shown(found.get(key))}, now {_shown(config.get(key))}"
            for key in sorted(different)
        )
        # An option that did not exist can be given no value that would do.
        known = all(key in found for key in different)
        way = "use the same options, or choose another --out" if known else "choose another --out"
        raise InputError(f"{path} holds a run of another configuration ({listed}); {way}")


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys written with dots, so that a difference is named where it is."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
