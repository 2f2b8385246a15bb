import dataclasses
import pickle

import numpy as np
import pytest

from landscape.data import data_root, load, names, registry, status, verify
from landscape.data.cifar import CIFAR10, CIFAR100
from landscape.data.digits import DIGITS
from landscape.errors import DataError, InputError, StorageError

# digits


def test_digits_are_scikit_learns_digits_as_integers():
    from sklearn.datasets import load_digits

    truth = load_digits()
    digits = load("digits")
    np.testing.assert_array_equal(digits.inputs[..., 0], truth.images)
    np.testing.assert_array_equal(digits.labels, truth.target)
    assert digits.inputs.shape == (1797, 8, 8, 1)
    assert (digits.inputs.dtype, digits.labels.dtype) == (np.uint8, np.int32)
    assert (digits.unit, digits.num_classes, digits.class_names[7]) == (1 / 16, 10, "7")


def test_digits_that_differ_from_the_recorded_ones_are_refused(monkeypatch):
    import sklearn.datasets

    changed = sklearn.datasets.load_digits()
    changed.images[0, 0, 0] += 1
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: changed)
    with pytest.raises(DataError, match=r"load_digits\(\) gives other data than expected"):
        load("digits")
    assert [file.state for file in verify("digits")] == ["altered"]


def test_digits_verify_without_a_folder(tmp_path):
    (found,) = verify("digits", tmp_path / "nowhere")
    assert (found.state, found.name, found.path) == ("ok", "scikit-learn", None)


# CIFAR


def test_every_pixel_of_a_cifar_row_lands_where_the_format_says(small_cifar100):
    rows = small_cifar100.batches["train"][b"data"]
    found = load("cifar100", root=small_cifar100.root)
    n, y, x, c = np.indices(found.inputs.shape)
    np.testing.assert_array_equal(found.inputs, rows[n, 1024 * c + 32 * y + x])
    assert found.inputs.flags.c_contiguous
    assert (found.unit, found.split, found.name) == (1 / 255, "train", "cifar100")


