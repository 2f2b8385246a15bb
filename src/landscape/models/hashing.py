"""Modules as keys: programs are compiled once for a module, which has to have a hash for that."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from flax.core import FrozenDict

from landscape.errors import InputError


def hashable(model: nn.Module) -> nn.Module:
    """The module, or one that computes the same with tuples and frozen dicts in its attributes.

    Flax's own ``Sequential`` takes a list, which has no hash; as a tuple it is the same module,
    with the same names of its parameters.

    Parameters
    ----------
    model
        A Linen module that is not bound.

    Returns
    -------
    The same object if it has a hash.

    Raises
    ------
    InputError
        If an attribute can be given no hash, such as an array.

    Examples
    --------
    >>> model = nn.Sequential([nn.Dense(4), nn.Dense(2)])
    >>> isinstance(hash(hashable(model)), int)
    True
    """
    if _has_hash(model):
        return model
    frozen: nn.Module = _frozen(model, {})
    if not _has_hash(frozen):
        raise InputError(
            f"{type(model).__name__} has no hash, so nothing can be compiled once for it: "
            f"{', '.join(_unhashable(frozen))} among its attributes have none. Make them tuples, "
            "or constants of the module's code"
        )
    return frozen


def _has_hash(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _frozen(value: Any, known: dict[int, Any]) -> Any:
    """``known``: modules that have been frozen, since one may be shared by several."""
    if isinstance(value, nn.Module):
        if id(value) not in known:
            attributes = {name: _frozen(given, known) for name, given in _attributes(value)}
            known[id(value)] = value.clone(**attributes)
        return known[id(value)]
    if type(value) in (list, tuple):
        return tuple(_frozen(one, known) for one in value)
    if isinstance(value, Mapping):
        return FrozenDict({key: _frozen(one, known) for key, one in value.items()})
    return value


def _attributes(model: nn.Module) -> list[tuple[str, Any]]:
    names = [f.name for f in dataclasses.fields(model) if f.init]
    return [(name, getattr(model, name)) for name in names if name not in ("parent", "name")]


def _unhashable(model: nn.Module) -> list[str]:
    return [name for name, value in _attributes(model) if not _has_hash(value)]
