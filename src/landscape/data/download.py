"""Fetching a data set into the data folder.

Everything is made in a temporary folder beside the data set's own: the archive is fetched there
(with pooch), compared with its official md5, unpacked, and each file compared in turn. Only then
is it renamed into place, so that a download that fails or is killed never leaves half a data set.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from landscape.data.archives import extract
from landscape.data.files import FileStatus, check_files, data_root, refuse_damaged
from landscape.data.registry import find_source
from landscape.data.sources import Archive, Source
from landscape.errors import DataError, InputError, StorageError

# Seconds to wait for a connection, and between two pieces of an answer.
TIMEOUT = (10, 60)

_CHUNK = 1 << 16
_STALE = 24 * 3600


@dataclass(frozen=True)
class DownloadResult:
    """What :func:`download` did.

    Attributes
    ----------
    name : str
        The data set.
    folder : Path or None
        Where it lies; None for data that ships with a package.
    downloaded : bool
        False if it was there already and nothing had to be done.
    files : tuple of FileStatus
        Its files, all "ok".
    message : str
        One line to print.
    """

    name: str
    folder: Path | None
    downloaded: bool
    files: tuple[FileStatus, ...]
    message: str

    def __str__(self) -> str:
        return self.message


def download(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    base_url: str | None = None,
    progress: bool = True,
) -> DownloadResult:
    """Fetch a data set, check it, and put it into the data folder.

    Parameters
    ----------
    name : str
        One of :func:`landscape.data.names`.
    root : path, optional
        The folder to make the data set's folder in, see :func:`landscape.data.data_root`.
    base_url : str, optional
        Address that the archive lies under (http or https), for a mirror. Default: the official
        one. The md5 has to be the official one in any case.
    progress : bool
        Whether to draw a progress bar on stderr.

    Returns
    -------
    DownloadResult
        A data set that is there and complete is left as it is. If only some files are missing,
        those are added. Nothing that is there is ever overwritten.

    Raises
    ------
    DataError
        If the data set is unknown, if what was downloaded is not the official archive, or if
        files that differ from the official ones are in the way; they are named.
    StorageError
        If the address cannot be reached, the connection breaks, or the folder cannot be written.
    InputError
        If the address is not an http address.

    Notes
    -----
    CIFAR-10 and CIFAR-100: A. Krizhevsky, *Learning Multiple Layers of Features from Tiny
    Images*, 2009, https://www.cs.toronto.edu/~kriz/cifar.html.

    Examples
    --------
    >>> from landscape.data import download
    >>> print(download("digits"))
    digits ships with scikit-learn; there is nothing to download
    """
    source = find_source(name)
    if source.bundled:
        message = f"{name} ships with {source.provider}; there is nothing to download"
        return DownloadResult(name, None, False, (), message)
    address = source.base_url if base_url is None else base_url
    _require_http(address)
    where = data_root(root)
    folder = where / source.folder
    present = check_files(folder, source.files)
    refuse_damaged(source, folder, present)
    if all(status.ok for status in present):
        message = f"{name} is already in {folder}, all {len(present)} files verified"
        return DownloadResult(name, folder, False, present, message)
    try:
        where.mkdir(parents=True, exist_ok=True)
        _require_space(source, where)
        with _staging_folder(source, where) as staging:
            _fetch_all(source, staging, address, progress)
            _put_in_place(source, staging / source.folder, folder)
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(
            f"cannot write {name} to {where}: {error.strerror or error}; "
            "choose another folder with LANDSCAPE_DATA"
        ) from error
    files = check_files(folder, source.files)
    message = f"{name} is in {folder}, all {len(files)} files verified"
    return DownloadResult(name, folder, True, files, message)


def _require_http(address: str) -> None:
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        raise InputError(f"{address!r} is not an http or https address")


def _require_space(source: Source, where: Path) -> None:
    needed = source.num_bytes + sum(archive.size for archive in source.archives)
    free = shutil.disk_usage(where).free
    if free < needed:
        raise StorageError(
            f"{source.name} needs {needed / 1e6:,.0f} MB while it is unpacked, "
            f"and {where} has {free / 1e6:,.0f} MB free"
        )


@contextlib.contextmanager
def _staging_folder(source: Source, where: Path) -> Iterator[Path]:
    prefix = f".{source.folder}.partial-"
    for old in where.glob(f"{prefix}*"):
        # What a killed download left. A younger one may belong to a process that is at work.
        with contextlib.suppress(FileNotFoundError):
            if time.time() - old.stat().st_mtime > _STALE:
                shutil.rmtree(old, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=prefix, dir=where))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _fetch_all(source: Source, staging: Path, base_url: str, progress: bool) -> None:
    unpacked = staging / source.folder
    unpacked.mkdir()
    for archive in source.archives:
        url = f"{base_url.rstrip('/')}/{archive.name}"
        fetched = _fetch(source, archive, url, staging, progress)
        if archive.unpack:
            extract(fetched, source.folder, {file.name for file in source.files}, unpacked)
            fetched.unlink()
        else:
            fetched.rename(unpacked / archive.name)
    wrong = [status for status in check_files(unpacked, source.files) if not status.ok]
    if wrong:
        raise DataError(
            f"{source.name}: what was downloaded holds other files than the official ones: "
            + "; ".join(map(str, wrong))
        )


def _put_in_place(source: Source, unpacked: Path, folder: Path) -> None:
    with contextlib.suppress(OSError):
        # The usual way: one atomic step. It fails if a folder with files is there.
        unpacked.rename(folder)
        return
    folder.mkdir(exist_ok=True)
    present = check_files(folder, source.files)
    refuse_damaged(source, folder, present)
    for status in present:
        if status.state == "missing":
            (unpacked / status.name).rename(folder / status.name)


def _fetch(source: Source, archive: Archive, url: str, staging: Path, progress: bool) -> Path:
    import pooch
    from requests import exceptions

    bar = _ProgressBar(archive.name) if progress else None
    http = pooch.HTTPDownloader(progressbar=bar or False, chunk_size=_CHUNK, timeout=TIMEOUT)

    def fetch_and_check(url: str, output_file: str, pooch: Any) -> None:
        http(url, output_file, pooch)
        _refuse_other_archive(archive, url, Path(output_file))

    by_hand = f"or get it from {source.homepage} and unpack it in {staging.parent}"
    try:
        with _quiet(pooch.get_logger()):
            fetched = pooch.retrieve(
                url,
                known_hash=f"md5:{archive.md5}",
                fname=archive.name,
                path=staging,
                downloader=fetch_and_check,
            )
    except exceptions.HTTPError as error:
        raise StorageError(
            f"the server refused {url} ({_status_code(error)}); try again later, {by_hand}"
        ) from error
    except exceptions.Timeout as error:
        raise StorageError(
            f"no answer from {url} within {TIMEOUT[1]} s; try again, {by_hand}"
        ) from error
    except exceptions.ChunkedEncodingError as error:
        raise StorageError(
            f"the connection broke before all of {url} had come ({archive.size:,} bytes); try again"
        ) from error
    except exceptions.RequestException as error:
        raise StorageError(
            f"cannot reach {url} ({type(error).__name__}); check the network, {by_hand}"
        ) from error
    finally:
        if bar is not None:
            bar.close()
    return Path(fetched)


def _status_code(error: Any) -> str:
    return f"{error.response.status_code} {error.response.reason}"


def _refuse_other_archive(archive: Archive, url: str, path: Path) -> None:
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if md5 != archive.md5:
        size = path.stat().st_size
        what = "is truncated" if size < archive.size else "is not the official file"
        raise DataError(
            f"{url} {what}: md5 {md5}, expected {archive.md5}; "
            f"{size:,} bytes, expected {archive.size:,}. Nothing was kept; try again"
        )


@contextlib.contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    # pooch reports the temporary file name on stderr, where the progress bar is drawn.
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


class _ProgressBar:
    """What pooch expects of a progress bar (``total``, update, reset, close), drawn by rich."""

    def __init__(self, label: str) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task(label, total=None)

    @property
    def total(self) -> int:
        """Bytes to come; 0 if the server does not say."""
        return int(self._progress.tasks[0].total or 0)

    @total.setter
    def total(self, value: int) -> None:
        self._progress.update(self._task, total=value or None)
        self._progress.start()

    def update(self, amount: int) -> None:
        """Add bytes that have come."""
        self._progress.update(self._task, advance=amount)

    def reset(self) -> None:
        """Set the count back to zero: pooch does so before it sets the final one."""
        self._progress.update(self._task, completed=0)

    def close(self) -> None:
        """Leave the bar as it is; may be called twice."""
        self._progress.stop()
