r"""A narrow Gaussian plus a skew-normal with the moments of a spectrum.

Notation: raw moments ``m_j``; the mixture ``w·N(0, σ²) + (1 − w)·SN(ξ, ω, α)``, σ fixed, where SN
is the skew-normal of density ``(2/ω)·φ(z)·Φ(αz)``, ``z = (λ − ξ)/ω``. With ``δ = α/√(1 + α²)``,
``t = δ√(2/π)`` and ``x = t/√(1 − t²)`` its mean is ``ξ + ωt``, its variance ``ω²(1 − t²)``, its
skewness ``(4 − π)/2·x³`` and its excess kurtosis ``2(π − 3)·x⁴``. ``p = 1 − w`` is the broad
component's weight.

Given w, taking the narrow component's moments away leaves those of the broad one, and the first
three of them give ξ, ω, α in closed form, if the skewness is below 0.995. The fourth moment then
chooses w: where it is met, w is a solution. A root is looked for along all w, because there may be
none, or several.

- *None* is common: a few outliers drive the skewness beyond what a skew-normal has.
- *Several* is common too: of 400 mixtures drawn at random (w uniform, α normal of deviation 5) 92
  shared their four moments with another one, often of quite another w. They do not determine w.
- *One* says that four numbers agree with four free ones; not that the spectrum is such a mixture.

Sources: A. E. Orhan and X. Pitkow, *Skip Connections Eliminate Singularities*, ICLR 2018 (the
mixture, and σ = 10⁻³); A. Azzalini, *A class of distributions which includes the normal ones*,
Scand. J. Statist. 12, 1985 (the skew-normal's moments). How w is searched for, what is done where
no w fits, and the statuses are our own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from math import comb

import numpy as np
from jaxtyping import Float

from landscape._pytrees import pytree
from landscape.curvature.preconditions import expect_real
from landscape.errors import InputError
from landscape.results import Result
from landscape.spectra.moments import Moments

# Bound of |α|. At 100 the skewness is within 5·10⁻⁴ of the largest there is, 0.99527.
MAX_SHAPE = 100.0

# Moments agree if they differ by less than this share of the largest value they could have had.
TOLERANCE = 1e-6

# How many standard errors a residual may have to be within error.
ERROR_BARS = 2.0

# Points of each of the grids on which roots in w are bracketed.
_GRID = 400

# A broad component of less weight than this is not looked for.
_LEAST = 1e-12

# How many minima, the lowest first, are looked at closely; more are rounding.
_MINIMA = 8


@pytree
@dataclasses.dataclass(frozen=True)
class MixtureFit(Result):
    """The mixture whose moments come closest to those of a spectrum, and how close.

    Attributes
    ----------
    weight
        w, of the narrow component: the estimate of the degenerate fraction.
    weight_stderr
        Standard error of w over probes, by the jackknife; NaN for one probe. Where there are
        several solutions each refit takes the one nearest to w, so that their spread is not in it.
    location, scale, shape
        ξ, ω, α of the skew-normal. A scale of 0 is a point mass at ξ.
    sigma
        σ, standard deviation of the narrow component.
    residual
        (n,) the mixture's moments minus the spectrum's, all that are known, relative to √m_2, m_2,
        √(m_2 m_4), m_4 and, for j > 4, the larger of |m_j| and m_4^{j/4}: |m_1| and |m_3| are no
        larger, but may be 0. For m_2 and m_4 smaller than the narrow component's, its are taken.
    within_error
        Whether every residual is at most ``ERROR_BARS`` standard errors of its moment, or
        ``TOLERANCE``; None if the moments' errors are not known. Errors are taken one by one: their
        correlations are not used.
    status
        - ``"fits"``: the first four moments are met, by this mixture alone.
        - ``"ambiguous"``: they are met by each of ``solutions``. The weight is that with the
          smallest residual beyond the fourth moment if more moments are known, else the largest; it
          is one of several answers.
        - ``"shape_at_bound"``: no mixture meets them. This one has their mean and variance, and the
          least residual in the third and fourth; its |α| is ``MAX_SHAPE``.
        - ``"weight_at_bound"``: likewise, with w = 0.
        - ``"does_not_fit"``: likewise, neither at a bound.
        - ``"single_eigenvalue"``: the variance is 0 to rounding: all eigenvalues are equal, and
          not within σ of 0. w = 0 and the broad component is a point mass.
        - ``"narrow_only"``: √m_2 ≤ σ, so that nothing is broader than the narrow component. w = 1.
    solutions
        (s,) all w at which the first four moments are met, ascending.

    Notes
    -----
    Where no mixture meets the moments the weight is no estimate of anything: it is what the method
    returns. The standard error says how far probes move it, not how wrong the model is: 1,000
    eigenvalues drawn from a normal at 1, none of them degenerate, "fit" with w = 0.17.
    """

    weight: float
    weight_stderr: float
    location: float
    scale: float
    shape: float
    sigma: float
    residual: Float[np.ndarray, " n"]
    within_error: bool | None
    status: str
    solutions: Float[np.ndarray, " s"]

    _axes = (("n", "order"), ("s", "solution"))

    def density(self, grid: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Density of the mixture, per unit of eigenvalue.

        Parameters
        ----------
        grid
            (n,) eigenvalues.

        Returns
        -------
        (n,); it integrates to 1 over the real line.

        Raises
        ------
        InputError
            If the broad component is a point mass, which has no density.
        """
        # Half a second to import: not for those who take spectra only.
        from scipy.stats import norm, skewnorm

        narrow = self.weight * norm.pdf(grid, scale=self.sigma)
        if self.weight == 1:
            return narrow
        if self.scale == 0:
            raise InputError(
                f"the broad component is a point mass at {self.location:.3g} and has no density"
            )
        return narrow + (1 - self.weight) * skewnorm.pdf(
            grid, self.shape, self.location, self.scale
        )

    def fraction_between(self, lower: float, upper: float) -> float:
        """Mass of the mixture in the closed interval [lower, upper].

        Parameters
        ----------
        lower, upper
            Ends; −inf and inf are allowed. ``(-inf, 0)`` gives the estimate of negative
            eigenvalues, with half of the narrow component; of the broad one alone, multiply by
            ``1 - weight`` what ``scipy.stats.skewnorm`` says.

        Returns
        -------
        In [0, 1].

        Raises
        ------
        InputError
            If an end is NaN or lower > upper.
        """
        if not lower <= upper:
            raise InputError(f"the interval [{lower}, {upper}] is empty or not a number")
        from scipy.stats import norm, skewnorm

        narrow = np.diff(norm.cdf([lower, upper], scale=self.sigma))[0]
        if self.scale == 0:
            broad = float(lower <= self.location <= upper)
        else:
            broad = np.diff(skewnorm.cdf([lower, upper], self.shape, self.location, self.scale))[0]
        return float(np.clip(self.weight * narrow + (1 - self.weight) * broad, 0, 1))

    def __repr__(self) -> str:
        residual = np.abs(self.residual).max()
        return (
            f"MixtureFit({self.status}, weight {self.weight:.4f} ± {self.weight_stderr:.1g}, "
            f"location {self.location:.3g}, scale {self.scale:.3g}, shape {self.shape:.3g}, "
            f"largest residual {residual:.1g})"
        )


