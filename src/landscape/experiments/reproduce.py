"""Running an experiment: from a configuration to a run folder with its report."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from landscape.data import Dataset, load
from landscape.errors import InputError
from landscape.experiments import (
    fig2,
    fig3,
    fig4,
    fig5,
    fig6,
    fig7,
    fig8,
    fig9,
    fig10,
    search,
    validation,
)
from landscape.experiments.claims import Verdict, decide
from landscape.experiments.collect import collect
from landscape.experiments.inquiry import Inquiry
from landscape.experiments.networks import (
    Family,
    matched_places,
    prepare,
    spectrum_units,
    training_units,
)
from landscape.experiments.scales import Group, Scale, scale_from_json, with_less
from landscape.experiments.study import Study
from landscape.experiments.study_page import inquiry_page, make_page, search_of
from landscape.report import Page
from landscape.runs import (
    RunFolder,
    StopFlag,
    Unit,
    default_workers,
    open_run_folder,
    progress,
    read_run_folder,
    run_units,
    stop_on_signals,
    worker_pool,
    write_atomically,
)
from landscape.runs.events import read_events

_STUDIES = (fig3, fig4, fig5, fig6, fig7, fig8, fig9, fig10)
EXPERIMENTS: dict[str, Study | Inquiry] = {
    one.name: one
    for one in (fig2.INQUIRY, *(module.STUDY for module in _STUDIES), validation.INQUIRY)
}


_CHANGES = ("block", "steps", "last_only")


@dataclasses.dataclass(frozen=True)
class Request:
    """What ``landscape reproduce`` was asked for.

    Attributes
    ----------
    experiment, dataset, scale
        Names.
    seeds
        Networks per architecture; None takes the scale's.
    seed
        Of the whole run.
    block, steps, last_only
        What is changed of the scale; see ``with_less``.
    """

    experiment: str
    dataset: str = "digits"
    scale: str = "laptop"
    seeds: int | None = None
    seed: int = 0
    block: int | None = None
    steps: int | None = None
    last_only: bool = False

    def to_json(self) -> dict[str, Any]:
        """For the run folder's configuration; changes of the scale only if there are any."""
        whole = dataclasses.asdict(self)
        return {name: value for name, value in whole.items() if name not in _CHANGES or value}

    @property
    def useless(self) -> list[str]:
        """Changes of the scale that change nothing in this experiment."""
        study = EXPERIMENTS[self.experiment]
        trains = isinstance(study, Study)
        spectra = isinstance(study, Study) and study.spectra
        matters = {"block": trains, "steps": spectra, "last_only": spectra}
        return [name for name, value in self.changes.items() if value and not matters[name]]

    def where_it_matters(self) -> Request:
        """The same without the changes that change nothing."""
        defaults: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(self)}
        return dataclasses.replace(self, **{name: defaults[name] for name in self.useless})

    @property
    def changes(self) -> dict[str, Any]:
        """Of the scale."""
        return {name: getattr(self, name) for name in _CHANGES}


def reproduce(
    request: Request,
    out: Path,
    *,
    resume: bool,
    console: Any,
    workers: int | None = None,
    pool: Executor | None = None,
) -> Page:
    """Run an experiment, or what is left of it, and write its report.

    Parameters
    ----------
    request
        What to run.
    out
        The run folder.
    resume
        Whether a non-empty folder may be continued.
    console
        A ``rich`` console for progress; plain lines where it is not a terminal.
    workers
        Processes that do the units. Default: one per core on a CPU, else one.
    pool
        Of ``worker_pool``, to do the units instead: what its processes have compiled they keep for
        the next experiment.

    Returns
    -------
    The report's page, also written to ``out/report.html``.

    Raises
    ------
    InputError, StorageError, UnitsFailedError, StoppedError
        See ``landscape.errors``.
    """
    expect_request(request)
    place = worker_pool(default_workers(workers)) if pool is None else nullcontext(pool)
    study = EXPERIMENTS[request.experiment]
    if isinstance(study, Inquiry):
        return _inquire(study, request, out, resume, console, place)
    scale = _scale(study, request)
    # The data come first: a data set that is missing must not leave a folder behind.
    datasets = {group.name: prepare(request.dataset, group) for group in scale.groups}
    config = {
        "request": request.to_json(),
        "scale": dataclasses.asdict(scale),
        "data": {name: data.digest for name, data in datasets.items()},
    }
    folder = open_run_folder(out, config, resume=resume)
    results = {}
    with stop_on_signals() as stop, place as pool:
        for group in scale.groups:
            penalty = None
            if study.searches:
                found = _run_search(
                    folder, request, datasets[group.name], group, pool, stop, console
                )
                results[search_of(group)], penalty = found, search.best(found)
            families = study.families(datasets[group.name], group, request.seed, penalty)
            results[group.name] = _run_group(folder, families, pool, stop, console)
    for name, dataset in results.items():
        folder.write_dataset(f"results-{name}.nc", dataset)
    _note_timing(folder)
    return write_report(folder, console)