@pytest.mark.parametrize(
    ("asked", "kind", "classes"), [(None, "coarse", 20), ("fine", "fine", 100)]
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_cifar100_labels_are_coarse_unless_fine_is_asked_for(
    small_cifar100, asked, kind, classes, split
):
    found = load("cifar100", split, labels=asked, root=small_cifar100.root)
    assert found.labels.tolist() == small_cifar100.batches[split][f"{kind}_labels".encode()]
    assert (found.num_classes, found.label_kind) == (classes, kind)
    assert found.class_names == tuple(f"{kind} {i}" for i in range(classes))


def test_cifar10_train_is_its_five_batches_in_order(small_cifar10):
    found = load("cifar10", root=small_cifar10.root)
    batches = [small_cifar10.batches[f"data_batch_{i}"] for i in range(1, 6)]
    np.testing.assert_array_equal(found.labels, np.concatenate([b[b"labels"] for b in batches]))
    np.testing.assert_array_equal(
        found.inputs[..., 1].reshape(60, 1024),
        np.concatenate([b[b"data"][:, 1024:2048] for b in batches]),
    )
    assert found.label_kind is None
    assert found.class_names[3] == "class 3"


@pytest.mark.parametrize(("split", "file"), [("batch_1", "data_batch_1"), ("test", "test_batch")])
def test_other_splits_of_cifar10_are_their_files(small_cifar10, split, file):
    found = load("cifar10", split, root=small_cifar10.root)
    assert found.labels.tolist() == small_cifar10.batches[file][b"labels"]
    assert (found.split, len(found)) == (split, 12)


def test_batch_1_alone_is_enough_for_its_split(small_cifar10):
    for path in small_cifar10.folder.iterdir():
        if path.name not in ("data_batch_1", "batches.meta"):
            path.unlink()
    assert len(load("cifar10", "batch_1", root=small_cifar10.root)) == 12
    with pytest.raises(DataError) as error:
        load("cifar10", root=small_cifar10.root)
    message = str(error.value)
    assert "lacks data_batch_2, data_batch_3, data_batch_4, data_batch_5." in message
    assert "landscape data download cifar10" in message
    assert 'load split="batch_1"' in message


def test_batch_1_is_not_offered_when_it_is_missing_too(small_cifar10):
    (small_cifar10.folder / "data_batch_1").unlink()
    with pytest.raises(DataError, match="lacks data_batch_1") as error:
        load("cifar10", root=small_cifar10.root)
    assert "split=" not in str(error.value)


def test_official_cifar100_has_the_published_statistics(official_root):
    found = load("cifar100", "test", root=official_root)
    with (official_root / "cifar-100-python/test").open("rb") as file:
        truth = pickle.load(file, encoding="latin1")
    assert len(found) == 10_000
    assert found.labels.tolist() == truth["coarse_labels"]
    np.testing.assert_array_equal(
        found.inputs[..., 2].reshape(10_000, 1024), truth["data"][:, 2048:]
    )
    assert np.bincount(found.labels).tolist() == [500] * 20
    assert found.class_names[0] == "aquatic_mammals"
    fine = load("cifar100", "test", labels="fine", root=official_root)
    assert np.bincount(fine.labels).tolist() == [100] * 100
    np.testing.assert_allclose(
        found.standardized().shift, truth["data"].reshape(-1, 3, 1024).mean((0, 2)) / 255, rtol=1e-6
    )


def test_official_first_batch_of_cifar10_loads_and_is_a_third_party_readers_data(official_root):
    found = load("cifar10", "batch_1", root=official_root)
    with (official_root / "cifar-10-batches-py/data_batch_1").open("rb") as file:
        truth = pickle.load(file, encoding="latin1")
    assert found.labels.tolist() == truth["labels"]
    np.testing.assert_array_equal(
        found.inputs.transpose(0, 3, 1, 2).reshape(10_000, 3072), truth["data"]
    )
    # The first training image is the frog of many tutorials.
    assert found.class_names[found.labels[0]] == "frog"


# Where


def test_the_data_folder_is_the_variable_and_root_overrides_it(small_cifar100, monkeypatch):
    monkeypatch.setenv("LANDSCAPE_DATA", str(small_cifar100.root))
    assert len(load("cifar100")) == 30
    with pytest.raises(DataError, match="elsewhere"):
        load("cifar100", root=small_cifar100.root / "elsewhere")


@pytest.mark.parametrize("value", [None, ""])
def test_without_the_variable_the_folder_is_the_users_cache(monkeypatch, tmp_path, value):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("LANDSCAPE_DATA", raising=False)
    if value is not None:
        monkeypatch.setenv("LANDSCAPE_DATA", value)
    import pooch

    assert data_root() == pooch.os_cache("landscape")


def test_missing_data_says_where_it_was_looked_for_and_what_to_run(tmp_path):
    with pytest.raises(DataError) as error:
        load("cifar100", root=tmp_path)
    message = str(error.value)
    assert str(tmp_path / "cifar-100-python") in message
    assert "landscape data download cifar100" in message
    assert "set LANDSCAPE_DATA" in message


def test_a_data_folder_one_level_too_deep_is_recognised(small_cifar100):
    with pytest.raises(DataError, match=r"its files lie in .* itself") as error:
        load("cifar100", root=small_cifar100.folder)
    assert "Give its parent instead" in str(error.value)


def test_a_data_folder_that_is_a_file_counts_as_missing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="was not found"):
        load("cifar100", root=tmp_path / "file")


# Damage


def test_truncated_file_is_named_and_refused(small_cifar100):
    path = small_cifar100.folder / "train"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="train: truncated") as error:
        load("cifar100", root=small_cifar100.root)
    spec = next(file for file in small_cifar100.source.files if file.name == "train")
    assert f"expected {spec.md5}" in str(error.value)
    assert f"{spec.size - 100} bytes, expected {spec.size}" in str(error.value)
    assert "Delete it and run `landscape data download cifar100`" in str(error.value)


def test_a_file_with_one_flipped_bit_is_named_and_refused(small_cifar100):
    path = small_cifar100.folder / "train"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="train: altered"):
        load("cifar100", root=small_cifar100.root)
    assert len(load("cifar100", "test", root=small_cifar100.root)) == 7


