r"""Null directions in the incoming weights of one unit: the first part of the budget.

Notation: target unit ``j`` reads ``x̃ = [x, 1]``, and moves the logits by ``B_j(x)``. A change ``d``
of its incoming weights (bias last) moves them by ``B_j(x) (x̃ · d)``: it is null if and only if
``x̃ · d = 0`` for all examples with ``B_j(x) ≠ 0``. There are ``fan_in + 1 − rank x̃`` such
directions, the rank over those examples. They add up over targets, which share no parameters.

The reasons are told apart by a chain of subspaces, each counted as what it adds to those before.
First the relations among the sources that hold on all examples that any target of the map moves:

1. *elimination*: the target moves nothing (it is never active, nobody reads it, or all logits are
   moved alike), or a source is zero. Of the inputs, a zero counts as constant.
2. *constant input*: a source that is constant is the bias once more.
3. *overlap*: two sources are multiples of one another.
4. *few data*: what any sources would have on so few examples, more sources than examples.
5. *dependence*: every other linear relation among the sources.

Then

6. *conditional*: relations that hold on the target's own examples and not on all. It is active on
   few of them, or never together with a source. They say nothing of the layer before.

A relation is believed if the logits move by rounding along it: if ``‖diag(b_j) x̃ d‖`` is no more
than a cut, where ``b_j(x)`` is the length of ``B_j(x)``; the rank is that of ``diag(b_j) x̃`` at the
same cut. Of all targets together b is the largest: what is null for them is null for each. Without
a cut it is the rank of ``x̃`` where ``b_j ≠ 0``, at NumPy's tolerance.

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
STILL = 1e-13

# A Gram matrix whose smallest eigenvalue is above this share of the largest has full rank.
_CLEARLY_REGULAR = 1e-9


@dataclasses.dataclass(frozen=True)
class TargetCounts:
    """Of the n targets of one map.

    Attributes
    ----------
    elimination, constant, overlap, few, dependence, conditional
        (n,) each: null directions by reason.
    silent
        (n,): targets that move nothing.
    rank
        (n,): of what each reads.
    """

    elimination: Int[np.ndarray, " n"]
    constant: Int[np.ndarray, " n"]
    overlap: Int[np.ndarray, " n"]
    few: Int[np.ndarray, " n"]
    dependence: Int[np.ndarray, " n"]
    conditional: Int[np.ndarray, " n"]
    silent: Bool[np.ndarray, " n"]
    rank: Int[np.ndarray, " n"]

    @property
    def total(self) -> Int[np.ndarray, " n"]:
        """All null directions of each target."""
        shared = self.elimination + self.constant + self.overlap + self.few + self.dependence
        return shared + self.conditional


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
    size = augmented.shape[1]
    generic = cut is None and _rows_are_independent(augmented)
    shared = _shared(augmented, moves.max(1, initial=0), bias, generic, cut)
    # Targets that move the logits on the same examples, by as much, read the same.
    known: dict[bytes, tuple[int, ...]] = {}
    for where in moves.T:
        if where.tobytes() not in known:
            rank = _rank(augmented, where, generic, cut)
            known[where.tobytes()] = (*_by_reason(size, rank, shared, is_input), not rank, rank)
    table = np.array([known[where.tobytes()] for where in moves.T], int).reshape(-1, 8).T
    elimination, constant, overlap, few, dependence, conditional, silent, ranks = table
    return TargetCounts(
        elimination, constant, overlap, few, dependence, conditional, silent.astype(bool), ranks
    )


def target_directions(
    rows: Float[np.ndarray, "R fan_in"],
    moves: Bool[np.ndarray, " R"],
    *,
    bias: bool,
    is_input: bool,
    of_any: Bool[np.ndarray, " R"] | None = None,
) -> Iterator[tuple[str, Float[np.ndarray, " size"]]]:
    """The null directions themselves, of one target: reason and unit vector, the bias last.

    Parameters
    ----------
    rows, bias, is_input
        As for ``count_targets``.
    moves
        Where the target moves the logits.
    of_any
        Where any target of the map does; by default there.

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
    read = augmented[moves if of_any is None else of_any]
    cut = _tolerance(read)
    relations = _relations(read, bias, cut)
    made: list[tuple[str, np.ndarray]] = []
    for source in relations.zero:
        made.append(("constant input" if is_input else "elimination", unit[source]))
    for source in relations.still:
        shift = unit[source] - read[:, source].mean() * unit[-1]
        made.append(("constant input", _normalised(shift)))
    for source, leader in relations.twins:
        ratio = (read[:, source] @ read[:, leader]) / (read[:, leader] @ read[:, leader])
        made.append(("overlap", _normalised(unit[source] - ratio * unit[leader])))
    # What is left: relations among one of each group, and the bias.
    found = {*relations.zero, *relations.still, *(source for source, _ in relations.twins)}
    others = np.array([source for source in range(size) if source not in found], int)
    for number, mode in enumerate(_null(read[:, others])):
        few = number < len(others) - len(read)
        made.append(("few data" if few else "dependence", mode @ unit[others]))
    yield from made
    # Of the target's own relations those that are at right angles to all of these.
    own = _null(augmented[moves])
    if len(own) > len(made):
        known = np.linalg.qr(np.array([vector for _, vector in made]).reshape(-1, size).T)[0]
        left = own - (own @ known) @ known.T
        _, _, modes = np.linalg.svd(left, full_matrices=False)
        yield from (("conditional", mode) for mode in modes[: len(own) - len(made)])


