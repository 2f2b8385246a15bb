"""What the compiler must not do: sums that jaxlib 0.10.2 computes wrongly on a CPU.

That version hands sums of products to a library of kernels and gets some of them wrong by any
amount (jax issue 39103, and a Monte-Carlo Fisher matrix of this package); 0.10.1 and 0.11 do not.
The flag that switches it off is read when JAX is first used, so it is set when this package is
imported. It costs no time: products and Lanczos runs take as long with it as without.
"""

from __future__ import annotations

import os
from importlib import metadata

WRONG_ON_CPU = ("0.10.2",)
FLAG = "--xla_cpu_experimental_ynn_fusion_type"


def computes_sums_wrongly() -> bool:
    """Whether the installed jaxlib is one of those; JAX itself is not imported."""
    try:
        return metadata.version("jaxlib") in WRONG_ON_CPU
    except metadata.PackageNotFoundError:
        return False


def switch_wrong_sums_off() -> None:
    """Set the flag in ``XLA_FLAGS``, unless it is there or the version needs none."""
    flags = os.environ.get("XLA_FLAGS", "")
    if computes_sums_wrongly() and FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {FLAG}=".strip()
