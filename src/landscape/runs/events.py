"""What happened in a run, one JSON line for each event: for people and for other programs.

Each process has a file of its own in ``events/``, so that lines of two never mix; ``read_events``
puts them in order.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from landscape._temporary import filesystem_time
from landscape.errors import StorageError


class EventLog:
    """The events of one process in a run folder.

    Parameters
    ----------
    folder
        Where the files are; made with the first event.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"{socket.gethostname()}-{os.getpid()}.jsonl"
        self._begun: float | None = None

    def now(self) -> float:
        """Seconds since the epoch by the file system's clock, in steps of this process's own.

        Machines' clocks differ, and may be set back: what came later must not seem to be earlier.
        """
        if self._begun is None:
            with suppress(OSError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._begun = filesystem_time(self.path.parent) - time.monotonic()
        return self._begun + time.monotonic()

    def add(self, event: str, **fields: Any) -> None:
        """Append an event.

        Parameters
        ----------
        event
            What happened, in a word or two.
        fields
            JSON values.

        Raises
        ------
        StorageError
            If the folder cannot be written.
        """
        try:
            told = {"time": round(self.now(), 3), "host": socket.gethostname()}
            told |= {"process": os.getpid(), "event": event}
            line = (json.dumps(told | fields) + "\n").encode()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # One write at the end of the file: whole, or not there.
            descriptor = os.open(self.path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)
            try:
                if os.write(descriptor, line) < len(line):
                    # The next one shall not be glued to it.
                    os.write(descriptor, b"\n")
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StorageError(f"cannot write {self.path}: {error.strerror}") from error


def places_of(planned: Mapping[str, Any]) -> dict[str, list[str]]:
    """Where the things are that a plan's units are of, by the units' names: of paths the whole."""
    parts, place = planned.get("parts", {}), planned.get("place", "")
    return {
        name: [os.path.join(place, one) for one in parts.get(name, [name])]
        for name in planned["names"]
    }


def read_events(folder: Path) -> list[dict[str, Any]]:
    """All events of all processes, in the order of their times.

    Lines that a full disk or a kill has cut, and files that cannot be read, are left out.
    """
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        try:
            lines = path.read_text(errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and isinstance(event.get("time"), int | float):
                found.append(event)
    return sorted(found, key=lambda event: event["time"])
