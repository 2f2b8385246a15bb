"""How degenerate is a neural network's loss landscape, and why.

The rooms, in the order a parameter pytree walks them: ``data``, ``models``, ``training``,
``curvature``, ``spectra``, ``degeneracy``, then ``theory``, ``runs``, ``plots``, ``report``,
``experiments`` and ``analysis``. Importing this package imports none of them: each is loaded when
it is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

from landscape._version import __version__
from landscape._xla import switch_wrong_sums_off

switch_wrong_sums_off()

_ROOMS = (
    "analysis",
    "curvature",
    "data",
    "degeneracy",
    "experiments",
    "models",
    "plots",
    "report",
    "runs",
    "spectra",
    "theory",
    "training",
)

# Public names of the package itself, and where they are.
_NAMES = {"load": "landscape.results", "open_run": "landscape.analysis.collected"}

__all__ = ["__version__", "errors", "load", "open_run", *_ROOMS]


def __getattr__(name: str) -> Any:
    if name in (*_ROOMS, "errors"):
        return importlib.import_module(f"landscape.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'landscape' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
