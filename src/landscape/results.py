"""What every result has in common: it shows itself in Jupyter, is saved, loaded and labelled.

A saved result is one ``.npz`` file: each array under the path of the field that holds it, so that
NumPy alone reads it, and under ``structure``, as JSON, what is around them. Loading executes
nothing that is in the file: it can hold public results of this package, and nothing else.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import typing
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from landscape._temporary import temporary_prefix
from landscape._version import __version__
from landscape.errors import InputError, StorageError

# Raised when files of an older version can no longer be read as they are.
FORMAT = 1

# What leading axes are called in labelled results: those of a family, and of a vector estimated.
_LEADING = {"*batch": "network", "...": "network", "*shape": "P"}

# Dimensions that all parts of a result share.
_COMMON = ("network", "layer", "unit", "other_unit", "P")


class Result:
    """Base of the public results: frozen dataclasses of arrays.

    Two of a class are equal if their numbers are, of the same types and shapes; NaN is NaN.
    """

    # Properties that belong into a labelled dataset beside the fields.
    _labelled: ClassVar[tuple[str, ...]] = ()
    # Fields that a class labels by itself.
    _apart: ClassVar[tuple[str, ...]] = ()
    # Axes in words, by the letters of the docstring; and attributes that say where along them.
    _axes: ClassVar[tuple[tuple[str, str], ...]] = ()
    _coordinates: ClassVar[tuple[tuple[str, str], ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        # What a dataclass would make compares arrays as if they were numbers.
        super().__init_subclass__(**options)
        cls.__eq__, cls.__hash__ = Result.__eq__, Result.__hash__  # type: ignore[method-assign]

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and _equal(self, other)

    def __hash__(self) -> int:
        return hash(type(self))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to a file, whole or not at all.

        Parameters
        ----------
        path
            A name; ``.npz`` is added if it has another ending.

        Returns
        -------
        The file, which ``landscape.load`` reads.

        Raises
        ------
        InputError
            If a part cannot be saved: an object that is not of this package, such as a model.
        StorageError
            If the file cannot be written.
        """
        arrays: dict[str, Any] = {}
        told = {"format": FORMAT, "version": __version__, "result": _taken_apart(self, "", arrays)}
        path = Path(path).expanduser()
        if path.is_dir():
            raise InputError(f"{path} is a folder: give the name of a file")
        if path.suffix != ".npz":
            path = path.with_name(f"{path.name}.npz")
        temporary = path.with_name(temporary_prefix() + uuid.uuid4().hex)
        structure = np.frombuffer(json.dumps(told).encode(), np.uint8)
        try:
            with temporary.open("wb") as stream:
                np.savez_compressed(stream, structure=structure, **arrays)
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
        return path

    def to_xarray(self) -> Any:
        """As an ``xarray.Dataset``.

        Returns
        -------
        Arrays with named axes: ``network`` for the leading axis of a family, ``layer`` and ``unit``
        where there is an array for each layer, ``probe``, ``step``, ``rank``, ``order`` and
        ``time`` for what docstrings call by a letter; the last three have coordinates. Numbers and
        words are attributes; parts that are results themselves give their name to what they hold.
        """
        xarray = importlib.import_module("xarray")
        variables: dict[str, Any] = {}
        attributes: dict[str, Any] = {"result": type(self).__name__, "landscape": __version__}
        for name, dims, value in _variables(self):
            if dims is None:
                attributes[name] = value
            else:
                variables[name] = (dims, value)
        return xarray.Dataset(variables, attrs=attributes)

    def plot(self, ax: Any | None = None, **options: Any) -> Any:
        """Draw it, as in a notebook.

        Parameters
        ----------
        ax
            Matplotlib axes; new ones of a new pyplot figure by default.
        **options
            Of the function of ``landscape.plots`` that draws it: Matplotlib's properties of a line,
            such as ``color``, and of a spectrum ``eps`` and ``label``.

        Returns
        -------
        The axes.

        Raises
        ------
        InputError
            If there is nothing to draw.
        """
        return importlib.import_module("landscape.report.results").drawn(self, ax, **options)

    def _repr_html_(self) -> str:
        return str(importlib.import_module("landscape.report.results").fragment(self))


