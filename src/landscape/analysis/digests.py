"""Hashes of checkpoints, which need not be read again to be known."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from landscape.runs import write_atomically

# How long a process hashes before it tells others that do the same job.
_TELL_SECONDS = 5.0


class Digests:
    """Hashes of checkpoints, kept by path, size and time of change, of them and of the problem.

    Processes that begin together share the reading out: each looks what others have found before it
    reads a file, and tells what it has found from time to time.

    Parameters
    ----------
    path
        Of the file that they are kept in; None for none.
    problem
        As ``load_problem`` takes it.
    keep
        Whether to tell what is found.
    """

    def __init__(self, path: Path | None, problem: str, *, keep: bool = True) -> None:
        self._path, self._keep = path, keep
        source = Path(problem.rpartition(":")[0])
        # What a problem's own function loads, changes with the function.
        self._source = f" {_stamp(source)}" if source.is_file() else ""
        self._known: dict[str, str] = {}
        self._read, self._told, self._new = 0, time.monotonic(), False
        self._look()

    def of(self, path: str, compute: Callable[[], str], what: str = "") -> str:
        """What is known of a path's content, which is read if it has changed."""
        if not path:
            return compute()
        key = _stamp(Path(path)) + what + self._source
        if key not in self._known:
            self._look()
        if key not in self._known:
            self._known[key] = compute()
            self._new = True
            if time.monotonic() - self._told > _TELL_SECONDS:
                self.write()
        return self._known[key]

    def forget(self, paths: Iterable[str]) -> None:
        """Read these again when they are asked for: what is known of them was wrong."""
        self._look()
        starts = tuple(f"{Path(path).absolute()} " for path in paths if path)
        kept = {k: v for k, v in self._known.items() if not starts or not k.startswith(starts)}
        if self._path is not None and len(kept) < len(self._known):
            write_atomically(self._path, json.dumps(kept, indent=1).encode())
        self._known = kept

    def write(self) -> None:
        """Keep them, with what others have found by now."""
        if self._path is not None and self._new and self._keep:
            self._look()
            write_atomically(self._path, json.dumps(self._known, indent=1).encode())
            self._new = False
        self._told = time.monotonic()

    def _look(self) -> None:
        """Take over what is in the file, if it has changed; one that cannot be read is none."""
        if self._path is None:
            return
        try:
            changed = self._path.stat().st_mtime_ns
            if changed != self._read:
                self._known = {**json.loads(self._path.read_text()), **self._known}
                self._read = changed
        except (OSError, ValueError, TypeError):
            pass


def _stamp(path: Path) -> str:
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    stats = [file.stat() for file in files]
    # The time of the last change of the file itself cannot be set back, as that of its content can.
    size = sum(s.st_size for s in stats)
    changed = max((max(s.st_mtime_ns, s.st_ctime_ns) for s in stats), default=0)
    return f"{path.absolute()} {size} {changed}"
