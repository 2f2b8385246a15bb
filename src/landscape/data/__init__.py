"""Data sets as arrays: digits, CIFAR-10 and CIFAR-100, checked before use.

A :class:`Dataset` holds N labelled images ``(N, H, W, C)`` as the unsigned integers they were
published as. :func:`load` reads one from the data folder (the environment variable
``LANDSCAPE_DATA``, else the user's cache folder), :func:`download` puts it there,
:func:`verify` and :func:`status` say what is there. ``digits``, the default of this project,
ships with scikit-learn and needs no folder.

Importing this package needs NumPy alone: jax, scikit-learn and pooch are imported by the calls
that use them.
"""

from landscape.data.dataset import Dataset
from landscape.data.download import DownloadResult, download
from landscape.data.files import FileStatus, data_root
from landscape.data.loading import DatasetStatus, load, status, verify
from landscape.data.registry import names

__all__ = [
    "Dataset",
    "DatasetStatus",
    "DownloadResult",
    "FileStatus",
    "data_root",
    "download",
    "load",
    "names",
    "status",
    "verify",
]
