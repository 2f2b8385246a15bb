"""Skip matrices whose eigenvalues all lie on the unit circle.

After figure 10 of A. E. Orhan and X. Pitkow, *Skip Connections Eliminate Singularities*, ICLR 2018.
Such matrices let neither signals nor gradients vanish or explode in the long run, whatever τ; with
τ the covariance ``QQᵀ`` decays, and what skips give to the units comes to depend linearly on one
another. Claims: the smaller τ, the better the training, though gradients do not vanish. The former
is tested by each seed's slope of mean training accuracy over τ, the latter by the trend of
gradients over layers (as in ``fig7``) at the largest τ: they do not fall towards the input by more
than what ``fig7`` calls flat; that they may grow towards it is no claim. The values of τ (n − 1),
the logarithm of the covariance's spread, are ours: 0, 2, 4 and 8.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from landscape.experiments.claims import Claim
from landscape.experiments.collect import through_training
from landscape.experiments.fig7 import EPOCHS, FLAT, growing, trends
from landscape.experiments.fig9 import slope
from landscape.experiments.pictures import against_level, distances, gradients_by_layer, overview
from landscape.experiments.scales import Group
from landscape.experiments.study import Drawn, Study
from landscape.experiments.variants import Variant, unit_circle
from landscape.training import BiasRegularization

SPREADS = (0.0, 2.0, 4.0, 8.0)


def variants(group: Group, penalty: BiasRegularization | None) -> Mapping[str, Variant]:
    """From the orthogonal one on."""
    return {f"τ = {tau:.3g}": unit_circle(tau) for tau in (s / (group.width - 1) for s in SPREADS)}


def taus(results: xr.Dataset) -> np.ndarray:
    """By architecture, as they are told by their names."""
    return np.array([float(str(name).split()[-1]) for name in results["architecture"].values])


def claims(accuracy: xr.Dataset, fractions: xr.Dataset) -> list[Claim]:
    """The trend over τ, and the gradients at its end."""
    falling = -slope(through_training(accuracy), taus(accuracy) / taus(accuracy).max())
    steepest = trends(accuracy).isel(architecture=-1).values
    return [
        Claim(
            "accuracy falls with τ",
            "slope of mean training accuracy over τ, from 0 to the largest, is below 0",
            falling,
            np.zeros_like(falling),
        ),
        Claim(
            "gradients: do not fall towards the input at the largest τ",
            f"slope is below {FLAT} decades per layer",
            np.full_like(steepest, FLAT),
            steepest,
            unit="decades per layer",
        ),
    ]


def pictures(accuracy: xr.Dataset, fractions: xr.Dataset) -> list[Drawn]:
    """Against τ, through training, gradients by layer."""
    figure = against_level(
        [
            (through_training(accuracy), "training accuracy, mean (%)"),
            (trends(accuracy), "slope of log₁₀ gradient per layer"),
            (accuracy["top_share"].isel(measure_epoch=-1), "variance in three directions (%)"),
        ],
        taus(accuracy).tolist(),
        "τ",
        log=False,
    )
    drawn = Drawn(
        "against-tau",
        "Against τ",
        "Mean training accuracy through training; trend of the gradients over layers at epochs 0 "
        "to 2; at the last epoch the share of a layer's variance in three directions. Grey: "
        "networks; bars: 95 % intervals of the mean.",
        figure,
    )
    return [
        drawn,
        overview(accuracy, fractions),
        gradients_by_layer(accuracy, EPOCHS),
        distances(accuracy),
    ]


def about(accuracy: xr.Dataset, fractions: xr.Dataset) -> list[str]:
    """Where gradients do not vanish because they explode."""
    grown = growing(accuracy)
    least, most = trends(accuracy).isel(architecture=[0, -1]).mean("seed").values
    if grown and most < least:
        grown.append(
            "They grow more the larger τ is: that accuracy falls with τ may be due to this too."
        )
    return grown


STUDY = Study(
    name="fig10",
    summary="skip matrices with eigenvalues on the unit circle, several τ",
    title="Skips with eigenvalues on the unit circle",
    question="Is it enough that gradients do not vanish?",
    variants=variants,
    claims=claims,
    pictures=pictures,
    spectra=False,
    about=about,
)
