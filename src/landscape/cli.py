"""The command line: thin, quick to start, every failure a short message and an exit code.

Exit codes: 0 done, 1 internal error, 2 usage or input, 3 some units failed, 4 storage, 5 memory or
device, 75 stopped by a signal.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg, subcommand

from landscape._version import __version__
from landscape.errors import LandscapeError, StoppedError

DATASETS = ("digits", "cifar10", "cifar100", "svhn", "stl10")


@dataclasses.dataclass(frozen=True)
class DataList:
    """Show every data set: where it is, its splits, classes and size.

    Example: landscape data list
    """

    def run(self, console: Any) -> None:
        """Print the table."""
        from rich.table import Table

        from landscape.data import data_root, status

        table = Table(title=f"data sets in {data_root()}")
        for column in ("name", "present", "all splits", "classes", "size"):
            table.add_column(column)
        for entry in status():
            table.add_row(*_status_cells(entry))
        console.print(table)


@dataclasses.dataclass(frozen=True)
class DataDownload:
    """Download a data set from its official address, check it, and put it in the data folder.

    The folder is $LANDSCAPE_DATA if set, else the user's cache folder.

    Example: landscape data download cifar100
    """

    name: Positional[str]
    """Name of the data set; digits needs no download."""

    def run(self, console: Any) -> None:
        """Download."""
        from landscape.data import download

        console.print(str(download(self.name)))


@dataclasses.dataclass(frozen=True)
class DataVerify:
    """Compare every file of a data set with its official checksum.

    Example: landscape data verify cifar100
    """

    name: Positional[str]
    """Name of the data set."""

    def run(self, console: Any) -> None:
        """Check, and fail if a file is not as published."""
        from landscape.data import verify
        from landscape.errors import DataError

        statuses = verify(self.name)
        for status in statuses:
            console.print(str(status), highlight=False, soft_wrap=True)
        bad = [status for status in statuses if not status.ok]
        if bad:
            raise DataError(
                f"{len(bad)} of {len(statuses)} files of {self.name} are not usable; missing ones "
                f"come with landscape data download {self.name}, damaged ones must be deleted first"
            )


@dataclasses.dataclass(frozen=True)
class Reproduce:
    """Run an experiment of the paper, test its claims, and write a report.

    For example:
      landscape reproduce list
      landscape reproduce fig3
      landscape reproduce fig3 --scale smoke --out /tmp/try
      LANDSCAPE_DATA=~/data landscape reproduce fig3 --dataset cifar100 --out runs/cifar100
      landscape reproduce fig3 --out runs/fig3 --resume
      landscape reproduce all --scale smoke --out /tmp/all
    """

    experiment: Positional[str]
    """Name of an experiment, "all" for one after the other, or "list" to show them."""
    dataset: Literal["digits", "cifar10", "cifar100", "svhn", "stl10"] = "digits"
    """Data set; all but digits must be there (landscape data list)."""
    scale: Literal["smoke", "laptop", "paper"] = "laptop"
    """smoke: a minute. laptop: minutes on 2 cores. paper: an accelerator."""
    seeds: int | None = None
    """Networks per architecture. Default: the scale's."""
    seed: int = 0
    """Seed of the whole run: one seed, one set of numbers."""
    out: Path | None = None
    """Run folder. Default: runs/EXPERIMENT-DATASET-SCALE. Of all: a folder for their folders."""
    workers: int | None = None
    """Processes side by side. Default: one per core on a CPU, one on an accelerator."""
    resume: bool = False
    """Continue the run in a non-empty folder. A missing or empty one starts fresh."""

    def run(self, console: Any) -> None:
        """Run, print the summary, say where the report is."""
        from landscape.experiments.reproduce import EXPERIMENTS, Request, reproduce

        if self.experiment == "list":
            for entry in EXPERIMENTS.values():
                console.print(f"{entry.name:12}{entry.summary}", highlight=False)
            return
        names = tuple(EXPERIMENTS) if self.experiment == "all" else (self.experiment,)
        for name in names:
            folder = f"{name}-{self.dataset}-{self.scale}"
            out = self.out or Path("runs") / folder
            if self.out and self.experiment == "all":
                out = self.out / folder
            request = Request(name, self.dataset, self.scale, self.seeds, self.seed)
            page = reproduce(
                request, out, resume=self.resume, console=console, workers=self.workers
            )
            page.show(console)
            console.print(f"report: {out / 'report.html'}", highlight=False, soft_wrap=True)


