"""The command line: thin, quick to start, every failure a short message and an exit code.

Exit codes: 0 done, 1 internal error, 2 usage or input, 3 some units failed, 4 storage, 5 memory or
device, 75 stopped by a signal.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import tyro
from tyro.conf import subcommand

from landscape._version import __version__
from landscape.cli.analysis import Analyze, Spectrum
from landscape.cli.data import Data
from landscape.cli.experiments import Report, Reproduce, Results
from landscape.cli.runs import Runs
from landscape.errors import LandscapeError, StoppedError

Command = (
    Annotated[Reproduce, subcommand("reproduce")]
    | Annotated[Analyze, subcommand("analyze")]
    | Annotated[Spectrum, subcommand("spectrum")]
    | Annotated[Report, subcommand("report")]
    | Annotated[Results, subcommand("results")]
    | Annotated[Runs, subcommand("runs")]
    | Annotated[Data, subcommand("data")]
)

_DESCRIPTION = """How degenerate is a neural network's loss landscape, and why.

Start with: landscape reproduce fig3. Version: landscape --version

Exit codes: 0 done, 1 internal error, 2 usage or input, 3 some units failed, 4 storage, 5 memory or
device, 75 stopped by a signal."""


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
    command: Any = tyro.cli(  # exits by itself: 0 after help, 2 on wrong usage
        Command,
        prog="landscape",
        description=_DESCRIPTION,
        args=arguments,
        config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    from rich.console import Console

    try:
        with _signals_end_the_command():
            # Into a file or a pipe, rich would assume 80 columns: too narrow for the tables.
            command.run(Console(width=None if sys.stdout.isatty() else 120))
    except KeyboardInterrupt:
        return _fail("interrupted; run again with --resume to continue", 75)
    except LandscapeError as error:
        return _fail(str(error), error.exit_code)
    except MemoryError:
        return _fail("out of memory; take fewer images, a smaller scale, or a larger machine", 5)
    except Exception as error:
        return _unexpected(error)
    return 0


@contextmanager
def _signals_end_the_command() -> Iterator[None]:
    """Before and after the work, which has safe points of its own, a signal ends the command.

    Files are written whole or not at all, so it may.
    """

    def stop(number: int, frame: Any) -> None:
        raise StoppedError(f"stopped by {signal.Signals(number).name}; run again to continue")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {n: signal.signal(n, stop) for n in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _unexpected(error: Exception) -> int:
    if "RESOURCE_EXHAUSTED" in str(error):
        return _fail("the device is out of memory; take a smaller scale or a larger device", 5)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return _fail(f"cannot write: {error.strerror}", 4)
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


def run() -> None:
    """Entry point of the installed command."""
    code = main()
    if code and "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized():
        # JAX would wait for all hosts to come to the end together, also for one that is gone.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
