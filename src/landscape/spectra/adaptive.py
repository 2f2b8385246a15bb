"""As many Lanczos steps as a wanted certainty takes."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Array

from landscape._pytrees import pytree
from landscape.curvature.inner_types import expect_known_rounding
from landscape.curvature.operators import LinearOperator
from landscape.curvature.preconditions import expect_positive, expect_real
from landscape.errors import InputError
from landscape.results import Result
from landscape.spectra.fractions import ROUNDING, Fraction, degenerate_fraction
from landscape.spectra.measures import LanczosSpectrum
from landscape.spectra.slq import LostOrthogonalityError, lanczos_run

# Steps before the first look, and the factor between looks: a look takes a few small
# eigendecompositions, and on average an eighth of the steps is made in vain.
FIRST_LOOK = 32
GROWTH = 1.25

# Steps there is room for at first; more is made by doubling, a compilation each time.
_ROOM = 256


@pytree
@dataclasses.dataclass(frozen=True)
class ResolvedFraction(Result):
    """A share of the eigenvalues, and whether its bounds are as close as was wanted.

    Attributes
    ----------
    fraction
        With the bounds that were reached.
    spectrum
        What it was read from.
    status
        (*batch,) of strings: ``"atom"``, eigenvalues lie so near an end of the interval that
        rounding cannot tell on which side, and the weight of these alone is more than the width:
        no number of steps says more, and bounds that are closer are by chance; else ``"reached"``
        (what rounding may take from the bounds is told apart, ``fraction.rounding``);
        ``"max_steps"``, more steps may bring it; ``"exhausted"``, every Krylov space ended and the
        bounds are final.
    """

    fraction: Fraction
    spectrum: LanczosSpectrum
    status: np.ndarray

    def __repr__(self) -> str:
        steps = self.spectrum.alphas.shape[-1]
        status = ", ".join(sorted(set(self.status.ravel().tolist())))
        made = f"{steps} step{'s' if steps > 1 else ''}"
        return f"ResolvedFraction({self.fraction!r}, {status} after {made})"


def resolve_fraction(
    op: LinearOperator,
    key: Array,
    measure: Callable[..., Fraction] = degenerate_fraction,
    *,
    eps: float | None = None,
    width: float = 0.05,
    max_steps: int = 1000,
    num_probes: int = 1,
    noise_floor: float | np.ndarray | None = None,
    **options: Any,
) -> ResolvedFraction:
    """Make Lanczos steps until a share's bounds are no farther apart than wanted.

    Parameters
    ----------
    op
        Symmetric operator, (P, P), or a family of S of them.
    key
        JAX random key for the probes.
    measure
        From a spectrum to the share: ``degenerate_fraction``, or
        ``lambda spectrum: negative_fraction(spectrum, 1e-4)``.
    eps
        Passed on to ``measure``; None leaves its own.
    width
        Distance wanted between ``fraction.lower`` and ``fraction.upper``, at least what rounding
        takes from both in any case: 4·10⁻⁴ in float32, 4·10⁻⁹ in float64. What the probes leave
        open comes on top (``fraction.confidence_interval``).
    max_steps
        Steps to stop at.
    num_probes, noise_floor
        As for ``slq``.
    options
        ``reorthogonalize``, ``deflate`` and ``memory``, as for ``slq``; the scheme is chosen for
        ``max_steps``.

    Returns
    -------
    ResolvedFraction, of all networks of a family once each has ended.

    Raises
    ------
    InputError
        If the width is below what rounding leaves, max_steps is below 1, an option is unknown, and
        as ``slq`` and ``measure``.
    ResourceError
        As ``slq`` with ``max_steps``.

    Examples
    --------
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from landscape.curvature import DiagonalOperator
    >>> op = DiagonalOperator(jnp.linspace(0.0, 1.0, 300) ** 8)
    >>> result = resolve_fraction(op, jax.random.key(0), width=0.1)
    >>> result.status.item(), bool(result.fraction.width <= 0.1)
    ('reached', True)
    """
    expect_positive(max_steps=max_steps)
    expect_real(width=width)
    if not width > 0:
        raise InputError(f"width must be positive; got {width!r}")
    if unknown := sorted(options.keys() - {"reorthogonalize", "deflate", "memory"}):
        raise InputError(
            f"resolve_fraction has no option {', '.join(unknown)}; what concerns the share belongs "
            "into measure, such as lambda spectrum: negative_fraction(spectrum, 1e-4)"
        )
    if not callable(measure):
        raise InputError(
            f"measure must be a function of a spectrum, such as degenerate_fraction; got "
            f"{measure!r}. An ε is passed by its name, eps"
        )
    if eps is not None:
        try:
            inspect.signature(measure).bind(None, eps=eps)
        except TypeError:
            raise InputError(
                f"eps is passed on to measure, and {measure!r} takes none: write it into measure"
            ) from None
        measure = functools.partial(measure, eps=eps)

    def walk(**options: Any) -> ResolvedFraction:
        return _walk(op, key, measure, width, max_steps, num_probes, noise_floor, options)

    try:
        return walk(**options)
    except LostOrthogonalityError:
        if options.get("reorthogonalize", "auto") != "auto":
            raise
    return walk(**{**options, "reorthogonalize": "full"})


def _walk(
    op: LinearOperator,
    key: Array,
    measure: Callable[[LanczosSpectrum], Fraction],
    width: float,
    max_steps: int,
    num_probes: int,
    noise_floor: float | np.ndarray | None,
    options: dict[str, Any],
) -> ResolvedFraction:
    """Steps, and looks, until the share is resolved."""
    run = lanczos_run(op, key, num_probes=num_probes, capacity=max_steps, reserve=_ROOM, **options)
    expect_known_rounding(run.coarser, op, noise_floor)
    steps = min(FIRST_LOOK, max_steps)
    while True:
        run = run.advance(steps)
        spectrum = run.spectrum(noise_floor)
        fraction = measure(spectrum)
        if not isinstance(fraction, Fraction):
            raise InputError(
                f"measure must return a Fraction, as degenerate_fraction does; got "
                f"{type(fraction).__name__}"
            )
        if fraction.curve:
            raise InputError("measure must return one share; got a curve of them")
        always = ROUNDING[spectrum.dtype]
        if fraction.certified and width < 2 * always:
            raise InputError(
                f"a width of {width:g} cannot be certified: rounding of {spectrum.dtype} products "
                f"may move each bound by {always:g}. Take a larger width, or float64"
            )
        exhausted = np.asarray(run.state.exhausted).reshape(spectrum.num_steps.shape)
        ended = np.asarray(exhausted.all(-1))
        status = _status(fraction, spectrum, width, ended)
        if steps >= max_steps or (status != "max_steps").all():
            return ResolvedFraction(fraction, spectrum, status)
        steps = min(math.ceil(GROWTH * steps), max_steps)


def _status(
    fraction: Fraction, spectrum: LanczosSpectrum, width: float, ended: np.ndarray
) -> np.ndarray:
    """``ended``: (*batch,) whether every probe's Krylov space is exhausted."""
    everything = (
        spectrum.reorthogonalize != "none" and spectrum.alphas.shape[-1] == spectrum.num_dimensions
    )
    status = np.full(np.shape(fraction.estimate), "max_steps", dtype="<U9")
    for index in np.ndindex(status.shape):
        if _weight_at_ends(fraction, spectrum, index) > width:
            status[index] = "atom"
        elif fraction.width[index] <= width:
            status[index] = "reached"
        elif ended[index] or everything:
            status[index] = "exhausted"
    return status


def _weight_at_ends(fraction: Fraction, spectrum: LanczosSpectrum, index: tuple[int, ...]) -> float:
    """Weight of the converged Ritz values within the noise floor of an end of the interval."""
    ends = [np.broadcast_to(end, np.shape(fraction.estimate))[index] for end in fraction.interval]
    floor = fraction.noise_floor[index]
    total = 0.0
    for probe, share in enumerate(spectrum.shares[index]):
        at = (*index, probe)
        nodes, weights, residuals = spectrum.ritz(at)
        near = np.min([np.abs(nodes - end) for end in ends], 0) <= floor
        total += share * weights[near & (residuals <= floor)].sum()
    return float(total) * spectrum.num_dimensions / spectrum.num_parameters