def _inquire(
    inquiry: Inquiry,
    request: Request,
    out: Path,
    resume: bool,
    console: Any,
    place: AbstractContextManager[Executor | None],
) -> Page:
    settings = inquiry.settings(request.scale, request.dataset, request.seeds)
    config = {"request": request.to_json(), "settings": settings}
    folder = open_run_folder(out, config, resume=resume)
    with stop_on_signals() as stop, place as pool:

        def run(units: Sequence[Unit], title: str) -> list[xr.Dataset]:
            return _run(folder, units, pool, stop, console, title)

        results = inquiry.compute(settings, request.dataset, request.seed, run)
    folder.write_dataset("results.nc", results)
    _note_timing(folder)
    return write_report(folder, console)


def _write_inquiry(folder: RunFolder, inquiry: Inquiry, request: Request, console: Any) -> Page:
    results = folder.read_dataset("results.nc")
    if results is None:
        raise _unfinished(folder)
    verdicts = decide(inquiry.claims(results))
    folder.write_json("claims.json", [_verdict_json(verdict) for verdict in verdicts])
    with _doing(console, "drawing the figures"):
        page = inquiry_page(
            inquiry,
            request.scale,
            request.dataset,
            results,
            verdicts,
            folder.path / "figures",
            folder.environments,
            _read_seconds(folder),
        )
    return _published(folder, page, request)


def write_report(folder: RunFolder, console: Any) -> Page:
    """Decide the claims, draw the figures, and write ``report.html`` from a finished run folder."""
    request = _read_request(folder)
    study = EXPERIMENTS[request.experiment]
    if isinstance(study, Inquiry):
        return _write_inquiry(folder, study, request, console)
    scale = _read_scale(folder)
    results = {group.name: _read_results(folder, group.name) for group in scale.groups}
    if study.searches:
        results |= {search_of(g): _read_results(folder, search_of(g)) for g in scale.groups}
    verdicts = decide(study.claims(results[scale.accuracy.name], results[scale.fractions.name]))
    folder.write_json("claims.json", [_verdict_json(verdict) for verdict in verdicts])
    with _doing(console, "drawing the figures"):
        page = make_page(
            study,
            scale,
            request.dataset,
            results,
            verdicts,
            folder.path / "figures",
            folder.environments,
            _read_seconds(folder),
        )
    return _published(folder, page, request)


def _published(folder: RunFolder, page: Page, request: Request) -> Page:
    if request.seed:
        page = dataclasses.replace(page, title=f"{page.title}, seed {request.seed}")
    write_atomically(folder.path / "report.html", page.to_html().encode())
    return page


def report(path: Path, console: Any) -> Page:
    """Rewrite the report of a finished run folder.

    Raises
    ------
    InputError
        If it is no run folder, or the run is not finished.
    """
    return write_report(read_run_folder(path), console)


def expect_finished(path: Path) -> None:
    """Refuse what is no finished run.

    Raises
    ------
    InputError
        If it is no run folder, or the run is not finished.
    """
    folder = read_run_folder(path)
    study = EXPERIMENTS[_read_request(folder).experiment]
    whole = isinstance(study, Inquiry)
    names = ["results"] if whole else [f"results-{one.name}" for one in _read_scale(folder).groups]
    if not all((path / f"{name}.nc").exists() for name in names):
        raise _unfinished(folder)


def expect_request(request: Request) -> None:
    """Refuse what cannot be run, before anything is.

    Raises
    ------
    InputError, DataError
        For an unknown experiment or scale, numbers out of range, and data that are missing.
    """
    if request.experiment not in EXPERIMENTS:
        raise InputError(
            f"unknown experiment {request.experiment!r}; there are: {', '.join(EXPERIMENTS)}"
        )
    if not 0 <= request.seed < 2**32:
        # JAX keeps the low 32 bits: seeds beyond them would repeat the numbers of others.
        raise InputError(f"--seed must be from 0 to {2**32 - 1}; got {request.seed}")
    if request.seeds is not None and request.seeds < 1:
        raise InputError(f"--seeds must be at least 1; got {request.seeds}")
    study = EXPERIMENTS[request.experiment]
    useless = request.useless
    if useless:
        given = [f"--{name.replace('_', '-')}" for name in useless]
        one = len(given) == 1
        raise InputError(
            f"{' and '.join(given)} change{'s' * one} nothing in {study.name}, which "
            f"{'takes no spectra' if isinstance(study, Study) else 'has settings of its own'}; "
            f"leave {'it' if one else 'them'} out"
        )
    if isinstance(study, Inquiry):
        study.settings(request.scale, request.dataset, request.seeds)
        if study.takes_data:
            load(request.dataset)
    else:
        for group in _scale(study, request).groups:
            prepare(request.dataset, group)


def _scale(study: Study, request: Request) -> Scale:
    scale = study.scale(request.scale, request.dataset, request.seeds)
    return with_less(scale, **request.changes)


