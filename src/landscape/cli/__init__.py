"""The command line: thin, quick to start, every failure a short message and an exit code.

Exit codes: 0 done, 1 internal error, 2 usage or input, 3 some units failed, 4 storage, 5 memory or
device, 75 stopped by a signal.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from landscape._version import __version__
from landscape.errors import LandscapeError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    Parameters
    ----------
    arguments
        Without the program's name; default ``sys.argv[1:]``.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments in (["--version"], ["-V"]):
        print(f"landscape {__version__}")  # noqa: T201
        return 0
    try:
        from rich.console import Console

        from landscape.cli.commands import parse

        # Into a file or a pipe, rich would assume 80 columns: too narrow for the tables.
        parse(arguments).run(Console(width=None if sys.stdout.isatty() else 120))
    except KeyboardInterrupt:
        return _fail(
            "interrupted; what is finished is kept: give the command again (reproduce: --resume)",
            75,
        )
    except LandscapeError as error:
        return _fail(str(error), error.exit_code)
    except MemoryError:
        return _fail("out of memory; take fewer examples, or a larger machine", 5)
    except Exception as error:
        return _unexpected(error)
    return 0


def _unexpected(error: Exception) -> int:
    if "RESOURCE_EXHAUSTED" in str(error):
        return _fail("the device is out of memory; take fewer examples, or a larger device", 5)
    if isinstance(error, OSError) and error.strerror:
        where = f" {error.filename}" if error.filename else ""
        return _fail(f"cannot use{where}: {error.strerror}", 4)
    if os.environ.get("LANDSCAPE_TRACEBACK"):
        traceback.print_exc()
    return _fail(
        f"internal error ({type(error).__name__}: {error}). This is a bug; set "
        "LANDSCAPE_TRACEBACK=1 to see where",
        1,
    )


def _fail(message: str, code: int) -> int:
    print(f"landscape: {message}", file=sys.stderr)  # noqa: T201
    return code


def _end(number: int, frame: Any) -> None:
    """End at once, outside of the work, which has safe points of its own.

    Files are written whole or not at all, so it may. No exception: one that is raised wherever the
    interpreter happens to be may be swallowed there, or be taken for something else.
    """
    message = f"landscape: stopped by {signal.Signals(number).name}; run again to continue\n"
    # A progress bar hides the terminal's cursor.
    os.write(2, (("\x1b[?25h" if os.isatty(2) else "") + message).encode())
    os._exit(75)


def run() -> None:
    """Entry point of the installed command."""
    # Before anything that takes time is imported.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, _end)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # Where the terminal has no dash, a question mark does.
            stream.reconfigure(errors="replace")
    try:
        code = main()
    except KeyboardInterrupt:
        code = 75
    if code and "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized():
        # JAX would wait for all hosts to come to the end together, also for one that is gone.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
