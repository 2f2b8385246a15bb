"""All commands, and how they are read from a command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import tyro
from tyro.conf import subcommand

from landscape.cli.analysis import Analyze, Spectrum
from landscape.cli.data import Data
from landscape.cli.experiments import Report, Reproduce, Results
from landscape.cli.runs import Runs

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


# Options that take several values; repeated, they take all that they were given.
_SEVERAL = ("--checkpoint", "--eps")


def gathered(arguments: Sequence[str]) -> list[str]:
    """The same with the values of each option that takes several behind its first occurrence.

    Examples
    --------
    >>> gathered(["spectrum", "--eps", "1", "2", "--out", "x", "--eps=3"])
    ['spectrum', '--eps', '1', '2', '3', '--out', 'x']
    """
    found: list[list[str]] = [[]]
    options: dict[str, list[str]] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name in _SEVERAL:
            again = options.get(name)
            if again is None:
                options[name] = [name]
                found.append(options[name])
            # What follows up to the next option is its values.
            current = options[name]
            current += [value] if equals else []
            continue
        if argument.startswith("--"):
            found.append([])
            current = found[-1]
        elif not options:
            current = found[-1]
        current.append(argument)
    return [argument for group in found for argument in group]


def parse(arguments: Sequence[str]) -> Any:
    """The command that was typed; exits by itself, with 0 after help and 2 on wrong usage."""
    return tyro.cli(
        Command,
        prog="landscape",
        description=_DESCRIPTION,
        args=gathered(arguments),
        config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff),
    )
