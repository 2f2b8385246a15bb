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

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from landscape._pytrees import pytree
from landscape.curvature.lanes import in_groups
from landscape.curvature.operators import LinearOperator
from landscape.curvature.preconditions import ASYMMETRY
from landscape.curvature.sharding import Layout, on_host
from landscape.spectra.blocks import PANEL, block_sizes, empty_block, first_rows, store, sweep_twice
from landscape.spectra.deflation import DeflatedOperator
from landscape.spectra.losses import Losses, asked_for, corrected, none_lost, predict, with_room
from landscape.spectra.tiles import inner_products, joined, lengths, nonzero, remove, rows_of, tiled

SCHEMES = ("full", "partial", "none")

# A step has broken down when β falls to rounding level: the Krylov space is exhausted. The β that
# was found is kept: the bounds account for what lies behind it.
BREAKDOWN = 10.0

# Whatever the scheme, the first vectors are orthogonal, up to the first β below so much of ‖A‖: so
# many steps say how symmetric A is. Where orthogonality may be lost later ones speak of that too.
# They can say no more than that A is refused, from so many units of √u‖A‖; partial
# reorthogonalisation alone lets about one appear.
_FIRST_STEPS, _LARGE = 8, 0.01
_LATER = 30.0


@pytree
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
        (L,) ``max_j |α_j| + β_j + β_{j-1}`` of the steps made: at least ‖T‖, and at most √3‖A‖.
    losses
        Estimated losses of orthogonality; none unless partial.
    drift
        (L,) largest ``Σ_i (q_iᵀr_j)²/‖A‖`` that a sweep has found, before it took it away.
    asymmetry
        (L,) largest ``|q_{j-1}ᵀAq_j − q_jᵀAq_{j-1}|`` seen, less where β is small or neighbours may
        not be orthogonal; rounding for a symmetric operator.
    step
        () steps made, broken down lanes included.
    continues
        Static: whether a lane goes on after a breakdown, from a fresh vector orthogonal to all
        before. T then falls into blocks, of which the first is the start vector's.
    layout
        Static: how lanes and basis are split among devices.
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
    losses: Losses | None
    drift: Float[Array, " L"]
    asymmetry: Float[Array, " L"]
    step: Int[Array, ""]
    rows_read: Float[Array, ""]
    continues: bool = dataclasses.field(metadata={"static": True})
    layout: Layout | None = dataclasses.field(metadata={"static": True})

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
    layout: Layout | None = None,
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
    layout
        How lanes and basis are split among devices.
    """
    lanes = len(start)
    dtype = start.dtype
    start = start if layout is None else layout.lanes(start)
    sizes = () if reorthogonalize == "none" else block_sizes(capacity)
    estimated = reorthogonalize == "partial"
    return LanczosState(
        basis=tuple(_split(empty_block(start, rows), layout) for rows in sizes),
        previous=jnp.zeros_like(start),
        current=start / jnp.linalg.norm(start, axis=-1, keepdims=True),
        beta=jnp.zeros(lanes, dtype),
        alphas=jnp.zeros((lanes, capacity), dtype),
        betas=jnp.zeros((lanes, capacity), dtype),
        num_steps=jnp.zeros(lanes, jnp.int32),
        exhausted=jnp.zeros(lanes, bool),
        alive=jnp.ones(lanes, bool),
        scale=jnp.zeros(lanes, dtype),
        losses=none_lost(lanes, sum(sizes), dtype) if estimated else None,
        drift=jnp.zeros(lanes, dtype),
        asymmetry=jnp.zeros(lanes, dtype),
        step=jnp.zeros((), jnp.int32),
        rows_read=jnp.zeros((), jnp.float32),
        continues=continues,
        layout=layout,
    )


def _split(block: Array, layout: Layout | None) -> Array:
    return block if layout is None else layout.block(block)


def enlarge(state: LanczosState, capacity: int) -> LanczosState:
    """The same state with room for more steps."""
    new = block_sizes(capacity)[len(state.basis) :] if state.basis else ()
    room = ((0, 0), (0, capacity - state.capacity))
    losses = state.losses and with_room(state.losses, sum(new))
    return dataclasses.replace(
        state,
        basis=state.basis
        + tuple(_split(empty_block(state.current, rows), state.layout) for rows in new),
        alphas=jnp.pad(state.alphas, room),
        betas=jnp.pad(state.betas, room),
        losses=losses,
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
    product = in_groups(op._lanes(), 1 if state.layout is None else state.layout.groups)
    apart = _apart(op)

    def unfinished(state: LanczosState) -> Array:
        return (state.step < until) & state.alive.any()

    def step(state: LanczosState) -> LanczosState:
        with jax.named_scope("matvec"):
            image = product(state.current)
        return absorb(state, image, apart)

    return jax.lax.while_loop(unfinished, step, state)


advance_compiled = jax.jit(advance, donate_argnums=1)


def advance_from_host(op: LinearOperator, state: LanczosState, until: int) -> LanczosState:
    """``advance`` for an operator that cannot be part of a compiled program."""
    apart = _apart(op)
    while int(state.step) < until and bool(state.alive.any()):
        state = _absorb_compiled(state, op.matmat(state.current.T).T, apart)
    return state


def _apart(op: LinearOperator) -> tuple[Array, ...]:
    """What new vectors must be orthogonal to besides the basis: the vectors that were deflated."""
    return (op.block,) if isinstance(op, DeflatedOperator) else ()


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
    found, beta, scale = (on_host(x).astype(float) for x in (state.drift, state.beta, state.scale))
    lost = sum(on_host(_overlap(block, state.current)).astype(float) for block in state.basis)
    return np.maximum(found, lost * beta**2 / np.where(scale > 0, scale, 1))


# Of one block, not of a basis: there are few sizes of blocks to compile for.
@jax.jit
def _overlap(block: Array, vectors: Array) -> Float[Array, " L"]:
    """Sum of squared inner products with the rows of a block."""
    return jnp.sum(inner_products(block, tiled(vectors)) ** 2, -1)


def absorb(
    state: LanczosState, image: Float[Array, "L P"], apart: tuple[Array, ...] = ()
) -> LanczosState:
    """One step, given the images ``A q_j`` of the current vectors.

    ``apart``: blocks of vectors, (1, T, q, p), outside whose span Lanczos stays.
    """
    j = state.step
    current, beta = state.current, state.beta
    mirrored = _inner(image, state.previous)
    image = image - beta[:, None] * state.previous
    alpha = _inner(image, current)
    residual = image - alpha[:, None] * current
    # Once more against the current vector: orthogonality to it is what all else rests on.
    residual = _without(residual, current)
    basis, losses, drift = state.basis, state.losses, state.drift
    read = jnp.zeros((), jnp.float32)
    # Each scheme writes to the basis where the order of reading and writing is forced by the data:
    # else the compiler copies the basis.
    with jax.named_scope("reorthogonalize"):
        if losses is not None:
            (tiles, row), losses, found, read = _partially(state, losses, tiled(residual), alpha)
            drift = jnp.maximum(drift, found)
            basis = store(basis, row, j)
            residual, current = (joined(x, current.shape[1]) for x in (tiles, row))
        elif basis:
            row = tiled(current)
            basis = store(basis, row, j)
            filled = jnp.asarray(first_rows(basis)) <= j
            (tiles, _), _, read = sweep_twice(basis, (tiled(residual), row), filled, None)
            residual = joined(tiles, current.shape[1])
    length = jnp.linalg.norm(residual, axis=-1)
    scale = jnp.maximum(state.scale, jnp.abs(alpha) + beta + length)
    going = state.alive & ~(length <= BREAKDOWN * jnp.finfo(image.dtype).eps * scale)
    exhausted = state.exhausted | ~going
    # After a small β even neighbours lose orthogonality, by rounding alone: that step says nothing.
    root = (float(jnp.finfo(image.dtype).eps) / 2) ** 0.5
    meaning = jnp.minimum(1, beta / (root * nonzero(scale)))
    if losses is not None or not basis:
        # Nor do those that follow, where not all rows are read at every step.
        made = (jnp.arange(state.capacity) < j)[None]
        smallest = jnp.where(made, state.betas, jnp.inf).min(-1)
        first = (j < _FIRST_STEPS) & (smallest >= _LARGE * scale)
        later = ASYMMETRY[image.dtype.name] / (_LATER * root)
        meaning = jnp.where(first, 1, jnp.where(smallest >= root * scale, later, 0))
    asymmetry = jnp.abs(mirrored - beta) * meaning
    following = jnp.where(going[:, None], residual / jnp.where(going, length, 1)[:, None], 0)
    beta_next = jnp.where(going, length, 0)
    if state.continues:
        lanes = len(following)
        within = [jnp.broadcast_to(block, (lanes, *block.shape[1:])) for block in apart]
        following = _go_on((*within, *basis), following, state.alive & ~going, j)
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
        drift=drift,
        asymmetry=jnp.maximum(state.asymmetry, asymmetry),
        step=j + 1,
        rows_read=state.rows_read + read,
        continues=state.continues,
        layout=state.layout,
    )


def _partially(
    state: LanczosState, losses: Losses, residual: Float[Array, "L T p"], alpha: Float[Array, " L"]
) -> tuple[tuple[Array, Array], Losses, Float[Array, " L"], Array]:
    """Sweep the blocks whose estimated losses ask for it.

    They are read for the new vector and, unless the step before has read them, for the current one:
    the recurrence would bring its losses back in. (For the new one alone, wherever losses grow so
    fast that the next sweep is due within four steps, a tenth fewer rows were read; but T moved up
    to a hundred times as far, 7·10⁻⁶‖A‖ in float32: what is not swept is known from estimates.)

    Returns the new and the current vector in tiles, their estimated losses, what was found of T's
    drift, and the number of rows read.
    """
    j, alive = state.step, state.alive
    length = lengths(residual)
    norm = jnp.maximum(state.scale, jnp.abs(alpha) + state.beta + length)
    losses = predict(losses, j, state.alphas, state.betas, alpha, state.beta, length, norm)
    asked = asked_for(losses, j, alive, length, state.scale)
    first = first_rows(state.basis) // PANEL
    reading = jnp.stack([panels.any() for panels in jnp.split(asked, first[1:])])
    both = jnp.any(asked & ~losses.swept)
    vectors = (residual, tiled(state.current))
    vectors, overlaps, read = sweep_twice(state.basis, vectors, reading, both)
    stored = jnp.arange(overlaps.shape[1])[None] < j
    overlaps = jnp.where(stored & alive[:, None], overlaps, 0)
    drift = jnp.sum(overlaps**2, -1) / nonzero(state.scale)
    true = overlaps / nonzero(length)[:, None]
    sizes = [block.shape[2] // PANEL for block in state.basis]
    panels = reading[np.repeat(np.arange(len(sizes)), sizes)]
    losses = corrected(losses, j, true, asked[None] & alive[:, None], panels, both)
    return vectors, losses, drift, read


def _go_on(
    blocks: tuple[Array, ...], vectors: Array, ended: Bool[Array, " L"], step: Array
) -> Array:
    """A fresh unit vector orthogonal to the blocks for each lane that has broken down."""

    def fresh(vectors: Array) -> Array:
        key = jax.random.fold_in(jax.random.key(1), step)
        new = tiled(jax.random.normal(key, vectors.shape, vectors.dtype))
        # A third time, because in a nearly full space little is left of it.
        for _ in range(3):
            for block in blocks:
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
