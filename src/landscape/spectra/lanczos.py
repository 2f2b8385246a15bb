r"""Lanczos tridiagonalisation as one compiled program over lanes: probes, networks, or both.

Notation: symmetric operator ``A`` on R^P, start vectors ``q_1`` (one lane each), m steps.
``A Q_m = Q_m T_m + β_m q_{m+1} e_mᵀ`` with orthonormal rows in Q and T tridiagonal with diagonal
``α`` and off-diagonal ``β``; ``u`` is the unit roundoff.

Three ways to keep the basis orthogonal:

- ``"full"``: against every row at every step, with a second pass only if the first took more than
  a factor √2 off the norm ("twice is enough", B. N. Parlett, *The Symmetric Eigenvalue Problem*,
  1980, §6.9). What exact arithmetic would give.
- ``"partial"``: the loss of orthogonality obeys a recurrence of its own; only when it passes √u is
  the basis read, for the new vector and the one before it together, and only the blocks of rows
  that matter. T is then the projection of A up to O(u‖A‖) (H. D. Simon, *The Lanczos algorithm with
  partial reorthogonalization*, Math. Comp. 42, 1984; two vectors at once: J. F. Grcar, *Analyses of
  the Lanczos algorithm*, PhD thesis, University of Illinois, 1981).
- ``"none"``: three vectors a lane. Converged eigenvalues return as ghosts (C. C. Paige,
  *Computational variants of the Lanczos method for the eigenproblem*, J. Inst. Maths Applics 10,
  1972).

A state holds everything: it can be advanced, stored, and advanced again with the same result.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from landscape.curvature.operators import LinearOperator
from landscape.spectra.tiles import (
    inner,
    inner_products,
    joined,
    lengths,
    remove,
    remove_from_both,
    rows_of,
    tile_shape,
    tiled,
)

SCHEMES = ("full", "partial", "none")

# The basis is kept in blocks of rows, each an array of its own: a slice of one large array would be
# copied before it is multiplied (1.7 times the time of a sweep, on a CPU). Four blocks of a size,
# then four of twice the size: a sweep is one branch per block of the compiled program, and these
# sizes keep their number at 4 log₂(m/32) while few unfilled rows are touched.
BLOCKS_OF_A_SIZE = 4

# Rows in the smallest block, and of what the losses of orthogonality are looked at together.
PANEL = 16

# A step has broken down when β falls to rounding level: the Krylov space is exhausted. The β that
# was found is kept: the bounds account for what lies behind it.
BREAKDOWN = 10.0

# The recurrence of the losses needs to know how much rounding enters at each step. It starts from
# u‖A‖, and every sweep, which sees the true losses, corrects it towards estimates this many times
# too large, by no more than that factor at a time. Products of a network round by more than u‖A‖ in
# some directions, and on most vectors by far less.
CAUTION = 10.0

# … nor below this, whatever the sweeps have seen: what is small now need not stay so. With a third
# of it, two clusters 1000 apart in size lost orthogonality until T was wrong by 3 % of ‖A‖; with 30
# times as much, twice as many rows were read on trained networks, and T was no better for it.
LEAST_ROUNDING = 0.03

# Losses may grow by ‖A‖/β in a step. Where that is more than so much, they are not let come as far.
# Without it, two clusters 10⁷ apart in size moved T by 10⁻⁴‖A‖ in float64.
GROWTH = 1000.0

# If any loss has passed √u, all blocks with one above this much of it are read. With u^¾, Larsen's
# second level, the trained residual network's basis was read a third more often (this number, and
# those of LEAST_ROUNDING, while the first two blocks were read at every step).
SECOND_LEVEL = 0.1

# Realisations of the random signs of that rounding: one alone may by chance miss the mode of the
# recurrence that grows fastest.
REALISATIONS = 4


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LanczosState:
    """L Lanczos runs in lockstep, after some steps.

    Attributes
    ----------
    basis
        Blocks of rows q_1 …, (L, T, r, p) each, a row in T tiles of p numbers; none without
        reorthogonalisation.
    previous, current
        (L, P) q_{j-1} and q_j; zero once a lane has broken down.
    beta
        (L,) what couples them.
    alphas, betas
        (L, M) diagonals and off-diagonals, zero where no step was made; the last β of a lane that
        has broken down is what was left.
    num_steps
        (L,) steps made before the start vector's Krylov space was exhausted.
    exhausted
        (L,) whether it is.
    alive
        (L,) whether steps are still made.
    scale
        (L,) lower estimate of ‖A‖ from the steps made.
    losses, losses_before
        (L, K, R) estimates of q_jᵀq_i and q_{j-1}ᵀq_i, K times; R = 0 unless partial.
    rounding
        (L, B) what enters the losses of each panel of rows at each step, in units of u‖A‖; learnt
        from the sweeps.
    swept
        (B,) panels that the last step has read: the current vector has no losses there.
    drift
        (L,) largest ``Σ_i (q_iᵀr_j)²/‖A‖`` that a sweep has found, before it took it away.
    asymmetry
        (L,) largest ``|q_{j-1}ᵀAq_j − q_jᵀAq_{j-1}|`` seen, less where β is small; rounding for a
        symmetric operator.
    step
        () steps made, broken down lanes included.
    continues
        Static: whether a lane goes on after a breakdown, from a fresh vector orthogonal to all
        before. T then falls into blocks, of which the first is the start vector's.
    rows_read
        () rows of the basis read so far, per lane: the memory traffic of orthogonality. Rows read
        for two vectors at once count once.
    """

    basis: tuple[Float[Array, "L T _ p"], ...]
    previous: Float[Array, "L P"]
    current: Float[Array, "L P"]
    beta: Float[Array, " L"]
    alphas: Float[Array, "L M"]
    betas: Float[Array, "L M"]
    num_steps: Int[Array, " L"]
    exhausted: Bool[Array, " L"]
    alive: Bool[Array, " L"]
    scale: Float[Array, " L"]
    losses: Float[Array, "L K Q"]
    losses_before: Float[Array, "L K Q"]
    rounding: Float[Array, "L B"]
    swept: Bool[Array, " B"]
    drift: Float[Array, " L"]
    asymmetry: Float[Array, " L"]
    step: Int[Array, ""]
    rows_read: Float[Array, ""]
    continues: bool = dataclasses.field(metadata={"static": True})

    @property
    def capacity(self) -> int:
        """Steps there is room for."""
        return self.alphas.shape[1]

    def rows(self) -> Float[Array, "L M P"]:
        """The basis, one vector a row; zero where no step was made."""
        blocks = [rows_of(block, self.current.shape[1]) for block in self.basis]
        return jnp.concatenate(blocks, 1)[:, : self.capacity]


def begin(
    start: Float[Array, "L P"],
    capacity: int,
    reorthogonalize: str = "full",
    continues: bool = False,
) -> LanczosState:
    """The state before the first step.

    Parameters
    ----------
    start
        (L, P), nonzero rows; normalised here.
    capacity
        Steps to have room for, at least 1.
    reorthogonalize
        One of ``SCHEMES``.
    continues
        Whether to go on after a breakdown; with full reorthogonalisation only.
    """
    lanes = len(start)
    dtype = start.dtype
    sizes = () if reorthogonalize == "none" else block_sizes(capacity)
    estimated = sum(sizes) if reorthogonalize == "partial" else 0
    return LanczosState(
        basis=tuple(_empty(start, rows) for rows in sizes),
        previous=jnp.zeros_like(start),
        current=start / jnp.linalg.norm(start, axis=-1, keepdims=True),
        beta=jnp.zeros(lanes, dtype),
        alphas=jnp.zeros((lanes, capacity), dtype),
        betas=jnp.zeros((lanes, capacity), dtype),
        num_steps=jnp.zeros(lanes, jnp.int32),
        exhausted=jnp.zeros(lanes, bool),
        alive=jnp.ones(lanes, bool),
        scale=jnp.zeros(lanes, dtype),
        losses=jnp.zeros((lanes, REALISATIONS, estimated), dtype).at[..., :1].set(1),
        losses_before=jnp.zeros((lanes, REALISATIONS, estimated), dtype),
        rounding=jnp.full((lanes, estimated // PANEL), CAUTION, dtype),
        swept=jnp.zeros(estimated // PANEL, bool),
        drift=jnp.zeros(lanes, dtype),
        asymmetry=jnp.zeros(lanes, dtype),
        step=jnp.zeros((), jnp.int32),
        rows_read=jnp.zeros((), jnp.float32),
        continues=continues,
    )


def block_sizes(capacity: int) -> tuple[int, ...]:
    """Rows of each block of a basis with room for so many steps."""
    sizes: list[int] = []
    while sum(sizes) < capacity:
        sizes.append(PANEL * 2 ** (len(sizes) // BLOCKS_OF_A_SIZE))
    return tuple(sizes)


def _empty(like: Array, rows: int) -> Array:
    """A block of so many rows, for vectors like these."""
    lanes, size = like.shape
    count, length = tile_shape(size)
    return jnp.zeros((lanes, count, rows, length), like.dtype)


def enlarge(state: LanczosState, capacity: int) -> LanczosState:
    """The same state with room for more steps."""
    new = block_sizes(capacity)[len(state.basis) :] if state.basis else ()
    rows = sum(new) if state.losses.shape[-1] else 0

    def pad(x: Array, more: int, value: float = 0) -> Array:
        return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, more)], constant_values=value)

    return dataclasses.replace(
        state,
        basis=state.basis + tuple(_empty(state.current, rows) for rows in new),
        alphas=pad(state.alphas, capacity - state.capacity),
        betas=pad(state.betas, capacity - state.capacity),
        losses=pad(state.losses, rows),
        losses_before=pad(state.losses_before, rows),
        rounding=pad(state.rounding, rows // PANEL, CAUTION),
        swept=pad(state.swept, rows // PANEL),
    )


def advance(op: LinearOperator, state: LanczosState, until: Int[Array, ""] | int) -> LanczosState:
    """Make steps until ``until`` have been made, or every lane has broken down.

    For use inside compiled functions; what the operator can compute once is computed once. The
    scheme is told by the state's shapes.

    Parameters
    ----------
    op
        Symmetric, (P, P), or a family of them whose networks times probes are the lanes.
    state
        Where to go on from.
    until
        Total number of steps, at most the state's capacity; may be traced.
    """
    product = op._lanes()

    def unfinished(state: LanczosState) -> Array:
        return (state.step < until) & state.alive.any()

    def step(state: LanczosState) -> LanczosState:
        with jax.named_scope("matvec"):
            image = product(state.current)
        return absorb(state, image)

    return jax.lax.while_loop(unfinished, step, state)


advance_compiled = jax.jit(advance, donate_argnums=1)


def advance_from_host(op: LinearOperator, state: LanczosState, until: int) -> LanczosState:
    """``advance`` for an operator that cannot be part of a compiled program."""
    while int(state.step) < until and bool(state.alive.any()):
        state = _absorb_compiled(state, op.matmat(state.current.T).T)
    return state


def drift(state: LanczosState) -> Float[np.ndarray, " L"]:
    """How far lost orthogonality has moved T from a projection of A, in norm.

    Rows that overlap by ω move T by O(ω²‖A‖) (Simon, 1984). What a sweep meets, ``Qᵀr_j`` before it
    is taken away, is the overlap of the rows in use times up to ‖A‖: the recurrence of the losses
    has carried it there. A sweep that comes late meets losses that have grown, and this shows it.
    The residual of the last step counts too; for it the whole basis is read once.

    Returns
    -------
    (L,) the largest ``‖Qᵀr_j‖²/‖A‖``: an estimate, by the measured ‖A‖. Zero without a basis.
    """
    found, beta, scale = (np.asarray(x, float) for x in (state.drift, state.beta, state.scale))
    lost = sum(np.asarray(_overlap(block, state.current), float) for block in state.basis)
    return np.maximum(found, lost * beta**2 / np.where(scale > 0, scale, 1))


# Of one block, not of a basis: there are few sizes of blocks to compile for.
@jax.jit
def _overlap(block: Array, vectors: Array) -> Float[Array, " L"]:
    """Sum of squared inner products with the rows of a block."""
    return jnp.sum(inner_products(block, tiled(vectors)) ** 2, -1)


def absorb(state: LanczosState, image: Float[Array, "L P"]) -> LanczosState:
    """One step, given the images ``A q_j`` of the current vectors."""
    j = state.step
    current, beta = state.current, state.beta
    mirrored = _inner(image, state.previous)
    image = image - beta[:, None] * state.previous
    alpha = _inner(image, current)
    residual = image - alpha[:, None] * current
    # Once more against the current vector: orthogonality to it is what all else rests on.
    residual = _without(residual, current)
    basis, rounding = state.basis, state.rounding
    losses, losses_before, swept, drift = state.losses, state.losses, state.swept, state.drift
    read = jnp.zeros((), jnp.float32)
    # Each scheme writes to the basis where the order of reading and writing is forced by the data:
    # else the compiler copies the basis.
    with jax.named_scope("reorthogonalize"):
        if state.losses.shape[-1]:
            (tiles, row), (losses, losses_before), rounding, swept, found, read = _partially(
                state, tiled(residual), alpha
            )
            drift = jnp.maximum(drift, found)
            basis = _store(basis, row, j)
            residual, current = (joined(x, current.shape[1]) for x in (tiles, row))
        elif basis:
            row = tiled(current)
            basis = _store(basis, row, j)
            filled = jnp.asarray(_first_rows(basis)) <= j
            (tiles, _), _, read = _sweep_twice(basis, (tiled(residual), row), filled, None)
            residual = joined(tiles, current.shape[1])
    length = jnp.linalg.norm(residual, axis=-1)
    scale = jnp.maximum(state.scale, jnp.abs(alpha) + beta + length)
    going = state.alive & ~(length <= BREAKDOWN * jnp.finfo(image.dtype).eps * scale)
    exhausted = state.exhausted | ~going
    # After a small β even neighbours lose orthogonality, by rounding alone: that step says nothing.
    meaning = jnp.minimum(1, beta / (jnp.sqrt(jnp.finfo(image.dtype).eps / 2) * _safe(scale)))
    asymmetry = jnp.abs(mirrored - beta) * meaning
    following = jnp.where(going[:, None], residual / jnp.where(going, length, 1)[:, None], 0)
    beta_next = jnp.where(going, length, 0)
    if state.continues:
        following = _go_on(basis, following, state.alive & ~going, j)
        going = state.alive & (j + 1 < image.shape[1])
    at = (jnp.arange(state.capacity) == j)[None]
    return LanczosState(
        basis=basis,
        previous=current,
        current=following,
        beta=beta_next,
        alphas=jnp.where(at, alpha[:, None], state.alphas),
        betas=jnp.where(at, jnp.where(state.alive, length, 0)[:, None], state.betas),
        num_steps=state.num_steps + (state.alive & ~state.exhausted),
        exhausted=exhausted,
        alive=going,
        scale=scale,
        losses=losses,
        losses_before=losses_before,
        rounding=rounding,
        swept=swept,
        drift=drift,
        asymmetry=jnp.maximum(state.asymmetry, asymmetry),
        step=j + 1,
        rows_read=state.rows_read + read,
        continues=state.continues,
    )


def _go_on(
    basis: tuple[Array, ...], vectors: Array, ended: Bool[Array, " L"], step: Array
) -> Array:
    """A fresh unit vector orthogonal to the basis for each lane that has broken down."""

    def fresh(vectors: Array) -> Array:
        key = jax.random.fold_in(jax.random.key(1), step)
        new = tiled(jax.random.normal(key, vectors.shape, vectors.dtype))
        # A third time, because in a nearly full space little is left of it.
        for _ in range(3):
            for block in basis:
                new, _ = remove(block, new)
            new = new / lengths(new)[:, None, None]
        return jnp.where(ended[:, None], joined(new, vectors.shape[1]), vectors)

    return jax.lax.cond(ended.any(), fresh, lambda vectors: vectors, vectors)


_absorb_compiled = jax.jit(absorb, donate_argnums=0)


def _without(vectors: Array, others: Array) -> Array:
    """Each lane's vector without its component along a unit vector (or zero)."""
    return vectors - _inner(vectors, others)[:, None] * others


