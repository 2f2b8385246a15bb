"""Small data sets in the official formats, and a loopback server to download them from."""

import dataclasses
import hashlib
import io
import os
import pickle
import struct
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from landscape.data import registry
from landscape.data.cifar import CIFAR10, CIFAR100
from landscape.data.sources import Archive

_SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings, as in the official files."""

    def save_python2_string(self, value):
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch = {**pickle._Pickler.dispatch, bytes: save_python2_string}  # noqa: RUF012


def python2_pickle(content):
    out = io.BytesIO()
    Python2Pickler(out, protocol=2).dump(content)
    return out.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def md5(content):
    return hashlib.md5(content).hexdigest()


@dataclasses.dataclass
class SmallSet:
    """A data set of a few images: what was written, and where."""

    source: object
    root: Path
    batches: dict

    @property
    def folder(self):
        return self.root / self.source.folder

    def file_bytes(self):
        return {file.name: (self.folder / file.name).read_bytes() for file in self.source.files}


def _small_set(official, root, batches, meta_name, meta):
    folder = root / official.folder
    folder.mkdir(parents=True)
    contents = {meta_name: meta, **batches}
    files = []
    for file in official.files:
        written = python2_pickle(contents[file.name])
        (folder / file.name).write_bytes(written)
        files.append(dataclasses.replace(file, md5=md5(written), size=len(written)))
    return SmallSet(dataclasses.replace(official, files=tuple(files)), root, batches)


@pytest.fixture
def small_cifar10(tmp_path, monkeypatch):
    rng = np.random.default_rng(10)
    batches = {
        file.name: {
            b"batch_label": b"a batch",
            b"labels": rng.integers(0, 10, 12).tolist(),
            b"data": rng.integers(0, 256, (12, 3072), dtype=np.uint8),
            b"filenames": [b"image.png"] * 12,
        }
        for file in CIFAR10.files
        if "batch" in file.name and file.name != "batches.meta"
    }
    meta = {b"label_names": [b"class %d" % i for i in range(10)], b"num_vis": 3072}
    small = _small_set(CIFAR10, tmp_path / "data", batches, "batches.meta", meta)
    monkeypatch.setitem(registry.SOURCES, "cifar10", small.source)
    return small


@pytest.fixture
def small_cifar100(tmp_path, monkeypatch):
    rng = np.random.default_rng(100)
    batches = {
        name: {
            b"coarse_labels": rng.integers(0, 20, size).tolist(),
            b"fine_labels": rng.integers(0, 100, size).tolist(),
            b"data": rng.integers(0, 256, (size, 3072), dtype=np.uint8),
        }
        for name, size in (("train", 30), ("test", 7))
    }
    meta = {
        b"coarse_label_names": [b"coarse %d" % i for i in range(20)],
        b"fine_label_names": [b"fine %d" % i for i in range(100)],
    }
    small = _small_set(CIFAR100, tmp_path / "data", batches, "meta", meta)
    monkeypatch.setitem(registry.SOURCES, "cifar100", small.source)
    return small


@pytest.fixture
def official_root():
    """The folder of official files: ``LANDSCAPE_DATA``, else ``../shared/data``, else skip."""
    root = Path(os.environ.get("LANDSCAPE_DATA") or _SHARED)
    needed = ["cifar-100-python/test", "cifar-100-python/meta", "cifar-10-batches-py/data_batch_1"]
    if not all((root / name).is_file() for name in needed):
        pytest.skip(f"no official files in {root}")
    return root


@pytest.fixture
def tar_gz():
    """A function that makes a .tar.gz from names and contents, or from TarInfo objects."""

    def make(*members):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz") as tar:
            for member, content in members:
                info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return out.getvalue()

    return make


class LoopbackServer:
    """Answers each path with (status, body, headers); counts the requests."""

    def __init__(self):
        self.answers = {}
        self.requests = []
        self.stall = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests.append(self.path)
                status, body, headers = outer.answers.get(self.path, (404, b"", {}))
                if status == "stall":
                    outer.stall.wait(10)
                    return
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}
        )
        self._thread.start()

    def close(self):
        self.stall.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server(monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    loopback = LoopbackServer()
    yield loopback
    loopback.close()


@pytest.fixture
def offered(small_cifar100, server, tar_gz, tmp_path, monkeypatch):
    """CIFAR-100 in small, offered by the loopback server and not yet in the folder ``root``."""
    folder = small_cifar100.source.folder
    contents = small_cifar100.file_bytes()
    root = tmp_path / "fresh"

    class Offered:
        pass

    def offer(archive, **headers):
        """Put an archive on the server, as the official one."""
        name = small_cifar100.source.archives[0].name
        source = dataclasses.replace(
            small_cifar100.source,
            archives=(Archive(name, md5(archive), len(archive)),),
            base_url=server.url,
        )
        monkeypatch.setitem(registry.SOURCES, "cifar100", source)
        server.answers[f"/{name}"] = (200, archive, {"Content-Length": str(len(archive))})
        offered.source, offered.archive, offered.path = source, archive, f"/{name}"

    offered = Offered()
    offered.root, offered.folder, offered.contents = root, root / folder, contents
    offered.offer, offered.server = offer, server
    members = [(f"{folder}/{name}", content) for name, content in contents.items()]
    offered.members = members
    offer(tar_gz(*members, (f"{folder}/file.txt~", b"not ours")))
    return offered
