r"""A chain of L scalar weights that learn one number.

Notation: the chain computes ``y = a^L`` (all weights alike), the loss is ``½ (s − a^L)²``, each
weight follows ``da/dt = (s − a^L) a^{L−1}``; with skips ``a = 1 + w``, and w is what is learned.
For ``b = a^L`` that is ``db/dt = L b^p (s − b)``, ``p = 2 − 2/L``, and the time from b₀ to b₁ is

    ``t = (F(b₁/s) − F(b₀/s)) s^{−p} / L``,  ``F(x) = x^{1−p} ₂F₁(1, 1 − p; 2 − p; x) / (1 − p)``,

for L = 2, where p = 1, ``F(x) = ln(x/(1 − x))``. From small weights it grows like ``a₀^{2−L}``: the
point a = 0 is degenerate. With skips a starts near 1, and the time falls with depth. Source of the
equation: A. M. Saxe, J. L. McClelland and S. Ganguli, *Exact solutions to the nonlinear dynamics of
learning in deep linear neural networks*, ICLR 2014 (arXiv:1312.6120); skips: A. E. Orhan and
X. Pitkow, ICLR 2018. The hypergeometric form is ours.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from scipy.special import hyp2f1

from landscape.errors import InputError
from landscape.theory.flow import Trajectory, gradient_flow


def learning_time(
    depth: int, target: float, start: float, *, fraction: float = 0.99, skip: bool = False
) -> float:
    """How long the chain takes to compute a share of its target, in closed form.

    Parameters
    ----------
    depth
        L ≥ 1.
    target
        s > 0.
    start
        Initial weight: a > 0, or w > −1 with skips; below the end.
    fraction
        Share of the target to reach, below 1.
    skip
        Whether each weight has a skip beside it.

    Returns
    -------
    Time of the flow, in units of the learning rate's inverse; infinite where it is beyond float64.

    Raises
    ------
    InputError
        If an argument is outside its range, or the chain starts beyond the end.

    Examples
    --------
    >>> round(learning_time(1, 1.0, 0.01), 3)  # log 99
    4.595
    >>> learning_time(20, 2.0, 0.01, skip=True) < learning_time(2, 2.0, 0.01, skip=True)
    True
    """
    first, last = _checked(depth, target, start, fraction, skip)
    p = 2 - 2 / depth
    # It grows like a₀^(2 − L): from where the product is no number any more it is beyond all.
    if depth > 2 and (first / target) ** (p - 1) < np.finfo(float).tiny:
        return float("inf")
    area = _antiderivative(p, last / target) - _antiderivative(p, first / target)
    return float(area * target**-p / depth)


def integrate(
    depth: int,
    target: float,
    start: float,
    duration: float,
    *,
    fraction: float = 0.99,
    skip: bool = False,
) -> Trajectory:
    """Gradient flow of the chain's L weights, each by itself, from the same start.

    Parameters
    ----------
    depth, target, start, fraction, skip
        As for ``learning_time``.
    duration
        Time to integrate at most.

    Returns
    -------
    Trajectory of (T, L) weights, w with skips; ``reached`` is the learning time.

    Raises
    ------
    InputError
        As ``learning_time``.
    """
    _checked(depth, target, start, fraction, skip)

    end = (target * (1 - fraction)) ** 2 / 2
    given = target, float(skip)
    return gradient_flow(_loss, np.full(depth, start), duration, until=end, args=given)


def _loss(weights: Array, target: Array, skip: Array) -> Array:
    return (target - jnp.prod(weights + skip)) ** 2 / 2


def _checked(
    depth: int, target: float, start: float, fraction: float, skip: bool
) -> tuple[float, float]:
    """The chain's output at the start and at the end."""
    if depth != int(depth) or depth < 1:
        raise InputError(f"depth must be a whole number, at least 1; got {depth}")
    weight = start + 1 if skip else start
    if not (0 < target < np.inf and 0 < weight < np.inf and 0 < fraction < 1):
        least = "-1" if skip else "0"
        raise InputError(
            f"target must be positive and finite, start above {least}, fraction within (0, 1); got "
            f"{target!r}, {start!r}, {fraction!r}"
        )
    first, last = weight**depth, fraction * target
    if first >= last:
        raise InputError(
            f"the chain starts at {first:.4g}, and should come to {last:.4g} from below"
        )
    return first, last


def _antiderivative(p: float, x: float) -> float:
    """Of ``x^{−p}/(1 − x)``."""
    if p == 1:
        return float(np.log(x) - np.log1p(-x))
    return float(x ** (1 - p) / (1 - p) * hyp2f1(1, 1 - p, 2 - p, x))
