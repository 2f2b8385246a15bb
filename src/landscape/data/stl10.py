"""STL-10 in its original binary format: the labelled images.

An image file is N times 3·96·96 bytes, one colour after the other, each column by column; a label
file is N bytes from 1 to 10. The 100,000 unlabelled images are left out. A. Coates, H. Lee and
A. Y. Ng, *An Analysis of Single Layer Networks in Unsupervised Feature Learning*, AISTATS 2011,
https://cs.stanford.edu/~acoates/stl10/, where the format and the names of the classes are given.
Checksums: those that torchvision publishes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from landscape.data.sources import Archive, Contents, LabelKind, Source, SourceFile, Split
from landscape.errors import DataError

_SIDE = 96
_NAMES = (
    "airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck",
)  # fmt: skip


def read_stl10(folder: Path, split: Split, kind: LabelKind) -> Contents:
    """Read a split of STL-10."""
    images_path, labels_path = (folder / name for name in split.files)
    pixels, labels = (np.fromfile(path, np.uint8) for path in (images_path, labels_path))
    if pixels.size % (3 * _SIDE**2):
        raise DataError(
            f"{images_path} is not in the format of STL-10: {pixels.size} bytes are no multiple "
            f"of {3 * _SIDE**2}"
        )
    images = pixels.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 3, 2, 1)
    known = labels.min(initial=1) >= 1 and labels.max(initial=1) <= kind.num_classes
    if len(labels) != len(images) or not known:
        raise DataError(
            f"{labels_path} is not in the format of STL-10: expected {len(images)} bytes from 1 to "
            f"{kind.num_classes}"
        )
    return Contents(np.ascontiguousarray(images), labels.astype(np.int32) - 1, _NAMES)


STL10 = Source(
    name="stl10",
    title="STL-10, labelled images",
    splits=(
        Split("train", ("train_X.bin", "train_y.bin"), 5_000),
        Split("test", ("test_X.bin", "test_y.bin"), 8_000),
    ),
    label_kinds=(LabelKind(None, 10),),
    image_shape=(_SIDE, _SIDE, 3),
    max_value=255,
    read=read_stl10,
    citation=(
        "A. Coates, H. Lee and A. Y. Ng, An Analysis of Single Layer Networks in Unsupervised "
        "Feature Learning, AISTATS 2011"
    ),
    homepage="https://cs.stanford.edu/~acoates/stl10/",
    folder="stl10_binary",
    files=(
        SourceFile("train_X.bin", "918c2871b30a85fa023e0c44e0bee87f", 138_240_000),
        SourceFile("train_y.bin", "5a34089d4802c674881badbb80307741", 5_000),
        SourceFile("test_X.bin", "7f263ba9f9e0b06b93213547f721ac82", 221_184_000),
        SourceFile("test_y.bin", "36f9794fa4beb8a2c72628de14fa638e", 8_000),
    ),
    archives=(Archive("stl10_binary.tar.gz", "91f7769df0f17e558f3565bffb0c7dfb", 2_640_397_119),),
    base_url="https://cs.stanford.edu/~acoates/stl10/",
)