def fit_mixture(moments: Moments, *, sigma: float = 1e-3) -> MixtureFit:
    """Fit a narrow Gaussian and a skew-normal to the moments of a spectrum.

    **The weight is an estimate of the degenerate fraction only if the status is** ``"fits"``, and
    even then only if the spectrum is such a mixture. For a share with bounds take
    ``degenerate_fraction`` of a Lanczos spectrum.

    Parameters
    ----------
    moments
        At least four, from ``spectral_moments``. Four are matched; further ones choose among
        several solutions, and their residuals put the fit to the test.
    sigma
        Standard deviation σ of the narrow component; 10⁻³ is that of A. E. Orhan and X. Pitkow,
        ICLR 2018. It is absolute.

    Returns
    -------
    MixtureFit

    Raises
    ------
    InputError
        If sigma is not positive and finite, or the moments are fewer than four, not finite, or of
        no measure (a second moment below the square of the first).

    Examples
    --------
    >>> import numpy as np
    >>> from landscape.spectra import Moments
    >>> exact = np.array([[0.5, 1.0, 2.0, 5.0]])  # half zeros, half a normal around 1
    >>> fit = fit_mixture(Moments(exact, np.ones(1), 10**6, "float64", 2), sigma=1e-9)
    >>> fit.status
    'fits'
    """
    expect_real(sigma=sigma)
    if not (np.isfinite(sigma) and sigma > 0):
        raise InputError(f"sigma must be positive and finite; got {sigma!r}")
    if moments.num_moments < 4:
        raise InputError(
            f"the mixture is fitted to four moments; these are {moments.num_moments}: ask "
            "spectral_moments for num_moments=4"
        )
    raw = moments.moments
    if not np.isfinite(raw).all():
        raise InputError("a moment is NaN or infinite")
    rounding = 10 * float(np.finfo(moments.dtype).eps)
    if raw[1] < 0 or raw[0] ** 2 > raw[1] * (1 + rounding):
        raise InputError(
            f"no measure has a mean of {raw[0]:.3g} and a second moment of {raw[1]:.3g}"
        )
    fit = _fit(raw, float(sigma), rounding, None)
    refits = [
        _fit(moments.without_probe(i).moments, float(sigma), rounding, fit.weight).weight
        for i in range(moments.num_probes if moments.num_probes > 1 else 0)
    ]
    bars = moments.stderr / _units(raw, fit.sigma)
    known = bool(np.isfinite(bars).all())
    within = bool((np.abs(fit.residual) <= np.maximum(ERROR_BARS * bars, TOLERANCE)).all())
    return dataclasses.replace(
        fit, weight_stderr=_jackknife(refits), within_error=within if known else None
    )


