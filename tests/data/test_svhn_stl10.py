"""SVHN and STL-10, on files written in their formats."""

import dataclasses
import hashlib
import re

import numpy as np
import pytest
from scipy.io import savemat

from landscape.data import download, load, registry, verify
from landscape.data.stl10 import STL10
from landscape.data.svhn import SVHN
from landscape.errors import DataError


def as_official(source, root, monkeypatch):
    """The source with the checksums of the files that lie in its folder, instead of its own."""
    files = []
    for file in source.files:
        content = (root / source.folder / file.name).read_bytes()
        digest = hashlib.md5(content).hexdigest()
        files.append(dataclasses.replace(file, md5=digest, size=len(content)))
    changed = dataclasses.replace(source, files=tuple(files))
    monkeypatch.setitem(registry.SOURCES, source.name, changed)
    return changed


@pytest.fixture
def svhn(tmp_path, monkeypatch):
    """Pixels and digits of both splits; ``write`` puts other content in place of a file's."""
    rng, folder = np.random.default_rng(0), tmp_path / "svhn"
    folder.mkdir()
    written = {}
    for name, count in (("train", 12), ("test", 5)):
        x = rng.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        y = rng.permutation(np.arange(count) % 10 + 1).astype(np.uint8)[:, None]
        written[name] = (x, y)
        savemat(folder / f"{name}_32x32.mat", {"X": x, "y": y}, do_compression=True)
    as_official(SVHN, tmp_path, monkeypatch)

    def write(content):
        path = folder / "train_32x32.mat"
        path.write_bytes(content) if isinstance(content, bytes) else savemat(path, content)
        as_official(SVHN, tmp_path, monkeypatch)

    return tmp_path, written, write


@pytest.fixture
def stl10(tmp_path, monkeypatch):
    rng, folder = np.random.default_rng(1), tmp_path / "stl10_binary"
    folder.mkdir()
    written = {}
    for name, count in (("train", 4), ("test", 3)):
        pixels = rng.integers(0, 256, count * 3 * 96 * 96, dtype=np.uint8)
        labels = np.arange(10, 10 - count, -1).astype(np.uint8)
        written[name] = (pixels, labels)
        pixels.tofile(folder / f"{name}_X.bin")
        labels.tofile(folder / f"{name}_y.bin")
    as_official(STL10, tmp_path, monkeypatch)

    def write(name, content):
        np.asarray(content, np.uint8).tofile(folder / name)
        as_official(STL10, tmp_path, monkeypatch)

    return tmp_path, written, write


@pytest.mark.parametrize("split", ["train", "test"])
def test_svhn_images_and_digits_are_those_of_the_file(svhn, split):
    root, written, _ = svhn
    x, y = written[split]
    found = load("svhn", split, root=root)
    assert found.inputs.shape == (len(y), 32, 32, 3)
    assert found.inputs.flags.c_contiguous
    for i in range(len(y)):
        np.testing.assert_array_equal(found.inputs[i], x[:, :, :, i])
        # The file's 10 stands for the digit 0.
        assert found.class_names[found.labels[i]] == str(y[i, 0] % 10)
    assert (found.num_classes, found.unit) == (10, 1 / 255)


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_pixel_of_stl10_lands_where_the_format_says(stl10, split):
    root, written, _ = stl10
    pixels, labels = written[split]
    found = load("stl10", split, root=root)
    n, y, x, c = np.indices(found.inputs.shape)
    # Colour by colour, in each column by column.
    np.testing.assert_array_equal(found.inputs, pixels[27_648 * n + 9_216 * c + 96 * x + y])
    assert found.inputs.flags.c_contiguous
    np.testing.assert_array_equal(found.labels, labels.astype(int) - 1)
    assert (found.class_names[0], found.class_names[9]) == ("airplane", "truck")


def test_they_can_be_pooled_to_the_sizes_of_the_experiments(svhn, stl10):
    assert load("svhn", root=svhn[0]).pooled(8).inputs.shape == (12, 8, 8, 3)
    for size in (8, 32):
        pooled = load("stl10", root=stl10[0]).pooled(size)
        assert pooled.inputs.shape == (4, size, size, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"y": np.ones((3, 1), np.uint8)}, "X is not a"),
        ({"X": np.zeros((32, 32, 3, 2)), "y": np.ones((2, 1))}, "X is not a"),
        ({"X": np.zeros((32, 32, 1, 2), np.uint8), "y": np.ones((2, 1))}, "X is not a"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.ones((3, 1))}, "y is not a column of 2"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.zeros((2, 1))}, "integers from 1 to 10"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.full((2, 1), 1.5)}, "integers from 1"),
        (b"no MAT-file at all, but of the right checksum", "is not a MAT-file"),
        (b"", "is not a MAT-file"),
    ],
)
def test_verified_svhn_files_in_another_format_are_refused(svhn, content, message):
    root, _, write = svhn
    write(content)
    with pytest.raises(DataError, match=f"train_32x32.mat.*{re.escape(message)}"):
        load("svhn", root=root)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train_X.bin", np.zeros(27_648 * 4 - 1), "no multiple of 27648"),
        ("train_y.bin", [1, 2, 3], "expected 4 bytes"),
        ("train_y.bin", [1, 2, 3, 11], "from 1 to 10"),
        ("train_y.bin", [0, 2, 3, 4], "from 1 to 10"),
    ],
)
def test_verified_stl10_files_in_another_format_are_refused(stl10, name, content, message):
    root, _, write = stl10
    write(name, content)
    with pytest.raises(DataError, match=f"{name} is not in the format of STL-10.*{message}"):
        load("stl10", root=root)


def test_altered_and_missing_files_are_named(svhn):
    root, _, _ = svhn
    path = root / "svhn" / "test_32x32.mat"
    path.write_bytes(path.read_bytes()[:-1])
    assert [status.state for status in verify("svhn", root)] == ["ok", "truncated"]
    with pytest.raises(DataError, match=r"test_32x32\.mat: truncated"):
        load("svhn", "test", root=root)
    path.unlink()
    with pytest.raises(DataError, match="landscape data download svhn"):
        load("svhn", "test", root=root)
    assert len(load("svhn", root=root)) == 12


def test_both_are_complete_where_all_their_files_are(svhn, stl10):
    for name, (root, _, _) in (("svhn", svhn), ("stl10", stl10)):
        assert not download(name, root).downloaded


@pytest.mark.parametrize("source", [SVHN, STL10], ids=lambda source: source.name)
def test_sizes_are_those_of_so_many_images(source):
    """Of the official files, as far as their format says it."""
    by_name = {file.name: file for file in source.files}
    for split in source.splits:
        sizes = [by_name[name].size for name in split.files]
        if source is STL10:
            assert sizes == [27_648 * split.num_examples, split.num_examples]
        else:
            # Compressed: less than the pixels.
            assert 2_000 * split.num_examples < sizes[0] < 3_072 * split.num_examples
