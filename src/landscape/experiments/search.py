"""A random search for the penalty on biases.

Mean, spread and strength of the targets are drawn at random; with each a plain network is trained
by the whole protocol, of a seed that no comparison uses, and the one of the highest mean training
accuracy is taken; for networks of each size by itself. The distributions are ours: μ uniform on
[−1, 1], σ from 0.01 to 1 and λ from 10⁻⁵ to 10⁻² evenly on the logarithmic scale. So is the number
of draws.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import xarray as xr

from landscape.data import Dataset
from landscape.experiments.networks import Family, training_units
from landscape.experiments.scales import Group
from landscape.experiments.variants import biased
from landscape.runs import Unit
from landscape.training import BiasRegularization

CANDIDATES = {"smoke": 2, "laptop": 12, "paper": 24}

# Added to the run's seed: no network that is compared is trained on the same draws.
_OTHER_SEED = 7_919


def candidates(scale: str, seed: int) -> list[BiasRegularization]:
    """Penalties to try, the same for the same seed."""
    rng = np.random.Generator(np.random.PCG64(seed))
    found = []
    for _ in range(CANDIDATES[scale]):
        mean, spread, strength = rng.random(3)
        found.append(
            BiasRegularization(
                strength=float(10 ** (-5 + 3 * strength)),
                mean=float(2 * mean - 1),
                std=float(10 ** (-2 + 2 * spread)),
            )
        )
    return found


def search_units(
    penalties: Sequence[BiasRegularization], dataset: Dataset, group: Group, seed: int
) -> list[Unit]:
    """One unit per candidate; without spectra."""
    alone = dataclasses.replace(
        group, name=f"search-{group.name}", seeds=1, block=1, spectrum_epochs=(),
        spectrum_images=(), num_steps=(), kept_epochs=(),
    )  # fmt: skip
    units = []
    for number, penalty in enumerate(penalties):
        family = Family(f"{number:02d}", alone, dataset, seed + _OTHER_SEED, biased(penalty))
        units += training_units(family)
    return units


def search_results(
    penalties: Sequence[BiasRegularization], trained: Sequence[xr.Dataset]
) -> xr.Dataset:
    """Each candidate with the accuracy of its network."""
    reached = [
        float(result["accuracy"].isel(seed=0, epoch=slice(1, None)).mean()) for result in trained
    ]
    return xr.Dataset(
        {
            "mean": ("candidate", [penalty.mean for penalty in penalties]),
            "std": ("candidate", [penalty.std for penalty in penalties]),
            "strength": ("candidate", [penalty.strength for penalty in penalties]),
            "accuracy": ("candidate", reached),
        }
    )


def best(search: xr.Dataset) -> BiasRegularization:
    """The candidate of the highest accuracy, the first of equals."""
    one = search.isel(candidate=int(np.argmax(search["accuracy"].values)))
    return BiasRegularization(float(one["strength"]), float(one["mean"]), float(one["std"]))
