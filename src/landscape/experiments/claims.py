"""Claims and how they are decided: rules fixed before any run.

A directional claim *holds* if the 95 % interval of the effect excludes zero on the claimed side,
*fails* if it excludes zero on the other, and is *undecided* otherwise. A claim of equality *holds*
if the interval lies within the margin, *fails* if it lies outside, and is *undecided* otherwise:
two one-sided tests at 2.5 % (D. J. Schuirmann, *A comparison of the two one-sided tests procedure
and the power approach for assessing the equivalence of average bioavailability*, J. Pharmacokinet.
Biopharm. 15, 1987). Within a figure the levels are Holm's (S. Holm, *A simple sequentially
rejective multiple test procedure*, Scand. J. Statist. 6, 1979); fewer than three pairs give no
verdict.

Pairs are networks with the same seed, and the test is Student's paired t. Two groups of different
networks are compared by Welch's t (B. L. Welch, *The generalization of "Student's" problem when
several different population variances are involved*, Biometrika 34, 1947). "Slightly worse, a gap
of at most a quarter of another" is a directional claim: a quarter of the other gap is larger than
this one, where there is another (``found_above``). "Flat" is a claim of equality with zero. Where
values have no common scale or an end, the sign test decides on the median of the pairs, and the
interval lies between two of their order statistics (W. J. Conover, *Practical Nonparametric
Statistics*, 3rd edition, 1999, sections 3.2 and 3.4).
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
    """A claim, ``larger > smaller`` or ``larger ≈ smaller``, and what was measured for it.

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
    margin
        Of a claim of equality: how far the two may be apart, in the measured unit. None for a
        directional one.
    paired
        Whether entries of the two sides belong together. If not, they may differ in number.
    unit
        Of the values; ``"points"`` for fractions of 1, which are shown in percent.
    median
        Whether the median of the pairs is judged, by the sign test, instead of their mean.
    larger_bounds, smaller_bounds
        Of values that are estimates with certified bounds: (2, S) lower and upper ones.
    """

    name: str
    text: str
    larger: np.ndarray
    smaller: np.ndarray
    obstacle: str = ""
    margin: float | None = None
    paired: bool = True
    unit: str = "points"
    median: bool = False
    larger_bounds: np.ndarray | None = None
    smaller_bounds: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The outcome of a claim.

    Attributes
    ----------
    claim
        What was claimed.
    effect
        Mean (or median) difference, larger − smaller, in the measured unit.
    lower, upper
        Its 95 % interval; NaN with fewer than two pairs.
    p_value
        Two-sided, of a difference from zero or from the margin, adjusted by Holm within the figure.
    num_pairs
        Pairs with both values; of two groups the number in the smaller.
    status
        ``holds``, ``fails``, ``undecided`` or ``no verdict``.
    certified
        What the bounds of the same values leave for the effect; None if they have none.
    """

    claim: Claim
    effect: float
    lower: float
    upper: float
    p_value: float
    num_pairs: int
    status: str
    certified: tuple[float, float] | None = None

    @property
    def counted(self) -> str:
        """The number of pairs, or of the values in each of two groups."""
        if self.claim.paired:
            return str(self.num_pairs)
        return " and ".join(str(side.size) for side in _judged(self.claim))

    @property
    def sides(self) -> tuple[float, float]:
        """Mean (or median) of each side, of the values that are judged; NaN if there are none."""
        larger, smaller = _judged(self.claim)
        return self._middle(larger), self._middle(smaller)

    def _middle(self, values: np.ndarray) -> float:
        if not values.size:
            return np.nan
        return float(np.median(values) if self.claim.median else np.mean(values))


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
        If the two sides of a paired claim have different shapes, a margin is not positive, or one
        is given for a median.
    """
    measured = [_measured(claim) for claim in claims]
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
            as_claimed = effect > 0 if claim.margin is None else abs(effect) < claim.margin
            status = "holds" if as_claimed else "fails"
        bounds = _certified(claim)
        verdicts.append(Verdict(claim, effect, lower, upper, float(p), count, status, bounds))
    return verdicts


def found_above(larger: np.ndarray, smaller: np.ndarray) -> bool:
    """Whether the 95 % interval of the paired effect lies above 0: for claims that rest on it."""
    effect, error, freedom, count = _paired(Claim("premise", "", larger, smaller))
    return count >= MIN_PAIRS and bool(effect > stats.t.ppf(1 - LEVEL / 2, freedom) * error)


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


def _measured(claim: Claim) -> tuple[float, float, float, float, int]:
    """Effect, its 95 % interval, the two-sided p-value and the number of pairs."""
    if claim.margin is not None and not claim.margin > 0:
        raise InputError(f"claim {claim.name!r}: a margin must be positive; got {claim.margin!r}")
    if claim.median:
        return _of_signs(claim)
    effect, error, freedom, count = (_paired if claim.paired else _apart)(claim)
    if count < 2:
        return effect, np.nan, np.nan, np.nan, count
    half = float(stats.t.ppf(1 - LEVEL / 2, freedom) * error)
    away = abs(effect) if claim.margin is None else abs(claim.margin - abs(effect))
    if error == 0:
        # All alike: certain if that is not on the border, empty of information if it is.
        p = 1.0 if away == 0 else 0.0
    else:
        p = min(1.0, float(2 * stats.t.sf(away / error, freedom)))
    return effect, effect - half, effect + half, p, count


def _judged(claim: Claim) -> tuple[np.ndarray, np.ndarray]:
    """The values that count: of pairs that have both, of groups each that there is."""
    larger, smaller = np.asarray(claim.larger, float), np.asarray(claim.smaller, float)
    if claim.paired:
        both = np.isfinite(larger) & np.isfinite(smaller)
        return larger[both], smaller[both]
    return larger[np.isfinite(larger)], smaller[np.isfinite(smaller)]


def _certified(claim: Claim) -> tuple[float, float] | None:
    """Mean effect by the bounds of the values that count."""
    if claim.larger_bounds is None or claim.smaller_bounds is None:
        return None
    larger, smaller = np.isfinite(claim.larger), np.isfinite(claim.smaller)
    if claim.paired:
        larger = smaller = larger & smaller
    if not (larger.any() and smaller.any()):
        return None
    upper, lower = claim.larger_bounds[:, larger].mean(1), claim.smaller_bounds[:, smaller].mean(1)
    return float(upper[0] - lower[1]), float(upper[1] - lower[0])


def _of_signs(claim: Claim) -> tuple[float, float, float, float, int]:
    """The same of the median of pairs."""
    if claim.margin is not None or not claim.paired:
        raise InputError(f"claim {claim.name!r}: a median is judged of pairs, without a margin")
    differences = np.sort(_differences(claim))
    count = len(differences)
    if count < 2:
        return float(differences.mean()) if count else np.nan, np.nan, np.nan, np.nan, count
    apart = int((differences != 0).sum())
    p = float(stats.binomtest(int((differences > 0).sum()), apart).pvalue) if apart else 1.0
    # The median lies below the k-th of n with the probability of fewer than k of n signs.
    k = int(stats.binom.ppf(LEVEL / 2, count, 0.5))
    ends = (differences[k - 1], differences[count - k]) if k else (-np.inf, np.inf)
    return float(np.median(differences)), float(ends[0]), float(ends[1]), p, count


def _differences(claim: Claim) -> np.ndarray:
    """Of the pairs that have both values."""
    larger, smaller = np.asarray(claim.larger, float), np.asarray(claim.smaller, float)
    if larger.shape != smaller.shape:
        raise InputError(
            f"claim {claim.name!r} pairs arrays of shapes {larger.shape} and {smaller.shape}"
        )
    differences = larger - smaller
    return np.asarray(differences[np.isfinite(differences)])


def _paired(claim: Claim) -> tuple[float, float, float, int]:
    """Mean difference of pairs, its standard error, degrees of freedom, number of pairs."""
    differences = _differences(claim)
    count = len(differences)
    effect = float(differences.mean()) if count else np.nan
    error = differences.std(ddof=1) / np.sqrt(count) if count > 1 else np.nan
    return effect, float(error), float(count - 1), count


def _apart(claim: Claim) -> tuple[float, float, float, int]:
    """The same of two groups; degrees of freedom by Welch and Satterthwaite."""
    groups = [np.asarray(side, float) for side in (claim.larger, claim.smaller)]
    groups = [side[np.isfinite(side)] for side in groups]
    count = min(map(len, groups))
    effect = float(groups[0].mean() - groups[1].mean()) if count else np.nan
    if count < 2:
        return effect, np.nan, np.nan, count
    parts = np.array([side.var(ddof=1) / len(side) for side in groups])
    sizes = np.array([len(side) - 1 for side in groups])
    # Where all are alike any number does.
    freedom = parts.sum() ** 2 / (parts**2 / sizes).sum() if parts.any() else sizes.sum()
    return effect, float(np.sqrt(parts.sum())), float(freedom), count
