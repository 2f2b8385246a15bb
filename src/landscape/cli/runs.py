"""``landscape runs``."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg, subcommand


@dataclasses.dataclass(frozen=True)
class RunsList:
    """Show the run folders at a place, and how far each is.

    Example: landscape runs list runs
    """

    place: Positional[Path] = Path("runs")
    """A run folder, or a folder of them."""

    def run(self, console: Any) -> None:
        """Print the table."""
        from rich.markup import escape
        from rich.table import Table

        from landscape.runs import find_runs

        table = Table(title=escape(f"runs in {self.place}"))
        for column in ("folder", "state", "units", "size", "last event"):
            table.add_column(column)
        for run in find_runs(self.place):
            units = f"{len(run.finished):,} of {run.total:,}"
            table.add_row(
                escape(str(run.path)), run.word, units, f"{run.size / 1e6:.1f} MB", _ago(run.last)
            )
        console.print(table)


@dataclasses.dataclass(frozen=True)
class RunsShow:
    """Show one run folder: what was asked for, what is done, who works on what, what failed.

    Example: landscape runs show runs/fig3-digits-laptop
    """

    folder: Positional[Path]
    """A run folder."""

    def run(self, console: Any) -> None:
        """Print it."""
        import json

        from landscape.runs import run_state

        run = run_state(self.folder)
        shared = f" (of {run.names:,} names: some are the same)" * (run.names > run.total)
        lines = [
            f"{run.path}: {run.word}, {len(run.finished):,} of {run.total:,} units{shared}, "
            f"{run.size / 1e6:.1f} MB, last event {_ago(run.last)}",
            f"asked for: {json.dumps(run.config)}",
        ]
        lines += [f"damaged, and made anew when it is run again: {one}" for one in run.damaged]
        for claim in run.claims:
            state = "stale" if claim.stale else "in work"
            where = f"process {claim.process} on {claim.host}"
            lines.append(f"{state}: {claim.stem}, {where}, renewed {claim.age:.0f} s ago")
        lines += [f"failed: {unit}: {error}" for unit, error in run.failed.items()]
        for line in lines:
            console.print(line, highlight=False, soft_wrap=True, markup=False)


@dataclasses.dataclass(frozen=True)
class RunsVerify:
    """Read every result of a run and compare it with its checksum.

    Example: landscape runs verify runs/fig3-digits-laptop
    """

    folder: Positional[Path]
    """A run folder."""

    def run(self, console: Any) -> None:
        """Check, and fail if something is wrong."""
        from landscape.errors import StorageError
        from landscape.runs import run_state, verify_run

        wrong = verify_run(self.folder)
        for line in wrong:
            console.print(line, highlight=False, soft_wrap=True, markup=False)
        if wrong:
            raise StorageError(
                f"{len(wrong)} files of {self.folder} are not what they should be; damaged and "
                "missing results are made anew when it is run again"
            )
        count = len(run_state(self.folder).finished)
        console.print(f"{self.folder}: {count:,} results, all as they were written", markup=False)


@dataclasses.dataclass(frozen=True)
class RunsClean:
    """Remove what killed processes left and what is of no more use.

    Temporary files, claims and checkpoints of units that are done, results that were set aside.

    For example:
      landscape runs gc runs/fig3-digits-laptop --dry-run
      landscape runs gc runs/fig3-digits-laptop
    """

    folder: Positional[Path]
    """A run folder."""
    dry_run: bool = False
    """Tell what would go, and leave it."""

    def run(self, console: Any) -> None:
        """Tell, and remove."""
        from landscape.runs import collect_rubbish

        found = collect_rubbish(self.folder, remove=not self.dry_run)
        for one in found:
            size = f"{one.size / 1e6:.3f} MB"
            line = f"{one.path}: {one.why}, {size}"
            console.print(line, highlight=False, soft_wrap=True, markup=False)
        total = sum(one.size for one in found) / 1e6
        word = "would go" if self.dry_run else "removed"
        console.print(f"{len(found):,} things, {total:.1f} MB {word}", highlight=False)


RunsCommand = (
    Annotated[RunsList, subcommand("list")]
    | Annotated[RunsShow, subcommand("show")]
    | Annotated[RunsVerify, subcommand("verify")]
    | Annotated[RunsClean, subcommand("gc")]
)


@dataclasses.dataclass(frozen=True)
class Runs:
    """List, show, verify and clean run folders.

    For example:
      landscape runs list runs
      landscape runs show runs/fig3-digits-laptop
      landscape runs verify runs/fig3-digits-laptop
      landscape runs gc runs/fig3-digits-laptop --dry-run
    """

    command: Annotated[RunsCommand, arg(name="")]

    def run(self, console: Any) -> None:
        """Run the subcommand."""
        self.command.run(console)


def _ago(moment: float | None) -> str:
    """How long ago, in words."""
    if moment is None:
        return "none"
    seconds = max(0.0, time.time() - moment)
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} seconds ago"
