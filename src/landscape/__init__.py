"""How degenerate is a neural network's loss landscape, and why.

The rooms, in the order a parameter pytree walks them: ``data``, ``models``, ``training``,
``curvature``, ``spectra``, ``degeneracy``, then ``theory``, ``runs``, ``plots``, ``report``,
``experiments`` and ``analysis``. Importing this package imports none of them: each is loaded when
it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from landscape._version import __version__
from landscape._xla import switch_wrong_sums_off

if TYPE_CHECKING:
    from landscape import (
        analysis,
        curvature,
        data,
        degeneracy,
        errors,
        experiments,
        models,
        plots,
        report,
        runs,
        spectra,
        theory,
        training,
    )
    from landscape.analysis.collected import open_run
    from landscape.results import load

switch_wrong_sums_off()

# Public names of the package itself, and where they are; the others are its rooms.
_NAMES = {"load": "landscape.results", "open_run": "landscape.analysis.collected"}

__all__ = [
    "__version__",
    "analysis",
    "curvature",
    "data",
    "degeneracy",
    "errors",
    "experiments",
    "load",
    "models",
    "open_run",
    "plots",
    "report",
    "runs",
    "spectra",
    "theory",
    "training",
]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    if name in __all__:
        return importlib.import_module(f"landscape.{name}")
    raise AttributeError(f"module 'landscape' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
