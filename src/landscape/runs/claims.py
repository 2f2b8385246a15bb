"""Who works on what, among any number of processes that share a run folder; without file locks.

A claim is a file that can be created once: ``claims/<unit>.<generation>.json``. Its holder renews
its time of modification; one that has not been renewed for a while, or whose process is known to be
gone, is stale, and whoever creates the next generation has the unit. A holder that was only slow
may finish the same unit too: results are written whole, and are the same.

Ages are those of the file system's clock, which all who share the folder see.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from landscape._temporary import filesystem_time, machine
from landscape.errors import StorageError

# Claims are renewed so often, and stale after so long: many renewals, since a busy machine or a
# slow file system may miss some.
BEAT_SECONDS = 5.0
STALE_SECONDS = 90.0

_NAME = re.compile(r"(?P<stem>.+)\.(?P<generation>\d+)\.json")


@dataclasses.dataclass(frozen=True)
class Claim:
    """One claim as it is found.

    Attributes
    ----------
    stem
        Of the unit's file name.
    generation
        How often it has been taken over.
    path
        The file.
    host, process
        Who made it; empty and 0 while it is being written.
    age
        Seconds since it was renewed.
    stale
        Whether it can be taken over.
    """

    stem: str
    generation: int
    path: Path
    host: str
    process: int
    age: float
    stale: bool


class Claims:
    """The claims of one run folder, and those of them that this process holds.

    Parameters
    ----------
    folder
        Where they are; made when the first is taken.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: dict[str, Path] = {}
        self._tokens: dict[str, str] = {}
        self._guard = threading.Lock()

    def take(self, stem: str, latest: Mapping[str, Claim] | None = None) -> str:
        """Claim a unit.

        Parameters
        ----------
        stem
            Of its file name.
        latest
            As ``latest`` has just given it.

        Returns
        -------
        ``"claimed"``, ``"taken over"`` from a holder that is gone, or nothing if another process
        has it.

        Raises
        ------
        StorageError
            If the folder cannot be written.
        """
        before = (self.latest() if latest is None else latest).get(stem)
        if before is not None and not before.stale:
            return ""
        generation = 0 if before is None else before.generation + 1
        path = self.folder / f"{stem}.{generation}.json"
        self._make_folder()
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return ""
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}") from error
        told = {"host": socket.gethostname(), "machine": machine(), "process": os.getpid()}
        token = os.urandom(8).hex()
        try:
            with os.fdopen(descriptor, "w") as stream:
                stream.write(json.dumps({**told, "token": token}) + "\n")
        except OSError as error:
            _unlink(path)
            raise StorageError(f"cannot write {path}: {error.strerror}") from error
        with self._guard:
            self._held[stem] = path
            self._tokens[stem] = token
        return "claimed" if before is None else "taken over"

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot write {self.folder}: {error.strerror}") from error

    def release(self, stem: str) -> None:
        """Give a unit back, or be done with it: its claims up to one's own are removed.

        One who has taken it over keeps theirs. What cannot be removed becomes stale.
        """
        with self._guard:
            held, token = self._held.pop(stem, None), self._tokens.pop(stem, "")
        if held is None or _token(held) != token:
            # Taken over, given back and claimed anew by others: none of what is there is ours.
            return
        mine = _NAME.fullmatch(held.name)
        for path in self.folder.glob(f"{stem}.*.json"):
            name = _NAME.fullmatch(path.name)
            if mine and name and int(name["generation"]) <= int(mine["generation"]):
                _unlink(path)

    def clear(self, stem: str) -> None:
        """Remove everybody's claims of a unit that is done."""
        with self._guard:
            self._held.pop(stem, None)
        for path in self.folder.glob(f"{stem}.*.json"):
            _unlink(path)

    def latest(self) -> dict[str, Claim]:
        """Of each claimed unit the claim that counts."""
        found: dict[str, Claim] = {}
        now = None
        for path in self.folder.glob("*.json"):
            name = _NAME.fullmatch(path.name)
            if name is None:
                continue
            now = self._now() if now is None else now
            claim = _read(path, name["stem"], int(name["generation"]), now)
            if claim is None:
                continue
            known = found.get(claim.stem)
            if known is None or known.generation < claim.generation:
                found[claim.stem] = claim
        return found

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """Renew what is held, from a thread of its own, within the block; give it back after."""
        done = threading.Event()
        thread = threading.Thread(target=self._renew, args=(done,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            for stem in list(self._held):
                self.release(stem)

    def _renew(self, done: threading.Event) -> None:
        while not done.wait(BEAT_SECONDS):
            with self._guard:
                held = list(self._held.values())
            for path in held:
                # Whoever took the unit over and finished it has removed the claim.
                try:
                    os.utime(path)
                except OSError:
                    continue

    def _now(self) -> float:
        return filesystem_time(self.folder)


def _unlink(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _read(path: Path, stem: str, generation: int, now: float) -> Claim | None:
    """None if it has gone meanwhile."""
    try:
        age = now - path.stat().st_mtime
    except OSError:
        return None
    try:
        text = path.read_text()
    except OSError:
        # Another user's, or no file: somebody's until it is old.
        text = ""
    try:
        told = json.loads(text)
        host, process, where = told["host"], int(told["process"]), told["machine"]
    except (ValueError, KeyError, TypeError):
        # Being written, or left half written by a process that was killed.
        return Claim(stem, generation, path, "", 0, age, age > STALE_SECONDS)
    gone = where == machine() and not _lives(process)
    return Claim(stem, generation, path, host, process, age, gone or age > STALE_SECONDS)


def _token(path: Path) -> str:
    """What tells a claim from all others, those of the same name included."""
    try:
        return str(json.loads(path.read_text())["token"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
