"""What the experiments cost at the paper's scale: one epoch and one Lanczos step of each network.

Every kind of network of every experiment, as ``landscape reproduce … --scale paper`` makes it, is
trained for two epochs on all 50,000 images of CIFAR-100, and takes two steps of its spectrum over
all of them; the second of each is timed. ``fig2`` and ``validation`` are the same at every scale,
and take minutes. From these come the hours of a whole experiment on this
machine. ``paper_rates.py`` measures the two rates on an accelerator, from which the page of
benchmarks estimates the hours there.

    LANDSCAPE_DATA=~/data python benchmarks/paper_scale.py --out paper_scale.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
from harness import machine, write

from landscape.curvature import hessian
from landscape.data import Dataset
from landscape.errors import DataError
from landscape.experiments import search
from landscape.experiments.networks import (
    Family,
    TrainBlock,
    calibrated,
    penalized_places,
    prepare,
    spectrum_places,
)
from landscape.experiments.reproduce import EXPERIMENTS
from landscape.experiments.scales import Group
from landscape.experiments.study import Study
from landscape.spectra import lanczos_run
from landscape.training import softmax_cross_entropy

# Products with a Hessian that its noise floor takes, besides those of its steps.
_FLOOR = 20


def one_epoch(family: Family) -> tuple[float, Any]:
    """Seconds of an epoch with its evaluation, the second of two; the network after it."""
    short = dataclasses.replace(
        family.group, epochs=2, seeds=1, block=1, spectrum_epochs=(2,), kept_epochs=(),
        measure_epochs=(0, 2),
    )  # fmt: skip
    work = TrainBlock(dataclasses.replace(family, group=short), (0,))
    ends: list[float] = []

    def after_each() -> bool:
        ends.append(time.perf_counter())
        return False

    with tempfile.TemporaryDirectory() as place:
        trained = work(Path(place), after_each)
    return ends[1] - ends[0], trained.isel(seed=0, snapshot_epoch=-1)


def one_step(family: Family, trained: Any) -> dict[str, float]:
    """The second step of a spectrum over all images."""
    params, state = family.unflatten(trained["parameters"].values, trained["state"].values)
    arrays = family.dataset.arrays()
    op = hessian(
        softmax_cross_entropy(family.model), params, arrays,
        state=calibrated(family.model, params, state, arrays[0]),
        chunk_size=family.group.chunk_size,
    )  # fmt: skip
    run = lanczos_run(op, jax.random.key(0), capacity=max(family.group.num_steps)).advance(1)
    jax.block_until_ready(run.state)
    begun = time.perf_counter()
    run = run.advance(2)
    jax.block_until_ready(run.state)
    taken = time.perf_counter() - begun
    return {"step_seconds": taken, "parameters": op.shape[0], "norm": float(run.state.scale[0])}


def images_of_spectra(family: Family, *, matched: bool) -> float:
    """Images times products of all spectra of a kind of networks."""
    group = family.group
    places = [*spectrum_places(family), *penalized_places(family)]
    steps = dict(zip(group.spectrum_epochs, group.num_steps, strict=True))
    total = sum(place.images * (steps[place.epoch] + _FLOOR) for place in places)
    if matched:
        # At most one more for each network.
        total += group.seeds * family.dataset.num_examples * (group.num_steps[-1] + _FLOOR)
    return float(total)


def experiment(
    study: Study, known: dict[str, dict[str, Any]], cached: dict[Any, Dataset]
) -> dict[str, Any]:
    """Seconds of training, searching and spectra, of one experiment as a whole."""
    scale = study.scale("paper", "cifar100", None)
    group: Group = scale.accuracy
    form = (group.pooled, group.num_images)
    if form not in cached:
        cached[form] = prepare("cifar100", group)
    data = cached[form]
    penalty = search.candidates("paper", 0)[0] if study.searches else None
    spectra = training = 0.0
    kinds = []
    for family in study.families(data, group, 0, penalty):
        name = json.dumps([group.depth, bool(group.spectrum_epochs), family.kind.to_json()])
        if name not in known:
            epoch, trained = one_epoch(family)
            known[name] = {"epoch_seconds": epoch, "accuracy": float(trained["accuracy"][-1])}
            if group.spectrum_epochs:
                known[name] |= one_step(family, trained)
            told = ", ".join(f"{k} {v:.4g}" for k, v in known[name].items())
            print(f"{study.name:6s} {family.architecture:24s} {told}", flush=True)
        cost = known[name]
        kinds.append({"kind": family.architecture, **cost})
        training += cost["epoch_seconds"] * group.epochs * group.seeds
        if group.spectrum_epochs:
            images = images_of_spectra(family, matched=bool(group.kept_epochs))
            spectra += cost["step_seconds"] * images / data.num_examples
    searching = 0.0
    if study.searches:
        each = max(kind["epoch_seconds"] for kind in kinds) * group.epochs
        searching = each * search.CANDIDATES["paper"]
    return {
        "experiment": study.name, "depth": group.depth, "networks": group.seeds * len(kinds),
        "epochs": group.epochs, "blocks": sum(-(-group.seeds // group.block) for _ in kinds),
        "kinds": kinds, "training_seconds": training,
        "search_seconds": searching, "spectra_seconds": spectra,
    }  # fmt: skip


def main() -> None:
    """Measure and print."""
    studies = {name: one for name, one in EXPERIMENTS.items() if isinstance(one, Study)}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiments", nargs="*", choices=[*studies, []], help="default all")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    record: dict[str, Any] = {"environment": machine(), "rows": []}
    known: dict[str, dict[str, Any]] = {}
    cached: dict[Any, Dataset] = {}
    for name in options.experiments or studies:
        try:
            row = experiment(studies[name], known, cached)
        except DataError as error:
            sys.exit(str(error))
        total = sum(row[f"{part}_seconds"] for part in ("training", "search", "spectra"))
        row["hours"] = total / 3600
        record["rows"].append(row)
        print(f"{name:6s} {row['networks']:4d} networks: {row['hours']:.0f} h", flush=True)
        write(options.out, record)


if __name__ == "__main__":
    main()
