"""SVHN, cropped digits, in its original MAT-files.

A file holds ``X``, (32, 32, 3, N) uint8, and ``y``, (N, 1), with 10 for the digit 0. The 531,131
easier images of its "extra" part are left out. Y. Netzer, T. Wang, A. Coates, A. Bissacco, B. Wu
and A. Y. Ng, *Reading Digits in Natural Images with Unsupervised Feature Learning*, NIPS Workshop
on Deep Learning and Unsupervised Feature Learning, 2011, http://ufldl.stanford.edu/housenumbers/.
Checksums: those that torchvision publishes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from landscape.data.sources import Archive, Contents, LabelKind, Source, SourceFile, Split
from landscape.errors import DataError

_SIDE = 32


def read_svhn(folder: Path, split: Split, kind: LabelKind) -> Contents:
    """Read a split of SVHN; class c is the digit c."""
    from scipy.io import loadmat

    path = folder / split.files[0]
    try:
        content = loadmat(path)
    except Exception as error:  # SciPy's reader has many ways to fail on what is no MAT-file
        raise DataError(f"{path} is not a MAT-file of the format of SVHN: {error}") from error
    images, digits = (np.asarray(content.get(name, ())) for name in ("X", "y"))
    count = images.shape[-1] if images.ndim == 4 else -1
    if images.dtype != np.uint8 or images.shape != (_SIDE, _SIDE, 3, count):
        raise DataError(
            f"{path} is not in the format of SVHN: X is not a (32, 32, 3, N) uint8 array"
        )
    if digits.shape != (count, 1) or not np.isin(digits, np.arange(1, 11)).all():
        raise DataError(
            f"{path} is not in the format of SVHN: y is not a column of {count} integers from 1 "
            "to 10"
        )
    labels = digits[:, 0].astype(np.int32) % kind.num_classes
    names = tuple(str(digit) for digit in range(kind.num_classes))
    return Contents(np.ascontiguousarray(np.moveaxis(images, -1, 0)), labels, names)


_FILES = (
    SourceFile("train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373", 182_040_794),
    SourceFile("test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3", 64_275_384),
)

SVHN = Source(
    name="svhn",
    title="SVHN, cropped digits",
    splits=(
        Split("train", ("train_32x32.mat",), 73_257),
        Split("test", ("test_32x32.mat",), 26_032),
    ),
    label_kinds=(LabelKind(None, 10),),
    image_shape=(_SIDE, _SIDE, 3),
    max_value=255,
    read=read_svhn,
    citation=(
        "Y. Netzer et al., Reading Digits in Natural Images with Unsupervised Feature Learning, "
        "NIPS Workshop on Deep Learning and Unsupervised Feature Learning, 2011"
    ),
    homepage="http://ufldl.stanford.edu/housenumbers/",
    folder="svhn",
    files=_FILES,
    archives=tuple(Archive(file.name, file.md5, file.size, unpack=False) for file in _FILES),
    base_url="http://ufldl.stanford.edu/housenumbers/",
)
