"""What nodes and weights say, and how far it is from the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.linalg import eigh_tridiagonal

EPS = 1e-3


def distance(found: tuple[np.ndarray, np.ndarray], truth: np.ndarray, slack: float = 0.0) -> float:
    """Largest distance of two distribution functions, points allowed to move by so much.

    ``found``: nodes and weights. ``truth``: eigenvalues of equal weight, or nodes and weights as
    two rows.
    """
    theirs = _measure(*found)
    mine = _measure(truth, np.ones_like(truth)) if truth.ndim == 1 else _measure(*truth)
    points = np.unique(np.concatenate([theirs[0], mine[0]]))

    def at(measure: Any, x: np.ndarray) -> np.ndarray:
        return measure[1][np.searchsorted(measure[0], x, "right")]

    above = at(theirs, points) - at(mine, points + slack)
    below = at(mine, points) - at(theirs, points + slack)
    return float(max(above.max(), below.max(), 0))


def quadrature(result: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of a result that has them, or one tridiagonal matrix."""
    if "alphas" not in result:
        return np.ravel(result["nodes"]).astype(float), np.ravel(result["weights"]).astype(float)
    alphas, betas = (np.ravel(result[k]).astype(float) for k in ("alphas", "betas"))
    if not (np.isfinite(alphas).all() and np.isfinite(betas).all()):
        return np.full(len(alphas), np.nan), np.full(len(alphas), 1 / len(alphas))
    nodes, vectors = eigh_tridiagonal(alphas, betas[: len(alphas) - 1])
    return nodes, vectors[0] ** 2


def _measure(nodes: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted nodes, and the mass up to each with a 0 in front; pooled over probes.

    What is NaN lies at infinity: mass that is lost is an error.
    """
    nodes, weights = np.ravel(nodes).astype(float), np.ravel(weights).astype(float)
    nodes = np.where(np.isfinite(nodes), nodes, np.inf)
    weights = np.where(np.isfinite(weights), weights, 0)
    order = np.argsort(nodes, kind="stable")
    mass = np.concatenate([[0], np.cumsum(weights[order])])
    return nodes[order], mass / (mass[-1] or 1)


def truth_of(values: np.ndarray) -> dict[str, float]:
    """Shares of the eigenvalues that are small in size, and their norm."""
    size, norm = np.abs(values), float(np.abs(values).max())
    return {
        "parameters": len(values),
        "norm": norm,
        "eps": EPS,
        "fraction": float(np.mean(size <= EPS)),
        "relative_eps": EPS * norm,
        "relative_fraction": float(np.mean(size <= EPS * norm)),
        "null": float(np.mean(size <= 1e-6 * norm)),
    }


def errors(values: np.ndarray, _: Any, result: dict[str, np.ndarray]) -> dict[str, Any]:
    """What a tool's nodes and weights say, and how far that is from the truth.

    Shares within an absolute and a relative ε; the distance of the distribution functions, points
    allowed to move by 10⁻⁵ of the norm, which rounding moves them by.
    """
    nodes, weights = quadrature(result)
    truth, found = truth_of(values), {}
    for name, eps in (("fraction", EPS), ("relative_fraction", truth["relative_eps"])):
        near = np.abs(nodes) <= eps
        found[name] = float(weights[near].sum() / np.nansum(weights))
        found[f"{name}_error"] = abs(found[name] - truth[name])
    found["distance"] = distance((nodes, weights), values, 1e-5 * truth["norm"])
    return found
