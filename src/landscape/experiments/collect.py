"""What a group of networks has shown, with names on its axes, and what may be judged of it.

The protocol where the paper's is not known is ours:

- accuracy is the mean of the whole training set's accuracy after epochs 1 … E;
- fractions are compared at the last epoch, and at matched training loss: for each seed the level
  is the highest of the architectures' final losses, and the fraction of each architecture there is
  interpolated, linearly in the logarithm of the loss, between the epochs with spectra;
- a fraction's verdict needs N(C−1) ≥ 2P;
- a fraction below its operator's noise floor, or whose certified interval is wider than 50 points,
  is not resolved: it is shown, and no claim uses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from landscape.experiments.networks import MEASURES, Family, from_dataset, spectrum_places
from landscape.spectra import (
    LanczosSpectrum,
    Moments,
    asinh_density,
    degenerate_fraction,
    fit_mixture,
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
             "mixture", "mixture_fits", "norm", "noise_floor")  # fmt: skip
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
        By architecture: one spectrum per place, in the order of ``spectrum_places``; empty if the
        group takes none.

    Returns
    -------
    Dimensions architecture, seed, epoch (accuracy, loss), measure_epoch (``MEASURES``,
    gradient_norm with layer), and if there are spectra spectrum_epoch, images, eps, relative and
    eigenvalue; NaN where no spectrum was taken and for ε below its noise floor. Attributes P, C, N.
    """
    group, data = families[0].group, families[0].dataset
    names = [family.architecture for family in families]
    training = {
        name: (
            ("architecture", *trained[names[0]][name].dims),
            np.stack([trained[architecture][name].values for architecture in names]),
        )
        for name in ("loss", "accuracy", *MEASURES, "gradient_norm")
    }
    result = xr.Dataset(
        training,
        coords={
            "architecture": names,
            "seed": np.arange(group.seeds),
            "epoch": np.arange(group.epochs + 1),
            "measure_epoch": list(group.measure_epochs),
            "layer": np.arange(1, group.depth + 1),
        },
        attrs={
            "num_parameters": families[0].num_parameters,
            "num_classes": data.num_classes,
            "num_examples": data.num_examples,
            **({"num_steps": list(group.num_steps)} if group.num_steps else {}),
        },
    )
    return result.assign(_of_spectra(families, spectra)) if group.spectrum_epochs else result


def _of_spectra(
    families: Sequence[Family], spectra: Mapping[str, Sequence[xr.Dataset]]
) -> xr.Dataset:
    """Fractions, curves and densities."""
    group = families[0].group
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
            mixture = fit_mixture(moments_of(spectrum))
            values["mixture"][at] = mixture.weight
            values["mixture_fits"][at] = mixture.status == "fits"
            values["norm"][at] = spectrum.norm
            values["noise_floor"][at] = spectrum.noise_floor
            floor, norm = float(spectrum.noise_floor), float(spectrum.norm)
            for into, epsilons in ((curves, EPSILONS), (relative, RELATIVE * norm)):
                above = epsilons >= floor
                found = fraction_curve(spectrum, epsilons[above])
                for name_, part in zip(
                    CURVES, (found.estimate, found.lower, found.upper), strict=True
                ):
                    into[name_][at][above] = part
            densities[at] = asinh_density(spectrum, grid, linear_width=EPS, bandwidth=BANDWIDTH)
    where = ("architecture", "seed", "spectrum_epoch", "images")
    return xr.Dataset(
        {
            **{name: (where, array) for name, array in values.items()},
            **{name: ((*where, "eps"), array) for name, array in curves.items()},
            **{
                f"relative_{name}": ((*where, "relative"), array)
                for name, array in relative.items()
            },
            "density": ((*where, "eigenvalue"), densities),
        },
        coords={
            "spectrum_epoch": epochs,
            "images": images,
            "eps": EPSILONS,
            "relative": RELATIVE,
            "eigenvalue": grid,
        },
    )


def moments_of(spectrum: LanczosSpectrum) -> Moments:
    """The first four moments of the probe's measure, which its Gauss quadrature has exactly."""
    nodes, weights = np.ravel(spectrum.nodes), np.ravel(spectrum.weights)
    known = np.isfinite(nodes)
    powers = nodes[known][:, None] ** np.arange(1, 5)
    share = weights[known] / weights[known].sum()
    return Moments(
        (share @ powers)[None], np.ones(1), spectrum.num_parameters, spectrum.dtype,
        spectrum.num_matvecs,
    )  # fmt: skip


def data_ratio(results: xr.Dataset) -> float:
    """N(C−1)/P at the largest N: below 1 the lack of data alone makes most directions null."""
    attrs = results.attrs
    return float(results["images"].max()) * (attrs["num_classes"] - 1) / attrs["num_parameters"]


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


def through_training(results: xr.Dataset) -> xr.DataArray:
    """Mean training accuracy after epochs 1 … E; dimensions architecture, seed."""
    return results["accuracy"].isel(epoch=slice(1, None)).mean("epoch")


def too_few_data(results: xr.Dataset) -> str:
    """Why fractions of these networks get no verdict; empty if there are enough data for one."""
    ratio = data_ratio(results)
    return "" if ratio >= ENOUGH_DATA else f"too few data: N(C−1)/P = {ratio:.2f} < {ENOUGH_DATA}"
