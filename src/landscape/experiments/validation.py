"""Small networks through training: every estimate of the fractions against all eigenvalues.

Networks of the three standard architectures are trained on the digits and looked at along the way.
Of each Hessian all eigenvalues are computed in float64: shares with |λ| ≤ 10⁻³ and with λ < −10⁻³
are then known. Beside them stand the estimate and the 95 % interval of a Lanczos run of a few
hundred steps with one probe, and what Skilling's moments give: the weight of the narrow Gaussian of
a mixture that has the spectrum's first four moments, and the mass of its skew-normal below −10⁻³
(A. E. Orhan and X. Pitkow, *Skip Connections Eliminate Singularities*, ICLR 2018). Moments are the
exact ones: what is judged is the method, not its sampling.

How many intervals hold the exact share is counted, and the chance of so few if they held with their
level: each Hessian has a probe of its own. Claims: the mixture errs more than Lanczos, network by
network, each with the mean of its errors over the epochs; of all Hessians, and of those alone whose
moments one mixture has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from scipy import stats

from landscape.curvature import hessian
from landscape.errors import InputError
from landscape.experiments.claims import Claim
from landscape.experiments.collect import EPS, negative_mass
from landscape.experiments.inquiry import Inquiry, RunUnits
from landscape.experiments.networks import Family, prepare, training_units
from landscape.experiments.pictures import one_legend
from landscape.experiments.scales import Group, group_from_json
from landscape.experiments.study import Drawn
from landscape.experiments.variants import STANDARD
from landscape.plots import look
from landscape.plots.style import tidy
from landscape.report import Table
from landscape.runs import Unit
from landscape.spectra import (
    Moments,
    degenerate_fraction,
    fit_mixture,
    negative_fraction,
    slq,
)
from landscape.training import softmax_cross_entropy

KINDS = ("degenerate", "negative")
_LEVEL = 0.95


def settings(scale: str, dataset: str, seeds: int | None) -> dict[str, Any]:
    """Sizes of a scale; as JSON values."""
    if scale not in ("smoke", "laptop", "paper"):
        raise InputError(f"unknown scale {scale!r}; choose one of smoke, laptop, paper")
    small = scale == "smoke"
    group = Group(
        name="validated",
        depth=3 if small else 8,
        width=6 if small else 12,
        pooled=None if dataset == "digits" else 8,
        num_images=200 if small else 1_797,
        epochs=4 if small else 100,
        batch_size=2 if small else 18,
        learning_rate=5e-4,
        seeds=(1 if small else 10) if seeds is None else seeds,
        block=1 if small else 5,
        spectrum_epochs=(0, 4) if small else (0, 10, 100),
        spectrum_images=(None,),
        num_steps=(30, 30) if small else (400, 400, 400),
        float64=not small,
    )
    return {"scale": scale, "group": dataclasses.asdict(group)}


@dataclasses.dataclass(frozen=True)
class Compare:
    """All eigenvalues of one network's Hessian, and what the estimates make of it."""

    family: Family
    parameters: np.ndarray
    state: np.ndarray
    network: int
    epoch: int
    num_steps: int

    def __call__(self, checkpoints: Path, should_stop: Callable[[], bool]) -> xr.Dataset:
        """Decompose, estimate, fit."""
        family = self.family
        params, state = family.unflatten(self.parameters, self.state)
        op = hessian(
            softmax_cross_entropy(family.model), params, family.dataset.arrays(), state=state
        )
        with jax.enable_x64(True):
            precise = op.astype(jnp.float64)
            matrix = np.asarray(precise.to_dense())
        values = np.linalg.eigvalsh((matrix + matrix.T) / 2)
        key = jax.random.fold_in(jax.random.key(family.seed), 2_000_000 + self.network)
        for part in (self.epoch, list(STANDARD).index(family.architecture)):
            key = jax.random.fold_in(key, part)
        steps = min(self.num_steps, len(values))
        if family.group.float64:
            with jax.enable_x64(True):
                spectrum = slq(precise, key, num_steps=steps)
        else:
            spectrum = slq(op, key, num_steps=steps)
        found: dict[str, Any] = {"eigenvalue": ("parameter", values)}
        for kind, fraction, inside in (
            ("degenerate", degenerate_fraction(spectrum, EPS), np.abs(values) <= EPS),
            ("negative", negative_fraction(spectrum, EPS), values < -EPS),
        ):
            low, high = fraction.confidence_interval(_LEVEL)
            numbers = [inside.mean(), fraction.estimate, fraction.lower, fraction.upper, low, high]
            names = ("exact", "estimate", "lower", "upper", "low", "high")
            found |= {f"{kind}_{n}": float(v) for n, v in zip(names, numbers, strict=True)}
        mixture = fit_mixture(_moments(values))
        found["degenerate_mixture"] = mixture.weight
        found["negative_mixture"] = negative_mass(mixture)
        return xr.Dataset(found, attrs={"mixture": mixture.status})


