import dataclasses
import errno
import logging
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest

from landscape.data import download, load, registry, verify
from landscape.data import download as download_function
from landscape.data.sources import Archive, Contents, LabelKind, Source, SourceFile, Split
from landscape.errors import DataError, InputError, StorageError

download_module = sys.modules[download_function.__module__]


def left_in(root):
    """Everything below a folder, hidden files too."""
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*"))


def test_a_download_ends_with_verified_files_and_nothing_else(offered, small_cifar100):
    result = download("cifar100", offered.root, progress=False)
    assert result.downloaded
    assert result.folder == offered.folder
    assert all(file.ok for file in result.files)
    assert "all 3 files verified" in result.message == str(result)
    assert left_in(offered.root) == [
        "cifar-100-python",
        "cifar-100-python/meta",
        "cifar-100-python/test",
        "cifar-100-python/train",
    ]
    assert load("cifar100", root=offered.root).digest == (
        load("cifar100", root=small_cifar100.root).digest
    )


def test_the_folder_and_files_are_readable_by_others(offered):
    umask = os.umask(0o022)
    try:
        download("cifar100", offered.root, progress=False)
    finally:
        os.umask(umask)
    assert offered.folder.stat().st_mode & 0o777 == 0o755
    assert (offered.folder / "train").stat().st_mode & 0o777 == 0o644


def test_a_set_that_is_there_is_left_alone_without_asking_the_server(offered):
    download("cifar100", offered.root, progress=False)
    before = {path: path.stat().st_mtime_ns for path in offered.folder.iterdir()}
    offered.server.requests.clear()
    again = download("cifar100", offered.root, progress=False)
    assert not again.downloaded
    assert "already in" in again.message
    assert offered.server.requests == []
    assert {path: path.stat().st_mtime_ns for path in offered.folder.iterdir()} == before


def test_a_damaged_file_in_place_is_named_and_never_overwritten(offered):
    download("cifar100", offered.root, progress=False)
    (offered.folder / "train").write_bytes(b"precious")
    offered.server.requests.clear()
    with pytest.raises(DataError, match=r"train: truncated.*Delete it"):
        download("cifar100", offered.root, progress=False)
    assert (offered.folder / "train").read_bytes() == b"precious"
    assert offered.server.requests == []


def test_missing_files_are_added_beside_those_that_are_there(offered):
    offered.folder.mkdir(parents=True)
    for name in ("meta", "notes.txt"):
        (offered.folder / name).write_bytes(offered.contents.get(name, b"mine"))
    kept = (offered.folder / "meta").stat()
    assert download("cifar100", offered.root, progress=False).downloaded
    assert (offered.folder / "meta").stat().st_ino == kept.st_ino
    assert left_in(offered.folder) == ["meta", "notes.txt", "test", "train"]
    assert left_in(offered.root)[0] == "cifar-100-python"
    assert all(file.ok for file in verify("cifar100", offered.root))


def test_a_file_that_appears_damaged_during_the_download_is_not_overwritten(offered, monkeypatch):
    fetch_all = download_module._fetch_all

    def fetch_and_interfere(*args):
        fetch_all(*args)
        offered.folder.mkdir()
        (offered.folder / "train").write_bytes(b"another writer")

    monkeypatch.setattr(download_module, "_fetch_all", fetch_and_interfere)
    with pytest.raises(DataError, match="train: truncated"):
        download("cifar100", offered.root, progress=False)
    assert left_in(offered.root) == ["cifar-100-python", "cifar-100-python/train"]


