"""Loading a data set, checking it, and listing what is there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from landscape.data.dataset import Dataset
from landscape.data.files import (
    ROOT_VARIABLE,
    FileStatus,
    check_files,
    data_root,
    refuse_damaged,
)
from landscape.data.registry import SOURCES, find_label_kind, find_source, find_split
from landscape.data.sources import LabelKind, Source, Split
from landscape.errors import DataError


def load(
    name: str,
    split: str = "train",
    *,
    labels: str | None = None,
    root: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Load one split of a data set, after checking each of its files.

    Parameters
    ----------
    name : str
        "digits", "cifar10", "cifar100", "svhn" or "stl10"; :func:`landscape.data.names` lists
        them.
    split : str
        "train" or "test". digits has "train" alone, all 1,797 images. cifar10 has also "batch_1",
        the first 10,000 training images, which lie in a file of their own.
    labels : str, optional
        For cifar100: "coarse" (default, 20 classes) or "fine" (100 classes).
    root : path, optional
        The folder that holds the data sets' folders, see :func:`landscape.data.data_root`.

    Returns
    -------
    Dataset
        Inputs ``(N, H, W, C)`` as uint8 in the official order.

    Raises
    ------
    InputError
        If the split or the labels do not exist.
    DataError
        If the data set is unknown, or its files are missing, truncated or altered. The md5 of
        every file is compared with the official one before any of it is unpickled.
    StorageError
        If a file cannot be read.

    Notes
    -----
    Sources: scikit-learn's ``load_digits``; A. Krizhevsky, *Learning Multiple Layers of Features
    from Tiny Images*, 2009, https://www.cs.toronto.edu/~kriz/cifar.html; for SVHN and STL-10 see
    :mod:`landscape.data.svhn` and :mod:`landscape.data.stl10`. Coarse labels are the default
    because the experiments of this project use them.

    Examples
    --------
    >>> from landscape.data import load
    >>> digits = load("digits")
    >>> digits.inputs.shape, digits.num_classes
    ((1797, 8, 8, 1), 10)
    """
    source = find_source(name)
    chosen = find_split(source, split)
    kind = find_label_kind(source, labels)
    folder = data_root(root) / source.folder if not source.bundled else Path()
    statuses = check_files(folder, source.files_of(chosen))
    missing = [status.name for status in statuses if status.state == "missing"]
    if missing:
        raise DataError(_missing_message(source, chosen, folder, missing))
    refuse_damaged(source, folder, statuses)
    contents = source.read(folder, chosen, kind)
    return Dataset(
        inputs=contents.inputs,
        labels=contents.labels,
        num_classes=kind.num_classes,
        class_names=contents.class_names,
        name=source.name,
        split=chosen.name,
        label_kind=kind.name,
        unit=1 / source.max_value,
    )


def verify(name: str, root: str | os.PathLike[str] | None = None) -> tuple[FileStatus, ...]:
    """Compare every file of a data set with the official md5.

    Parameters
    ----------
    name : str
        One of :func:`landscape.data.names`.
    root : path, optional
        The folder that holds the data sets' folders, see :func:`landscape.data.data_root`.

    Returns
    -------
    tuple of FileStatus
        One for each official file that is used, in a fixed order. For data that ships with a
        package, one for that package, whose content is checked instead.

    Raises
    ------
    DataError
        If the data set is unknown.
    StorageError
        If a file is there and cannot be read.

    Examples
    --------
    >>> from landscape.data import verify
    >>> [file.state for file in verify("cifar100", root="/nowhere")]
    ['missing', 'missing', 'missing']
    """
    source = find_source(name)
    if not source.bundled:
        return check_files(data_root(root) / source.folder, source.files)
    try:
        source.read(Path(), source.splits[0], source.label_kinds[0])
    except DataError:
        return (FileStatus(source.provider, None, "altered"),)
    return (FileStatus(source.provider, None, "ok"),)