def _inner(first: Array, second: Array) -> Array:
    """Inner products lane by lane: as products of matrices eight times as fast as sums on a CPU."""
    return jnp.einsum("lp,lp->l", first, second, precision="highest")


def _first_rows(basis: tuple[Array, ...]) -> np.ndarray:
    """Number of the first row of each block."""
    return np.cumsum([0, *(block.shape[2] for block in basis)])[:-1]


def _store(
    basis: tuple[Array, ...], vectors: Float[Array, "L T p"], row: Int[Array, ""]
) -> tuple[Array, ...]:
    """The basis with one more row. Each block is written in place, or left alone."""

    def write(block: Array, at: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(block, vectors[:, :, None], at, axis=2)

    return tuple(
        jax.lax.cond(
            (row >= first) & (row < first + block.shape[2]),
            write,
            lambda block, at: block,
            block,
            row - first,
        )
        for block, first in zip(basis, _first_rows(basis).tolist(), strict=True)
    )


def _partially(
    state: LanczosState, residual: Array, alpha: Array
) -> tuple[tuple[Array, Array], tuple[Array, Array], Array, Array, Array, Array]:
    """Sweep the blocks whose estimated losses ask for it.

    If any loss has passed √u, every block with one above a second, lower level is read (R. M.
    Larsen, *Lanczos bidiagonalization with partial reorthogonalization*, DAIMI PB-357, 1998), for
    the new vector and, unless the step before has read them, for the current one: the recurrence
    would bring its losses back in.

    Vectors are in tiles. Returns the new and the current one, their estimated losses, the rounding,
    the panels read, what was found there of T's drift, and the number of rows read.
    """
    j = state.step
    unit = jnp.finfo(residual.dtype).eps / 2
    length = lengths(residual)
    # A panel that is new starts from what was learnt in the one before it.
    panel = jnp.arange(state.rounding.shape[-1])
    new = (panel * PANEL == j)[None]
    rounding = jnp.where(new & (j > 0), jnp.roll(state.rounding, 1, 1), state.rounding)
    signs = _signs(j, state.losses)
    known = dataclasses.replace(state, rounding=rounding)
    losses = _estimate_losses(known, alpha, length, signs[0])
    rows = jnp.arange(losses.shape[-1])[None]
    worst = _largest_by_panel(jnp.where(rows < j, jnp.abs(losses).max(1), 0))
    living = jnp.where(state.alive[:, None], worst, 0)
    living = living * jnp.maximum(1, state.scale / (GROWTH * _safe(length)))[:, None]
    level = jnp.sqrt(unit)
    asked = jnp.any(living > level) & (living.max(0) > SECOND_LEVEL * level)
    first = _first_rows(state.basis) // PANEL
    reading = jnp.stack([group.any() for group in jnp.split(asked, first[1:])])
    both = jnp.any(asked & ~state.swept)
    vectors = (residual, tiled(state.current))
    (swept, current), overlaps, read = _sweep_twice(state.basis, vectors, reading, both)
    overlaps = jnp.where((rows < j) & state.alive[:, None], overlaps, 0)
    drift = jnp.sum(overlaps**2, -1) / _safe(state.scale)
    true = _largest_by_panel(jnp.abs(overlaps)) / _safe(length)[:, None]
    ratio = CAUTION * true / jnp.where(worst > 0, worst, 1)
    learns = asked[None] & state.alive[:, None] & (worst > 0)
    rounding = rounding * jnp.where(learns, jnp.clip(ratio, 1 / CAUTION, CAUTION), 1)
    rounding = jnp.maximum(rounding, LEAST_ROUNDING)
    local = jnp.repeat(rounding, PANEL, 1)[:, None] * unit
    sizes = [block.shape[2] // PANEL for block in state.basis]
    panels = reading[np.repeat(np.arange(len(sizes)), sizes)]
    read_rows = jnp.repeat(panels, PANEL)[None]
    clean = (read_rows & (rows <= j))[None]
    losses = jnp.where(clean, local * signs[1], losses)
    losses = jnp.where((rows == j + 1)[None], 1, losses)
    before = (read_rows & both & (rows < j))[None]
    losses_before = jnp.where(before, local * signs[2], state.losses)
    return (swept, current), (losses, losses_before), rounding, panels, drift, read


def _largest_by_panel(values: Array) -> Array:
    """(L, R) to (L, B)."""
    return values.reshape(values.shape[0], -1, PANEL).max(-1)


def _safe(length: Array) -> Array:
    return jnp.where(length > 0, length, 1)


def _estimate_losses(state: LanczosState, alpha: Array, length: Array, signs: Array) -> Array:
    """Simon's recurrence: estimates of q_{j+1}ᵀq_i for i ≤ j, (L, K, R).

    ``β_{j+1} ω_{j+1,i} = β_{i+1} ω_{j,i+1} + (α_i − α_j) ω_{j,i} + β_i ω_{j,i−1} − β_j ω_{j−1,i}``
    plus rounding of random sign: with the sign that makes each estimate larger, the modes that grow
    fastest (which alternate) were missed by a factor of 100.
    """
    j = state.step
    now, before = state.losses, state.losses_before
    num_rows = now.shape[-1]
    alphas, betas = (
        jnp.pad(x, ((0, 0), (0, max(0, num_rows - state.capacity))))[:, None, :num_rows]
        for x in (state.alphas, state.betas)
    )
    up = jnp.pad(now[..., 1:], ((0, 0), (0, 0), (0, 1)))
    down = jnp.pad((betas * now)[..., :-1], ((0, 0), (0, 0), (1, 0)))
    alpha, beta, length = (x[:, None, None] for x in (alpha, state.beta, length))
    value = betas * up + (alphas - alpha) * now + down - beta * before
    unit = jnp.finfo(now.dtype).eps / 2
    norm = jnp.maximum(state.scale[:, None, None], jnp.abs(alpha) + beta + length)
    local = jnp.repeat(state.rounding, PANEL, 1)[:, None] * unit
    value = value + local * norm * signs
    value = value / _safe(length)
    rows = jnp.arange(num_rows)[None, None]
    return jnp.where(rows < j, value, jnp.where(rows == j, local, 0))


def _signs(step: Array, like: Array) -> Array:
    """Three draws of random signs, (3, 1, K, R), the same in every run.

    Bits of a hash of step and row (the finaliser of A. Appleby's MurmurHash3, 2011): JAX's own
    generator is a third of the time that the whole program takes to compile.
    """
    _, realisations, num_rows = like.shape
    x = jnp.arange(num_rows, dtype=jnp.uint32) + step.astype(jnp.uint32) * jnp.uint32(0x9E3779B9)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    x = x ^ (x >> 16)
    bits = jnp.arange(3 * realisations, dtype=jnp.uint32).reshape(3, 1, realisations, 1)
    return jnp.where((x[None, None, None] >> bits) & 1, 1, -1).astype(like.dtype)


def _sweep_twice(
    basis: tuple[Array, ...],
    vectors: tuple[Array, Array],
    reading: Bool[Array, " b"],
    both: Bool[Array, ""] | None,
) -> tuple[tuple[Array, Array], Array, Array]:
    """Each lane's first vector, or both, made orthogonal to the rows of some blocks; in tiles.

    Returns the vectors, the overlaps of the first with the rows before, (L, R), and how many rows
    were read. A second pass is made if the first took too much of the norm of the first vector.
    """
    sizes = jnp.asarray([block.shape[2] for block in basis], jnp.float32)
    shape = (basis[0].shape[0], sum(block.shape[2] for block in basis))
    enough = lengths(vectors[0]) / jnp.sqrt(2.0)

    def unfinished(carry: tuple[Array, Any, Any]) -> Array:
        passes, vectors, _ = carry
        lost = jnp.any(lengths(vectors[0]) < enough)
        return (passes == 0) | ((passes == 1) & lost)

    def once(carry: tuple[Array, Any, Any]) -> tuple[Array, Any, Any]:
        passes, vectors, overlaps = carry
        vectors, found = _sweep(basis, vectors, reading, both)
        return passes + 1, vectors, jnp.where(passes == 0, found, overlaps)

    def sweeps(start: tuple[Array, Any, Any]) -> tuple[Array, Any, Any]:
        passes, (first, second), overlaps = jax.lax.while_loop(unfinished, once, start)
        if both is not None:
            second = second / _safe(lengths(second))[:, None, None]
            first = first - inner(first, second)[:, None, None] * second
        return passes, (first, second), overlaps

    start = (jnp.zeros((), jnp.int32), vectors, jnp.zeros(shape, vectors[0].dtype))
    # Inside a branch the loop works on the basis where it lies; outside, it would copy it.
    passes, vectors, overlaps = jax.lax.cond(reading.any(), sweeps, lambda start: start, start)
    return vectors, overlaps, passes * jnp.sum(jnp.where(reading, sizes, 0))


def _sweep(
    basis: tuple[Array, ...],
    vectors: tuple[Array, Array],
    reading: Bool[Array, " b"],
    both: Bool[Array, ""] | None,
) -> tuple[tuple[Array, Array], Array]:
    """One pass of block Gram–Schmidt against some blocks of rows, and the first's overlaps."""

    def read(block: Array, first: Array, second: Array) -> tuple[Array, Array, Array]:
        def alone(first: Array, second: Array) -> tuple[Array, Array, Array]:
            rest, overlaps = remove(block, first)
            return rest, second, overlaps

        if both is None:
            return alone(first, second)
        return jax.lax.cond(both, partial(remove_from_both, block), alone, first, second)

    def leave(block: Array, first: Array, second: Array) -> tuple[Array, Array, Array]:
        return first, second, jnp.zeros((block.shape[0], block.shape[2]), block.dtype)

    first, second = vectors
    found = []
    for block, wanted in zip(basis, reading, strict=True):
        first, second, overlaps = jax.lax.cond(wanted, read, leave, block, first, second)
        found.append(overlaps)
    return (first, second), jnp.concatenate(found, -1)
