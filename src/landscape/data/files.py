"""The data folder, and whether the files in it are the official ones."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from landscape.data.sources import Source, SourceFile
from landscape.errors import DataError, StorageError

ROOT_VARIABLE = "LANDSCAPE_DATA"

FileState = Literal["ok", "missing", "truncated", "altered"]


@dataclass(frozen=True)
class FileStatus:
    """One file of a data set against the official one.

    Attributes
    ----------
    name : str
        Its name inside the data set's folder.
    path : Path or None
        Where it was looked for; None for data that ships with a package.
    state : {"ok", "missing", "truncated", "altered"}
        "truncated" is smaller than the official file, "altered" is any other difference.
    expected_md5, found_md5 : str or None
        None where there is no file to compare.
    expected_size, found_size : int or None
        In bytes.
    """

    name: str
    path: Path | None
    state: FileState
    expected_md5: str | None = None
    found_md5: str | None = None
    expected_size: int | None = None
    found_size: int | None = None

    @property
    def ok(self) -> bool:
        """Whether the file is the official one."""
        return self.state == "ok"

    def __str__(self) -> str:
        if self.state in ("ok", "missing"):
            return f"{self.name}: {self.state}"
        return (
            f"{self.name}: {self.state} (md5 {self.found_md5}, expected {self.expected_md5}; "
            f"{self.found_size} bytes, expected {self.expected_size})"
        )


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder the data sets lie in, each in a folder of its own.

    Parameters
    ----------
    root : path, optional
        Given, it is the answer. Else the environment variable ``LANDSCAPE_DATA`` is, and else
        the user's cache folder for ``landscape``.

    Examples
    --------
    >>> from landscape.data import data_root
    >>> data_root("/data").as_posix()
    '/data'
    """
    chosen = root if root is not None else os.environ.get(ROOT_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().resolve()
    import pooch

    return Path(pooch.os_cache("landscape"))


def check_file(folder: Path, file: SourceFile) -> FileStatus:
    """Compare one file with the official md5. Raises StorageError if it cannot be read."""
    path = folder / file.name
    try:
        with path.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            md5 = hashlib.file_digest(
                opened, lambda: hashlib.md5(usedforsecurity=False)
            ).hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return FileStatus(file.name, path, "missing", file.md5, None, file.size, None)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    state: FileState = "ok"
    if md5 != file.md5:
        state = "truncated" if size < file.size else "altered"
    return FileStatus(file.name, path, state, file.md5, md5, file.size, size)


def check_files(folder: Path, files: Iterable[SourceFile]) -> tuple[FileStatus, ...]:
    """Compare several files of one folder with the official md5s."""
    return tuple(check_file(folder, file) for file in files)


def refuse_damaged(source: Source, folder: Path, statuses: Iterable[FileStatus]) -> None:
    """Raise DataError if a file is there and is not the official one."""
    damaged = [status for status in statuses if status.state in ("truncated", "altered")]
    if damaged:
        one = len(damaged) == 1
        raise DataError(
            f"{source.name}: {'a file' if one else f'{len(damaged)} files'} in {folder} "
            f"{'differs' if one else 'differ'} from the official "
            f"{'one' if one else 'ones'}: {'; '.join(map(str, damaged))}. "
            f"Delete {'it' if one else 'them'} and run `landscape data download {source.name}`"
        )