def _moments(values: np.ndarray) -> Moments:
    """The exact ones of all eigenvalues."""
    powers = np.array([[np.mean(values**k) for k in range(1, 5)]])
    return Moments(powers, np.ones(1), len(values), "float64", 0)


def compute(given: dict[str, Any], dataset: str, seed: int, run: RunUnits) -> xr.Dataset:
    """Train, then compare at every epoch that was kept."""
    group = group_from_json(given["group"])
    data = prepare(dataset, group)
    families = [Family(name, group, data, seed, kind) for name, kind in STANDARD.items()]
    training = [(family, training_units(family)) for family in families]
    units = [unit for _, part in training for unit in part]
    blocks = run(units, f"training {group.seeds * len(families)} networks")
    work = []
    for family, part in training:
        mine, blocks = blocks[: len(part)], blocks[len(part) :]
        trained = xr.concat(mine, "seed")
        for network in range(group.seeds):
            for epoch, steps in zip(group.spectrum_epochs, group.num_steps, strict=True):
                at = trained.sel(seed=network, snapshot_epoch=epoch)
                arrays = at["parameters"].values, at["state"].values
                one = Compare(family, *arrays, network, epoch, steps)
                inputs = {
                    **family.inputs, "kind": "compare", "network": network, "epoch": epoch,
                    "num_steps": steps, "float64": group.float64,
                }  # fmt: skip
                label = f"compare-{family.architecture}-{network:03d}-epoch{epoch}"
                work.append(Unit(label, inputs, one))
    found = run(work, f"{len(work)} Hessians with all their eigenvalues")
    shape = (len(families), group.seeds, len(group.spectrum_epochs))
    where = ("architecture", "seed", "epoch")
    names = [str(name) for name in found[0].data_vars if name != "eigenvalue"]
    return xr.Dataset(
        {
            **{n: (where, np.reshape([float(f[n]) for f in found], shape)) for n in names},
            "mixture_status": (where, np.reshape([f.attrs["mixture"] for f in found], shape)),
        },
        coords={
            "architecture": list(STANDARD), "seed": np.arange(group.seeds),
            "epoch": list(group.spectrum_epochs),
        },
        attrs={
            "num_parameters": families[0].num_parameters,
            "num_examples": data.num_examples,
            "num_classes": data.num_classes,
            "depth": group.depth, "width": group.width,
            "num_steps": list(group.num_steps), "dtype": "float64" if group.float64 else "float32",
        },
    )  # fmt: skip


def covered(results: xr.Dataset, kind: str) -> np.ndarray:
    """Of each Hessian, whether its exact share lies in the 95 % interval."""
    exact = results[f"{kind}_exact"]
    inside = (results[f"{kind}_low"] <= exact) & (exact <= results[f"{kind}_high"])
    return np.asarray(inside.values).ravel()


def claims(results: xr.Dataset) -> list[Claim]:
    """Estimates nearer than the mixture, network by network."""
    found = []
    fits = results["mixture_status"] == "fits"
    for kind in KINDS:
        exact = results[f"{kind}_exact"]
        ours, theirs = (
            abs(results[f"{kind}_{which}"] - exact) for which in ("estimate", "mixture")
        )
        for where, kept in (("", xr.ones_like(fits)), (", where one fits", fits)):
            larger, smaller = (
                error.where(kept).mean("epoch").values.ravel() for error in (theirs, ours)
            )
            found.append(
                Claim(
                    f"{kind}: the mixture errs more than Lanczos{where}",
                    "absolute error of the share, mean over epochs, network by network",
                    larger,
                    smaller,
                )
            )
    return found


