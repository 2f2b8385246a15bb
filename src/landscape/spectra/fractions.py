r"""Shares of a spectrum: how many eigenvalues lie in an interval, with bounds and error bars.

Notation: ``f = μ[a, b]`` the share of eigenvalues in an interval. A Lanczos spectrum gives an
*estimate* (the Gauss weight inside), *certified* bounds for the probes' own measure
(``landscape.spectra.bounds``), and a *standard error* for what the probes leave open. With
Gaussian probes the pooled mass of k probes is Beta(kPf/2, kP(1−f)/2), of variance
``f(1−f)/(kP/2 + 1)``. That law, turned round over the possible counts ``d = Pf`` as for a binomial
share, gives a *confidence interval* that covers the probes and the Lanczos steps together (C. J.
Clopper and E. S. Pearson, *The use of confidence or fiducial limits illustrated in the case of the
binomial*, Biometrika 26, 1934).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.special import betainc

from landscape._pytrees import pytree
from landscape.curvature.preconditions import expect_level
from landscape.errors import InputError
from landscape.results import Result
from landscape.spectra.masses import known_inside, mass_bounds, turned
from landscape.spectra.measures import SpectralMeasure, Spectrum, expect_spectrum, numbers

# What is always part of η. Rounding moves eigenvalues by δ, and turns eigenvectors of eigenvalues
# on both sides of an end into each other, which moves mass: that part is computed
# (``landscape.spectra.masses.turned``). Largest error of a bound seen beyond δ where that part is
# small, of 42,000: 10⁻⁴ in float32, 10⁻¹¹ in float64.
ROUNDING = {"float64": 2e-9, "float32": 2e-4}


@pytree
@dataclasses.dataclass(frozen=True)
class Fraction(Result):
    """A share of the eigenvalues, of this batch's operator.

    Attributes
    ----------
    estimate
        (*batch,) in [0, 1].
    lower, upper
        (*batch,) bounds on the probes' own measure; equal to the estimate for a dense spectrum.
    stderr
        (*batch,) standard error over probes, the largest of any share within the bounds; 0 for
        a dense spectrum.
    noise_floor
        (*batch,) δ, the noise floor of the operator: interval ends are known no better.
    rounding
        (*batch,) η, what rounding may take from the bounds besides; more, where much mass lies
        close to an end on both of its sides. Certified means: with the interval δ wider at each
        end the probes' mass is at least ``lower − η``, with it δ narrower at most ``upper + η``.
    interval
        The ends (a, b).
    certified
        Whether the bounds are proved, up to δ and η. Without reorthogonalisation they are
        empirical.
    num_parameters
        P.
    num_probes
        k; 0 for a dense spectrum.
    known, num_known
        Among the eigenvalues known one by one (deflated): (*batch,) how many lie inside, and how
        many there are.
    curve
        Whether the last axis is of intervals, as of ``fraction_curve``, and not of networks.
    """

    estimate: Float[np.ndarray, "*batch"]
    lower: Float[np.ndarray, "*batch"]
    upper: Float[np.ndarray, "*batch"]
    stderr: Float[np.ndarray, "*batch"]
    noise_floor: Float[np.ndarray, "*batch"]
    rounding: Float[np.ndarray, "*batch"]
    interval: tuple[Any, Any]
    certified: bool
    num_parameters: int
    num_probes: int
    known: Int[np.ndarray, "*batch"]
    num_known: int
    curve: bool = False

    _apart = ("interval",)

    @property
    def width(self) -> Float[np.ndarray, "*batch"]:
        """Distance between the bounds."""
        return np.asarray(self.upper - self.lower)

    @property
    def hint(self) -> str:
        """What to do about bounds that say little; empty if they do not."""
        wide = bool(np.max(self.width) > _OPEN)
        return "more steps narrow the bounds: resolve_fraction" if wide else ""

    def confidence_interval(
        self, level: float = 0.95
    ) -> tuple[Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch"]]:
        """What the share can be, given probes that were drawn at random and finitely many steps.

        Parameters
        ----------
        level
            Probability with which the interval covers the share, at least, whatever the share is.
            Eigenvalues within the noise floor of an end of ``interval`` may count on either side:
            the share is that with the ends moved by so much.

        Returns
        -------
        low, high
            (*batch,) each: with k probes and bounds [l, u], the smallest and the largest ``d/P`` of
            counts d for which a mass of at least ``l − η``, or of at most ``u + η``, has more
            probability than (1 − level)/2. For a dense spectrum both are the share itself. Where
            no count goes with both bounds, which rounding at an end can bring about, they are the
            counts that go with either.

        Raises
        ------
        InputError
            If the level is not between 0 and 1.
        """
        expect_level(level)
        if not self.num_probes:
            return np.asarray(self.estimate), np.asarray(self.estimate)
        size, half = self.num_parameters - self.num_known, self.num_probes / 2
        # The probes' own mass: that of the dimensions whose eigenvalues are not known.
        lower, upper = (
            (bound * self.num_parameters - self.known) / size for bound in (self.lower, self.upper)
        )
        rounding = self.rounding * self.num_parameters / size
        lower = np.asarray(np.clip(lower - rounding, 0, 1))
        upper = np.asarray(np.clip(upper + rounding, 0, 1))
        # Turned over (what lies outside has at least mass 1 − u), one end is the other.
        low = _smallest_count(lower, size, half, (1 - level) / 2)
        high = size - _smallest_count(np.asarray(1 - upper), size, half, (1 - level) / 2)
        low, high = np.minimum(low, high), np.maximum(low, high)
        low, high = (np.asarray((n + self.known) / self.num_parameters) for n in (low, high))
        return low, high

    def to_xarray(self) -> Any:
        """As an ``xarray.Dataset``, with the ends: of a curve along its axis ``interval``."""
        dataset = super().to_xarray()
        low, high = (np.asarray(end, float) for end in self.interval)
        if not low.ndim and not high.ndim:
            return dataset.assign_attrs(interval=[float(low), float(high)])
        dims = dataset["estimate"].dims
        if self.curve:
            *networks, last = dims
            names = {last: "interval"} | ({networks[0]: "network"} if len(networks) == 1 else {})
            dataset, along = dataset.rename_dims(names), ("interval",)
        else:
            along = dims
        shape = tuple(dataset.sizes[dim] for dim in along)
        ends = {
            name: (along, np.broadcast_to(end, shape))
            for name, end in (("lower_end", low), ("upper_end", high))
        }
        return dataset.assign_coords(ends)

    def __repr__(self) -> str:
        if np.ndim(self.estimate):
            return f"Fraction(shape {np.shape(self.estimate)}, mean {np.mean(self.estimate):.4f})"
        ends = ", ".join(f"{float(end):.4g}" for end in self.interval)
        what = f"{self.estimate:.4f} of {self.num_parameters} eigenvalues in [{ends}]"
        if not self.num_probes:
            return f"Fraction({what}, counted; interval ends ±{self.noise_floor:.1e})"
        kind = "certified" if self.certified else "empirical"
        low, high = self.confidence_interval()
        probes = f"{self.num_probes} probe{'s' if self.num_probes > 1 else ''}"
        hint = f"; {self.hint}" if self.hint else ""
        return (
            f"Fraction({what}, {kind} [{self.lower:.4f}, {self.upper:.4f}] for the {probes}, "
            f"95% confidence [{low:.4f}, {high:.4f}]; interval ends ±{self.noise_floor:.1e}, "
            f"bounds ±{self.rounding:.0e}{hint})"
        )


# Bounds that are wider say little: what narrows them is told.
_OPEN = 0.25


def _smallest_count(mass: np.ndarray, size: int, half: float, tail: float) -> np.ndarray:
    """The smallest count d for which the probes see at least this mass with more than ``tail``.

    ``P(X ≥ mass)`` of ``X ~ Beta(half·d, half·(size − d))`` grows with d: bisection.
    """
    # Invariant: too few at ``low`` (or −1), enough at ``high``.
    low, high = np.full(mass.shape, -1), np.full(mass.shape, size)
    while np.any(high - low > 1):
        middle = (low + high) // 2
        inside = np.clip(middle, 0.5, size - 0.5)
        above = 1 - betainc(half * inside, half * (size - inside), mass)
        above = np.where(middle <= 0, mass <= 0, np.where(middle >= size, True, above))
        open_, enough = high - low > 1, above > tail
        low = np.where(open_ & ~enough, middle, low)
        high = np.where(open_ & enough, middle, high)
    return high


def fraction_between(spectrum: Spectrum, lower: Any, upper: Any) -> Fraction:
    """Share of the eigenvalues in the closed interval [lower, upper].

    Parameters
    ----------
    spectrum
        Dense or Lanczos.
    lower, upper
        Ends, scalars or (*batch,); −inf and inf are allowed.

    Returns
    -------
    Fraction

    Raises
    ------
    InputError
        If an end is NaN or lower > upper.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from landscape.curvature import DiagonalOperator
    >>> from landscape.spectra import dense_spectrum
    >>> spectrum = dense_spectrum(DiagonalOperator(jnp.array([0.0, 1.0, 2.0, 3.0])))
    >>> float(fraction_between(spectrum, 1.0, 2.5).estimate)
    0.5
    """
    expect_spectrum(spectrum)
    low, high = numbers(lower, "lower"), numbers(upper, "upper")
    if not np.all(low <= high):
        raise InputError(f"the interval [{lower}, {upper}] is empty or not a number")
    _expect_one_each(spectrum, low, "lower")
    _expect_one_each(spectrum, high, "upper")
    inside = (spectrum.nodes >= low[..., None]) & (spectrum.nodes <= high[..., None])
    estimate = np.asarray(np.clip(np.where(inside, spectrum.weights, 0).sum(-1), 0, 1))
    if isinstance(spectrum, SpectralMeasure):
        return make_fraction(spectrum, estimate, estimate, estimate, (lower, upper))
    bounds = mass_bounds(spectrum, low, high)
    return make_fraction(spectrum, estimate, *bounds, (lower, upper))


def degenerate_fraction(
    spectrum: Spectrum,
    eps: float = 1e-3,
    *,
    relative_to: float | np.ndarray | str | None = None,
    center: float = 0.0,
    force: bool = False,
) -> Fraction:
    """Share of the eigenvalues with ``|λ − center| ≤ eps``: the nearly flat directions.

    Parameters
    ----------
    spectrum
        Dense or Lanczos.
    eps
        Half-width ε; 10⁻³ is the width of the narrow component in A. E. Orhan and X. Pitkow, ICLR
        2018. It is absolute: the Hessian's scale moves with architecture and loss, so look at the
        whole curve (``fraction_curve``) too.
    relative_to
        Multiplies ε: a number, or ``"norm"`` for the operator's spectral norm.
    center
        Middle of the interval.
    force
        Answer for an ε below the noise floor too. The ends of the interval are then lost in
        rounding.

    Returns
    -------
    Fraction

    Raises
    ------
    InputError
        If ε is not positive, or below the noise floor of the arithmetic and not forced.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from landscape.curvature import DiagonalOperator
    >>> from landscape.spectra import dense_spectrum
    >>> spectrum = dense_spectrum(DiagonalOperator(jnp.array([-2.0, -5e-4, 0.0, 1.0])))
    >>> float(degenerate_fraction(spectrum, 1e-3).estimate)
    0.5
    """
    width = half_width(spectrum, eps, relative_to, force)
    middle = numbers(center, "center")
    return fraction_between(spectrum, middle - width, middle + width)


def negative_fraction(
    spectrum: Spectrum,
    eps: float = 1e-3,
    *,
    relative_to: float | np.ndarray | str | None = None,
    force: bool = False,
) -> Fraction:
    """Share of the eigenvalues below ``−eps``.

    Parameters
    ----------
    spectrum, eps, relative_to, force
        As for ``degenerate_fraction``; an eigenvalue nearer to zero counts as degenerate.

    Returns
    -------
    Fraction

    Raises
    ------
    InputError
        As ``degenerate_fraction``.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from landscape.curvature import DiagonalOperator
    >>> from landscape.spectra import dense_spectrum
    >>> spectrum = dense_spectrum(DiagonalOperator(jnp.array([-2.0, -5e-4, 0.0, 1.0])))
    >>> float(negative_fraction(spectrum, 1e-3).estimate)
    0.25
    """
    width = half_width(spectrum, eps, relative_to, force)
    return fraction_between(spectrum, -np.inf, -np.nextafter(width, np.inf))


def _expect_one_each(spectrum: Spectrum, value: np.ndarray, name: str) -> None:
    """Refuse what is neither one number nor one for each operator."""
    batch = spectrum.nodes.shape[:-1]
    if value.shape not in ((), batch):
        each = f", or an array of shape {batch}" if batch else ""
        raise InputError(
            f"{name} must be a number{each}; got an array of shape {value.shape}. For many "
            "intervals take fraction_curve"
        )


def make_fraction(
    spectrum: Spectrum,
    estimate: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    interval: Any,
    *,
    curve: bool = False,
) -> Fraction:
    """A fraction with its standard error and noise floor."""
    known = known_inside(spectrum, interval[0], interval[1], estimate)
    if isinstance(spectrum, SpectralMeasure):
        stderr, rounding, certified = np.zeros_like(estimate), np.zeros_like(estimate), True
        num_probes = 0
        num_known = 0
    else:
        num_probes, num_known = spectrum.num_probes, spectrum.num_deflated
        size = spectrum.num_parameters
        free = size - num_known
        # The probes' own mass, of the dimensions whose eigenvalues are not known.
        least, most = (np.clip((x * size - known) / free, 0, 1) for x in (lower, upper))
        middle = np.clip(0.5, least, most)
        deviation = np.sqrt(middle * (1 - middle) / (num_probes * free / 2 + 1))
        stderr = np.asarray(free / size * deviation)
        # One axis for intervals, of one too.
        ends = (np.asarray(end, float)[..., None] if not curve else end for end in interval)
        across = turned(spectrum, *ends)
        across = across if curve else across[..., 0]
        rounding = np.asarray(np.minimum(ROUNDING[spectrum.dtype] + across, 1))
        certified = spectrum.reorthogonalize != "none"
    floor = np.asarray(spectrum.noise_floor)
    floor = floor.reshape(floor.shape + (1,) * (np.ndim(estimate) - floor.ndim))
    return Fraction(
        estimate=estimate,
        lower=lower,
        upper=upper,
        stderr=stderr,
        noise_floor=np.broadcast_to(floor, np.shape(estimate)),
        rounding=rounding,
        interval=interval,
        certified=certified,
        num_parameters=spectrum.num_parameters,
        num_probes=num_probes,
        known=known,
        num_known=num_known,
        curve=curve,
    )


def half_width(
    spectrum: Spectrum, eps: float, relative_to: float | np.ndarray | str | None, force: bool
) -> np.ndarray:
    """The absolute ε, refused if rounding is larger."""
    expect_spectrum(spectrum)
    if not np.all(numbers(eps, "eps") > 0):
        raise InputError(f"eps must be positive; got {eps!r}")
    if isinstance(relative_to, str) and relative_to != "norm":
        raise InputError(f"relative_to must be a number, 'norm' or None; got {relative_to!r}")
    scale = spectrum.norm if isinstance(relative_to, str) else relative_to
    if scale is not None and not np.all(np.asarray(scale) >= 0):
        raise InputError(f"relative_to must not be negative; got {relative_to!r}")
    if scale is not None and not np.all(np.asarray(scale)):
        raise InputError(
            "the operator's norm is 0, and so is an eps relative to it: give eps alone"
        )
    width = np.asarray(numbers(eps, "eps") * (1.0 if scale is None else scale), float)
    _expect_one_each(spectrum, width, "eps")
    if not force and np.any(width < spectrum.noise_floor):
        raise InputError(
            f"eps = {np.min(width):.2e} is below the noise floor of the arithmetic, "
            f"{np.max(spectrum.noise_floor):.2e}: eigenvalues that small are rounding. Take a "
            "larger eps, or float64; force=True answers all the same"
        )
    return width
