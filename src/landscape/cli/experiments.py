"""``landscape reproduce``, ``report`` and ``results``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from landscape.errors import InputError

DATASETS = ("digits", "cifar10", "cifar100", "svhn", "stl10")


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
      landscape reproduce fig4 --scale paper --last-only --steps 200
    """

    experiment: Positional[str]
    """Name of an experiment, "all" for one after the other, or "list" to show them."""
    dataset: Literal["digits", "cifar10", "cifar100", "svhn", "stl10"] | None = None
    """Data set; all but digits must be there (landscape data list). Default: digits, at the scale
    paper cifar100."""
    scale: Literal["smoke", "laptop", "paper"] = "laptop"
    """smoke: a minute. laptop: minutes on 2 cores. paper: an accelerator."""
    seeds: int | None = None
    """Networks per architecture. Default: the scale's."""
    seed: int = 0
    """Seed of the whole run: one seed, one set of numbers."""
    block: int | None = None
    """Networks trained side by side in one program: on an accelerator as many as there are.
    Default: the scale's."""
    steps: int | None = None
    """Lanczos steps of a spectrum at most. Default: the scale's."""
    last_only: bool = False
    """Take spectra at the last epoch only (and at matched training loss, where an experiment
    compares there), over the most images."""
    out: Path | None = None
    """Run folder. Default: runs/EXPERIMENT-DATASET-SCALE. Of all: a folder for their folders."""
    workers: int | None = None
    """Processes side by side. Default: one per core on a CPU, one on an accelerator."""
    resume: bool = False
    """Continue the run in a non-empty folder. A missing or empty one starts fresh."""

    def run(self, console: Any) -> None:
        """Run, print the summary, say where the report is."""
        from landscape.experiments.reproduce import EXPERIMENTS, Request, expect_request, reproduce
        from landscape.experiments.scales import standard_dataset
        from landscape.runs import default_workers, expect_free, worker_pool

        if self.experiment == "list":
            for entry in EXPERIMENTS.values():
                console.print(f"{entry.name:12}{entry.summary}", highlight=False)
            return
        names = tuple(EXPERIMENTS) if self.experiment == "all" else (self.experiment,)
        dataset = self.dataset or standard_dataset(self.scale)
        requests = [
            request if self.experiment != "all" else request.where_it_matters()
            for request in (
                Request(
                    name, dataset, self.scale, self.seeds, self.seed, self.block, self.steps,
                    self.last_only,
                )
                for name in names
            )
        ]  # fmt: skip
        alone = EXPERIMENTS.get(self.experiment)
        if self.dataset and alone is not None and not alone.takes_data:
            raise InputError(f"{alone.name} takes no data set; leave --dataset out")
        places = []
        for request in requests:
            expect_request(request)
            folder = f"{request.experiment}-{dataset}-{self.scale}"
            place = self.out or Path("runs") / folder
            places.append(place / folder if self.out and self.experiment == "all" else place)
            expect_free(places[-1], resume=self.resume)
        # One pool for all: what its processes have compiled serves the next experiment too.
        with worker_pool(default_workers(self.workers)) as pool:
            for request, out in zip(requests, places, strict=True):
                page = reproduce(
                    request, out, resume=self.resume, console=console, workers=1, pool=pool
                )
                page.show(console)
                console.print(
                    f"report: {out / 'report.html'}", highlight=False, soft_wrap=True, markup=False
                )


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
        console.print(
            f"report: {self.folder / 'report.html'}", highlight=False, soft_wrap=True, markup=False
        )


@dataclasses.dataclass(frozen=True)
class Results:
    """Write one page, in Markdown, of several finished runs, or add runs to it.

    Runs that the page shows already stay, without their folders.

    Example: landscape results runs/fig3-digits-laptop runs/fig4-digits-laptop --out docs/results.md
    """

    folders: Positional[tuple[Path, ...]]
    """Run folders; one that the page shows already takes its place."""
    out: Path = Path("docs/results.md")
    """The page; pictures go into a folder of its name beside it."""

    def run(self, console: Any) -> None:
        """Write the page."""
        from landscape.experiments.gallery import write_gallery

        write_gallery(self.folders, self.out, console)
        _say(console, f"results: {self.out}")


def _say(console: Any, line: str) -> None:
    """A line as it is, however long."""
    console.print(line, highlight=False, soft_wrap=True, markup=False)
