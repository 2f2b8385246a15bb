"""``landscape data``."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from tyro.conf import Positional, arg, subcommand


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


def _status_cells(entry: Any) -> tuple[str, ...]:
    size = entry.num_bytes
    return (
        entry.name,
        ", ".join(entry.available) or "no",
        ", ".join(split.name for split in entry.splits),
        str(entry.num_classes),
        "ships with scikit-learn" if not size else f"{size / 1e6:.0f} MB",
    )
