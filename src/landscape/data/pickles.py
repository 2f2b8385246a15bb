"""Reading pickles of arrays without running what else a pickle can run.

Unpickling calls whatever functions the file names. The unpickler here resolves only the names
that NumPy arrays and plain containers need, and refuses every other one before it is imported
("Restricting Globals", https://docs.python.org/3/library/pickle.html).
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from landscape.errors import DataError, StorageError

# What a file that is not a well-formed pickle can raise, by the pickle module's documentation
# and by what NumPy raises for a malformed array state.
_MALFORMED = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,
)


def _reconstruct(subtype: type, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    # numpy.core.multiarray._reconstruct under both of its module names: an empty array, whose
    # shape and bytes are set from the pickle's state.
    if subtype is not np.ndarray:
        raise pickle.UnpicklingError(f"cannot make an array of type {subtype!r}")
    return np.ndarray.__new__(np.ndarray, shape, dtype)


def _latin1(text: str, encoding: str) -> bytes:
    # How Python 3 writes bytes in the protocols of Python 2; other codecs are not needed.
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"cannot decode {encoding!r}")
    return text.encode("latin-1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("_codecs", "encode"): _latin1,
    **{("builtins", kind.__name__): kind for kind in (bytearray, complex, frozenset, set)},
}


class _ArrayUnpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, path: Path) -> None:
        # Bytes, not text: a Python-2 string may hold an image's bytes.
        super().__init__(file, encoding="bytes")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        if module == "__builtin__":  # Python 2's name for it
            module = "builtins"
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise DataError(
                f"{self._path} is refused: its pickle asks for {module}.{name}, and only NumPy "
                "arrays and plain containers are read; delete it and download it again"
            ) from None


def read_pickle(path: Path) -> Any:
    """Return the object in a pickle that holds only arrays, numbers, strings and containers.

    Strings that Python 2 wrote come back as bytes.

    Raises
    ------
    DataError
        If the pickle names any other global, or is not a well-formed pickle.
    StorageError
        If the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return _ArrayUnpickler(file, path).load()
    except (DataError, StorageError):
        raise
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    except _MALFORMED as error:
        raise DataError(
            f"{path} is not a readable pickle ({type(error).__name__}: {error}); "
            "delete it and download it again"
        ) from error
