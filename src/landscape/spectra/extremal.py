r"""Eigenpairs at the ends of a spectrum, by Lanczos with thick restarts.

Notation: a basis of at most M vectors as rows of Q, the projection ``T = Q A Qᵀ``, its eigenpairs
``(θ_i, s_i)`` and the Ritz vectors ``y_i = Qᵀ s_i``. When the basis is full the wanted Ritz
vectors, some of their neighbours, and the last Lanczos vector are kept and the rest is given up:
memory is M + 1 vectors however long it takes. ``‖A y_i − θ_i y_i‖`` bounds the distance of θ_i to
an eigenvalue.

Source: K. Wu and H. Simon, *Thick-restart Lanczos method for large symmetric eigenvalue problems*,
SIAM J. Matrix Anal. Appl. 22, 2000.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from landscape._pytrees import pytree
from landscape.curvature.inner_types import coarser_products
from landscape.curvature.memory import device_memory, readable
from landscape.curvature.noise import floor_behind
from landscape.curvature.operators import LinearOperator, expect_switched_on
from landscape.curvature.preconditions import (
    ASYMMETRY,
    expect_integer,
    expect_kept,
    expect_key,
    expect_pytree,
    expect_range,
    expect_real,
    expect_single,
    not_finite,
    not_symmetric,
)
from landscape.errors import InputError, ResourceError
from landscape.results import Result
from landscape.spectra.restarts import (
    BESIDES,
    Space,
    begin,
    combine,
    extend,
    filled_up,
    restart,
    start_anew,
)
from landscape.spectra.tiles import rows_of

# What products with one vector and with several may differ by, and the asymmetry of an operator
# that computes in a coarser type inside, in units of √u‖A‖.
_DIFFERENCE = 30.0

# Columns whose residuals are taken together.
_BLOCK = 16

# Steps after which the residuals are looked at, and at most so many times while the basis fills:
# a look costs a wait for the device.
_FEWEST_STEPS, _LOOKS = 5, 4


@pytree
@dataclasses.dataclass(frozen=True)
class EigenPairs(Result):
    """Eigenvalues and eigenvectors, largest first, each with its error.

    Attributes
    ----------
    values
        (n,) Rayleigh quotients, in descending order.
    vectors
        (P, n) unit vectors as columns.
    residual_norms
        (n,) ``‖A v − λ v‖`` as computed: an eigenvalue of A lies within that of the value.
    status
        ``"converged"``: every residual norm is as small as was asked, and steps from a fresh start
        vector, orthogonal to these, found no eigenvalue that should be among them;
        ``"unverified"``: the residuals are small as far as the steps tell, and the budget was spent
        before that, or it was not asked for;
        ``"rounding"``: verified, but some residuals are not as small, and what is left of them is
        rounding of the products; ``"max_matvecs"``: the budget was spent before.
    num_matvecs
        Products with the operator that were spent.
    num_smallest
        How many of them, the last ones, are of the lower end.
    """

    values: Float[np.ndarray, " n"]
    vectors: Float[Array, "P n"]
    residual_norms: Float[np.ndarray, " n"]
    status: str
    num_matvecs: int
    num_smallest: int = 0

    _axes = (("n", "rank"),)
    _coordinates = (("rank", "ranks"),)

    @property
    def ranks(self) -> Int[np.ndarray, " n"]:
        """(n,) 1 for the largest eigenvalue, 2 for the next; −1 for the smallest, −2 above it."""
        count = len(self.values)
        return np.r_[1 : count - self.num_smallest + 1, -self.num_smallest : 0]

    def __repr__(self) -> str:
        largest = len(self.values) - self.num_smallest
        told = [f"{value:.4g}" for value in self.values]
        between = largest > 4 or (largest > 0 and self.num_smallest > 0)
        shown = [*told[: min(largest, 4)], *["…"] * between]
        # Of the lower end the lowest.
        shown += told[max(largest, len(told) - 2) :]
        worst = f"{self.residual_norms.max():.1e}"
        return (
            f"EigenPairs({len(told)}: {', '.join(shown)}; residuals at most {worst}, "
            f"{self.status} after {self.num_matvecs} products)"
        )


def extremal_eigenpairs(
    op: LinearOperator,
    key: Array,
    *,
    num_largest: int = 0,
    num_smallest: int = 0,
    num_by_magnitude: int = 0,
    tol: float = 1e-4,
    max_matvecs: int = 2000,
    subspace: int | None = None,
    verify: bool = True,
) -> EigenPairs:
    """Eigenpairs at one or both ends of the spectrum.

    Parameters
    ----------
    op
        Symmetric operator, (P, P).
    key
        JAX random key of the start vector.
    num_largest, num_smallest
        How many of the algebraically largest and smallest: the smallest are the most negative.
    num_by_magnitude
        How many of the largest in absolute value; alone, not with the other two.
    tol
        Residual norms wanted, relative to the operator's spectral norm; not below four units of
        rounding.
    max_matvecs
        Products after which no restart is made; the last ones, and those of the residuals, come on
        top.
    subspace
        M, vectors to keep; more converge in fewer products. Default twice the number of pairs and
        20 more.
    verify
        Look for missed ones from a fresh start vector before it is called converged: the Krylov
        space of one vector holds one vector of each multiple eigenvalue. Costs about M products
        less the number of pairs, and as many again for each one that was missed.

    Returns
    -------
    EigenPairs

    Raises
    ------
    InputError
        If no pair, or more than P are asked for, the subspace does not exceed them, the budget is
        smaller than the subspace, a product is NaN or infinite, the operator is not symmetric, or
        its products with several vectors are not those with one.
    ResourceError
        If the subspace does not fit in memory.

    Notes
    -----
    Each value is within its residual norm of an eigenvalue. That none is missed is checked with a
    random vector, which is no proof: where eigenvalues lie close together the few steps from it may
    not tell a missed one from its neighbours. As a pytree like the parameters an eigenvector is
    ``op.unravel(pairs.vectors[:, 0])``, of operators that have parameters.

    Examples
    --------
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from landscape.curvature import DiagonalOperator
    >>> op = DiagonalOperator(jnp.arange(-3.0, 100.0))
    >>> pairs = extremal_eigenpairs(op, jax.random.key(0), num_largest=2, num_smallest=1)
    >>> pairs.values.round(2).tolist()
    [99.0, 98.0, -3.0]
    """
    run = extremal_run(
        op, key, num_largest=num_largest, num_smallest=num_smallest,
        num_by_magnitude=num_by_magnitude, tol=tol, max_matvecs=max_matvecs, subspace=subspace,
        verify=verify,
    )  # fmt: skip
    while not run.done:
        run = run.advance()
    return run.pairs()


@pytree
@dataclasses.dataclass(frozen=True)
class ExtremalState:
    """What an ``ExtremalRun`` goes on from: arrays alone, a random key among them.

    Attributes
    ----------
    space
        The basis in construction, and the projection.
    first, filled
        Of its vectors: how many were kept at the last restart, and how many there are.
    spent
        Products so far.
    verified
        Whether steps from a fresh vector have found nothing new.
    before_fresh
        The wanted Ritz values before those steps; NaN while there are none.
    """

    space: Space
    first: np.ndarray
    filled: np.ndarray
    spent: np.ndarray
    verified: np.ndarray
    before_fresh: np.ndarray


@dataclasses.dataclass(frozen=True)
class ExtremalRun:
    """Eigenpairs at the ends in the making; made by ``extremal_run``.

    Attributes
    ----------
    op
        The operator.
    state
        What it goes on from: replace it to resume a run that was begun alike.
    largest, smallest, magnitude, tol, max_matvecs, room, verify
        What was asked for.
    done
        Whether ``pairs`` can be taken.
    """

    op: LinearOperator
    state: ExtremalState = dataclasses.field(repr=False)
    largest: int
    smallest: int
    magnitude: int
    tol: float
    max_matvecs: int
    room: int
    verify: bool
    done: bool = False
    _found: Any = dataclasses.field(default=None, repr=False)
    _floor: float = dataclasses.field(default=0.0, repr=False)

    def advance(self) -> ExtremalRun:
        """Some steps more, and a restart if the basis is full; this run's own state is given up.

        Raises
        ------
        InputError
            As ``extremal_eigenpairs``.
        """
        op, state, room = self.op, self.state, self.room
        expect_switched_on(op.dtype)
        expect_kept(state.space.projection)
        first, filled, spent = int(state.first), int(state.filled), int(state.spent)
        verified, before_fresh = bool(state.verified), state.before_fresh
        anew = bool(np.isfinite(before_fresh).all())
        count = self.largest + self.smallest + self.magnitude
        wanted = partial(
            _choose, largest=self.largest, smallest=self.smallest, magnitude=self.magnitude
        )
        stride = max(_FEWEST_STEPS, room // _LOOKS)
        # A fresh start is given all the steps that there is room for.
        stop = room if anew else min(max(filled, count) + stride, room)
        space = extend(op, state.space, stop)
        spent, filled = spent + stop - filled, stop
        projection = np.asarray(space.projection, float)[: filled + 1, :filled]
        if not np.isfinite(projection).all():
            raise not_finite()
        upper = np.triu(projection[:filled])
        expect_range(np.abs(upper).max(), op)
        floor = _expect_symmetric(op, projection, first, float(space.scale), self._floor)
        theta, s = np.linalg.eigh(upper + np.triu(upper, 1).T)
        residuals = np.abs(projection[filled, filled - 1] * s[-1])
        chosen = wanted(theta, 0)
        small = self.tol * np.abs(theta).max()
        enough = residuals[chosen] <= small
        if anew:
            # Nothing new came in, or it is no better than what was there.
            verified = bool((np.abs(theta[chosen] - before_fresh) <= small).all())
        none = np.full(count, np.nan)
        fresh = bool(enough.all())

        def later(space: Space, first: int, filled: int, before: np.ndarray) -> ExtremalState:
            one, two, three, four = map(np.asarray, (first, filled, spent, verified))
            return ExtremalState(space, one, two, three, four, before)

        finished = fresh and (verified or not self.verify or filled == room == op.shape[0])
        if finished or ((fresh or filled == room) and spent >= self.max_matvecs):
            found = (theta, s, chosen, enough, small)
            ended = later(space, first, filled, none)
            return dataclasses.replace(self, state=ended, done=True, _found=found, _floor=floor)
        if not fresh and filled < room:
            return dataclasses.replace(self, state=later(space, first, filled, none), _floor=floor)
        # Neighbours of the wanted pairs are kept too: they keep convergence fast.
        kept = chosen if fresh else wanted(theta, (room - count) // 3)
        space = restart(space, filled_up(s[:, kept], room, op), jnp.asarray(theta[kept]))
        if fresh:
            space, none = start_anew(space, op.shape[0]), theta[chosen]
        return dataclasses.replace(
            self, state=later(space, len(kept), len(kept), none), _floor=floor
        )

    def pairs(self) -> EigenPairs:
        """What was found, when it is done.

        Returns
        -------
        EigenPairs

        Raises
        ------
        InputError
            If it is not done, or products with several vectors are not those with one.
        """
        if not self.done:
            raise InputError("the run is not done: call advance until it is")
        op, state = self.op, self.state
        theta, s, chosen, enough, small = self._found
        chosen = chosen[np.argsort(-theta[chosen])]
        coordinates = filled_up(s[:, chosen], self.room, op)
        vectors = rows_of(combine(state.space.block, coordinates), op.shape[0])[0]
        values, norms = _residuals(op, vectors)
        if enough.all():
            off = np.maximum(norms, np.abs(values - theta[chosen]))
            _expect_agreement(off.max(), small, float(state.space.scale), _rounding(op))
        order = np.argsort(-values)
        status = "max_matvecs"
        if enough.all():
            status = "unverified"
            if state.verified or state.filled == op.shape[0]:
                status = "converged" if (norms <= small).all() else "rounding"
        return EigenPairs(
            values=values[order],
            vectors=vectors[order].T,
            residual_norms=norms[order],
            status=status,
            num_matvecs=int(state.spent) + len(chosen),
            # Of those of largest magnitude: as many as are from the lower end.
            num_smallest=int((chosen < len(theta) - len(chosen)).sum())
            if self.magnitude
            else self.smallest,
        )


def extremal_run(
    op: LinearOperator,
    key: Array,
    *,
    num_largest: int = 0,
    num_smallest: int = 0,
    num_by_magnitude: int = 0,
    tol: float = 1e-4,
    max_matvecs: int = 2000,
    subspace: int | None = None,
    verify: bool = True,
) -> ExtremalRun:
    """Eigenpairs at the ends, by a run that can be stopped, kept and resumed.

    Parameters
    ----------
    op, key, num_largest, num_smallest, num_by_magnitude, tol, max_matvecs, subspace, verify
        As for ``extremal_eigenpairs``.

    Raises
    ------
    InputError, ResourceError
        As ``extremal_eigenpairs``.

    Examples
    --------
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from landscape.curvature import DiagonalOperator
    >>> run = extremal_run(DiagonalOperator(jnp.arange(9.0)), jax.random.key(0), num_largest=1)
    >>> while not run.done:
    ...     run = run.advance()
    >>> run.pairs().values.round(4).tolist()
    [8.0]
    """
    expect_single(op)
    expect_pytree(op)
    expect_key(key)
    expect_integer(
        num_largest=num_largest,
        num_smallest=num_smallest,
        num_by_magnitude=num_by_magnitude,
        max_matvecs=max_matvecs,
        subspace=1 if subspace is None else subspace,
    )
    size = op.shape[0]
    count = num_largest + num_smallest + num_by_magnitude
    if min(num_largest, num_smallest, num_by_magnitude) < 0 or not 1 <= count <= size:
        raise InputError(
            f"between 1 and P = {size} eigenpairs can be asked for, by num_largest, "
            f"num_smallest or num_by_magnitude; got {count}"
        )
    if num_by_magnitude and count > num_by_magnitude:
        raise InputError("num_by_magnitude cannot be asked for with num_largest or num_smallest")
    room = min(2 * count + 20 if subspace is None else subspace, size)
    expect_real(tol=tol)
    if not tol >= 0:
        raise InputError(f"tol must not be negative; got {tol!r}")
    if max_matvecs < room:
        raise InputError(
            f"max_matvecs must be at least the size of the subspace, {room}; got {max_matvecs}"
        )
    if room <= count and room < size:
        raise InputError(f"subspace must exceed the number of pairs, {count}; got {subspace}")
    _check_memory(op, room + 1 + max(count, BESIDES))
    zero = np.asarray(0)
    state = ExtremalState(
        begin(op, key, room), zero, zero, zero, np.asarray(False), np.full(count, np.nan)
    )
    return ExtremalRun(
        op, state, num_largest, num_smallest, num_by_magnitude, max(tol, 4 * _rounding(op)),
        max_matvecs, room, verify,
    )  # fmt: skip


def _rounding(op: LinearOperator) -> float:
    return float(jnp.finfo(op.dtype).eps) / 2


def _expect_symmetric(
    op: LinearOperator, projection: np.ndarray, first: int, scale: float, floor: float
) -> float:
    """Refuse an operator whose projection on the steps just made is not tridiagonal.

    ``floor`` is what was measured of its rounding before, 0 if nothing; returns what is known now.
    """
    steps = projection[first:, first:]
    mirrored = np.diagonal(steps, 1) - np.diagonal(steps[: steps.shape[1]], -1)
    asymmetry = max(np.abs(np.triu(steps, 2)).max(), np.abs(mirrored).max(initial=0))
    if asymmetry <= max(ASYMMETRY[op.dtype.name] * scale, floor):
        return floor
    # What explains it is looked for where it matters alone: it takes products, and a trace of them.
    if asymmetry <= _DIFFERENCE * np.sqrt(_rounding(op)) * scale and coarser_products(op):
        return floor
    floor = float(floor_behind(op, asymmetry))
    if np.isnan(floor):
        raise not_symmetric(op, f"its projection is by {asymmetry:.2e} at norm {scale:.2e}")
    return floor


def _expect_agreement(off: float, small: float, scale: float, unit: float) -> None:
    """Refuse residuals and values of a last look that the steps before it do not explain."""
    if off > small + _DIFFERENCE * np.sqrt(unit) * scale:
        raise InputError(
            f"the operator's products differ among themselves: eigenpairs found by one vector at a "
            f"time, with residual norms of at most {small:.2e}, are off by {off:.2e} with several "
            "vectors at once"
        )


def _choose(
    theta: np.ndarray, more: int, *, largest: int, smallest: int, magnitude: int
) -> np.ndarray:
    """Numbers of the wanted Ritz values, with so many neighbours more in all."""
    if magnitude:
        return np.sort(np.argsort(-np.abs(theta))[: magnitude + more])
    top = largest + (more * largest) // (largest + smallest)
    bottom = smallest + more * (smallest > 0) - (top - largest) * (smallest > 0)
    return np.unique(np.r_[np.arange(bottom), np.arange(len(theta) - top, len(theta))])


def _residuals(op: LinearOperator, vectors: Array) -> tuple[np.ndarray, np.ndarray]:
    """Rayleigh quotients and ``‖Av − λv‖`` of unit rows; sums in float64."""
    values, norms = np.empty(len(vectors)), np.empty(len(vectors))
    for start in range(0, len(vectors), _BLOCK):
        some = vectors[start : start + _BLOCK]
        images = np.asarray(op.matmat(some.T).T)
        # One after the other: in float64 several would be much of the memory.
        for number, (row, image) in enumerate(zip(np.asarray(some), images, strict=True), start):
            v, rest = row.astype(float), image.astype(float)
            length = v @ v
            values[number] = (v @ rest) / length
            rest -= values[number] * v
            norms[number] = np.linalg.norm(rest) / np.sqrt(length)
    return values, norms


def _check_memory(op: LinearOperator, vectors: int) -> None:
    needed, there = vectors * op.shape[0] * op.dtype.itemsize, device_memory()
    if needed > there // 2:
        raise ResourceError(
            f"{vectors} vectors of length {op.shape[0]} need {readable(needed)}, and may take half "
            f"of the device's {readable(there)}; ask for fewer pairs or a smaller subspace"
        )
