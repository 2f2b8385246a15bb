"""Handwritten digits: 1,797 images of 8x8 pixels with integer values 0 to 16, from scikit-learn.

They are the test part of the *Optical Recognition of Handwritten Digits* data (Alpaydin and
Kaynak 1998, UCI Machine Learning Repository), which scikit-learn ships.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from landscape.data.sources import Contents, LabelKind, Source, Split
from landscape.errors import DataError

# md5 of the 1797*64 pixels and then the 1797 labels, one byte each, as scikit-learn 1.9.1
# gives them. There is no official file to check, but numbers must not change with its version.
_CONTENT_MD5 = "7696c07daa6d85010f8268703ab8b067"


def read_digits(folder: Path, split: Split, kind: LabelKind) -> Contents:
    """Read the digits from scikit-learn; the folder is not used."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = bunch.images.astype(np.uint8)
    labels = bunch.target.astype(np.uint8)
    found = hashlib.md5(images.tobytes() + labels.tobytes(), usedforsecurity=False).hexdigest()
    if found != _CONTENT_MD5:
        raise DataError(
            "digits: scikit-learn's load_digits() gives other data than expected "
            f"(md5 {found}, expected {_CONTENT_MD5}); reinstall scikit-learn"
        )
    names = tuple(str(digit) for digit in range(10))
    return Contents(images[..., np.newaxis], labels.astype(np.int32), names)


DIGITS = Source(
    name="digits",
    title="Digits",
    splits=(Split("train", (), 1797),),
    label_kinds=(LabelKind(None, 10),),
    image_shape=(8, 8, 1),
    max_value=16,
    read=read_digits,
    citation="E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, 1998",
    homepage="https://archive.ics.uci.edu/dataset/80",
    provider="scikit-learn",
)
