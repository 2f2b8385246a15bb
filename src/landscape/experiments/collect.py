"""What a group of networks has shown, with names on its axes, and what may be judged of it.

The protocol where the paper's is not known is ours:

- accuracy is the mean of the whole training set's accuracy after epochs 1 … E;
- fractions are compared at the last epoch, and at matched training loss: for each seed the level
  is the highest of the architectures' final losses, and each network is taken at the first epoch
  that it was kept at whose loss is no higher: small ones after every epoch;
- a fraction's verdict needs N(C−1) ≥ 2P;
- a fraction below its operator's noise floor, or whose certified interval is wider than 50 points,
  is not resolved: it is shown, and no claim uses it. Nor is one of 0, because no node of the
  quadrature lies there, whose interval is wider than 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from landscape.experiments.claims import Claim
from landscape.experiments.networks import (
    MEASURES,
    Family,
    SpectrumPlace,
    from_dataset,
    penalized_places,
    spectrum_places,
)
from landscape.spectra import (
    LanczosSpectrum,
    MixtureFit,
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
WIDEST_EMPTY = 0.05

FRACTIONS = ("degenerate", "degenerate_lower", "degenerate_upper", "degenerate_stderr",
             "negative", "negative_lower", "negative_upper", "negative_stderr",
             "mixture", "negative_mixture", "mixture_fits", "norm", "noise_floor")  # fmt: skip
CURVES = ("curve", "curve_lower", "curve_upper")


def collect(
    families: Sequence[Family],
    trained: Mapping[str, xr.Dataset],
    spectra: Mapping[str, Sequence[xr.Dataset]],
    matched: Mapping[str, Sequence[SpectrumPlace]] | None = None,
) -> xr.Dataset:
    """Everything a group's report needs, with names on its axes.

    Parameters
    ----------
    families
        One per architecture, same group and data.
    trained
        By architecture: what training recorded, all seeds.
    spectra
        By architecture: one spectrum per place, in the order of ``spectrum_units``; empty if the
        group takes none.
    matched
        By architecture: where networks are at matched training loss, if that was asked for.

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
            "commonest_class": float(np.bincount(data.labels).max() / data.num_examples),
            **({"num_steps": list(group.num_steps)} if group.num_steps else {}),
        },
    )
    if not group.spectrum_epochs:
        return result
    result = result.assign(_of_spectra(families, spectra))
    if any(penalized_places(family) for family in families):
        result = result.assign(_with_penalty(families, spectra))
    return (
        result.assign(_at_matched_loss(families, trained, spectra, matched)) if matched else result
    )


def _at_matched_loss(
    families: Sequence[Family],
    trained: Mapping[str, xr.Dataset],
    spectra: Mapping[str, Sequence[xr.Dataset]],
    matched: Mapping[str, Sequence[SpectrumPlace]],
) -> dict[str, Any]:
    """Fractions, epoch and loss of each network there; NaN where there is none."""
    group = families[0].group
    names = (*FRACTIONS, "epoch", "loss")
    values = {name: np.full((len(families), group.seeds), np.nan) for name in names}
    for i, family in enumerate(families):
        name = family.architecture
        places, parts = spectrum_places(family), spectra[name]
        at = dict(zip(places, parts, strict=False))
        others = iter(parts[len(places) :])
        for place in matched[name]:
            last = place.epoch == group.spectrum_epochs[-1]
            spectrum = from_dataset(at[place] if last else next(others))
            found = fractions_of(spectrum) | {
                "epoch": place.epoch,
                "loss": float(trained[name]["loss"].sel(seed=place.network, epoch=place.epoch)),
            }
            for key, value in found.items():
                values[key][i, place.network] = value
    return {f"matched_{key}": (("architecture", "seed"), array) for key, array in values.items()}


def _with_penalty(
    families: Sequence[Family], spectra: Mapping[str, Sequence[xr.Dataset]]
) -> dict[str, Any]:
    """Fractions of the last spectra with the penalty in the loss; NaN where there is none."""
    values = {name: np.full((len(families), families[0].group.seeds), np.nan) for name in FRACTIONS}
    for i, family in enumerate(families):
        places = penalized_places(family)
        # They stand last; slicing from -0 would take all.
        parts = spectra[family.architecture]
        for place, part in zip(places, parts[len(parts) - len(places) :], strict=True):
            for key, value in fractions_of(from_dataset(part)).items():
                values[key][i, place.network] = value
    return {f"penalised_{key}": (("architecture", "seed"), array) for key, array in values.items()}


