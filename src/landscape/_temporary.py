"""Names of what is being written, so that what a killed process left can be told and cleared."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import socket
import time
from contextlib import suppress
from pathlib import Path

# From another machine, or another container, it cannot be seen whether a process lives; then age
# decides.
_STALE_SECONDS = 3600

# What names begin with.
_WRITING = ".writing-"

_NAME = re.compile(r"(?P<machine>.+)-(?P<process>\d+)-[^-]*")


@functools.cache
def machine() -> str:
    """Where numbers of processes mean the same: a boot of a machine, and its set of processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        place = f"{boot}:{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        place = socket.gethostname()
    return hashlib.sha256(place.encode()).hexdigest()[:16]


def temporary_prefix(kind: str = _WRITING) -> str:
    """Prefix of a temporary file or folder: it names the machine and the process that writes."""
    return f"{kind}{machine()}-{os.getpid()}-"


def filesystem_time(folder: Path) -> float:
    """The time by the clock of a folder's file system, which all machines that see it share."""
    probe = folder / f"{temporary_prefix()}now"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with suppress(OSError):
            probe.unlink()


def stale(folder: Path, kind: str = _WRITING) -> list[Path]:
    """What nobody can still be writing in a folder."""
    return [path for path in folder.glob(f"{kind}*") if _is_stale(path, kind)]


def _is_stale(path: Path, kind: str) -> bool:
    found = _NAME.fullmatch(path.name.removeprefix(kind))
    if found is None:
        return kind == _WRITING
    if found["machine"] == machine():
        try:
            os.kill(int(found["process"]), 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False
    if kind != _WRITING:
        # It may be in use however old it is.
        return False
    try:
        return filesystem_time(path.parent) - path.stat().st_mtime > _STALE_SECONDS
    except OSError:
        return False
