"""How much memory there is: properties of the machine, never what happens to be free."""

from __future__ import annotations

import os

import jax


def host_memory() -> int:
    """Bytes of the host's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


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