def test_altered_class_names_are_refused(small_cifar100):
    path = small_cifar100.folder / "meta"
    path.write_bytes(path.read_bytes().replace(b"coarse 1", b"course 1"))
    with pytest.raises(DataError, match="meta: altered"):
        load("cifar100", root=small_cifar100.root)


def test_nothing_is_unpickled_before_every_file_is_verified(small_cifar10, monkeypatch):
    opened = []
    monkeypatch.setattr("landscape.data.cifar.read_pickle", opened.append)
    path = small_cifar10.folder / "data_batch_5"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DataError, match="data_batch_5: altered"):
        load("cifar10", root=small_cifar10.root)
    assert opened == []


def test_a_folder_in_place_of_a_file_is_a_storage_error(small_cifar100):
    (small_cifar100.folder / "train").unlink()
    (small_cifar100.folder / "train").mkdir()
    with pytest.raises(StorageError, match=r"cannot read .*train"):
        load("cifar100", root=small_cifar100.root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({b"data": np.zeros((12, 3071), np.uint8)}, "data is not an"),
        ({b"data": np.zeros((12, 3072), np.int64)}, "data is not an"),
        ({b"data": b"text"}, "data is not an"),
        ({b"labels": [0] * 11}, "labels is not a list of 12 integers"),
        ({b"labels": [10] * 12}, "integers from 0 to 9"),
        ({b"labels": [-1] * 12}, "integers from 0 to 9"),
        ({b"labels": [b"cat"] * 12}, "labels is not a list of 12 integers"),
        ({b"labels": None}, "labels is not a list of 12 integers"),
    ],
)
def test_a_verified_file_in_another_format_is_refused(small_cifar10, rewrite, change, message):
    rewrite(small_cifar10, "data_batch_1", {**small_cifar10.batches["data_batch_1"], **change})
    with pytest.raises(DataError, match=f"data_batch_1 is not in the CIFAR format: .*{message}"):
        load("cifar10", "batch_1", root=small_cifar10.root)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("data_batch_1", {b"labels": []}, "holds no 'data'"),
        ("data_batch_1", [1, 2], "holds no 'data'"),
        ("batches.meta", {}, "holds no 'label_names'"),
        ("batches.meta", {b"label_names": 10}, "label_names is not a list of names"),
        ("batches.meta", {b"label_names": [b"cat"]}, "names 1 classes, expected 10"),
    ],
)
def test_a_verified_file_without_its_entries_is_refused(
    small_cifar10, rewrite, file, content, message
):
    rewrite(small_cifar10, file, content)
    with pytest.raises(DataError, match=rf"{file} .*{message}"):
        load("cifar10", "batch_1", root=small_cifar10.root)


@pytest.fixture
def rewrite(monkeypatch):
    """Replace a file of a small set and its md5, as if it were official."""
    import hashlib

    def rewrite(small, name, content):
        path = small.folder / name
        path.write_bytes(pickle.dumps(content, protocol=2))
        found = hashlib.md5(path.read_bytes()).hexdigest()
        files = tuple(
            dataclasses.replace(file, md5=found) if file.name == name else file
            for file in small.source.files
        )
        source = dataclasses.replace(small.source, files=files)
        monkeypatch.setitem(registry.SOURCES, source.name, source)

    return rewrite


def test_a_malicious_pickle_with_the_right_md5_is_still_refused(small_cifar10, rewrite):
    class Calls:
        def __reduce__(self):
            return eval, ("1",)

    rewrite(small_cifar10, "data_batch_1", {b"data": Calls()})
    with pytest.raises(DataError, match=r"data_batch_1 is refused: .* builtins\.eval"):
        load("cifar10", "batch_1", root=small_cifar10.root)


# Names


@pytest.mark.parametrize("typed", ["cifar-100", "CIFAR100", "cifar_100", "cifr100"])
def test_an_unknown_name_lists_the_known_ones_and_suggests_one(typed):
    with pytest.raises(DataError, match=r"did you mean 'cifar100'\?") as error:
        load(typed)
    assert "'digits', 'cifar10', 'cifar100', 'svhn', 'stl10'" in str(error.value)