@dataclass(frozen=True)
class DatasetStatus:
    """What is known about one data set, and how much of it is there.

    Attributes
    ----------
    name, title : str
        The name :func:`load` takes, and the one to print.
    folder : Path or None
        Where it lies or would lie; None for data that ships with a package.
    provider : str
        The package that ships it; empty for data that lies in a folder.
    splits : tuple of Split
        All its splits, each with ``name`` and ``num_examples``.
    available : tuple of str
        Names of the splits whose files are all there in the official size (not yet verified).
    label_kinds : tuple of LabelKind
        Each with ``name`` (None where there is no choice) and ``num_classes``; default first.
    image_shape : tuple of int
        ``(H, W, C)``.
    num_bytes, num_bytes_found : int
        Size of the official files, and of those that are there.
    citation, homepage : str
        Where it comes from.
    """

    name: str
    title: str
    folder: Path | None
    provider: str
    splits: tuple[Split, ...]
    available: tuple[str, ...]
    label_kinds: tuple[LabelKind, ...]
    image_shape: tuple[int, int, int]
    num_bytes: int
    num_bytes_found: int
    citation: str
    homepage: str

    @property
    def present(self) -> bool:
        """Whether every split can be loaded."""
        return len(self.available) == len(self.splits)

    @property
    def num_classes(self) -> int:
        """Number of classes of the default labels."""
        return self.label_kinds[0].num_classes


def status(root: str | os.PathLike[str] | None = None) -> tuple[DatasetStatus, ...]:
    """List every known data set and what is there of it.

    Only names and sizes of files are looked at, so that the answer comes at once;
    :func:`verify` compares the content.

    Parameters
    ----------
    root : path, optional
        The folder that holds the data sets' folders, see :func:`landscape.data.data_root`.

    Returns
    -------
    tuple of DatasetStatus
        In the order of :func:`landscape.data.names`.

    Examples
    --------
    >>> from landscape.data import status
    >>> [(entry.name, entry.present) for entry in status(root="/nowhere")][:3]
    [('digits', True), ('cifar10', False), ('cifar100', False)]
    """
    where = data_root(root)
    return tuple(_status_of(source, where) for source in SOURCES.values())


def _status_of(source: Source, root: Path) -> DatasetStatus:
    folder = root / source.folder
    sizes = {file.name: _size(folder / file.name) for file in source.files}
    available = [
        split.name
        for split in source.splits
        if all(sizes[file.name] == file.size for file in source.files_of(split))
    ]
    return DatasetStatus(
        name=source.name,
        title=source.title,
        folder=None if source.bundled else folder,
        provider=source.provider,
        splits=source.splits,
        available=tuple(available),
        label_kinds=source.label_kinds,
        image_shape=source.image_shape,
        num_bytes=source.num_bytes,
        num_bytes_found=sum(size or 0 for size in sizes.values()),
        citation=source.citation,
        homepage=source.homepage,
    )


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _missing_message(source: Source, split: Split, folder: Path, missing: list[str]) -> str:
    todo = (
        f"Run `landscape data download {source.name}`, or set {ROOT_VARIABLE} to the folder "
        f"that holds {source.folder}/"
    )
    if all((folder.parent / name).is_file() for name in missing):
        return (
            f"{source.name} is not in {folder}, but its files lie in {folder.parent} itself: "
            f"the data folder is the one that holds {source.folder}/. Give its parent instead"
        )
    if len(missing) == len(source.files_of(split)):
        return f"{source.name} was not found: there is no {folder} with its files. {todo}"
    message = f"{source.name} is incomplete: {folder} lacks {', '.join(missing)}. {todo}"
    others = [
        other
        for other in source.splits
        if other is not split
        and not {file.name for file in source.files_of(other)} & set(missing)
        # A way out has to be made of training data like the split that was asked for.
        and set(other.files) < set(split.files)
    ]
    if others and all((folder / file.name).is_file() for file in source.files_of(others[0])):
        message += (
            f'. Or load split="{others[0].name}", the {others[0].num_examples:,} examples '
            "that are there"
        )
    return message