def fractions_of(spectrum: LanczosSpectrum) -> dict[str, float]:
    """``FRACTIONS`` of one spectrum; NaN below its noise floor."""
    found = dict.fromkeys(FRACTIONS, float("nan"))
    for kind, measure in (("degenerate", degenerate_fraction), ("negative", negative_fraction)):
        if spectrum.noise_floor > EPS:
            continue
        fraction = measure(spectrum, EPS)
        found[kind] = float(fraction.estimate)
        for end in ("lower", "upper", "stderr"):
            found[f"{kind}_{end}"] = float(getattr(fraction, end))
    mixture = fit_mixture(moments_of(spectrum))
    return found | {
        "mixture": float(mixture.weight),
        "negative_mixture": negative_mass(mixture),
        "mixture_fits": float(mixture.status == "fits"),
        "norm": float(spectrum.norm),
        "noise_floor": float(spectrum.noise_floor),
    }


def negative_mass(mixture: MixtureFit) -> float:
    """Mass of the skew-normal below −ε, where negative eigenvalues are counted."""
    rest = 1 - float(mixture.weight)
    if mixture.scale == 0:
        return rest * float(mixture.location < -EPS)
    return rest * float(stats.skewnorm.cdf(-EPS, mixture.shape, mixture.location, mixture.scale))


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
        for place, spectrum in zip(places[name], loaded[name], strict=False):
            at = (i, place.network, epochs.index(place.epoch), images.index(place.images))
            for key, value in fractions_of(spectrum).items():
                values[key][at] = value
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


def resolved(results: xr.Dataset, kind: str = "degenerate", widest: float = WIDEST) -> xr.DataArray:
    """Shares of a kind (``"degenerate"``, ``"negative"``, ``"curve"``); NaN where not resolved."""
    values = results[kind]
    width = results[f"{kind}_upper"] - results[f"{kind}_lower"]
    return values.where(width <= xr.where(values > 0, widest, WIDEST_EMPTY))


def at_matched_loss(results: xr.Dataset) -> xr.Dataset:
    """Degenerate fraction of each network at its seed's matched training loss, as ``at_last``."""
    return _judged(results, "matched_degenerate")


def at_last(results: xr.Dataset) -> xr.Dataset:
    """Degenerate fraction of each network at the last epoch, over the most images.

    Returns
    -------
    ``estimate``, NaN where it is not resolved, and certified ``lower`` and ``upper``; dimensions
    architecture, seed.
    """
    return _judged(results.isel(images=-1, spectrum_epoch=-1), "degenerate")


def _judged(results: xr.Dataset, kind: str) -> xr.Dataset:
    bounds = {end: results[f"{kind}_{end}"] for end in ("lower", "upper")}
    return xr.Dataset({"estimate": resolved(results, kind), **bounds})


def share_claim(
    name: str, text: str, shares: xr.Dataset, more: str, less: str, obstacle: str
) -> Claim:
    """That one architecture has a larger share than another, network by network."""
    larger, smaller = (shares.sel(architecture=side) for side in (more, less))
    return Claim(
        name, text, larger["estimate"].values, smaller["estimate"].values, obstacle,
        larger_bounds=bounds_of(larger), smaller_bounds=bounds_of(smaller),
    )  # fmt: skip


def bounds_of(shares: xr.Dataset) -> np.ndarray:
    """(2, S) lower and upper bounds of one architecture's shares."""
    return np.stack([shares["lower"].values, shares["upper"].values])


def through_training(results: xr.Dataset) -> xr.DataArray:
    """Mean training accuracy after epochs 1 … E; dimensions architecture, seed."""
    return results["accuracy"].isel(epoch=slice(1, None)).mean("epoch")


def too_few_data(results: xr.Dataset) -> str:
    """Why fractions of these networks get no verdict; empty if there are enough data for one."""
    ratio = data_ratio(results)
    return "" if ratio >= ENOUGH_DATA else f"too few data: N(C−1)/P = {ratio:.2f} < {ENOUGH_DATA}"
