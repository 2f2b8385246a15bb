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
from landscape.experiments.pictures import distances, gradients_by_layer, overview
from landscape.experiments.scales import Group
from landscape.experiments.study import Drawn, Study
from landscape.experiments.variants import MALICIOUS, Variant
from landscape.training import BiasRegularization

EPOCHS = (0, 1, 2)
# Trends per layer that are no steeper are flat.
FLAT = 0.02
VANISHED = 1e-12


def trends(results: xr.Dataset) -> xr.DataArray:
    """Slope of log₁₀ of the gradient's norm per layer, mean over the epochs: architecture, seed."""
    norms = results["gradient_norm"].sel(measure_epoch=list(EPOCHS))
    layers = norms["layer"].values.astype(float)
    centred = layers - layers.mean()
    values = norms.transpose("architecture", "seed", "measure_epoch", "layer").values
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log10(np.maximum(values, VANISHED * values.max(-1, keepdims=True)))
    slopes = (logs @ centred) / (centred @ centred)
    return xr.DataArray(
        slopes.mean(-1),
        dims=("architecture", "seed"),
        coords={name: results[name] for name in ("architecture", "seed")},
    )


def variants(group: Group, penalty: BiasRegularization | None) -> Mapping[str, Variant]:
    """Those of ``fig6`` that the claims name, and the malicious initialisation."""
    kinds = fig6.variants(group, penalty)
    named = ("plain", "BiasReg", "BiasReg+BN", "residual")
    return {**{name: kinds[name] for name in named}, "malicious": MALICIOUS}


def claims(accuracy: xr.Dataset, fractions: xr.Dataset) -> list[Claim]:
    """Trends of gradients over layers."""
    slopes = trends(accuracy)

    def of(name: str) -> np.ndarray:
        return np.asarray(slopes.sel(architecture=name).values)

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
)
