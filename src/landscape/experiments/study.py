"""What an experiment is: which networks, which claims, which pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import xarray as xr
from matplotlib.figure import Figure

from landscape.data import Dataset
from landscape.experiments.claims import Claim
from landscape.experiments.networks import Family
from landscape.experiments.scales import Group, Scale, make_scale
from landscape.experiments.variants import Variant
from landscape.report import Table
from landscape.training import BiasRegularization


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A figure of a study.

    Attributes
    ----------
    name
        Of its files, behind the study's own.
    title, caption
        What it shows and how to read it.
    figure
        The figure.
    """

    name: str
    title: str
    caption: str
    figure: Figure


# Results of the group judged for accuracy, and of the one judged for fractions.
Claims = Callable[[xr.Dataset, xr.Dataset], list[Claim]]
Pictures = Callable[[xr.Dataset, xr.Dataset], list[Drawn]]
Tables = Callable[[xr.Dataset, xr.Dataset], list[Table]]
About = Callable[[xr.Dataset, xr.Dataset], list[str]]


@dataclasses.dataclass(frozen=True)
class Study:
    """An experiment that trains networks of several kinds and compares them.

    Attributes
    ----------
    name
        As on the command line.
    summary
        One line for the list of experiments.
    title
        Of its page, before the data set's name.
    question
        What is asked, in a sentence.
    variants
        The kinds of networks of a group, by name, and the penalty that was found for them, if they
        need one.
    claims
        What is claimed, with the measured values.
    pictures
        Drawn from the results.
    depth
        Hidden layers at the scales laptop and paper.
    seeds
        Networks of each kind, where they differ from the scale's.
    epochs
        Of the training, if they differ from the scale's.
    spectra
        Whether Hessian spectra are taken.
    matched
        Whether they are taken at matched training loss too.
    searches
        Whether the penalty on the biases is searched for first.
    tables
        Of the results, beside those that all studies have.
    about
        What a reader must know of these results, for the page's beginning: sentences.
    """

    name: str
    summary: str
    title: str
    question: str
    variants: Callable[[Group, BiasRegularization | None], Mapping[str, Variant]]
    claims: Claims
    pictures: Pictures
    depth: int = 20
    seeds: Mapping[str, int] = dataclasses.field(default_factory=dict)
    epochs: int | None = None
    spectra: bool = True
    matched: bool = False
    searches: bool = False
    tables: Tables | None = None
    about: About | None = None

    @property
    def takes_data(self) -> bool:
        """Whether there is a data set that it is about: always."""
        return True

    def scale(self, name: str, dataset: str, seeds: int | None) -> Scale:
        """The groups at a scale; see ``make_scale``."""
        return make_scale(
            name,
            dataset,
            self.seeds.get(name) if seeds is None else seeds,
            depth=self.depth,
            epochs=self.epochs,
            spectra=self.spectra,
            matched=self.matched,
        )

    def families(
        self, dataset: Dataset, group: Group, seed: int, penalty: BiasRegularization | None = None
    ) -> Sequence[Family]:
        """One for each kind of networks, on the same data."""
        return [
            Family(name, group, dataset, seed, variant)
            for name, variant in self.variants(group, penalty).items()
        ]
