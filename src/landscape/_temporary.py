"""Names of what is being written, so that what a killed process left can be told and cleared."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import socket
import time
from pathlib import Path

# From another machine, or another container, it cannot be seen whether a process lives; then age
# decides.
_STALE_SECONDS = 3600

_NAME = re.compile(r"\.writing-(?P<machine>.+)-(?P<process>\d+)-[^-]*")


@functools.cache
def machine() -> str:
    """Where numbers of processes mean the same: a boot of a machine, and its set of processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        place = f"{boot}:{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        place = socket.gethostname()
    return hashlib.sha256(place.encode()).hexdigest()[:16]


def temporary_prefix() -> str:
    """Prefix of a temporary file or folder: it names the machine and the process that writes."""
    return f".writing-{machine()}-{os.getpid()}-"


def stale(folder: Path) -> list[Path]:
    """What nobody can still be writing in a folder."""
    return [path for path in folder.glob(".writing-*") if _is_stale(path)]


def _is_stale(path: Path) -> bool:
    found = _NAME.fullmatch(path.name)
    if found is None:
        return True
    if found["machine"] == machine():
        try:
            os.kill(int(found["process"]), 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False
    try:
        return time.time() - path.stat().st_mtime > _STALE_SECONDS
    except OSError:
        return False