def pictures(results: xr.Dataset) -> list[Drawn]:
    """Estimates against the exact shares."""
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    panels = figure.subplots(1, 2)
    for ax, kind in zip(panels, KINDS, strict=True):
        tidy(ax)
        ax.plot([0, 100], [0, 100], color="0.4", linewidth=1)
        for index, name in enumerate(STANDARD):
            part, style = results.sel(architecture=name), look(name, index)
            exact, estimate, low, high, mixture = (
                100 * part[f"{kind}_{which}"].values.ravel()
                for which in ("exact", "estimate", "low", "high", "mixture")
            )
            ax.errorbar(
                exact, estimate, [np.maximum(estimate - low, 0), np.maximum(high - estimate, 0)],
                linestyle="none", marker=style.marker, color=style.color, capsize=2,
                label=f"{name}: Lanczos, 95 %",
            )  # fmt: skip
            ax.plot(
                exact, mixture, style.marker, color=style.color, fillstyle="none", alpha=0.8,
                label=f"{name}: mixture",
            )  # fmt: skip
        ax.set_xlim(-3, 103)
        ax.set_ylim(-3, 103)
        ax.set_xlabel("exact share (%)")
        ax.set_title(kind)
    panels[0].set_ylabel("estimated share (%)")
    one_legend(figure, panels[0])
    return [
        Drawn(
            "estimates",
            "Estimated shares against the exact ones",
            "Each network at each epoch. Filled, with bars: Lanczos with its 95 % interval. Open: "
            "the mixture that has the spectrum's exact first four moments. On the line an estimate "
            "is right.",
            figure,
        )
    ]


def tables(results: xr.Dataset) -> list[Table]:
    """Errors and coverage, and what became of the mixture's fits."""
    rows = []
    for kind in KINDS:
        exact = results[f"{kind}_exact"].values.ravel()
        inside = covered(results, kind)
        p = float(stats.binomtest(int(inside.sum()), inside.size, _LEVEL, "less").pvalue)
        width = (results[f"{kind}_upper"] - results[f"{kind}_lower"]).values.ravel()
        for which, method in (("estimate", "Lanczos"), ("mixture", "mixture")):
            error = 100 * np.abs(results[f"{kind}_{which}"].values.ravel() - exact)
            own = which == "estimate"
            rows.append(
                (kind, method, f"{error.mean():.2f}", f"{np.median(error):.2f}",
                 f"{error.max():.2f}",
                 f"{inside.sum()} of {inside.size} (p = {p:.2g})" if own else "no interval",
                 f"{100 * np.median(width):.1f}" if own else "—")
            )  # fmt: skip
    statuses, counts = np.unique(results["mixture_status"].values, return_counts=True)
    return [
        Table(
            "Errors of the shares, in points",
            ("share", "method", "mean error", "median", "largest", "95 % interval holds the truth",
             "median width of the certified interval"),
            rows,
            "p: of so few or fewer, if the interval held with its level.",
        ),
        Table(
            "What became of the mixture's fits",
            ("status", "Hessians"),
            [(str(s), str(c)) for s, c in zip(statuses, counts, strict=True)],
            "Where no mixture has the moments, or several have, its weight is no estimate.",
        ),
    ]  # fmt: skip


def about(results: xr.Dataset) -> list[str]:
    """Sizes, and how many data there are for each parameter."""
    attrs, count = results.attrs, results.sizes["architecture"] * results.sizes["seed"]
    ratio = attrs["num_examples"] * (attrs["num_classes"] - 1) / attrs["num_parameters"]
    return [
        f"{count} networks of {attrs['depth']}×{attrs['width']}, P = {attrs['num_parameters']:,}, "
        f"each at {results.sizes['epoch']} epochs: {count * results.sizes['epoch']} Hessians over "
        f"N = {attrs['num_examples']:,} images of C = {attrs['num_classes']} classes, N(C−1)/P = "
        f"{ratio:.2f}. One Gaussian probe, {attrs['num_steps'][-1]} Lanczos steps in "
        f"{attrs['dtype']}."
    ]


INQUIRY = Inquiry(
    name="validation",
    summary="estimates of fractions against all eigenvalues of small networks",
    title="Estimates of degenerate and negative fractions against the exact ones",
    question="Do 95 % intervals hold the exact shares, and how far is the mixture off?",
    settings=settings,
    compute=compute,
    claims=claims,
    pictures=pictures,
    tables=tables,
    protocol=(
        "Plain, residual and hyper-residual networks of this size, trained as the standard "
        "protocol has it (Adam, learning rate 5·10⁻⁴, batches of 1 % of the images, 100 epochs); "
        "Hessian of the training loss over all images; all eigenvalues in float64. "
        "Moments are those of all eigenvalues.",
        "After A. E. Orhan and X. Pitkow, Skip Connections Eliminate Singularities, ICLR 2018.",
    ),
    about=about,
)
