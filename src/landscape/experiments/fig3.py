"""Plain, residual and hyper-residual networks: accuracy and degenerate spectra through training.

After figure 3 of A. E. Orhan and X. Pitkow, *Skip Connections Eliminate Singularities*, ICLR 2018.
Claims: training accuracy hyper-residual ≥ residual > plain; degenerate fraction of the Hessian of
the training loss plain > residual > hyper-residual. Negative fractions are reported without a
claim. What is compared, and when a fraction is judged: ``collect``.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from landscape.experiments.claims import Claim
from landscape.experiments.collect import (
    EPS,
    at_last,
    at_matched_loss,
    share_claim,
    through_training,
    too_few_data,
)
from landscape.experiments.pictures import standard
from landscape.experiments.study import Study
from landscape.experiments.variants import STANDARD


def claims(accuracy: xr.Dataset, fractions: xr.Dataset) -> list[Claim]:
    """The figure's claims with their measured values.

    Parameters
    ----------
    accuracy, fractions
        Collected results of the group judged for each.
    """
    through = through_training(accuracy)
    places = (
        ("at the last epoch", at_last(fractions)),
        ("at matched training loss", at_matched_loss(fractions)),
    )
    short = too_few_data(fractions)

    def of(name: str) -> np.ndarray:
        return np.asarray(through.sel(architecture=name).values)

    pairs = (("plain", "residual"), ("residual", "hyper-residual"))
    result = [
        Claim(
            "accuracy: residual > plain",
            "mean training accuracy through training is higher with skips",
            of("residual"),
            of("plain"),
        ),
        Claim(
            "accuracy: hyper-residual ≥ residual",
            "and at least as high with more skips",
            of("hyper-residual"),
            of("residual"),
        ),
    ]
    return result + [
        share_claim(
            f"degenerate: {more} > {less}, {label}",
            f"share of eigenvalues with |λ| ≤ {EPS:g}, {label}",
            shares,
            more,
            less,
            short,
        )
        for label, shares in places
        for more, less in pairs
    ]


STUDY = Study(
    name="fig3",
    summary="plain, residual, hyper-residual: accuracy, degenerate and negative fraction, "
    "densities",
    title="Plain, residual and hyper-residual networks",
    question="Do skip connections make training easier, and the loss landscape less degenerate?",
    variants=lambda group, penalty: STANDARD,
    claims=claims,
    pictures=standard,
    matched=True,
)