def _jackknife(values: list[float]) -> float:
    """Standard error from estimates that each leave one probe out; NaN without any."""
    return float(np.sqrt((len(values) - 1) * np.var(values))) if values else np.nan


def _fit(raw: np.ndarray, sigma: float, rounding: float, near: float | None) -> MixtureFit:
    """The fit without error bars; of several solutions, the one nearest to a weight if given."""
    if raw[1] <= sigma**2:
        return _made(raw, sigma, "narrow_only", 1.0, (0.0, 0.0, 0.0))
    if raw[1] - raw[0] ** 2 <= rounding * raw[1]:
        return _made(raw, sigma, "single_eigenvalue", 0.0, (float(raw[0]), 0.0, 0.0))
    unit = np.sqrt(raw[1])
    problem = _Matching.of(raw[:4], sigma, unit)
    broad = problem.solutions()
    status = ("does_not_fit", "fits", "ambiguous")[min(len(broad), 2)]
    if not broad:
        closest = problem.closest()
        if abs(_at(problem.skewness, closest)) > (1 - TOLERANCE) * problem.largest_skewness:
            status = "shape_at_bound"
        elif closest > 1 - TOLERANCE:
            status = "weight_at_bound"
    fits = [
        _made(raw, sigma, status, max(1 - p, 0.0), problem.component(p), 1 - np.array(broad))
        for p in broad or [closest]
    ]
    if near is not None:
        return min(fits, key=lambda fit: abs(fit.weight - near))
    if len(raw) > 4:
        return min(fits, key=lambda fit: np.abs(fit.residual[4:]).max())
    # Right in 65 of the 92 ambiguous cases of the module's docstring, the smallest in 26.
    return max(fits, key=lambda fit: fit.weight)


def _made(
    raw: np.ndarray,
    sigma: float,
    status: str,
    weight: float,
    component: tuple[float, float, float],
    solutions: np.ndarray | None = None,
) -> MixtureFit:
    """A fit with the residuals of its mixture."""
    orders = len(raw)
    broad, narrow = _skew_normal_moments(*component, orders), _normal_moments(sigma, orders)
    residual = (weight * narrow + (1 - weight) * broad - raw) / _units(raw, sigma)
    return MixtureFit(
        weight=weight,
        weight_stderr=np.nan,
        location=component[0],
        scale=component[1],
        shape=component[2],
        sigma=sigma,
        residual=residual,
        within_error=None,
        status=status,
        solutions=np.empty(0) if solutions is None else np.sort(solutions),
    )


def _units(raw: np.ndarray, sigma: float) -> np.ndarray:
    """What residuals are relative to."""
    second, fourth = max(raw[1], sigma**2), max(raw[3], 3 * sigma**4)
    units = [np.sqrt(second), second, np.sqrt(second) * np.sqrt(fourth), fourth]
    for order in range(5, len(raw) + 1):
        units.append(max(abs(raw[order - 1]), units[3] ** (order / 4)))
    return np.array(units)


