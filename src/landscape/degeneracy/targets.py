r"""Null directions in the incoming weights of one unit: the first part of the budget.

Notation: target unit ``j`` reads ``x̃ = [x, 1]``, and moves the logits by ``B_j(x)``. A change ``d``
of its incoming weights (bias last) moves them by ``B_j(x) (x̃ · d)``: it is null if and only if
``x̃ · d = 0`` for all examples with ``B_j(x) ≠ 0``. There are ``fan_in + 1 − rank x̃`` such
directions, the rank over those examples. They add up over targets, which share no parameters.

The reasons are told apart by a chain of subspaces, each counted as what it adds to those before:

1. *elimination*: the target moves nothing (it is never active, nobody reads it, or all logits are
   moved alike), or a source is zero wherever it does. Of the inputs, a zero counts as constant.
2. *constant input*: a source that is constant there is the bias once more.
3. *overlap*: two sources are multiples of one another there.
4. *dependence*: every other linear relation among the sources.

A relation is believed if the logits move by rounding along it: if ``‖diag(b_j) x̃ d‖`` is no more
than a cut, where ``b_j(x)`` is the length of ``B_j(x)``; the rank is that of ``diag(b_j) x̃`` at the
same cut. Without a cut it is the rank of ``x̃`` where ``b_j ≠ 0``, at NumPy's tolerance.

For a convolution, rows are places of images; a relation that all places obey is null, and there may
be others, which only the sum over places obeys: those are left to the layer's own count.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int

# Sources whose unit vectors differ by no more are the same.
_SAME = 1e-10

# A source that varies by no more than this share of itself is constant: at a ghost a skip and a
# branch add up to a constant, up to rounding.
_STILL = 1e-13

# A Gram matrix whose smallest eigenvalue is above this share of the largest has full rank.
_CLEARLY_REGULAR = 1e-9


@dataclasses.dataclass(frozen=True)
class TargetCounts:
    """Of the n targets of one map.

    Attributes
    ----------
    elimination, constant, overlap, dependence
        (n,) each: null directions by reason.
    silent
        (n,): targets that move nothing.
    rank
        (n,): of what each reads.
    """

    elimination: Int[np.ndarray, " n"]
    constant: Int[np.ndarray, " n"]
    overlap: Int[np.ndarray, " n"]
    dependence: Int[np.ndarray, " n"]
    silent: Bool[np.ndarray, " n"]
    rank: Int[np.ndarray, " n"]

    @property
    def total(self) -> Int[np.ndarray, " n"]:
        """All null directions of each target."""
        return self.elimination + self.constant + self.overlap + self.dependence


def count_targets(
    rows: Float[np.ndarray, "R fan_in"],
    moves: Bool[np.ndarray, "R n"] | Float[np.ndarray, "R n"],
    *,
    bias: bool,
    is_input: bool,
    cut: float | None = None,
) -> TargetCounts:
    """Null directions of each target's incoming weights, by reason.

    Parameters
    ----------
    rows
        What is read, float64; examples, or places of their images.
    moves
        Where each target moves the logits; with a cut by how much, b.
    bias
        Whether targets have a bias.
    is_input
        Whether the rows are the network's inputs, whose zeros are constants.
    cut
        Changes of the logits along a unit vector, over all rows, that are rounding.

    Returns
    -------
    TargetCounts
    """
    augmented = np.concatenate([rows, np.ones((len(rows), 1))], 1) if bias else rows
    generic = cut is None and _rows_are_independent(augmented)
    # Targets that move the logits on the same examples, by as much, read the same.
    known: dict[bytes, tuple[int, ...]] = {}
    for where in moves.T:
        if where.tobytes() not in known:
            known[where.tobytes()] = _one(augmented, where, bias, is_input, generic, cut)
    table = np.array([known[where.tobytes()] for where in moves.T], int).reshape(-1, 6).T
    elimination, constant, overlap, dependence, silent, rank = table
    return TargetCounts(elimination, constant, overlap, dependence, silent.astype(bool), rank)


def target_directions(
    rows: Float[np.ndarray, "R fan_in"],
    moves: Bool[np.ndarray, " R"],
    *,
    bias: bool,
    is_input: bool,
) -> Iterator[tuple[str, Float[np.ndarray, " size"]]]:
    """The null directions themselves, of one target: reason and unit vector, the bias last.

    Parameters
    ----------
    rows, bias, is_input
        As for ``count_targets``.
    moves
        Where the target moves the logits.

    Yields
    ------
    As many as ``count_targets`` counts, linearly independent.
    """
    augmented = np.concatenate([rows, np.ones((len(rows), 1))], 1) if bias else rows
    size = augmented.shape[1]
    unit = np.eye(size)
    if not moves.any():
        yield from (("elimination", vector) for vector in unit)
        return
    read = augmented[moves]
    cut = _tolerance(read)
    relations = _relations(read, bias, cut)
    for source in relations.zero:
        yield "constant input" if is_input else "elimination", unit[source]
    for source in relations.still:
        yield "constant input", _normalised(unit[source] - read[:, source].mean() * unit[-1])
    for source, leader in relations.twins:
        ratio = (read[:, source] @ read[:, leader]) / (read[:, leader] @ read[:, leader])
        yield "overlap", _normalised(unit[source] - ratio * unit[leader])
    # What is left: relations among one of each group, and the bias.
    found = {*relations.zero, *relations.still, *(source for source, _ in relations.twins)}
    others = np.array([source for source in range(size) if source not in found], int)
    _, values, modes = np.linalg.svd(read[:, others], full_matrices=True)
    for mode in modes[int((values > cut).sum()) :]:
        yield "dependence", mode @ unit[others]


def _tolerance(read: np.ndarray) -> float:
    """About NumPy's, below which a singular value is rounding; by the Frobenius norm."""
    return float(max(read.shape) * np.finfo(float).eps * np.linalg.norm(read))


