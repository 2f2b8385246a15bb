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

# Nearer to a Ritz value, relative to ‖T‖, the fixed node's entry is lost in rounding: the point is
# moved outwards, which by monotonicity keeps the bound.
_NEAR_RITZ = 4e-9

# Rows of a matrix of pairs of Ritz values that are held at a time.
_ROWS = 256

# Sums of squares of polynomials beyond which the next one might overflow.
_HUGE = 1e200


def distribution_bounds(
    ritz: np.ndarray,
    weights: np.ndarray,
    alphas: np.ndarray,
    betas: np.ndarray,
    points: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds ``lower ≤ Ψ(x⁻)`` and ``Ψ(x) ≤ upper`` at each point x.

    Parameters
    ----------
    ritz, weights
        (m,) nodes of the Gauss rule in ascending order, and their weights.
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
    near, cumulative, below, upto = _steps(ritz, weights, betas, points)
    if betas[-1] == 0:
        return cumulative[below], cumulative[upto]
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
    _, cumulative, below, upto = _steps(ritz, weights, betas, points)
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


def turned_mass(
    ritz: np.ndarray, weights: np.ndarray, left: np.ndarray, right: np.ndarray, error: float
) -> np.ndarray:
    """How much mass an error of the operator may carry from one side of a point to the other.

    Eigenvectors on both sides mix: to first order an error E moves
    ``2 Σ_i Σ_j c_i c_j E_ij / (θ_j − θ_i)`` with ``c² = w``, i on one side and j on the other
    (T. Kato, *Perturbation Theory for Linear Operators*, 1966, §II.2).

    Parameters
    ----------
    ritz, weights
        As for ``gauss_bounds``.
    left, right
        (n,) for each point: nodes before number ``left`` are on one side, those from number
        ``right`` ≥ ``left`` on the other; what is between counts on neither.
    error
        Size of the entries of E between unit vectors.

    Returns
    -------
    (n,) ``2 |E| √(Σ_i Σ_j w_i w_j / (θ_j − θ_i)²)``.
    """
    squares = np.zeros(len(left))
    for start in range(0, int(left.max(initial=0)), _ROWS):
        rows = np.arange(start, min(start + _ROWS, len(ritz)))
        # Of equal nodes, which are never on two sides, a quotient is infinite.
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            pairs = np.outer(weights[rows], weights) / (ritz - ritz[rows, None]) ** 2
            beyond = np.zeros((len(rows), len(ritz) + 1))
            beyond[:, :-1] = np.cumsum(pairs[:, ::-1], 1)[:, ::-1]
        squares += np.where(rows[:, None] < left, beyond[:, right], 0).sum(0)
    return 2 * error * np.sqrt(squares)


def _steps(
    ritz: np.ndarray, weights: np.ndarray, betas: np.ndarray, points: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """Where the Gauss rule's function steps.

    Returns
    -------
    near
        The distance within which a Ritz value may lie on either side of a point.
    cumulative
        (m + 1,) the function between its steps.
    below, upto
        (n,) nodes surely below each point, and those possibly up to it.
    """
    near = _NEAR_RITZ * max(np.abs(ritz).max(), betas.max(), np.finfo(float).tiny)
    cumulative = np.minimum(np.concatenate([[0.0], np.cumsum(weights)]), 1)
    below = np.searchsorted(ritz, points - near, "left")
    upto = np.searchsorted(ritz, points + near, "right")
    return near, cumulative, below, upto


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
