"""How much memory there is: properties of the machine, never what happens to be free."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import jax

# Where Linux says what a container or a batch job may take: control groups of version 2, and 1.
_LIMITS = (("", "sys/fs/cgroup", "memory.max"), ("memory", "sys/fs/cgroup/memory",
                                                 "memory.limit_in_bytes"))  # fmt: skip


@functools.cache
def host_memory() -> int:
    """Bytes of the host's memory, or fewer if this process's control group may take no more."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *control_group_limits(Path("/"))])


def control_group_limits(root: Path) -> list[int]:
    """Limits on this process's memory, those of the groups around its own included.

    Parameters
    ----------
    root
        Of the file system.
    """
    found = []
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, kinds, path = line.split(":", 2)
        for kind, mounted, name in _LIMITS:
            if kind not in kinds.split(","):
                continue
            # Inside a container the path may be that outside of it: then its own is at the top.
            place = Path(path.lstrip("/"))
            for inside in (place, *place.parents):
                try:
                    text = (root / mounted / inside / name).read_text().strip()
                except OSError:
                    continue
                if text.isdecimal():
                    found.append(int(text))
    return found


def device_memory() -> int:
    """Bytes of the default device's memory: the host's on a CPU, what JAX may use elsewhere."""
    device = jax.devices()[0]
    stats = None if device.platform == "cpu" else device.memory_stats()
    return int(stats["bytes_limit"]) if stats and "bytes_limit" in stats else host_memory()


def readable(count: int) -> str:
    """Bytes in words, three digits."""
    units = ("bytes", "kB", "MB", "GB", "TB", "PB", "EB")
    power, number = 0, float(count)
    while abs(number) >= 999.5 and power < len(units) - 1:
        power, number = power + 1, number / 1000
    return f"{number:.3g} {units[power]}"
