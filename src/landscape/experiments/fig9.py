"""Skip matrices of fewer and fewer distinct orthonormal columns.

After figure 9 of A. E. Orhan and X. Pitkow, *Skip Connections Eliminate Singularities*, ICLR 2018.
Of a random orthogonal matrix the first half of the columns is copied onto the second half, again
and again: n, n/2, …, 1 distinct columns. What skips give to a layer's units spans as many
dimensions: the fewer, the more these inputs depend on one another linearly. Claim: the more
distinct columns, the better the training. It is tested by each seed's slope of mean training
accuracy over the logarithm of the number of columns, and by both ends.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from landscape.experiments.claims import Claim
from landscape.experiments.collect import through_training
from landscape.experiments.pictures import against_level, distances, overview
from landscape.experiments.scales import Group
from landscape.experiments.study import Drawn, Study
from landscape.experiments.variants import Variant, repeated
from landscape.training import BiasRegularization


def variants(group: Group, penalty: BiasRegularization | None) -> Mapping[str, Variant]:
    """n, n/2, … distinct columns, down to 1."""
    counts, count = [], group.width
    while count >= 1:
        counts.append(count)
        count //= 2
    return {f"{count} distinct": repeated(count) for count in counts}


def distinct_columns(results: xr.Dataset) -> np.ndarray:
    """By architecture."""
    return np.array([float(str(name).split()[0]) for name in results["architecture"].values])


def slope(values: xr.DataArray, levels: np.ndarray) -> np.ndarray:
    """Least-squares slope of each seed's values over levels, one for each architecture."""
    centred = levels - levels.mean()
    return np.asarray(values.transpose("seed", "architecture").values @ centred) / (
        centred @ centred
    )


def claims(accuracy: xr.Dataset, fractions: xr.Dataset) -> list[Claim]:
    """The trend, and its ends."""
    reached = through_training(accuracy)
    rising = slope(reached, np.log2(distinct_columns(accuracy)))
    return [
        Claim(
            "accuracy rises with the number of distinct columns",
            "slope of mean training accuracy per doubling is above 0",
            rising,
            np.zeros_like(rising),
        ),
        Claim(
            "accuracy: all columns distinct > one",
            "mean training accuracy through training",
            reached.isel(architecture=0).values,
            reached.isel(architecture=-1).values,
        ),
    ]


def pictures(accuracy: xr.Dataset, fractions: xr.Dataset) -> list[Drawn]:
    """Against the number of columns, and through training."""
    figure = against_level(
        [
            (through_training(accuracy), "training accuracy, mean (%)"),
            (accuracy["zero_probability"].isel(measure_epoch=-1), "responses that are 0 (%)"),
            (accuracy["top_share"].isel(measure_epoch=-1), "variance in three directions (%)"),
        ],
        distinct_columns(accuracy).tolist(),
        "distinct columns",
        log=True,
    )
    drawn = Drawn(
        "against-columns",
        "Against the number of distinct columns",
        "Mean training accuracy through training; at the last epoch the share of responses that "
        "are 0, and of a layer's variance in three directions. Grey: networks; bars: 95 % "
        "intervals of the mean.",
        figure,
    )
    return [drawn, overview(accuracy, fractions), distances(accuracy)]


STUDY = Study(
    name="fig9",
    summary="skip matrices of n, n/2, …, 1 distinct orthonormal columns",
    title="Skips that repeat themselves",
    question="Is it linearly independent inputs that skips give to the units of a layer?",
    variants=variants,
    claims=claims,
    pictures=pictures,
    spectra=False,
)
