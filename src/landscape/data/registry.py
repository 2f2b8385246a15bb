"""The data sets this package knows, by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from landscape.data.cifar import CIFAR10, CIFAR100
from landscape.data.digits import DIGITS
from landscape.data.sources import LabelKind, Source, Split
from landscape.data.stl10 import STL10
from landscape.data.svhn import SVHN
from landscape.errors import DataError, InputError

SOURCES: dict[str, Source] = {
    source.name: source for source in (DIGITS, CIFAR10, CIFAR100, SVHN, STL10)
}


def names() -> tuple[str, ...]:
    """Return the names that :func:`landscape.data.load` knows, the default data set first.

    Examples
    --------
    >>> from landscape.data import names
    >>> names()
    ('digits', 'cifar10', 'cifar100', 'svhn', 'stl10')
    """
    return tuple(SOURCES)


def find_source(name: str) -> Source:
    """Return the specification of a data set, or raise :class:`DataError` with a suggestion."""
    try:
        return SOURCES[name]
    except (KeyError, TypeError):
        raise DataError(
            f"unknown data set {name!r}{_suggestion(name, SOURCES)}; known are {_listed(SOURCES)}"
        ) from None


def find_split(source: Source, name: str) -> Split:
    """Return a split of a data set by name, or raise :class:`InputError` with the choices."""
    splits = {split.name: split for split in source.splits}
    try:
        return splits[name]
    except (KeyError, TypeError):
        raise InputError(
            f"{source.name} has no split {name!r}{_suggestion(name, splits)}; "
            f"it has {_listed(splits)}"
        ) from None


def find_label_kind(source: Source, name: str | None) -> LabelKind:
    """Return a kind of labels by name (None: the default), or raise :class:`InputError`."""
    if name is None:
        return source.label_kinds[0]
    kinds = {kind.name: kind for kind in source.label_kinds if kind.name is not None}
    if not kinds:
        raise InputError(
            f"{source.name} has one set of labels and no choice of labels={name!r}; leave it out"
        )
    try:
        return kinds[name]
    except (KeyError, TypeError):
        raise InputError(
            f"{source.name} has no labels {name!r}{_suggestion(name, kinds)}; "
            f"it has {_listed(kinds)}"
        ) from None


def _listed(choices: Iterable[str]) -> str:
    return ", ".join(repr(choice) for choice in choices)


def _suggestion(name: object, choices: Iterable[str]) -> str:
    # Names are often typed with other punctuation or case: CIFAR-10, cifar_100.
    if not isinstance(name, str):
        return ""
    plain = "".join(c for c in name.lower() if c.isalnum() or c == "_")
    close = difflib.get_close_matches(plain, choices, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
