"""From what was typed on a command line to a problem."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from landscape.curvature import Problem
from landscape.errors import InputError, LandscapeError
from landscape.experiments import search
from landscape.experiments.inquiry import Inquiry
from landscape.experiments.networks import Family, prepare, training_units
from landscape.experiments.reproduce import EXPERIMENTS
from landscape.experiments.scales import Scale, scale_from_json
from landscape.runs import RunFolder, read_run_folder
from landscape.training import softmax_cross_entropy


def load_problem(spec: str, network: str | None = None) -> Problem:
    """Open a problem.

    Parameters
    ----------
    spec
        ``"module:function"`` or ``"file.py:function"``, a function without arguments that returns a
        ``Problem``; or a run folder of ``landscape reproduce``.
    network
        Of a run folder: ``"GROUP/ARCHITECTURE/NUMBER"`` with ``"@EPOCH"`` behind it if need be.
        Default the first network of the first architecture whose spectra are judged, at the last
        epoch.

    Returns
    -------
    Problem

    Raises
    ------
    InputError
        If there is no such thing, the function fails or returns something else, or the run has no
        such network.
    """
    if Path(spec).is_dir():
        return _of_run(read_run_folder(Path(spec)), network)
    if network is not None:
        raise InputError("--network chooses a network of a run folder; this is none")
    problem = call(spec)
    if not isinstance(problem, Problem):
        raise InputError(
            f"{spec} returned {type(problem).__name__}, not a landscape.curvature.Problem"
        )
    return problem


def call(spec: str) -> Any:
    """What the function of ``"module:function"`` or ``"file.py:function"`` returns.

    Raises
    ------
    InputError
        If there is no such function, or it fails.
    """
    where, colon, name = spec.rpartition(":")
    if not colon or not where or not name:
        raise InputError(
            f"{spec!r} is neither a run folder nor module:function nor file.py:function"
        )
    function = _function(where, name)
    try:
        return function()
    except LandscapeError:
        # It says what it is, and with which exit code: a signal, missing data, memory.
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise InputError(
            f"{spec} failed in {place.filename}, line {place.lineno}: "
            f"{type(error).__name__}: {error}"
        ) from error


def _function(where: str, name: str) -> Callable[[], Any]:
    module = _file(Path(where)) if where.endswith(".py") else _module(where)
    found = getattr(module, name, None)
    if not callable(found):
        known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise InputError(
            f"{where} has no function {name!r}; it has {', '.join(known) or 'none at all'}"
        )
    return found


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    # No name of another module: a file may be called random.py.
    name = f"_landscape_problem_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # What the file imports lies beside it, as if it were run itself.
    sys.path.insert(0, str(path.parent.resolve()))
    # Classes of the module are looked up under its name, by dataclasses for one.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except LandscapeError:
        raise
    except Exception as error:
        raise InputError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    return module


def _module(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"module {name!r} cannot be loaded: {error}") from error


def _of_run(folder: RunFolder, network: str | None) -> Problem:
    try:
        request = folder.config["request"]
        dataset, seed = request["dataset"], request["seed"]
        study = EXPERIMENTS[request["experiment"]]
        if isinstance(study, Inquiry):
            raise InputError(f"{study.name} of {folder.path} keeps no networks")
        scale = scale_from_json(folder.config["scale"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{folder.path} is no run of landscape reproduce") from error
    penalty = None
    if study.searches:
        found = folder.read_dataset("results-search.nc")
        if found is None:
            raise InputError(f"the run in {folder.path} is not finished: its search is missing")
        penalty = search.best(found)
    kinds = {group.name: study.variants(group, penalty) for group in scale.groups}
    name, architecture, number, epoch = _chosen(scale, list(kinds[scale.fractions.name]), network)
    group = next(group for group in scale.groups if group.name == name)
    data = prepare(dataset, group)
    family = Family(architecture, group, data, seed, kinds[name][architecture])
    unit = next((u for u in training_units(family) if number in u.inputs["networks"]), None)
    path = None if unit is None else folder.unit_path(unit.name, unit.inputs)
    if path is None:
        raise InputError(
            f"{folder.path} has no trained network {name}/{architecture}/{number}; it may not be "
            "finished"
        )
    trained = folder.read_unit(path).sel(seed=number)
    if "snapshot_epoch" not in trained.coords:
        raise InputError(f"the experiment of {folder.path} keeps no networks: it takes no spectra")
    epochs = [int(e) for e in trained["snapshot_epoch"].values]
    if epoch is not None and epoch not in epochs:
        raise InputError(f"networks were kept at epochs {', '.join(map(str, epochs))}, not {epoch}")
    at = trained.sel(snapshot_epoch=epochs[-1] if epoch is None else epoch)
    params, state = family.unflatten(at["parameters"].values, at["state"].values)
    return Problem(
        softmax_cross_entropy(family.model),
        params,
        family.dataset.arrays(),
        state,
        model=family.model,
        chunk_size=group.chunk_size,
        name=f"{architecture} {number} of {folder.path.name}, epoch {int(at['snapshot_epoch'])}",
    )


def _chosen(
    scale: Scale, architectures: Sequence[str], network: str | None
) -> tuple[str, str, int, int | None]:
    """Group, architecture, number and epoch."""
    if network is None:
        return scale.fractions.name, architectures[0], 0, None
    path, _, epoch = network.partition("@")
    parts = path.split("/")
    groups = [group.name for group in scale.groups]
    if (
        len(parts) != 3
        or parts[0] not in groups
        or parts[1] not in architectures
        or not parts[2].isdecimal()
        or not (epoch == "" or epoch.isdecimal())
    ):
        raise InputError(
            f"{network!r} is no network of this run: GROUP/ARCHITECTURE/NUMBER, with GROUP of "
            f"{', '.join(groups)} and ARCHITECTURE of {', '.join(architectures)}, and @EPOCH if "
            "need be"
        )
    return parts[0], parts[1], int(parts[2]), int(epoch) if epoch else None
