"""Stopping cleanly: a signal sets a flag, the work looks at it at its safe points."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopFlag:
    """Whether somebody asked the run to stop; calling it tells."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.signal: str | None = None

    def __call__(self) -> bool:
        """Whether a stop was asked for."""
        return self._event.is_set()

    def set(self, name: str) -> None:
        """Ask for a stop; ``name`` says who asked."""
        self.signal = name
        self._event.set()


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Turn SIGTERM, SIGINT and SIGUSR1 into a flag within the block.

    A second SIGINT interrupts at once. Outside the main thread nothing is installed.
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if flag() and number == signal.SIGINT:
            raise KeyboardInterrupt
        flag.set(signal.Signals(number).name)

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
