"""What the vectors of Lanczos take, and which way of keeping them orthogonal fits."""

from __future__ import annotations

from landscape.curvature.memory import device_memory, readable
from landscape.errors import InputError, ResourceError
from landscape.spectra.blocks import block_sizes
from landscape.spectra.lanczos import SCHEMES
from landscape.spectra.tiles import tile_shape

# Vectors a probe needs whatever its number of steps: the current, the one before, and the image.
NUM_VECTORS = 3


def fitting_scheme(asked: str, one: int, capacity: int, memory: int, devices: int = 1) -> str:
    """The scheme to use, given the bytes of one vector for each lane, and those of a device."""
    if asked not in ("auto", *SCHEMES):
        known = ", ".join(("auto", *SCHEMES))
        raise InputError(f"reorthogonalize must be one of {known}; got {asked!r}")
    needed = basis_bytes(one, capacity, devices)
    if asked == "auto":
        asked = "partial" if needed <= memory else "none"
    if asked == "none":
        needed = one * NUM_VECTORS
    if needed > memory:
        remedy = "fewer probes" if asked == "none" else "fewer steps or probes"
        also = "" if asked == "none" else "reorthogonalize='none', "
        raise ResourceError(
            f"reorthogonalize={asked!r} keeps vectors of {readable(needed)} in all and may take "
            f"{readable(memory)}; take {remedy}, {also}or declare more memory"
        )
    return asked


def auto_scheme(
    size: int,
    itemsize: int,
    num_probes: int,
    capacity: int,
    memory: int | None = None,
    *,
    devices: int = 1,
) -> str:
    """What ``reorthogonalize="auto"`` stands for.

    Parameters
    ----------
    size, itemsize, num_probes, capacity, memory, devices
        As for ``lanczos_bytes``.
    """
    memory = device_memory() // 2 if memory is None else memory
    one = num_probes * size * itemsize
    return fitting_scheme("auto", one, min(capacity, size), memory, _sharing(size, devices))


def lanczos_bytes(
    size: int,
    itemsize: int,
    num_probes: int,
    capacity: int,
    memory: int | None = None,
    *,
    reorthogonalize: str = "auto",
    devices: int = 1,
) -> int:
    """Bytes of the vectors of one run on each device.

    Parameters
    ----------
    size, itemsize
        P, and bytes of a number.
    num_probes, capacity, memory, reorthogonalize
        As for ``lanczos_run``.
    devices
        Of a mesh, among which a basis is divided.
    """
    one, devices = num_probes * size * itemsize, _sharing(size, devices)
    memory = device_memory() // 2 if memory is None else memory
    scheme = fitting_scheme(reorthogonalize, one, min(capacity, size), memory, devices)
    if scheme != "none":
        capacity = min(capacity, size)
    return one * NUM_VECTORS if scheme == "none" else basis_bytes(one, capacity, devices)


def _sharing(size: int, devices: int) -> int:
    """Among how many of these devices vectors of a basis are divided: as ``layout``."""
    return devices if tile_shape(size)[1] % devices == 0 else 1


def basis_bytes(one: int, capacity: int, devices: int = 1) -> int:
    """Bytes of the vectors with a basis on each device, given those of one for each lane."""
    return one * NUM_VECTORS + one * sum(block_sizes(capacity)) // devices
