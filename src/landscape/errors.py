"""What can go wrong, as types: each carries the exit code the command line ends with.

Exit codes: 0 done, 1 internal error, 2 usage or input, 3 some units failed, 4 storage,
5 memory or device, 75 stopped by a signal (``EX_TEMPFAIL`` of ``sysexits.h``: try again).
A message says what was given, what was expected, and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "DataError",
    "InputError",
    "LandscapeError",
    "ResourceError",
    "StoppedError",
    "StorageError",
    "UnitsFailedError",
]


class LandscapeError(Exception):
    """Base of every error raised on purpose by this package."""

    exit_code = 1


class InputError(LandscapeError, ValueError):
    """An argument, a configuration or a model that cannot be used as given."""

    exit_code = 2


class DataError(InputError):
    """A data set that is unknown, missing, truncated or altered."""


class UnitsFailedError(LandscapeError):
    """Some units of work of a run failed; the finished ones are kept.

    Attributes
    ----------
    names
        Of those that failed.
    """

    exit_code = 3

    def __init__(self, message: str = "", names: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.names = tuple(names)


class StorageError(LandscapeError, OSError):
    """A folder or file that cannot be read, written or trusted."""

    exit_code = 4


class ResourceError(LandscapeError, RuntimeError):
    """The device or the memory cannot hold what was asked for."""

    exit_code = 5


class StoppedError(LandscapeError):
    """A signal asked the run to stop; it stopped at a safe point and can be resumed."""

    exit_code = 75