def test_a_body_cut_short_is_a_storage_error_and_leaves_nothing(offered):
    body = offered.archive[: len(offered.archive) // 2]
    headers = {"Content-Length": str(len(offered.archive))}
    offered.server.answers[offered.path] = (200, body, headers)
    with pytest.raises(StorageError, match="the connection broke before all of") as error:
        download("cifar100", offered.root, progress=False)
    assert offered.path in str(error.value)
    assert left_in(offered.root) == []


def test_a_truncated_archive_of_undeclared_length_is_refused(offered):
    offered.server.answers[offered.path] = (200, offered.archive[:-10], {})
    with pytest.raises(DataError, match="is truncated: md5") as error:
        download("cifar100", offered.root, progress=False)
    size = len(offered.archive)
    assert f"{size - 10:,} bytes, expected {size:,}" in str(error.value)
    assert left_in(offered.root) == []


def test_another_archive_is_refused_with_both_checksums(offered, tar_gz):
    other = tar_gz(*offered.members, ("padding", np.random.default_rng(0).bytes(1000)))
    offered.server.answers[offered.path] = (200, other, {})
    with pytest.raises(DataError, match=r"is not the official file: md5 [0-9a-f]{32}") as error:
        download("cifar100", offered.root, progress=False)
    assert f"expected {offered.source.archives[0].md5}" in str(error.value)
    assert left_in(offered.root) == []


@pytest.mark.parametrize("code", [404, 503])
def test_a_refusal_of_the_server_is_a_storage_error_with_its_code(offered, code):
    offered.server.answers[offered.path] = (code, b"", {})
    with pytest.raises(StorageError, match=rf"the server refused .*{code}") as error:
        download("cifar100", offered.root, progress=False)
    assert offered.source.homepage in str(error.value)
    assert left_in(offered.root) == []


def test_no_server_is_a_storage_error(offered):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(StorageError, match=f"cannot reach {url}/cifar-100") as error:
            download("cifar100", offered.root, base_url=url, progress=False)
    assert len(str(error.value)) < 300
    assert left_in(offered.root) == []


def test_a_server_that_does_not_answer_is_given_up(offered, monkeypatch):
    monkeypatch.setattr(download_module, "TIMEOUT", (5, 0.2))
    offered.server.answers[offered.path] = ("stall", b"", {})
    with pytest.raises(StorageError, match=r"no answer from .* within 0\.2 s"):
        download("cifar100", offered.root, progress=False)
    assert left_in(offered.root) == []


def test_a_body_that_stops_coming_is_given_up(offered, monkeypatch):
    monkeypatch.setattr(download_module, "TIMEOUT", (5, 0.2))
    stalled = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{stalled.getsockname()[1]}"

    def answer():
        connection, _ = stalled.accept()
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n0123")
        time.sleep(0.6)
        connection.close()

    import threading

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        with pytest.raises(StorageError):
            download("cifar100", offered.root, base_url=url, progress=False)
    finally:
        thread.join()
        stalled.close()
    assert left_in(offered.root) == []


@pytest.mark.parametrize(
    "url", ["", "nowhere", "gopher://127.0.0.1", "file:///tmp", "http://", "http://["]
)
def test_an_address_that_is_not_http_is_an_input_error(offered, url):
    with pytest.raises(InputError, match="is not an http or https address"):
        download("cifar100", offered.root, base_url=url, progress=False)
    assert not offered.root.exists()


def test_a_root_below_a_file_cannot_be_written(offered, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write cifar100 to .*LANDSCAPE_DATA"):
        download("cifar100", tmp_path / "file" / "data", progress=False)
    assert offered.server.requests == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_root_cannot_be_written(offered):
    offered.root.mkdir()
    offered.root.chmod(0o555)
    with pytest.raises(StorageError, match=r"cannot write cifar100 to .*Permission denied"):
        download("cifar100", offered.root, progress=False)
    assert left_in(offered.root) == []
    assert offered.server.requests == []


def test_a_root_that_refuses_new_folders_cannot_be_written(offered, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(download_module.tempfile, "mkdtemp", refuse)
    with pytest.raises(StorageError, match=r"cannot write cifar100 to .*Permission denied"):
        download("cifar100", offered.root, progress=False)
    assert left_in(offered.root) == []


def test_too_little_space_is_said_before_anything_is_fetched(offered, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StorageError, match=r"cifar100 needs .* MB while it is unpacked"):
        download("cifar100", offered.root, progress=False)
    assert offered.server.requests == []


# Failing half way


def test_a_disk_that_fills_up_while_unpacking_leaves_nothing(offered, monkeypatch):
    def write_some(source, target):
        target.write(source.read(10))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("landscape.data.archives.shutil.copyfileobj", write_some)
    with pytest.raises(StorageError, match=os.strerror(errno.ENOSPC)):
        download("cifar100", offered.root, progress=False)
    assert left_in(offered.root) == []


def test_an_interrupt_while_unpacking_leaves_nothing(offered, monkeypatch):
    def write_some(source, target):
        target.write(source.read(10))
        raise KeyboardInterrupt

    monkeypatch.setattr("landscape.data.archives.shutil.copyfileobj", write_some)
    with pytest.raises(KeyboardInterrupt):
        download("cifar100", offered.root, progress=False)
    assert left_in(offered.root) == []


def test_a_kill_while_unpacking_leaves_no_half_data_set(offered, tmp_path):
    # The source is handed over as a pickle, so that the child downloads from this server.
    (tmp_path / "source").write_bytes(pickle.dumps(offered.source))
    script = """
import os, pickle, signal, sys
from landscape.data import archives, download, registry
registry.SOURCES["cifar100"] = pickle.load(open(sys.argv[1], "rb"))
copy, done = archives.shutil.copyfileobj, []
def copy_one_then_die(source, target):
    if done:
        target.write(source.read(10))
        target.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    copy(source, target)
    done.append(target)
archives.shutil.copyfileobj = copy_one_then_die
download("cifar100", sys.argv[2], progress=False)
"""
    killed = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "source"), str(offered.root)],
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (staging,) = offered.root.iterdir()
    assert staging.name.startswith(".cifar-100-python.partial-")
    with pytest.raises(DataError, match="cifar100 was not found"):
        load("cifar100", root=offered.root)
    assert download("cifar100", offered.root, progress=False).downloaded
    assert len(load("cifar100", root=offered.root)) == 30


def test_what_a_killed_download_left_is_removed_a_day_later(offered):
    old, young = (offered.root / f".cifar-100-python.partial-{age}" for age in ("old", "young"))
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "train").write_bytes(b"half")
    yesterday = time.time() - 25 * 3600
    os.utime(old, (yesterday, yesterday))
    download("cifar100", offered.root, progress=False)
    assert not old.exists()
    assert young.exists()