def _null(matrix: np.ndarray) -> np.ndarray:
    """Rows that span what a matrix maps to rounding."""
    _, values, modes = np.linalg.svd(matrix, full_matrices=True)
    return np.asarray(modes[int((values > _tolerance(matrix)).sum()) :])


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
    still = (largest - smallest <= STILL * np.abs(largest)) & ~zero & bias
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


def _rank(augmented: np.ndarray, moves: np.ndarray, generic: bool, cut: float | None) -> int:
    """Of what a target reads where it moves the logits; 0 if it moves them by rounding."""
    where = moves != 0
    if not where.any():
        return 0
    read = augmented if where.all() else augmented[where]
    if cut is None:
        return len(read) if generic else matrix_rank(read)
    return matrix_rank(moves[where][:, None] * read, cut)


def _shared(
    augmented: np.ndarray, moves: np.ndarray, bias: bool, generic: bool, cut: float | None
) -> tuple[int, ...]:
    """Relations of all targets by reason: zero, constant, overlap, few data, dependence."""
    where = moves != 0
    if not where.any():
        return (0,) * 5
    read, size = augmented[where], augmented.shape[1]
    if cut is None:
        relations = _relations(read, bias, _tolerance(read))
    else:
        relations = _relations(read, bias, cut, moves[where])
    named = (len(relations.zero), len(relations.still), len(relations.twins))
    few = max(0, size - sum(named) - len(read))
    # The rank decides how many there are; what is known of them cannot be more.
    return _filled(size - _rank(augmented, moves, generic, cut), (*named, few))


def _by_reason(size: int, rank: int, shared: tuple[int, ...], is_input: bool) -> tuple[int, ...]:
    """Of one target: elimination, constant, overlap, few data, dependence, conditional."""
    if not rank:
        return (size, 0, 0, 0, 0, 0)
    zero, constant, *others = _filled(size - rank, shared)
    return (0, zero + constant, *others) if is_input else (zero, constant, *others)


def _filled(total: int, parts: tuple[int, ...]) -> tuple[int, ...]:
    """Parts in turn, no more of them than there are in all, and what is left."""
    taken: list[int] = []
    for part in parts:
        taken.append(min(part, total - sum(taken)))
    return (*taken, total - sum(taken))


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