def load(path: str | os.PathLike[str]) -> Any:
    """Read a result that was saved.

    Parameters
    ----------
    path
        A file that the ``save`` of a result has written; ``.npz`` may be left out.

    Returns
    -------
    The result, of its class; arrays of JAX are arrays of JAX again, with the types they had.

    Raises
    ------
    InputError
        If there is no such file, it holds no result, or one that only a newer version can read.

    Examples
    --------
    >>> import tempfile, jax, landscape
    >>> from landscape.curvature import DiagonalOperator
    >>> from landscape.spectra import trace
    >>> found = trace(DiagonalOperator(jax.numpy.ones(3)), jax.random.key(0), num_matvecs=3)
    >>> landscape.load(found.save(tempfile.mkdtemp() + "/trace"))
    Estimate(3 ± 0.0e+00, exact, 3 products)
    """
    path = Path(path).expanduser()
    if not path.is_file() and Path(f"{path}.npz").is_file():
        path = Path(f"{path}.npz")
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        told = json.loads(arrays.pop("structure").tobytes())
        newer = told["format"] > FORMAT
        structure, version = told["result"], told["version"]
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is no result that was saved by landscape") from error
    if newer:
        raise InputError(f"{path} was saved by landscape {version}, which is newer than this one")
    try:
        found = _put_together(structure, arrays)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(
            f"{path} was saved by landscape {version} and cannot be read by {__version__}: {error}"
        ) from error
    if not isinstance(found, Result):
        raise InputError(f"{path} is no result that was saved by landscape")
    return found


def _taken_apart(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    """JSON for a value; its arrays are added under their paths."""

    def part(inner: Any, name: Any) -> Any:
        return _taken_apart(inner, f"{path}.{name}" if path else str(name), arrays)

    def kept(array: np.ndarray, **more: Any) -> dict[str, Any]:
        if array.dtype == object:
            raise InputError(f"{path} holds Python objects, which cannot be saved")
        if array.dtype.kind == "V":
            # A type that NumPy does not know, such as bfloat16: its bytes.
            more["dtype"] = array.dtype.name
            array = np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")
        name = path
        # Names of parameters may hold dots, and then two paths can be written alike.
        while name in arrays:
            name += "'"
        arrays[name] = array
        return {"array": name, **more}

    if isinstance(value, np.ndarray):
        return kept(value)
    if isinstance(value, np.generic):
        # Before Python's own numbers: NumPy's float64 is one of them.
        return kept(np.asarray(value), scalar=True)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if type(value).__module__.split(".")[0] in ("jax", "jaxlib"):
        return kept(np.asarray(value), device=True)
    if isinstance(value, tuple | list):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [part(inner, place) for place, inner in enumerate(value)]}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise InputError(f"{path} has keys that are not text, and cannot be saved")
        return {"dict": {key: part(inner, key) for key, inner in value.items()}}
    if type(value).__name__ == "csr_array":
        parts = {name: part(getattr(value, name), name) for name in ("data", "indices", "indptr")}
        return {"csr": parts, "shape": list(value.shape)}
    name = _public_name(type(value))
    if name is None:
        raise InputError(
            f"{path} is of type {type(value).__name__}, which cannot be saved: only arrays, "
            "numbers, text and results of landscape"
        )
    fields = {f.name: part(getattr(value, f.name), f.name) for f in dataclasses.fields(value)}
    return {"class": name, "fields": fields}


def _put_together(told: Any, arrays: dict[str, np.ndarray]) -> Any:
    if not isinstance(told, dict):
        return told
    if "array" in told:
        return _array(told, arrays[told["array"]])
    if "tuple" in told:
        return tuple(_put_together(inner, arrays) for inner in told["tuple"])
    if "list" in told:
        return [_put_together(inner, arrays) for inner in told["list"]]
    if "dict" in told:
        return {key: _put_together(inner, arrays) for key, inner in told["dict"].items()}
    if "csr" in told:
        from scipy.sparse import csr_array

        parts = [_put_together(told["csr"][name], arrays) for name in ("data", "indices", "indptr")]
        return csr_array(tuple(parts), shape=tuple(told["shape"]))
    room, name = told["class"].split(".")
    package = importlib.import_module("landscape")
    if room not in package.__all__:
        raise TypeError(f"{told['class']} is no result")
    found = getattr(getattr(package, room), name)
    if _public_name(found) != told["class"]:
        raise TypeError(f"{told['class']} is no result")
    return found(**{key: _put_together(part, arrays) for key, part in told["fields"].items()})


def _array(told: dict[str, Any], array: np.ndarray) -> Any:
    if "dtype" in told:
        import jax.numpy as jnp

        array = array.view(jnp.dtype(told["dtype"]))
    if told.get("scalar"):
        return array[()]
    if told.get("device"):
        import jax
        import jax.numpy as jnp

        # In the type it had, whatever the present default is.
        with jax.enable_x64(True):
            return jnp.asarray(array)
    return array


def _public_name(kind: Any) -> str | None:
    """``room.Name`` of a public dataclass of this package, by which it is found again."""
    package, *rest = kind.__module__.split(".")
    name = kind.__name__
    if package != "landscape" or not rest or not dataclasses.is_dataclass(kind):
        return None
    public = getattr(importlib.import_module(f"landscape.{rest[0]}"), "__all__", ())
    return f"{rest[0]}.{name}" if name in public else None