@dataclasses.dataclass(frozen=True)
class Analyze:
    """Say how degenerate one network is, and why.

    Spectrum, certified fractions, extremal eigenvalues and trace of the loss's Hessian; and, of a
    classifier whose model the problem names, measures and null directions by cause.

    For example:
      landscape analyze examples/my_model.py:problem
      landscape analyze package.module:problem --eps 1e-4
      landscape analyze runs/fig3-digits-laptop --network digits/residual/0@50
    """

    problem: Positional[str]
    """module:function or file.py:function that returns a landscape.curvature.Problem, or a run
    folder."""
    network: str | None = None
    """Of a run folder: GROUP/ARCHITECTURE/NUMBER[@EPOCH]. Default: the first, at the end."""
    eps: float = 1e-3
    """Half-width of the degenerate band."""
    num_steps: int = 200
    """Lanczos steps, for more than 2,000 parameters."""
    causes: bool = True
    """Look for causes."""
    seed: int = 0
    """Seed of the random probes."""
    out: Path = Path("analysis")
    """Folder for report.html, analysis.json, and the figure as spectrum.png and .pdf."""

    def run(self, console: Any) -> None:
        """Analyse, print, and write."""
        import json

        from landscape.analysis import analyze, load_problem
        from landscape.runs import write_atomically

        problem = load_problem(self.problem, self.network)
        if not problem.name:
            problem = dataclasses.replace(problem, name=self.problem)
        found = analyze(
            problem, eps=self.eps, num_steps=self.num_steps, causes=self.causes, seed=self.seed
        )
        page = found.page()
        for name, content in (
            ("report.html", page.to_html().encode()),
            ("analysis.json", json.dumps(found.to_json(), indent=1).encode()),
            ("spectrum.png", found.picture("png")),
            ("spectrum.pdf", found.picture("pdf")),
        ):
            write_atomically(self.out / name, content)
        page.show(console)
        console.print(f"report: {self.out / 'report.html'}", highlight=False, soft_wrap=True)


@dataclasses.dataclass(frozen=True)
class Report:
    """Write the report of a finished run anew, and print its summary.

    Example: landscape report runs/fig3-digits-laptop
    """

    folder: Positional[Path]
    """A run folder."""

    def run(self, console: Any) -> None:
        """Rewrite and print."""
        from landscape.experiments.reproduce import report

        report(self.folder, console).show(console)
        console.print(f"report: {self.folder / 'report.html'}", highlight=False, soft_wrap=True)


@dataclasses.dataclass(frozen=True)
class Results:
    """Write one page, in Markdown, of several finished runs.

    Example: landscape results runs/fig3-digits-laptop runs/fig4-digits-laptop --out docs/results.md
    """

    folders: Positional[tuple[Path, ...]]
    """Run folders, in the order of the page."""
    out: Path = Path("docs/results.md")
    """The page; pictures go into a folder of its name beside it."""

    def run(self, console: Any) -> None:
        """Write the page."""
        from landscape.experiments.gallery import write_gallery

        write_gallery(self.folders, self.out, console)
        console.print(f"results: {self.out}", highlight=False, soft_wrap=True)


DataCommand = (
    Annotated[DataList, subcommand("list")]
    | Annotated[DataDownload, subcommand("download")]
    | Annotated[DataVerify, subcommand("verify")]
)


@dataclasses.dataclass(frozen=True)
class Data:
    """List, download and verify data sets.

    For example:
      landscape data list
      landscape data download cifar100
      landscape data verify cifar100
    """

    command: Annotated[DataCommand, arg(name="")]

    def run(self, console: Any) -> None:
        """Run the subcommand."""
        self.command.run(console)


Command = (
    Annotated[Reproduce, subcommand("reproduce")]
    | Annotated[Analyze, subcommand("analyze")]
    | Annotated[Report, subcommand("report")]
    | Annotated[Results, subcommand("results")]
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


def _status_cells(entry: Any) -> tuple[str, ...]:
    size = entry.num_bytes
    return (
        entry.name,
        ", ".join(entry.available) or "no",
        ", ".join(split.name for split in entry.splits),
        str(entry.num_classes),
        "ships with scikit-learn" if not size else f"{size / 1e6:.0f} MB",
    )


def run() -> None:
    """Entry point of the installed command."""
    sys.exit(main())