def _normalised(vector: np.ndarray) -> np.ndarray:
    return np.asarray(vector / np.linalg.norm(vector))


@dataclasses.dataclass(frozen=True)
class _Relations:
    """Sources that are zero, constant, or a multiple of another one: (source, the other one)."""

    zero: list[int]
    still: list[int]
    twins: list[tuple[int, int]]


def _relations(
    read: np.ndarray, bias: bool, cut: float, weights: np.ndarray | None = None
) -> _Relations:
    """Among the sources of the examples that count; those along which the logits move are none.

    On a single example all are constants and multiples of one another, which tells nothing of them.
    """
    sources = read[:, :-1] if bias else read
    weights = np.ones(len(read)) if weights is None else weights
    largest, smallest = sources.max(0), sources.min(0)
    zero = (largest == 0) & (smallest == 0)
    if (read == read[0]).all():
        return _Relations(np.flatnonzero(zero).tolist(), [], [])
    still = (largest - smallest <= _STILL * np.abs(largest)) & ~zero & bias
    for source in np.flatnonzero(still):
        still[source] = _moves(sources[:, source], np.ones(len(read)), weights) <= cut
    varying = np.flatnonzero(~zero & ~still)
    leaders = leading_columns(sources[:, varying])
    twins = [
        (int(varying[place]), int(varying[leader]))
        for place, leader in enumerate(leaders)
        if leader != place
        and _moves(sources[:, varying[place]], sources[:, varying[leader]], weights) <= cut
    ]
    return _Relations(np.flatnonzero(zero).tolist(), np.flatnonzero(still).tolist(), twins)


def _moves(source: np.ndarray, other: np.ndarray, weights: np.ndarray) -> float:
    """How far the logits move along the unit vector that says: one is a multiple of the other."""
    ratio = (source @ other) / (other @ other)
    return float(np.linalg.norm(weights * (source - ratio * other)) / np.hypot(1, ratio))


def _one(
    augmented: np.ndarray,
    moves: np.ndarray,
    bias: bool,
    is_input: bool,
    generic: bool,
    cut: float | None,
) -> tuple[int, int, int, int, int, int]:
    size = augmented.shape[1]
    if not moves.any():
        return size, 0, 0, 0, 1, 0
    where = moves != 0
    read = augmented if where.all() else augmented[where]
    if cut is None:
        relations = _relations(read, bias, _tolerance(read))
        rank = len(read) if generic else matrix_rank(read)
    else:
        weights = moves[where]
        relations = _relations(read, bias, cut, weights)
        rank = matrix_rank(weights[:, None] * read, cut)
        if not rank:
            # It moves the logits by rounding, whatever it reads.
            return size, 0, 0, 0, 1, 0
    # The rank decides how many there are; what is known of them cannot be more.
    null = size - rank
    eliminated = min(len(relations.zero), null)
    constant = min(len(relations.still), null - eliminated)
    twice = min(len(relations.twins), null - eliminated - constant)
    dependence = null - eliminated - constant - twice
    if is_input:
        eliminated, constant = 0, eliminated + constant
    return eliminated, constant, twice, dependence, 0, rank


def leading_columns(columns: Float[np.ndarray, "R k"]) -> Int[np.ndarray, " k"]:
    """For each column the first that it is a multiple of; all are nonzero."""
    units = columns / np.linalg.norm(columns, axis=0)
    # Of both directions take the one whose largest entry is positive.
    units = units * np.sign(units[np.abs(units).argmax(0), np.arange(units.shape[1])])
    # Equal columns have equal projections: only neighbours have to be compared.
    projections = np.cos(np.arange(len(columns)) ** 1.5) @ units
    order = np.argsort(projections, kind="stable")
    leader = np.arange(units.shape[1])
    reach = _SAME * np.sqrt(len(columns))
    for place, one in enumerate(order):
        for other in order[place + 1 :]:
            if projections[other] - projections[one] > reach:
                break
            if np.abs(units[:, one] - units[:, other]).max() < _SAME:
                first, second = sorted((leader[one], leader[other]))
                leader[leader == second] = first
    return leader


def matrix_rank(matrix: Float[np.ndarray, "R k"], cut: float | None = None) -> int:
    """Singular values above a cut, NumPy's by default; a short way for what is clearly full."""
    rows, columns = matrix.shape
    if rows >= columns:
        values = np.linalg.eigvalsh(matrix.T @ matrix)
        if values[0] > max(_CLEARLY_REGULAR * values[-1], (cut or 0.0) ** 2):
            return columns
    if cut is None:
        return int(np.linalg.matrix_rank(matrix))
    return int((np.linalg.svd(matrix, compute_uv=False) > cut).sum())


def _rows_are_independent(matrix: np.ndarray) -> bool:
    """Whether all rows are clearly independent: then any of them have as many ranks as rows."""
    rows, columns = matrix.shape
    if rows > columns:
        return False
    values = np.linalg.eigvalsh(matrix @ matrix.T)
    return bool(values[0] > _CLEARLY_REGULAR * values[-1])