@dataclasses.dataclass(frozen=True)
class _Matching:
    """Four moments in units in which the second is 1, and what is left of them for each p."""

    raw: np.ndarray
    sigma: float
    unit: float

    @classmethod
    def of(cls, raw: np.ndarray, sigma: float, unit: float) -> _Matching:
        return cls(raw / unit ** np.arange(1, 5), sigma / unit, unit)

    @property
    def largest_skewness(self) -> float:
        return float(_skewness(MAX_SHAPE))

    @property
    def least_weight(self) -> float:
        """The p below which the broad component's variance or kurtosis is that of no measure."""
        # The positive root of σ²p² + (1 − σ²)p − m_1², without cancellation.
        rest = 1 - self.sigma**2
        root = np.sqrt(rest**2 + 4 * self.sigma**2 * self.raw[0] ** 2)
        spread = 2 * self.raw[0] ** 2 / (rest + root)
        return float(min(max(spread, rest**2 / self.raw[3], _LEAST), 1.0))

    def central(self, p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Mean and central moments 2 to 4 of the broad component."""
        narrow = _normal_moments(self.sigma, 4)
        mean, second, third, fourth = (
            (m - (1 - p) * n) / p for m, n in zip(self.raw, narrow, strict=True)
        )
        return (
            mean,
            np.maximum(second - mean**2, 0),
            third - 3 * mean * second + 2 * mean**3,
            fourth - 4 * mean * third + 6 * mean**2 * second - 3 * mean**4,
        )

    def skewness(self, p: np.ndarray) -> np.ndarray:
        """Skewness that the broad component would need."""
        _, variance, third, _ = self.central(p)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.nan_to_num(third / variance**1.5)

    def mismatch(self, p: np.ndarray) -> np.ndarray:
        """What is missing in the fourth moment, in m_4, with a shape that need not be possible."""
        _, variance, third, fourth = self.central(p)
        # variance²·(excess kurtosis) of the skewness third/variance^1.5; finite at variance 0.
        excess = 2 * (np.pi - 3) * np.abs(2 * third / (4 - np.pi)) ** (4 / 3)
        return p * (3 * variance**2 + excess - fourth) / self.raw[3]

    def distance(self, p: np.ndarray) -> np.ndarray:
        """Residuals of the third and fourth moment together, the shape kept within its bound."""
        mean, variance, third, fourth = self.central(p)
        largest = self.largest_skewness * variance**1.5
        possible = np.clip(third, -largest, largest)
        excess = 2 * (np.pi - 3) * np.abs(2 * possible / (4 - np.pi)) ** (4 / 3)
        off_third = p * (possible - third)
        off_fourth = p * (3 * variance**2 + excess - fourth) + 4 * mean * off_third
        return np.hypot(off_third / np.sqrt(self.raw[3]), off_fourth / self.raw[3])

    def component(self, p: float) -> tuple[float, float, float]:
        """Location, scale and shape of the broad component, in the eigenvalues' own units."""
        mean, variance, *_ = (float(value[0]) for value in self.central(np.array([p])))
        skewness = np.clip(_at(self.skewness, p), -self.largest_skewness, self.largest_skewness)
        x = np.cbrt(2 * skewness / (4 - np.pi))
        t = x / np.sqrt(1 + x**2)
        delta = t * np.sqrt(np.pi / 2)
        scale = np.sqrt(variance / (1 - t**2))
        shape = delta / np.sqrt(1 - delta**2)
        return float((mean - scale * t) * self.unit), float(scale * self.unit), float(shape)

    @property
    def grid(self) -> np.ndarray:
        """Broad weights, dense in every place where a solution may hide: both ends, and between."""
        near = np.logspace(-9, 0, _GRID)
        inside = np.concatenate([near, np.linspace(0, 1, _GRID), 1 - near])
        # A point that is there twice, but for rounding, would pass for a minimum.
        inside = np.unique(inside.round(12))
        return np.minimum(self.least_weight + (1 - self.least_weight) * inside, 1)

    def solutions(self) -> list[float]:
        """Every p at which a mixture with a possible shape has the four moments."""
        from scipy.optimize import brentq

        grid = self._parted(self.grid)
        mismatch = self.mismatch(grid)
        crossings = np.flatnonzero(np.sign(mismatch[1:]) != np.sign(mismatch[:-1]))
        found = [
            float(brentq(partial(_at, self.mismatch), grid[i], grid[i + 1], xtol=1e-15))
            for i in crossings
            if mismatch[i + 1]
        ]
        # Two roots that touch cross nothing, and one at an end may be missed by rounding.
        found += self._minima(grid, apart_from=crossings)
        found = sorted(p for p in found if _at(self.distance, p) <= TOLERANCE)
        return [p for i, p in enumerate(found) if not i or p - found[i - 1] > 1e-3 * min(p, 1e-3)]

    def closest(self) -> float:
        """The p of the least distance."""
        return min(self._minima(self.grid), key=lambda p: _at(self.distance, p))

    def _parted(self, grid: np.ndarray) -> np.ndarray:
        """The grid and the turning points of the mismatch, which part roots between two points."""
        mismatch = self.mismatch(grid)
        turning = []
        for i in _lowest(np.abs(mismatch)):
            turning.append(_refined(partial(self._signed, np.sign(mismatch[i])), grid, i))
        return np.unique(np.concatenate([grid, turning]))

    def _signed(self, sign: float, p: np.ndarray) -> np.ndarray:
        return sign * self.mismatch(p)

    def _minima(self, grid: np.ndarray, apart_from: np.ndarray | None = None) -> list[float]:
        """Local minima of the distance, the ends of the range included; not at known roots."""
        distance = self.distance(grid)
        if apart_from is not None:
            possible = np.abs(self.skewness(grid)) <= self.largest_skewness
            known = apart_from[possible[apart_from] & possible[apart_from + 1]]
            distance[known] = distance[known + 1] = np.inf
        return [_refined(self.distance, grid, i) for i in _lowest(distance)]


def _lowest(values: np.ndarray) -> list[int]:
    """Where values on a grid have their lowest local minima, the ends included."""
    padded = np.concatenate([[np.inf], values, [np.inf]])
    places = np.flatnonzero((values <= padded[:-2]) & (values <= padded[2:]) & np.isfinite(values))
    return places[np.argsort(values[places], kind="stable")][:_MINIMA].tolist()


def _refined(function: Callable[[np.ndarray], np.ndarray], grid: np.ndarray, i: int) -> float:
    """The minimum of a function near a point of a grid."""
    from scipy.optimize import minimize_scalar

    low, high = grid[max(i - 1, 0)], grid[min(i + 1, len(grid) - 1)]
    refined = minimize_scalar(
        partial(_at, function),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-10 * high},
    )
    return float(refined.x if refined.fun < _at(function, grid[i]) else grid[i])


