"""Skips through random orthogonal matrices instead of the identity.

After figure 8 of A. E. Orhan and X. Pitkow, *Skip Connections Eliminate Singularities*, ICLR 2018.
Each network draws one dense orthogonal matrix for all its layers. Claims: such networks train
slightly better than residual ones (better, by at most a quarter of the gap between residual and
plain, if there is one: ``fig5``), and have fewer responses that are exactly 0, mean over the epochs
at which they are counted, the first left out.
"""

from __future__ import annotations

import xarray as xr

from landscape.experiments.claims import Claim
from landscape.experiments.collect import through_training
from landscape.experiments.fig5 import SLIGHT, no_gap
from landscape.experiments.pictures import densities, distances, fraction_curves, overview
from landscape.experiments.study import Drawn, Study
from landscape.experiments.variants import ORTHOGONAL, PLAIN, RESIDUAL


def claims(accuracy: xr.Dataset, fractions: xr.Dataset) -> list[Claim]:
    """By mean training accuracy and by zero responses, seed by seed."""
    reached = through_training(accuracy)
    plain, residual, orthogonal = (
        reached.sel(architecture=name).values for name in ("plain", "residual", "orthogonal")
    )
    zeros = accuracy["zero_probability"].isel(measure_epoch=slice(1, None)).mean("measure_epoch")
    return [
        Claim(
            "accuracy: orthogonal > residual",
            "mean training accuracy through training",
            orthogonal,
            residual,
        ),
        Claim(
            "accuracy: and only slightly",
            "orthogonal − residual is less than a quarter of residual − plain",
            SLIGHT * (residual - plain),
            orthogonal - residual,
            no_gap(residual, plain),
        ),
        Claim(
            "zero responses: residual > orthogonal",
            "share of responses that are exactly 0",
            zeros.sel(architecture="residual").values,
            zeros.sel(architecture="orthogonal").values,
        ),
    ]


def pictures(accuracy: xr.Dataset, fractions: xr.Dataset) -> list[Drawn]:
    """Through training, distances, f(ε), densities."""
    return [
        overview(accuracy, fractions),
        distances(accuracy),
        *fraction_curves(fractions),
        densities(fractions),
    ]


STUDY = Study(
    name="fig8",
    summary="dense orthogonal skips against identity skips",
    title="Orthogonal skips",
    question="Is the identity the best of skips?",
    variants=lambda group, penalty: {
        "plain": PLAIN, "residual": RESIDUAL, "orthogonal": ORTHOGONAL,
    },
    claims=claims,
    pictures=pictures,
    matched=True,
)  # fmt: skip