def _run_search(
    folder: RunFolder,
    request: Request,
    dataset: Dataset,
    group: Group,
    pool: Executor | None,
    stop: StopFlag,
    console: Any,
) -> xr.Dataset:
    penalties = search.candidates(request.scale, request.seed)
    units = search.search_units(penalties, dataset, group, request.seed)
    trained = _run(folder, units, pool, stop, console, f"searching among {len(units)} penalties")
    return search.search_results(penalties, trained)


def _run_group(
    folder: RunFolder,
    families: Sequence[Family],
    pool: Executor | None,
    stop: StopFlag,
    console: Any,
) -> xr.Dataset:
    group = families[0].group
    size = f"{group.depth}×{group.width}"
    # The dearest architecture first: the cores then finish at about the same time.
    training = [(family, training_units(family)) for family in reversed(families)]
    flat = [unit for _, units in training for unit in units]
    networks = group.seeds * len(families)
    blocks = _run(folder, flat, pool, stop, console, f"training {networks} networks of {size}")
    trained: dict[str, xr.Dataset] = {}
    for family, units in training:
        mine, blocks = blocks[: len(units)], blocks[len(units) :]
        trained[family.architecture] = xr.concat(mine, "seed")
    if not group.spectrum_epochs:
        return collect(families, trained, {})
    matched = matched_places(families, trained) if group.kept_epochs else {}
    work = [
        spectrum_units(family, trained[name], matched.get(name, ()))
        for family in families
        for name in (family.architecture,)
    ]
    # The architectures in turn: workers then compile different programs at the same time, and
    # find each other's in the cache they share.
    flat = [unit for units in zip_longest(*work) for unit in units if unit is not None]
    found = _run(folder, flat, pool, stop, console, f"{len(flat)} Hessian spectra of {size}")
    by_name = {unit.name: one for unit, one in zip(flat, found, strict=True)}
    spectra = {
        family.architecture: [by_name[unit.name] for unit in units]
        for family, units in zip(families, work, strict=True)
    }
    return collect(families, trained, spectra, matched)


def _run(
    folder: RunFolder,
    units: Sequence[Unit],
    pool: Executor | None,
    stop: StopFlag,
    console: Any,
    title: str,
) -> list[xr.Dataset]:
    with progress(console, title, len(units)) as report:
        return run_units(folder, units, executor=pool, should_stop=stop, report=report)


@contextmanager
def _doing(console: Any, what: str) -> Iterator[None]:
    if console.is_terminal:
        with console.status(what):
            yield
    else:
        console.print(f"{what} …")
        yield


def _read_request(folder: RunFolder) -> Request:
    try:
        request = Request(**folder.config["request"])
        EXPERIMENTS[request.experiment]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _foreign(folder) from error
    return request


def _read_scale(folder: RunFolder) -> Scale:
    # The recorded scale, not the one of that name today: a report tells what was run.
    try:
        return scale_from_json(folder.config["scale"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _foreign(folder) from error


def _foreign(folder: RunFolder) -> InputError:
    return InputError(
        f"{folder.path / 'config.json'} does not say which experiment was run; it was made by "
        "another program, or changed by hand"
    )


def _read_results(folder: RunFolder, name: str) -> xr.Dataset:
    results = folder.read_dataset(f"results-{name}.nc")
    if results is None:
        raise _unfinished(folder)
    return results


def _unfinished(folder: RunFolder) -> InputError:
    return InputError(
        f"the run in {folder.path} is not finished; continue it with landscape reproduce … "
        f"--out {folder.path} --resume"
    )


def _note_timing(folder: RunFolder) -> None:
    """What the units took, whenever that was, and the day on which the last one was done."""
    done = [e for e in read_events(folder.path / "events") if e["event"] == "finished"]
    took = {event["stem"]: float(event["seconds"]) for event in done}
    last = max((event["time"] for event in done), default=time.time())
    finished = time.strftime("%Y-%m-%d", time.gmtime(last))
    record = {"seconds_of_units": round(sum(took.values()), 1), "finished": finished}
    folder.write_json("timing.json", record)


def _read_seconds(folder: RunFolder) -> float | None:
    """What all units took; None if it is not known."""
    try:
        record = json.loads((folder.path / "timing.json").read_text())
        return float(record["seconds_of_units"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    def number(value: Any) -> float | None:
        return float(value) if np.isfinite(value) else None

    return {
        "claim": verdict.claim.name,
        "text": verdict.claim.text,
        "larger": [number(value) for value in verdict.claim.larger],
        "smaller": [number(value) for value in verdict.claim.smaller],
        "effect": number(verdict.effect),
        "interval": [number(verdict.lower), number(verdict.upper)],
        "sides": [number(side) for side in verdict.sides],
        "certified": None if verdict.certified is None else list(map(number, verdict.certified)),
        "p_holm": number(verdict.p_value),
        "unit": verdict.claim.unit,
        "pairs": verdict.num_pairs,
        "counted": verdict.counted,
        "status": verdict.status,
        "obstacle": verdict.claim.obstacle,
    }