def _at(function: Callable[[np.ndarray], np.ndarray], p: float) -> float:
    """A function of many p at one."""
    return float(function(np.array([p]))[0])


def _skewness(shape: float) -> float:
    """Skewness of a skew-normal."""
    t = shape / np.sqrt(1 + shape**2) * np.sqrt(2 / np.pi)
    return (4 - np.pi) / 2 * (t / np.sqrt(1 - t**2)) ** 3


def _normal_moments(sigma: float, orders: int) -> np.ndarray:
    """Raw moments 1 to n of a normal variable of mean 0."""
    values = [1.0, 0.0]
    for j in range(2, orders + 1):
        values.append((j - 1) * sigma**2 * values[j - 2])
    return np.array(values[1:])


def _skew_normal_moments(location: float, scale: float, shape: float, orders: int) -> np.ndarray:
    """Raw moments 1 to n, from ``z = δ|u| + √(1 − δ²)·v`` with u, v independent standard normal."""
    delta = shape / np.sqrt(1 + shape**2)
    normal = np.concatenate([[1.0], _normal_moments(1.0, orders)])
    # E|u|^j is the normal's own for even j; for odd ones E|u|^j = (j − 1)·E|u|^(j−2).
    folded = [1.0, np.sqrt(2 / np.pi)]
    for j in range(2, orders + 1):
        folded.append((j - 1) * folded[j - 2])
    standard = [
        sum(
            comb(j, i) * delta**i * folded[i] * (1 - delta**2) ** ((j - i) / 2) * normal[j - i]
            for i in range(j + 1)
        )
        for j in range(orders + 1)
    ]
    return np.array(
        [
            sum(comb(j, i) * location ** (j - i) * scale**i * standard[i] for i in range(j + 1))
            for j in range(1, orders + 1)
        ]
    )
