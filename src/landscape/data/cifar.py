"""CIFAR-10 and CIFAR-100 in their original Python format.

A file of examples is a Python-2 pickle of a dictionary: ``data`` is ``(N, 3072)`` uint8, one row
per image, 1,024 bytes each of red, green and blue in row-major order; the labels are lists of
N integers. A. Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009,
https://www.cs.toronto.edu/~kriz/cifar.html, where the format and the archives' md5 are given.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landscape.data.pickles import read_pickle
from landscape.data.sources import Archive, Contents, LabelKind, Source, SourceFile, Split
from landscape.errors import DataError

_CITATION = "A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009"
_HOMEPAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
_BASE_URL = "https://www.cs.toronto.edu/~kriz/"
_SIDE = 32


def read_cifar10(folder: Path, split: Split, kind: LabelKind) -> Contents:
    """Read a split of CIFAR-10: its batches one after the other."""
    return _read(folder, split, kind, b"labels", "batches.meta", b"label_names")


def read_cifar100(folder: Path, split: Split, kind: LabelKind) -> Contents:
    """Read a split of CIFAR-100 with its coarse or fine labels."""
    prefix = str(kind.name).encode()
    return _read(folder, split, kind, prefix + b"_labels", "meta", prefix + b"_label_names")


def _read(
    folder: Path, split: Split, kind: LabelKind, label_key: bytes, meta: str, names_key: bytes
) -> Contents:
    class_names = _class_names(folder / meta, names_key, kind.num_classes)
    parts = [_read_batch(folder / name, label_key, kind.num_classes) for name in split.files]
    inputs = parts[0][0] if len(parts) == 1 else np.concatenate([part[0] for part in parts])
    return Contents(inputs, np.concatenate([part[1] for part in parts]), class_names)


def _read_batch(
    path: Path, label_key: bytes, num_classes: int
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    content = read_pickle(path)
    rows = _entry(content, b"data", path)
    if (
        not isinstance(rows, np.ndarray)
        or rows.dtype != np.uint8
        or rows.ndim != 2
        or rows.shape[1] != 3 * _SIDE**2
    ):
        raise DataError(f"{path} is not in the CIFAR format: data is not an (N, 3072) uint8 array")
    labels = np.asarray(_entry(content, label_key, path))
    if (
        labels.shape != rows.shape[:1]
        or labels.dtype.kind not in "iu"
        or labels.min(initial=0) < 0
        or labels.max(initial=0) >= num_classes
    ):
        raise DataError(
            f"{path} is not in the CIFAR format: {label_key.decode()} is not a list of "
            f"{rows.shape[0]} integers from 0 to {num_classes - 1}"
        )
    images = rows.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels.astype(np.int32)


def _class_names(path: Path, key: bytes, num_classes: int) -> tuple[str, ...]:
    names = _entry(read_pickle(path), key, path)
    if not isinstance(names, list) or not all(isinstance(name, bytes) for name in names):
        raise DataError(f"{path} is not in the CIFAR format: {key.decode()} is not a list of names")
    if len(names) != num_classes:
        raise DataError(f"{path} names {len(names)} classes, expected {num_classes}")
    return tuple(name.decode("ascii", "replace") for name in names)


def _entry(content: object, key: bytes, path: Path) -> Any:
    if not isinstance(content, dict) or key not in content:
        raise DataError(f"{path} is not in the CIFAR format: it holds no {key.decode()!r}")
    return content[key]


CIFAR10 = Source(
    name="cifar10",
    title="CIFAR-10",
    splits=(
        Split("train", tuple(f"data_batch_{i}" for i in range(1, 6)), 50_000),
        Split("test", ("test_batch",), 10_000),
        Split("batch_1", ("data_batch_1",), 10_000),
    ),
    label_kinds=(LabelKind(None, 10),),
    image_shape=(_SIDE, _SIDE, 3),
    max_value=255,
    read=read_cifar10,
    citation=_CITATION,
    homepage=_HOMEPAGE,
    folder="cifar-10-batches-py",
    files=(
        SourceFile("batches.meta", "5ff9c542aee3614f3951f8cda6e48888", 158),
        SourceFile("data_batch_1", "c99cafc152244af753f735de768cd75f", 31_035_704),
        SourceFile("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec", 31_035_320),
        SourceFile("data_batch_3", "54ebc095f3ab1f0389bbae665268c751", 31_035_999),
        SourceFile("data_batch_4", "634d18415352ddfa80567beed471001a", 31_035_696),
        SourceFile("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb", 31_035_623),
        SourceFile("test_batch", "40351d587109b95175f43aff81a1287e", 31_035_526),
    ),
    shared_files=("batches.meta",),
    archives=(Archive("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", 170_498_071),),
    base_url=_BASE_URL,
)

CIFAR100 = Source(
    name="cifar100",
    title="CIFAR-100",
    splits=(Split("train", ("train",), 50_000), Split("test", ("test",), 10_000)),
    label_kinds=(LabelKind("coarse", 20), LabelKind("fine", 100)),
    image_shape=(_SIDE, _SIDE, 3),
    max_value=255,
    read=read_cifar100,
    citation=_CITATION,
    homepage=_HOMEPAGE,
    folder="cifar-100-python",
    files=(
        SourceFile("meta", "7973b15100ade9c7d40fb424638fde48", 1_473),
        SourceFile("train", "16019d7e3df5f24257cddd939b257f8d", 155_249_918),
        SourceFile("test", "f0ef6b0ae62326f3e7ffdfab6717acfc", 31_049_707),
    ),
    shared_files=("meta",),
    archives=(Archive("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", 169_001_437),),
    base_url=_BASE_URL,
)
