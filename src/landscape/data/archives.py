"""Unpacking a downloaded tar archive, taking only the files that are expected.

An archive is input from elsewhere: member names may point outside the folder, and members may be
links or devices (CVE-2007-4559; PEP 706). Nothing here lets the archive choose a path: expected
members are copied as plain files to names of our own, hostile ones end the extraction, and
anything else is passed over.
"""

from __future__ import annotations

import shutil
import tarfile
import zlib
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from landscape.errors import DataError


def extract(archive: Path, folder: str, names: Collection[str], target: Path) -> None:
    """Copy the members ``folder/name`` of a tar archive to ``target/name``.

    Parameters
    ----------
    archive : Path
        A tar file, compressed or not.
    folder : str
        The folder inside the archive.
    names : collection of str
        Which of its files to take; others are passed over.
    target : Path
        An existing folder of our own, without those files.

    Raises
    ------
    DataError
        If the archive is damaged, holds an absolute path, ``..``, a link or a device, holds an
        expected file twice, or lacks one.
    OSError
        If a file cannot be written.
    """
    wanted = {f"{folder}/{name}": target / name for name in names}
    taken = set()
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                _refuse_hostile(archive, member, target)
                path = str(PurePosixPath(member.name))
                content = tar.extractfile(member) if path in wanted else None
                if content is None:
                    continue
                if path in taken:
                    raise DataError(f"{archive.name} is refused: it holds {path!r} twice")
                taken.add(path)
                with wanted[path].open("xb") as file:
                    shutil.copyfileobj(content, file)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{archive.name} is not a readable tar archive: {error}") from error
    lacking = sorted(set(wanted) - taken)
    if lacking:
        raise DataError(f"{archive.name} lacks {', '.join(lacking)}")


def _refuse_hostile(archive: Path, member: tarfile.TarInfo, target: Path) -> None:
    path = PurePosixPath(member.name.replace("\\", "/"))
    what = ""
    if path.is_absolute() or ":" in path.parts[:1]:
        what = "has an absolute path"
    elif ".." in path.parts:
        what = "points outside its folder"
    elif member.issym() or member.islnk():
        what = f"is a link to {member.linkname!r}"
    elif not (member.isfile() or member.isdir()):
        what = "is neither a file nor a folder"
    elif hasattr(tarfile, "data_filter"):
        try:
            tarfile.data_filter(member, str(target))
        except tarfile.FilterError as error:
            what = f"is unsafe ({error})"
    if what:
        raise DataError(f"{archive.name} is refused: its member {member.name!r} {what}")
