"""Plain, residual and hyper-residual networks: accuracy and degenerate spectra through training.

After figure 3 of A. E. Orhan and X. Pitkow, *Skip Connections Eliminate Singularities*, ICLR 2018.
Claims: training accuracy hyper-residual ≥ residual > plain; degenerate fraction of the Hessian of
the training loss plain > residual > hyper-residual. Negative fractions are reported without a
claim. The protocol where the paper's is not known, and every choice below, is ours:

- accuracy is the mean of the whole training set's accuracy after epochs 1 … E;
- fractions are compared at the last epoch, and at matched training loss: for each seed the level
  is the highest of the architectures' final losses, and the fraction of each architecture there is
  interpolated, linearly in the logarithm of the loss, between the epochs with spectra;
- a fraction's verdict needs N(C−1) ≥ 2P;
- a fraction below its operator's noise floor, or whose certified interval is wider than 50 points,
  is not resolved: it is shown, and no claim uses it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from landscape.data import Dataset
from landscape.experiments.claims import Claim
from landscape.experiments.networks import ARCHITECTURES, Family, from_dataset, spectrum_places
from landscape.experiments.scales import Group
from landscape.spectra import (
    asinh_density,
    degenerate_fraction,
    fraction_curve,
    negative_fraction,
)

EPS = 1e-3
EPSILONS = np.logspace(-7, 4, 111)
RELATIVE = np.logspace(-10, 0, 101)
# Standard deviation of the drawn density in units of asinh(λ/ε): about a quarter in relative terms.
BANDWIDTH = 0.25
ENOUGH_DATA = 2.0
WIDEST = 0.5

FRACTIONS = ("degenerate", "degenerate_lower", "degenerate_upper", "degenerate_stderr",
             "negative", "negative_lower", "negative_upper", "negative_stderr",
             "norm", "noise_floor")  # fmt: skip
CURVES = ("curve", "curve_lower", "curve_upper")


def collect(
    families: Sequence[Family],
    trained: Mapping[str, xr.Dataset],
    spectra: Mapping[str, Sequence[xr.Dataset]],
) -> xr.Dataset:
    """Everything a group's report needs, with names on its axes.

    Parameters
    ----------
    families
        One per architecture, same group and data.
    trained
        By architecture: what training recorded, all seeds.
    spectra
        By architecture: one spectrum per place, in the order of ``spectrum_places``.

    Returns
    -------
    Dimensions architecture, seed, epoch (accuracy, loss), spectrum_epoch, images, eps, relative
    and eigenvalue; NaN where no spectrum was taken and for ε below its noise floor. Attributes
    P, C, N.
    """
    group, data = families[0].group, families[0].dataset
    places = {family.architecture: spectrum_places(family) for family in families}
    images = sorted({place.images for place in places[families[0].architecture]})
    epochs = list(group.spectrum_epochs)
    loaded = {name: [from_dataset(part) for part in parts] for name, parts in spectra.items()}
    reach = max(float(s.norm) for parts in loaded.values() for s in parts)
    limit = np.arcsinh(2 * max(reach, EPS) / EPS)
    grid = EPS * np.sinh(np.linspace(-limit, limit, 401))
    shape = (len(families), group.seeds, len(epochs), len(images))
    values = {name: np.full(shape, np.nan) for name in FRACTIONS}
    curves = {name: np.full((*shape, len(EPSILONS)), np.nan) for name in CURVES}
    relative = {name: np.full((*shape, len(RELATIVE)), np.nan) for name in CURVES}
    densities = np.full((*shape, len(grid)), np.nan)
    for i, family in enumerate(families):
        name = family.architecture
        for place, spectrum in zip(places[name], loaded[name], strict=True):
            at = (i, place.network, epochs.index(place.epoch), images.index(place.images))
            for kind, measure in (
                ("degenerate", degenerate_fraction),
                ("negative", negative_fraction),
            ):
                if spectrum.noise_floor > EPS:
                    continue
                fraction = measure(spectrum, EPS)
                values[kind][at] = fraction.estimate
                values[f"{kind}_lower"][at] = fraction.lower
                values[f"{kind}_upper"][at] = fraction.upper
                values[f"{kind}_stderr"][at] = fraction.stderr
            values["norm"][at] = spectrum.norm
            values["noise_floor"][at] = spectrum.noise_floor
            floor, norm = float(spectrum.noise_floor), float(spectrum.norm)
            for into, epsilons in ((curves, EPSILONS), (relative, RELATIVE * norm)):
                above = epsilons >= floor
                found = fraction_curve(spectrum, epsilons[above])
                for name, part in zip(
                    CURVES, (found.estimate, found.lower, found.upper), strict=True
                ):
                    into[name][at][above] = part
            densities[at] = asinh_density(spectrum, grid, linear_width=EPS, bandwidth=BANDWIDTH)
    where = ("architecture", "seed", "spectrum_epoch", "images")
    names = [family.architecture for family in families]
    return xr.Dataset(
        {
            "loss": ((*where[:2], "epoch"), np.stack([trained[n]["loss"].values for n in names])),
            "accuracy": (
                (*where[:2], "epoch"),
                np.stack([trained[n]["accuracy"].values for n in names]),
            ),
            **{name: (where, array) for name, array in values.items()},
            **{name: ((*where, "eps"), array) for name, array in curves.items()},
            **{
                f"relative_{name}": ((*where, "relative"), array)
                for name, array in relative.items()
            },
            "density": ((*where, "eigenvalue"), densities),
        },
        coords={
            "architecture": names,
            "seed": np.arange(group.seeds),
            "epoch": np.arange(group.epochs + 1),
            "spectrum_epoch": epochs,
            "images": images,
            "eps": EPSILONS,
            "relative": RELATIVE,
            "eigenvalue": grid,
        },
        attrs={
            "num_parameters": families[0].num_parameters,
            "num_classes": data.num_classes,
            "num_examples": data.num_examples,
            "num_steps": list(group.num_steps),
        },
    )


def make_families(dataset: Dataset, group: Group, seed: int) -> list[Family]:
    """One family per architecture."""
    return [Family(name, group, dataset, seed) for name in ARCHITECTURES]


def data_ratio(results: xr.Dataset) -> float:
    """N(C−1)/P at the largest N: below 1 the lack of data alone makes most directions null."""
    attrs = results.attrs
    return float(results["images"].max()) * (attrs["num_classes"] - 1) / attrs["num_parameters"]


def claims(accuracy: xr.Dataset, fractions: xr.Dataset) -> list[Claim]:
    """The figure's claims with their measured values.

    Parameters
    ----------
    accuracy, fractions
        Collected results of the group judged for each.
    """
    through = accuracy["accuracy"].isel(epoch=slice(1, None)).mean("epoch")
    last = resolved(fractions).isel(images=-1, spectrum_epoch=-1)
    matched = at_matched_loss(fractions)
    ratio = data_ratio(fractions)
    short = "" if ratio >= ENOUGH_DATA else f"too few data: N(C−1)/P = {ratio:.2f} < {ENOUGH_DATA}"

    def claim(name: str, text: str, values: xr.DataArray, pair: tuple[str, str], why: str) -> Claim:
        larger, smaller = (values.sel(architecture=side).values for side in pair)
        return Claim(name, text, larger, smaller, why)

    pairs = (("plain", "residual"), ("residual", "hyper-residual"))
    result = [
        claim(
            "accuracy: residual > plain",
            "mean training accuracy through training is higher with skips",
            through,
            ("residual", "plain"),
            "",
        ),
        claim(
            "accuracy: hyper-residual ≥ residual",
            "and at least as high with more skips",
            through,
            ("hyper-residual", "residual"),
            "",
        ),
    ]
    for label, values in (("at the last epoch", last), ("at matched training loss", matched)):
        for more, less in pairs:
            result.append(
                claim(
                    f"degenerate: {more} > {less}, {label}",
                    f"share of eigenvalues with |λ| ≤ {EPS:g}, {label}",
                    values,
                    (more, less),
                    short,
                )
            )
    return result


def resolved(results: xr.Dataset, kind: str = "degenerate") -> xr.DataArray:
    """Shares of a kind (``"degenerate"``, ``"negative"``, ``"curve"``); NaN where not resolved."""
    width = results[f"{kind}_upper"] - results[f"{kind}_lower"]
    return results[kind].where(width <= WIDEST)


def at_matched_loss(results: xr.Dataset) -> xr.DataArray:
    """Degenerate fraction of each network at its seed's matched training loss.

    The level is the highest of the architectures' final losses. NaN where a network's recorded
    losses never pass it, and where the fraction is not resolved. Dimensions architecture, seed.
    """
    loss = results["loss"].sel(epoch=results["spectrum_epoch"].values).values
    fraction = (
        resolved(results).isel(images=-1).transpose("architecture", "seed", "spectrum_epoch").values
    )
    level = results["loss"].isel(epoch=-1).values.max(0)
    matched = np.full(loss.shape[:2], np.nan)
    for i, j in np.ndindex(loss.shape[:2]):
        matched[i, j] = _interpolate(loss[i, j], fraction[i, j], float(level[j]))
    return xr.DataArray(
        matched,
        dims=("architecture", "seed"),
        coords={name: results[name] for name in ("architecture", "seed")},
    )


def _interpolate(loss: np.ndarray, fraction: np.ndarray, level: float) -> float:
    """The fraction where the loss first passes the level, linear in the loss's logarithm.

    A network that ends at the level itself is not interpolated.
    """
    if loss[-1] == level:
        return float(fraction[-1])
    for k in range(len(loss)):
        if loss[k] == level:
            return float(fraction[k])
        if k and loss[k - 1] > level > loss[k]:
            # A loss of zero is infinitely far below on the logarithmic scale.
            below = np.log(loss[k - 1] / loss[k]) if loss[k] > 0 else np.inf
            share = np.log(loss[k - 1] / level) / below
            return float(fraction[k - 1] + share * (fraction[k] - fraction[k - 1]))
    return float("nan")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An entry of the registry."""

    name: str
    summary: str


FIG3 = Experiment(
    "fig3", "plain, residual, hyper-residual: accuracy, degenerate and negative fraction, densities"
)
