"""Residual networks whose initial weights undo the skip.

After figure 5 of A. E. Orhan and X. Pitkow, *Skip Connections Eliminate Singularities*, ICLR 2018.
With the identity subtracted from every hidden kernel the network starts near the ghosts of the
singularities. Claims: such networks train only slightly worse than residual ones (residual −
malicious is at most a quarter of residual − plain), and far better than plain ones. The former has
no verdict where residual networks are not found to train better than plain ones: then there is no
gap to take a quarter of.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from landscape.experiments.claims import Claim, found_above
from landscape.experiments.collect import through_training
from landscape.experiments.pictures import standard
from landscape.experiments.study import Study
from landscape.experiments.variants import MALICIOUS, PLAIN, RESIDUAL

# A gap up to this share of the one between residual and plain networks is slight.
SLIGHT = 0.25


def claims(accuracy: xr.Dataset, fractions: xr.Dataset) -> list[Claim]:
    """By mean training accuracy, seed by seed."""
    reached = through_training(accuracy)
    plain, residual, malicious = (
        reached.sel(architecture=name).values for name in ("plain", "residual", "malicious")
    )
    return [
        Claim(
            "accuracy: malicious only slightly below residual",
            "residual − malicious is less than a quarter of residual − plain",
            SLIGHT * (residual - plain),
            residual - malicious,
            no_gap(residual, plain),
        ),
        Claim(
            "accuracy: malicious > plain",
            "mean training accuracy through training is higher in spite of the initialisation",
            malicious,
            plain,
        ),
    ]


def no_gap(residual: np.ndarray, plain: np.ndarray) -> str:
    """Why nothing can be slight beside the gap between them; empty if there is a gap."""
    return "" if found_above(residual, plain) else "residual is not found to be above plain"


STUDY = Study(
    name="fig5",
    summary="residual networks that start with their skips undone",
    title="Malicious initialisation",
    question="Do skips help because of where training starts, or because of where it can go?",
    variants=lambda group, penalty: {
        "plain": PLAIN, "residual": RESIDUAL, "malicious": MALICIOUS,
    },
    claims=claims,
    pictures=standard,
    matched=True,
)  # fmt: skip
