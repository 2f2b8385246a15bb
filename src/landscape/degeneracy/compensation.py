r"""Null directions along which every layer's activities change linearly in themselves.

Notation as in ``symmetries``; ``x̃_l = [x_l, 1]`` is what map ``l`` reads, ``S_j`` the examples on
which unit ``j`` of map ``l`` is active. Let the activities change by ``δx_l = x̃_l A_l``. The next
layer then changes, unit by unit, by

    ``δx_{l+1,j} = 1[S_j] (x̃_l u_j) + x̃_l a_j``,  with  ``u_j = δw̃_j + A_l w_j``,

where ``a_j`` is column j of ``A_l`` (of an identity skip; nothing in a plain network). The change
of weights ``δw̃_j`` is free, and so is ``u_j``. If this can be written as ``x̃_{l+1} c_j`` again,
then ``c_j`` is column j of ``A_{l+1}``; and what the readout sees it can undo, ``δW̃ = −A_L W``. So
the directions of this kind are, for each coordinate j by itself, the chains ``(a, u, c)`` over
layers that solve

    ``1[S_j] (x̃_l u_j) + x̃_l a_j − x̃_{l+1} c_j = 0``  on the batch,  ``a = 0`` at the inputs:

a linear system, solved exactly. Rescaling, translation and mixing are among them. Under skips there
are others, that are not symmetries of the weights alone: a branch that is linear wherever its
source is not zero can take up its own skip, so that a unit is rescaled from that layer on.

Targets may also undo a change each in its own way, on the examples that they count on: on trained
10×16 networks that added nothing under skips, at five times the cost.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy import linalg

from landscape.degeneracy.networks import Network, Walk
from landscape.degeneracy.symmetries import (
    Change,
    Patterns,
    Weights,
    activity_patterns,
    examples_that_count,
    host_weights,
    mixing,
    rescaling,
    translation,
    unit,
)

# Singular values of a system whose columns are of length 1, below which it is solved.
_SOLVED = 1e-13


def across_layers(
    network: Network, params: Any, state: Any, walk: Walk, effects: Sequence[Any]
) -> dict[str, Iterator[tuple[str, Change]]]:
    """Every family of null directions across layers, in the order of the budget's chain.

    Parameters
    ----------
    network, params, state
        Of an ``MLP`` of ReLUs.
    walk, effects
        Its walk and its ``effects`` on a batch.

    Returns
    -------
    By cause: label and change of each direction, of length 1 or less.
    """
    weights = host_weights(network, params, state)
    whole, counts = activity_patterns(walk), examples_that_count(network, effects)
    patterns = tuple(active[kept] for active, kept in zip(whole, counts, strict=True))
    inputs = [np.asarray(x) for x in walk.inputs]
    return {
        "rescaling": unit(rescaling(weights)),
        "translation": unit(translation(weights, patterns)),
        "mixing": unit(mixing(weights, patterns)),
        "compensation": compensated(weights, inputs, whole, counts),
    }


def compensated(
    weights: Weights, inputs: Sequence[np.ndarray], patterns: Patterns, counts: Sequence[np.ndarray]
) -> Iterator[tuple[str, Change]]:
    """All of them, coordinate by coordinate; plain networks and identity skips only.

    Parameters
    ----------
    weights
        Of an ``MLP``.
    inputs
        What each map reads, (N, fan_in).
    patterns
        Which units of each hidden map are active, (N, n).
    counts
        For each hidden map, (N,): examples on which what it gives matters.

    Yields
    ------
    Label and change, in units of the terms that add up to it: what cancels in it is rounding of 1.
    They are independent as chains; as directions they may not be.
    """
    if weights.skip not in ("none", "identity"):
        return
    read = [np.concatenate([x, np.ones((len(x), 1))], 1) for x in inputs]
    for j in range(patterns[0].shape[1]):
        active = [pattern[:, j] for pattern in patterns]
        for number, (us, cs) in enumerate(_chains(read, active, counts, weights.skip != "none")):
            yield f"unit {j}: chain {number}", _change(weights, us, cs, j)


def _chains(
    read: Sequence[np.ndarray],
    active: Sequence[np.ndarray],
    counts: Sequence[np.ndarray],
    skips: bool,
) -> Iterator[tuple[list[np.ndarray], list[np.ndarray]]]:
    """The u and the c of all layers, for a basis of the solutions."""
    depth = len(active)
    sizes = [x.shape[1] for x in read]
    # Unknowns: u of each layer, then c of each layer.
    bounds = np.cumsum([0, *sizes[:depth], *sizes[1 : depth + 1]])
    places = [slice(low, high) for low, high in itertools.pairwise(bounds)]
    of_u, of_c = places[:depth], places[depth:]
    rows = []
    for l in range(depth):
        before, after = read[l][counts[l]], read[l + 1][counts[l]]
        parts = [(of_u[l], before * active[l][counts[l], None]), (of_c[l], -after)]
        if skips and l:
            parts.append((of_c[l - 1], before))
        stacked = np.concatenate([part for _, part in parts], 1)
        triangle = linalg.qr(stacked, mode="r", check_finite=False)[0][: stacked.shape[1]]
        block, start = np.zeros((len(triangle), bounds[-1])), 0
        for where, part in parts:
            block[:, where] = triangle[:, start : start + part.shape[1]]
            start += part.shape[1]
        rows.append(block)
    system = np.concatenate(rows)
    lengths = np.linalg.norm(system, axis=0)
    scales = np.where(lengths > 0, lengths, 1)
    _, values, modes = linalg.svd(system / scales, check_finite=False)
    for mode in modes[int((values > _SOLVED).sum()) :]:
        yield [(mode / scales)[w] for w in of_u], [(mode / scales)[w] for w in of_c]


def _change(weights: Weights, us: list[np.ndarray], cs: list[np.ndarray], j: int) -> Change:
    """Of the weights: δw̃_k = u_k − A_l w_k, where only column j of A_l is not zero."""
    change: Change = {}
    terms = 0.0
    for l, kernel in enumerate(weights.kernels):
        whole = np.zeros((kernel.shape[0] + 1, kernel.shape[1]))
        if l < len(us):
            whole[:, j] = us[l]
            terms += float(us[l] @ us[l])
        if l:
            taken = np.outer(cs[l - 1], kernel[j])
            whole -= taken
            terms += float((taken**2).sum())
        change[l] = (whole[:-1], whole[-1])
    scale = terms**-0.5 if terms else 0.0
    return {l: (kernel * scale, bias * scale) for l, (kernel, bias) in change.items()}
