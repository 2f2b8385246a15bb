"""Experiments that are no comparison of trained architectures: theory, and checks of methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import xarray as xr

from landscape.experiments.claims import Claim
from landscape.experiments.study import Drawn
from landscape.report import Table
from landscape.runs import Unit

# Does units of work, with a title for the progress, and returns their results in order.
RunUnits = Callable[[Sequence[Unit], str], list[xr.Dataset]]


@dataclasses.dataclass(frozen=True)
class Inquiry:
    """An experiment by what it computes and what is made of it.

    Attributes
    ----------
    name, summary, title, question
        As of a ``Study``; the title is whole.
    settings
        ``(scale, dataset, seeds)`` to what is computed, as JSON values.
    compute
        ``(settings, dataset, seed, run)`` to the results.
    claims, pictures, tables
        Of the results.
    protocol
        Paragraphs for the page's end.
    about
        Of the results: what they are of, for the page's beginning. None if no data are used.
    """

    name: str
    summary: str
    title: str
    question: str
    settings: Callable[[str, str, int | None], dict[str, Any]]
    compute: Callable[[dict[str, Any], str, int, RunUnits], xr.Dataset]
    claims: Callable[[xr.Dataset], list[Claim]]
    pictures: Callable[[xr.Dataset], list[Drawn]]
    tables: Callable[[xr.Dataset], list[Table]]
    protocol: tuple[str, ...]
    about: Callable[[xr.Dataset], list[str]] | None = None

    @property
    def takes_data(self) -> bool:
        """Whether there is a data set that it is about."""
        return self.about is not None
