"""Claims and how they are decided: rules fixed before any run.

A directional claim *holds* if the 95 % interval of the paired effect excludes zero on the claimed
side, *fails* if it excludes zero on the other, and is *undecided* otherwise; within a figure the
levels are Holm's (S. Holm, *A simple sequentially rejective multiple test procedure*, Scand. J.
Statist. 6, 1979); fewer than three pairs give no verdict. Pairs are networks with the same
seed; the test is Student's paired t.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import stats

from landscape.errors import InputError

LEVEL = 0.05
# From two pairs an interval says nothing about their spread.
MIN_PAIRS = 3


@dataclasses.dataclass(frozen=True)
class Claim:
    """A directional claim, ``larger > smaller``, and what was measured for it.

    Attributes
    ----------
    name
        Short and unique within its figure.
    text
        What is claimed, in words.
    larger, smaller
        (S,) paired values, one per seed; NaN where a pair has none.
    obstacle
        Why no verdict may be given; empty if one may.
    """

    name: str
    text: str
    larger: np.ndarray
    smaller: np.ndarray
    obstacle: str = ""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The outcome of a claim.

    Attributes
    ----------
    claim
        What was claimed.
    effect
        Mean paired difference, larger − smaller, in the measured unit.
    lower, upper
        Its 95 % Student interval; NaN with fewer than two pairs.
    p_value
        Two-sided, adjusted by Holm within the figure.
    num_pairs
        Pairs with both values.
    status
        ``holds``, ``fails``, ``undecided`` or ``no verdict``.
    """

    claim: Claim
    effect: float
    lower: float
    upper: float
    p_value: float
    num_pairs: int
    status: str


def decide(claims: Sequence[Claim]) -> list[Verdict]:
    """Decide the claims of one figure together.

    Parameters
    ----------
    claims
        All of the figure's. Those with an obstacle or fewer than ``MIN_PAIRS`` pairs get no verdict
        and do not count in Holm's correction.

    Returns
    -------
    One verdict per claim, in order.

    Raises
    ------
    InputError
        If the two sides of a claim have different shapes.
    """
    measured = [_paired(claim) for claim in claims]
    testable = [
        index
        for index, (claim, (_, _, _, p, count)) in enumerate(zip(claims, measured, strict=True))
        if not claim.obstacle and np.isfinite(p) and count >= MIN_PAIRS
    ]
    adjusted = np.full(len(claims), np.nan)
    adjusted[testable] = holm(np.array([measured[index][3] for index in testable]))
    verdicts = []
    for claim, (effect, lower, upper, _, count), p in zip(claims, measured, adjusted, strict=True):
        if np.isnan(p):
            status = "no verdict"
        elif p >= LEVEL:
            status = "undecided"
        else:
            status = "holds" if effect > 0 else "fails"
        verdicts.append(Verdict(claim, effect, lower, upper, float(p), count, status))
    return verdicts


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's adjusted p-values: significant at level α iff the adjusted value is below α.

    Parameters
    ----------
    p_values
        (n,).

    Returns
    -------
    (n,) in the same order.

    Examples
    --------
    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values)
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def _paired(claim: Claim) -> tuple[float, float, float, float, int]:
    """Effect, its 95 % interval, the two-sided p-value and the number of pairs."""
    larger, smaller = np.asarray(claim.larger, float), np.asarray(claim.smaller, float)
    if larger.shape != smaller.shape:
        raise InputError(
            f"claim {claim.name!r} pairs arrays of shapes {larger.shape} and {smaller.shape}"
        )
    differences = larger - smaller
    differences = differences[np.isfinite(differences)]
    count = len(differences)
    effect = float(differences.mean()) if count else np.nan
    if count < 2:
        return effect, np.nan, np.nan, np.nan, count
    error = differences.std(ddof=1) / np.sqrt(count)
    half = float(stats.t.ppf(1 - LEVEL / 2, count - 1) * error)
    if error == 0:
        # All differences equal: certain if they are not zero, empty of information if they are.
        p = 1.0 if effect == 0 else 0.0
    else:
        p = float(2 * stats.t.sf(abs(effect) / error, count - 1))
    return effect, effect - half, effect + half, p, count
