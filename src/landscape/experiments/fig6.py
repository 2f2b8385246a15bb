"""Biases held near random targets: singularities broken without skips.

After figure 6 of A. E. Orhan and X. Pitkow, *Skip Connections Eliminate Singularities*, ICLR 2018.
Every unit of a plain network has its bias held near a target of its own (BiasReg), so that no two
units are alike; the same strength with all targets 0 is ordinary weight decay on biases and breaks
nothing (BiasL2Reg); one normalised layer in the middle lets gradients through (BiasReg+BN). Claims:
accuracy residual > BiasReg+BN > BiasReg > plain ≈ BiasL2Reg, with ≈ within one point; degeneracy
plain > BiasReg > residual, at the last epoch and at matched training loss. The penalty is found by
a random search (``search``), for networks of each size by itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

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
from landscape.experiments.scales import Group
from landscape.experiments.study import Study
from landscape.experiments.variants import PLAIN, RESIDUAL, Variant, biased
from landscape.training import BiasRegularization

# Mean training accuracies that are no further apart are about equal.
ABOUT = 0.01


def variants(group: Group, penalty: BiasRegularization | None) -> Mapping[str, Variant]:
    """The five kinds, best first if the claims hold."""
    assert penalty is not None
    return {
        "residual": RESIDUAL,
        "BiasReg+BN": biased(penalty, norm=True),
        "BiasReg": biased(penalty),
        "plain": PLAIN,
        "BiasL2Reg": biased(BiasRegularization(penalty.strength)),
    }


def claims(accuracy: xr.Dataset, fractions: xr.Dataset) -> list[Claim]:
    """Accuracies in order, one equality, and degenerate fractions in order."""
    reached = through_training(accuracy)
    places = {
        "at the last epoch": at_last(fractions),
        "at matched training loss": at_matched_loss(fractions),
    }

    def of(name: str) -> np.ndarray:
        return np.asarray(reached.sel(architecture=name).values)

    order = ("residual", "BiasReg+BN", "BiasReg", "plain")
    found = [
        Claim(
            f"accuracy: {more} > {less}",
            "mean training accuracy through training",
            of(more),
            of(less),
        )
        for more, less in itertools.pairwise(order)
    ]
    found.append(
        Claim(
            "accuracy: plain ≈ BiasL2Reg",
            "mean training accuracy through training, within one point",
            of("plain"),
            of("BiasL2Reg"),
            margin=ABOUT,
        )
    )
    return found + [
        share_claim(
            f"degenerate: {more} > {less}, {where}",
            f"share of eigenvalues with |λ| ≤ {EPS:g}, {where}",
            shares,
            more,
            less,
            too_few_data(fractions),
        )
        for where, shares in places.items()
        for more, less in itertools.pairwise(("plain", "BiasReg", "residual"))
    ]


STUDY = Study(
    name="fig6",
    summary="biases held near random targets, with and without a normalised layer",
    title="Breaking singularities by biases",
    question="Does training become easier if singularities are broken without any skip?",
    variants=variants,
    claims=claims,
    pictures=standard,
    depth=30,
    matched=True,
    searches=True,
)
