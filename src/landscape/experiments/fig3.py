"""Plain, residual and hyper-residual networks: accuracy and degenerate spectra through training.

After figure 3 of A. E. Orhan and X. Pitkow, *Skip Connections Eliminate Singularities*, ICLR 2018.
Claims: training accuracy hyper-residual ≥ residual > plain; degenerate fraction of the Hessian of
the training loss plain > residual > hyper-residual. Negative fractions are reported without a
claim. What is compared, and when a fraction is judged: ``collect``.
"""

from __future__ import annotations

import xarray as xr

from landscape.experiments.claims import Claim
from landscape.experiments.collect import (
    EPS,
    at_matched_loss,
    resolved,
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
    last = resolved(fractions).isel(images=-1, spectrum_epoch=-1)
    matched = at_matched_loss(fractions)
    short = too_few_data(fractions)

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