@pytest.mark.parametrize("typed", ["imagenet", "", None, 3, ["digits"]])
def test_a_name_like_no_other_gets_no_suggestion(typed):
    with pytest.raises(DataError, match="unknown data set") as error:
        verify(typed)
    assert "did you mean" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("digits", "test", "digits has no split 'test'; it has 'train'"),
        ("cifar100", "batch_1", "cifar100 has no split 'batch_1'"),
        ("cifar10", "tset", r"did you mean 'test'\?"),
    ],
)
def test_an_unknown_split_is_refused_with_the_choices(name, split, message):
    with pytest.raises(InputError, match=message):
        load(name, split)


def test_labels_where_there_is_no_choice_are_refused():
    with pytest.raises(InputError, match="cifar10 has one set of labels"):
        load("cifar10", labels="fine")
    with pytest.raises(InputError, match="digits has one set of labels"):
        load("digits", labels="coarse")


def test_unknown_labels_are_refused_with_the_choices():
    with pytest.raises(InputError, match=r"'find'.*did you mean 'fine'.*'coarse', 'fine'"):
        load("cifar100", labels="find")


def test_names_start_with_the_default_data_set():
    assert names() == ("digits", "cifar10", "cifar100", "svhn", "stl10")


# verify and status


def test_verify_names_the_state_of_every_file(small_cifar10):
    folder = small_cifar10.folder
    (folder / "data_batch_2").unlink()
    (folder / "data_batch_3").write_bytes(b"")
    content = (folder / "data_batch_4").read_bytes()
    (folder / "data_batch_4").write_bytes(content[::-1])
    states = {file.name: file.state for file in verify("cifar10", small_cifar10.root)}
    assert states == {
        "batches.meta": "ok",
        "data_batch_1": "ok",
        "data_batch_2": "missing",
        "data_batch_3": "truncated",
        "data_batch_4": "altered",
        "data_batch_5": "ok",
        "test_batch": "ok",
    }
    by_name = {file.name: file for file in verify("cifar10", small_cifar10.root)}
    assert by_name["data_batch_3"].found_size == 0
    assert by_name["data_batch_3"].path == folder / "data_batch_3"
    assert by_name["data_batch_1"].ok
    assert not by_name["data_batch_2"].ok


def test_status_says_which_splits_are_there(small_cifar10, small_cifar100):
    (small_cifar10.folder / "data_batch_2").unlink()
    (small_cifar100.folder / "test").write_bytes(b"short")
    digits, cifar10, cifar100, *_ = status(small_cifar10.root)
    assert (digits.present, digits.folder, digits.provider) == (True, None, "scikit-learn")
    assert (cifar10.present, cifar10.available) == (False, ("test", "batch_1"))
    assert (cifar100.present, cifar100.available) == (False, ("train",))
    assert cifar100.folder == small_cifar100.folder
    assert [kind.name for kind in cifar100.label_kinds] == ["coarse", "fine"]
    assert (cifar100.num_classes, cifar10.num_classes) == (20, 10)
    found = sum(path.stat().st_size for path in small_cifar100.folder.iterdir())
    assert cifar100.num_bytes_found == found < cifar100.num_bytes


def test_status_is_present_when_all_is_there(small_cifar10):
    entry = next(e for e in status(small_cifar10.root) if e.name == "cifar10")
    assert entry.present
    assert entry.num_bytes == entry.num_bytes_found


@pytest.mark.parametrize("source", [DIGITS, CIFAR10, CIFAR100], ids=lambda source: source.name)
def test_specifications_refer_only_to_files_they_list(source):
    listed = {file.name for file in source.files}
    used = {name for split in source.splits for name in split.files} | set(source.shared_files)
    assert used == listed
    assert len({file.md5 for file in source.files}) == len(source.files)


def test_official_files_have_the_size_and_md5_of_the_specifications(official_root):
    found = [*verify("cifar10", official_root), *verify("cifar100", official_root)]
    present = [file for file in found if file.state != "missing"]
    assert len(present) >= 5
    assert all(file.ok and file.found_size == file.expected_size for file in present)
