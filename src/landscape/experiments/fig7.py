"""Gradients with respect to each layer's activities, early in training.

After figure 7 of A. E. Orhan and X. Pitkow, *Skip Connections Eliminate Singularities*, ICLR 2018.
Norms of the loss's gradient at epochs 0, 1 and 2, layer by layer. Their trend is the slope of the
base-10 logarithm per layer, fitted by least squares, mean over the three epochs. Claims: it is flat
(at most 0.02) for residual networks, also if they start with their skips undone; it rises towards
the output, so falls towards the input, for plain networks and those with held biases; a normalised
layer makes it flatter. Norms below 10⁻¹² of the network's largest count as that: what has vanished
altogether has no logarithm. Normalised layers have the statistics of the examples that are
measured; running ones normalise nothing before the first step.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from landscape.experiments import fig6
from landscape.experiments.claims import Claim
from landscape.experiments.pictures import (
    VANISHED,
    distances,
    gradients_by_layer,
    log_gradients,
    overview,
)
from landscape.experiments.scales import Group
from landscape.experiments.study import Drawn, Study
from landscape.experiments.variants import MALICIOUS, Variant
from landscape.plots import mean_interval
from landscape.report import Table
from landscape.training import BiasRegularization

EPOCHS = (0, 1, 2)
# Trends per layer that are no steeper are flat.
FLAT = 0.02


def slopes(results: xr.Dataset) -> xr.DataArray:
    """Slope of log₁₀ of the gradient's norm per layer: architecture, seed, measure_epoch."""
    logs = log_gradients(results).sel(measure_epoch=list(EPOCHS))
    layers = logs["layer"].values.astype(float)
    centred = layers - layers.mean()
    dims = ("architecture", "seed", "measure_epoch")
    values = logs.transpose(*dims, "layer").values
    return xr.DataArray(
        (values @ centred) / (centred @ centred), {name: logs[name] for name in dims}, dims
    )


def trends(results: xr.Dataset) -> xr.DataArray:
    """Mean of the slopes over the epochs: architecture, seed."""
    return slopes(results).mean("measure_epoch")


def variants(group: Group, penalty: BiasRegularization | None) -> Mapping[str, Variant]:
    """Those of ``fig6`` that the claims name, and the malicious initialisation."""
    kinds = fig6.variants(group, penalty)
    named = ("plain", "BiasReg", "BiasReg+BN", "residual")
    return {**{name: kinds[name] for name in named}, "malicious": MALICIOUS}


def claims(accuracy: xr.Dataset, fractions: xr.Dataset) -> list[Claim]:
    """Trends of gradients over layers."""
    found = trends(accuracy)

    def of(name: str) -> np.ndarray:
        return np.asarray(found.sel(architecture=name).values)

    flat = [
        Claim(
            f"gradients: flat for {name}",
            f"|slope| ≤ {FLAT} decades per layer",
            of(name),
            np.zeros_like(of(name)),
            margin=FLAT,
            unit="decades per layer",
        )
        for name in ("residual", "malicious")
    ]
    falling = [
        Claim(
            f"gradients: fall towards the input for {name}",
            "slope above 0",
            of(name),
            np.zeros_like(of(name)),
            unit="decades per layer",
        )
        for name in ("plain", "BiasReg")
    ]
    helped = Claim(
        "gradients: steeper for BiasReg than for BiasReg+BN",
        "the slope's size is smaller with a normalised layer",
        np.abs(of("BiasReg")),
        np.abs(of("BiasReg+BN")),
        unit="decades per layer",
    )
    return [*flat, *falling, helped]


def pictures(accuracy: xr.Dataset, fractions: xr.Dataset) -> list[Drawn]:
    """Gradients by layer first."""
    return [
        gradients_by_layer(accuracy, EPOCHS),
        overview(accuracy, fractions),
        distances(accuracy),
    ]


def growing(results: xr.Dataset) -> list[str]:
    """Where gradients grow towards the input by more than what is flat: a sentence."""
    means = trends(results).mean("seed")
    grown = [
        f"by {-float(means.sel(architecture=name)):.2g} decades a layer for {name}"
        for name in means["architecture"].values
        if float(means.sel(architecture=name)) < -FLAT
    ]
    return [f"Gradients grow towards the input {', '.join(grown)}."] if grown else []


def about(accuracy: xr.Dataset, fractions: xr.Dataset) -> list[str]:
    """Where gradients grow, and whose slopes rest on what counts as vanished."""
    norms = accuracy["gradient_norm"].sel(measure_epoch=list(EPOCHS))
    gone = (norms < VANISHED * norms.max("layer")).any(("layer", "measure_epoch", "seed"))
    names = [str(name) for name in gone["architecture"].values[gone.values]]
    rest = [
        f"Some gradients of {' and '.join(names)} networks vanish altogether: how steep they are "
        "then rests on what counts as vanished, 10⁻¹² of a network's largest."
    ]
    return [*growing(accuracy), *(rest if names else ())]


def tables(accuracy: xr.Dataset, fractions: xr.Dataset) -> list[Table]:
    """Trends at each epoch: their mean over the epochs may be that of one alone."""
    by_epoch = slopes(accuracy)
    rows = []
    for name in by_epoch["architecture"].values:
        values = by_epoch.sel(architecture=name).transpose("measure_epoch", "seed").values
        mean, half = mean_interval(values, 1)
        told = zip(mean, half, strict=True)
        rows.append((str(name), *(f"{m:+.3f} ± {h:.3f}" for m, h in told)))
    return [
        Table(
            "Trends by epoch",
            ("architecture", *(f"slope at epoch {epoch}" for epoch in EPOCHS)),
            rows,
            "Decades per layer, mean over seeds ± half of its 95 % interval; positive where the "
            "gradient falls towards the input. Held biases act from the first step on: at epoch 0 "
            "BiasReg is plain. A normalised layer lifts the gradient at its place: its networks' "
            "slopes are lines through two falling halves and a jump between them.",
        )
    ]


STUDY = Study(
    name="fig7",
    summary="gradients with respect to each layer's activities at epochs 0, 1, 2",
    title="Gradients layer by layer",
    question="Where gradients do not vanish, is that because of the skips?",
    variants=variants,
    claims=claims,
    pictures=pictures,
    depth=30,
    spectra=False,
    searches=True,
    tables=tables,
    about=about,
)
