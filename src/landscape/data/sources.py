"""What a data set is, before it is read: files, checksums, splits, and a function that reads it.

A new data set is one :class:`Source` value and one :data:`Reader`, listed in
:mod:`landscape.data.registry`; loading, verifying and downloading work from the value alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SourceFile:
    """One official file: its name inside the data set's folder, md5 and size in bytes."""

    name: str
    md5: str
    size: int


@dataclass(frozen=True)
class Archive:
    """One official download: file name below the base address, md5 and size in bytes.

    ``unpack`` says whether it is a tar archive that holds the data set's folder, or itself one of
    the files of that folder.
    """

    name: str
    md5: str
    size: int
    unpack: bool = True


@dataclass(frozen=True)
class Split:
    """A named part of a data set: the files its examples come from, and how many there are."""

    name: str
    files: tuple[str, ...]
    num_examples: int


@dataclass(frozen=True)
class LabelKind:
    """One way a data set is labelled. ``name`` is None where there is no choice."""

    name: str | None
    num_classes: int


@dataclass(frozen=True)
class Contents:
    """What a reader returns: inputs ``(N, H, W, C)`` uint8, labels ``(N,)`` int32, class names."""

    inputs: NDArray[np.unsignedinteger]
    labels: NDArray[np.int32]
    class_names: tuple[str, ...]


Reader = Callable[[Path, Split, LabelKind], Contents]
"""Reads one split from the data set's folder. Its files have been verified by then."""


@dataclass(frozen=True)
class Source:
    """Everything known about one published data set.

    Attributes
    ----------
    name, title : str
        The name users type, and the one to print.
    splits : tuple of Split
        The first is the default one.
    label_kinds : tuple of LabelKind
        The first is the default one.
    image_shape : tuple of int
        ``(H, W, C)`` of one example.
    max_value : int
        The largest integer an input can take; it is mapped to 1.
    read : Reader
        Reads a split from the folder.
    citation, homepage : str
        Whom to cite, and where the data set is described.
    folder : str
        Name of the data set's folder below the data root. Empty when it ships with a package.
    files : tuple of SourceFile
        Every official file that is used. Empty when the data set ships with a package.
    shared_files : tuple of str
        Files that each split needs besides its own (class names).
    archives : tuple of Archive
        What to download.
    base_url : str
        The official address the archives lie under.
    provider : str
        The package that ships the data set, if one does.
    """

    name: str
    title: str
    splits: tuple[Split, ...]
    label_kinds: tuple[LabelKind, ...]
    image_shape: tuple[int, int, int]
    max_value: int
    read: Reader
    citation: str
    homepage: str
    folder: str = ""
    files: tuple[SourceFile, ...] = ()
    shared_files: tuple[str, ...] = ()
    archives: tuple[Archive, ...] = ()
    base_url: str = ""
    provider: str = ""

    @property
    def bundled(self) -> bool:
        """Whether the data set ships with an installed package and needs no folder."""
        return not self.files

    @property
    def num_bytes(self) -> int:
        """Size of all its files on disk, in bytes."""
        return sum(file.size for file in self.files)

    def files_of(self, split: Split) -> tuple[SourceFile, ...]:
        """Return the files that loading a split reads."""
        wanted = {*self.shared_files, *split.files}
        return tuple(file for file in self.files if file.name in wanted)