def _variables(result: Any) -> Iterator[tuple[str, Any, Any]]:
    """Names, dimensions and values; of what is no array the dimensions are None."""
    hints, words = typing.get_type_hints(type(result)), dict(result._axes)
    names = [f.name for f in dataclasses.fields(result) if f.name not in result._apart]
    for name in (*names, *result._labelled):
        value, hint = getattr(result, name), hints.get(name)
        if hint is None:
            hint = typing.get_type_hints(getattr(type(result), name).fget)["return"]
        for label, dims, one in _one(name, value, hint):
            yield label, dims and tuple(words.get(dim, dim) for dim in dims), one
    for dim, name in result._coordinates:
        yield dim, (dim,), np.asarray(getattr(result, name))


def _one(name: str, value: Any, hint: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(value, Result):
        part = value.to_xarray()
        for inner, variable in part.variables.items():
            dims = tuple(_own(str(dim), name, part) for dim in variable.dims)
            yield f"{name}_{inner}", dims, variable.values
        for inner, told in part.attrs.items():
            if inner not in ("result", "landscape"):
                yield f"{name}_{inner}", None, told
    elif isinstance(value, bool | np.bool_):
        yield name, None, int(value)
    elif isinstance(value, str | int | float):
        yield name, None, value
    elif isinstance(value, tuple) and value and all(_is_array(one) for one in value):
        yield from _layers(name, [np.asarray(one) for one in value], typing.get_args(hint)[0])
    elif isinstance(value, tuple) and all(isinstance(one, str | int | float) for one in value):
        yield name, None, list(value)
    elif isinstance(value, Mapping) and all(_is_array(one) for one in value.values()):
        for key, one in value.items():
            yield f"{name}_{key}", _dims(np.asarray(one), None, key), np.asarray(one)
    elif _is_array(value):
        yield name, _dims(np.asarray(value), hint, name), np.asarray(value)


def _own(dim: str, name: str, part: Any) -> str:
    """A dimension of a part: all but those that are the same wherever they are found."""
    return dim if dim in _COMMON and dim not in part.variables else f"{name}_{dim}"


def _layers(name: str, arrays: list[np.ndarray], hint: Any) -> Iterator[tuple[str, Any, Any]]:
    """One array for each layer: stacked, or of layers of different widths one by one."""
    if len({array.shape for array in arrays}) == 1:
        stacked = np.stack(arrays)
        yield name, ("layer", *_dims(arrays[0], hint, name)), stacked
        return
    for number, array in enumerate(arrays, 1):
        dims = [d if d == "network" else f"{d}_{number}" for d in _dims(array, hint, name)]
        yield f"{name}_{number}", tuple(dims), array


def _dims(array: np.ndarray, hint: Any, name: str) -> tuple[str, ...]:
    """Names of axes: those of the annotation, or of an array without one its own and a number."""
    told = getattr(hint, "dim_str", None)
    if told is None:
        return tuple("network" if not axis else f"{name}_{axis}" for axis in range(array.ndim))
    dims: list[str] = []
    units = iter(("unit", "other_unit"))
    for word in told.split():
        if word in _LEADING:
            count = array.ndim - (len(told.split()) - 1)
            lead = _LEADING[word]
            dims += [lead] if count == 1 else [f"{lead}_{place}" for place in range(count)]
        else:
            dims.append(next(units) if word == "_" else word)
    return tuple(dims)


def _equal(one: Any, other: Any) -> bool:
    """Whether two values are the same, arrays by their numbers."""
    if one is other:
        return True
    if _is_array(one) or _is_array(other):
        return _is_array(one) and _is_array(other) and _equal_arrays(one, other)
    if type(one) is not type(other):
        return False
    if dataclasses.is_dataclass(one):
        names = [field.name for field in dataclasses.fields(one)]
        return all(_equal(getattr(one, name), getattr(other, name)) for name in names)
    if type(one).__name__ == "csr_array":
        parts = ((one.data, other.data), (one.indices, other.indices), (one.indptr, other.indptr))
        return one.shape == other.shape and all(_equal(*pair) for pair in parts)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other) or (one != one and other != other)


def _equal_arrays(one: Any, other: Any) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if str(one.dtype).startswith("key<"):
        import jax

        one, other = jax.random.key_data(one), jax.random.key_data(other)
    one, other = np.asarray(one), np.asarray(other)
    # Only NaN differs from itself.
    return bool(np.all((one == other) | ((one != one) & (other != other))))


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | np.generic) or (
        hasattr(value, "dtype") and hasattr(value, "ndim") and hasattr(value, "__array__")
    )
