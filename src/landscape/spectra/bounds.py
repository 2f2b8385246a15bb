r"""Certified bounds on a spectral distribution function from Lanczos steps.

Notation: ``Ψ(x) = μ(-∞, x]`` for the probe's spectral measure μ (mass 1), ``T_m`` its tridiagonal
matrix after m steps, ``β_m`` the coupling to the next. The Gauss–Radau rule with a node fixed at x
is the spectral decomposition of the (m+1)×(m+1) matrix whose last diagonal entry is
``x + β_m² e_mᵀ(T_m − xI)⁻¹e_m``; it is exact to degree 2m, and the Chebyshev–Markov–Stieltjes
inequalities give ``Σ_{θ<x} ω ≤ Ψ(x⁻) ≤ Ψ(x) ≤ Σ_{θ≤x} ω``. Its node at x is number k+1, k the
number of Ritz values of T_m below x (interlacing), never "the nearest".

Sources: G. H. Golub, *Some modified matrix eigenvalue problems*, SIAM Review 15, 1973 (the matrix);
G. Szegő, *Orthogonal Polynomials*, 1939, §3.41 (the inequalities); G. H. Golub and G. Meurant,
*Matrices, Moments and Quadrature*, 2010.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh_tridiagonal

# Within this distance of a Ritz value, relative to ‖T‖, the fixed node's entry overflows: the point
# is moved outwards, which by monotonicity keeps the bound.
_NEAR_RITZ = 4e-9

# Sums of squares of polynomials beyond which the next one might overflow.
_HUGE = 1e200


def distribution_bounds(
    alphas: np.ndarray, betas: np.ndarray, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds ``lower ≤ Ψ(x⁻)`` and ``Ψ(x) ≤ upper`` at each point x.

    Parameters
    ----------
    alphas
        (m,) diagonal of T.
    betas
        (m,) off-diagonal, the last the coupling to the step that was not made; 0 if the Krylov
        space is exhausted.
    points
        (n,) finite values of x.

    Returns
    -------
    lower, upper
        (n,) each, in [0, 1].
    """
    ritz, vectors = eigh_tridiagonal(alphas, betas[:-1])
    near = _NEAR_RITZ * max(np.abs(ritz).max(), np.finfo(float).tiny)
    if betas[-1] == 0:
        # T's own measure is the probe's. A Ritz value within rounding of x may lie on either side.
        cumulative = np.concatenate([[0.0], np.cumsum(vectors[0] ** 2)])
        below = np.searchsorted(ritz, points - near, "left")
        upto = np.searchsorted(ritz, points + near, "right")
        return cumulative[below], np.minimum(cumulative[upto], 1)
    lower, upper = np.empty(len(points)), np.empty(len(points))
    for i, x in enumerate(points):
        before, after = _away(x, ritz, near, -1), _away(x, ritz, near, +1)
        lower[i], upper[i] = _radau(alphas, betas, before, ritz)
        if after != before:
            upper[i] = _radau(alphas, betas, after, ritz)[1]
    return np.clip(lower, 0, 1), np.clip(upper, 0, 1)


def gauss_bounds(
    ritz: np.ndarray,
    weights: np.ndarray,
    alphas: np.ndarray,
    betas: np.ndarray,
    points: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds around the Gauss rule's own distribution function, at many points for little work.

    The polynomials of degree 2m that bound the step from both sides, from which the Radau rule's
    bounds come, show that the Gauss rule keeps them too: their leading coefficients have the sign
    of what it lacks in that moment. So ``Ψ`` and the Gauss rule's function both lie within one
    weight of the Radau rule, that of its node at x, and hence no further than that from each other:
    ``Σ_{θ<x} w − ω(x) ≤ Ψ(x⁻) ≤ Ψ(x) ≤ Σ_{θ≤x} w + ω(x)``. At the Gauss rule's own nodes the
    inequalities hold for it as well, and Ψ's monotonicity carries them on. Wider than
    ``distribution_bounds`` by up to ``ω(x)``.

    Parameters
    ----------
    ritz, weights
        (m,) nodes of the Gauss rule in ascending order, and their weights.
    alphas, betas
        As for ``distribution_bounds``.
    points
        (n,) values of x, infinite ones included.

    Returns
    -------
    lower, upper
        (n,) with ``lower ≤ Ψ(x⁻)`` and ``Ψ(x) ≤ upper``.
    """
    near = _NEAR_RITZ * max(np.abs(ritz).max(), np.finfo(float).tiny)
    cumulative = np.minimum(np.concatenate([[0.0], np.cumsum(weights)]), 1)
    below = np.searchsorted(ritz, points - near, "left")
    upto = np.searchsorted(ritz, points + near, "right")
    if betas[-1] == 0:
        return cumulative[below], cumulative[upto]
    weight = christoffel(alphas, betas, points)
    lower = np.maximum(cumulative[np.maximum(below - 1, 0)], cumulative[below] - weight)
    upper = np.minimum(cumulative[np.minimum(upto + 1, len(ritz))], cumulative[upto] + weight)
    return lower, upper


def christoffel(alphas: np.ndarray, betas: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Weight ω(x) of the Radau rule at its node x: Christoffel's function ``1 / Σ_{k≤m} p_k(x)²``.

    Parameters
    ----------
    alphas, betas
        As for ``distribution_bounds``, none of the latter zero.
    points
        (n,) values of x, infinite ones included.

    Returns
    -------
    (n,) in [0, 1]; p_k are the orthonormal polynomials of the measure (Szegő, §3.1 and §3.4).
    """
    weight, growing = np.zeros(len(points)), np.isfinite(points)
    x = points[growing]
    before, now, total = np.zeros(len(x)), np.ones(len(x)), np.ones(len(x))
    coupling = 0.0
    for alpha, beta in zip(alphas, betas, strict=True):
        before, now = now, ((x - alpha) * now - coupling * before) / beta
        with np.errstate(over="ignore"):
            total, coupling = total + now**2, beta
        # Nothing is lost by it: the weight is zero to many digits.
        huge = total > _HUGE
        before[huge], now[huge] = 0.0, 0.0
    weight[growing] = 1 / total
    return weight


def _away(x: float, ritz: np.ndarray, near: float, direction: int) -> float:
    """The first point from x in a direction that keeps its distance from every Ritz value."""
    while True:
        close = ritz[np.abs(ritz - x) < near]
        if not close.size:
            return x
        x = (close.max() if direction > 0 else close.min()) + 2 * direction * near


def _radau(
    alphas: np.ndarray, betas: np.ndarray, x: float, ritz: np.ndarray
) -> tuple[float, float]:
    """Mass of the Radau rule below its node at x, and up to and with it."""
    pivot = alphas[0] - x
    for alpha, beta in zip(alphas[1:], betas[:-1], strict=True):
        pivot = alpha - x - beta**2 / (pivot if pivot else np.finfo(float).tiny)
    last = x + betas[-1] ** 2 / (pivot if pivot else np.finfo(float).tiny)
    _, vectors = eigh_tridiagonal(np.append(alphas, last), betas)
    weights = vectors[0] ** 2
    below = int(np.searchsorted(ritz, x, "left"))
    return float(weights[:below].sum()), float(weights[: below + 1].sum())