# What is in the archive


def link(name, target):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


@pytest.mark.parametrize(
    ("hostile", "message"),
    [
        (("../escaped", b"x"), "points outside its folder"),
        (("/escaped", b"x"), "has an absolute path"),
        ((link("cifar-100-python/train", "/etc/passwd"), b""), "is a link to '/etc/passwd'"),
    ],
)
def test_a_hostile_archive_leaves_nothing_behind(offered, tar_gz, hostile, message):
    offered.offer(tar_gz(*offered.members[:1], hostile, *offered.members[1:]))
    with pytest.raises(DataError, match=message):
        download("cifar100", offered.root, progress=False)
    assert left_in(offered.root) == []
    assert not (offered.root.parent / "escaped").exists()
    assert not Path("/escaped").exists()


def test_an_archive_of_other_files_is_refused_after_unpacking(offered, tar_gz):
    changed = [(name, content[::-1]) for name, content in offered.members]
    offered.offer(tar_gz(*changed))
    with pytest.raises(DataError, match="holds other files than the official ones: meta: altered"):
        download("cifar100", offered.root, progress=False)
    assert left_in(offered.root) == []


def test_a_set_of_single_files_downloads_without_unpacking(server, tmp_path, monkeypatch):
    import hashlib

    content = bytes(range(12))
    digest = hashlib.md5(content).hexdigest()

    def read(folder, split, kind):
        values = np.frombuffer((folder / "raw.bin").read_bytes(), np.uint8).reshape(3, 2, 2, 1)
        return Contents(values, np.arange(3, dtype=np.int32), ("a", "b", "c"))

    source = Source(
        name="raw",
        title="Raw",
        splits=(Split("train", ("raw.bin",), 3),),
        label_kinds=(LabelKind(None, 3),),
        image_shape=(2, 2, 1),
        max_value=255,
        read=read,
        citation="",
        homepage="",
        folder="raw",
        files=(SourceFile("raw.bin", digest, 12),),
        archives=(Archive("raw.bin", digest, 12, unpack=False),),
        base_url=server.url,
    )
    monkeypatch.setitem(registry.SOURCES, "raw", source)
    server.answers["/raw.bin"] = (200, content, {})
    assert download("raw", tmp_path / "root", progress=False).downloaded
    assert left_in(tmp_path / "root") == ["raw", "raw/raw.bin"]
    assert load("raw", root=tmp_path / "root").inputs.ravel().tolist() == list(content)


# Manners


def test_digits_need_no_download(tmp_path):
    result = download("digits", tmp_path)
    assert (result.downloaded, result.folder, result.files) == (False, None, ())
    assert "ships with scikit-learn" in result.message
    assert left_in(tmp_path) == []


def test_an_unknown_data_set_is_refused():
    with pytest.raises(DataError, match="did you mean 'cifar10'"):
        download("cifar11")


def test_progress_is_drawn_on_stderr_and_never_on_stdout(offered, capfd):
    download("cifar100", offered.root)
    out, err = capfd.readouterr()
    assert out == ""
    assert "cifar-100-python.tar.gz" in err
    assert "Downloading data from" not in err


def test_progress_counts_up_to_the_whole_archive(offered, monkeypatch):
    bars = []

    class Recorded(download_module._ProgressBar):
        def close(self):
            super().close()
            task = self._progress.tasks[0]
            bars.append((self.total, task.completed))

    monkeypatch.setattr(download_module, "_ProgressBar", Recorded)
    download("cifar100", offered.root)
    size = len(offered.archive)
    assert set(bars) == {(size, size)}


def test_without_progress_nothing_is_printed_and_poochs_logger_is_as_before(offered, capfd):
    import pooch

    logger = pooch.get_logger()
    level = logger.level
    assert level <= logging.INFO
    download("cifar100", offered.root, progress=False)
    assert capfd.readouterr() == ("", "")
    assert logger.level == level


def test_the_default_address_is_the_official_one():
    for name in ("cifar10", "cifar100"):
        source = registry.SOURCES[name]
        assert source.base_url == "https://www.cs.toronto.edu/~kriz/"
        assert dataclasses.astuple(source.archives[0])[2] > 169_000_000
