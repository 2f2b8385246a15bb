r"""Lanczos tridiagonalisation as one compiled program over lanes: probes, networks, or both.

Notation: symmetric operator ``A`` on R^P, start vectors ``q_1`` (one lane each), m steps.
``A Q_m = Q_m T_m + β_m q_{m+1} e_mᵀ`` with orthonormal rows in Q and T tridiagonal with diagonal
``α`` and off-diagonal ``β``; ``u`` is the unit roundoff.

Three ways to keep the basis orthogonal:

- ``"full"``: against every row at every step, with a second pass only if the first took more than
  a factor √2 off the norm ("twice is enough", B. N. Parlett, *The Symmetric Eigenvalue Problem*,
  1980, §6.9). What exact arithmetic would give.
- ``"partial"``: the loss of orthogonality obeys a recurrence of its own; only when it passes √u is
  the basis read, in that step and the next, and only the blocks of rows that matter. T is then the
  projection of A up to O(u‖A‖) (H. D. Simon, *The Lanczos algorithm with partial
  reorthogonalization*, Math. Comp. 42, 1984).
- ``"none"``: three vectors a lane. Converged eigenvalues return as ghosts (C. C. Paige,
  *Computational variants of the Lanczos method for the eigenproblem*, J. Inst. Maths Applics 10,
  1972).

A state holds everything: it can be advanced, stored, and advanced again with the same result.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from landscape.curvature.operators import LinearOperator

SCHEMES = ("full", "partial", "none")

# Rows of the basis that one projection reads at a time. Unfilled rows are touched only within the
# last block; fewer rows per block would leave the matrix-vector products too short.
ROWS_PER_BLOCK = 16

# A step has broken down when β falls to rounding level: the Krylov space is exhausted. The β that
# was found is kept: the bounds account for what lies behind it.
BREAKDOWN = 10.0

# The recurrence of the losses needs to know how much rounding enters at each step. It starts from
# u‖A‖, and every sweep, which sees the true losses, corrects it towards estimates this many times
# too large, by no more than that factor at a time. Products of a network round by more than u‖A‖ in
# some directions, and on most vectors by far less.
CAUTION = 10.0

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
        (L, R, P) rows q_1 … ; R = 0 without reorthogonalisation.
    previous, current
        (L, P) q_{j-1} and q_j; zero once a lane has broken down.
    beta
        (L,) what couples them.
    alphas, betas
        (L, M) diagonals and off-diagonals, zero where no step was made; the last β of a lane that
        has broken down is what was left.
    num_steps
        (L,) steps made before the Krylov space was exhausted.
    alive
        (L,) whether it is not.
    scale
        (L,) lower estimate of ‖A‖ from the steps made.
    losses, losses_before
        (L, K, R) estimates of q_jᵀq_i and q_{j-1}ᵀq_i, K times; R = 0 unless partial.
    rounding
        (L, B) what enters the losses of each block of rows at each step, in units of u‖A‖; learnt
        from the sweeps.
    again
        (B,) blocks that the next step must read, as the one before did.
    step
        () steps made, broken down lanes included.
    rows_read
        () rows of the basis read so far, per lane: the memory traffic of orthogonality.
    """

    basis: Float[Array, "L R P"]
    previous: Float[Array, "L P"]
    current: Float[Array, "L P"]
    beta: Float[Array, " L"]
    alphas: Float[Array, "L M"]
    betas: Float[Array, "L M"]
    num_steps: Int[Array, " L"]
    alive: Bool[Array, " L"]
    scale: Float[Array, " L"]
    losses: Float[Array, "L K Q"]
    losses_before: Float[Array, "L K Q"]
    rounding: Float[Array, "L B"]
    again: Bool[Array, " B"]
    step: Int[Array, ""]
    rows_read: Float[Array, ""]

    @property
    def capacity(self) -> int:
        """Steps there is room for."""
        return self.alphas.shape[1]


def begin(start: Float[Array, "L P"], capacity: int, reorthogonalize: str = "full") -> LanczosState:
    """The state before the first step.

    Parameters
    ----------
    start
        (L, P), nonzero rows; normalised here.
    capacity
        Steps to have room for, at least 1.
    reorthogonalize
        One of ``SCHEMES``.
    """
    lanes, size = start.shape
    rows = 0 if reorthogonalize == "none" else -(-capacity // ROWS_PER_BLOCK) * ROWS_PER_BLOCK
    estimated = rows if reorthogonalize == "partial" else 0
    dtype = start.dtype
    return LanczosState(
        basis=jnp.zeros((lanes, rows, size), dtype),
        previous=jnp.zeros_like(start),
        current=start / jnp.linalg.norm(start, axis=-1, keepdims=True),
        beta=jnp.zeros(lanes, dtype),
        alphas=jnp.zeros((lanes, capacity), dtype),
        betas=jnp.zeros((lanes, capacity), dtype),
        num_steps=jnp.zeros(lanes, jnp.int32),
        alive=jnp.ones(lanes, bool),
        scale=jnp.zeros(lanes, dtype),
        losses=jnp.zeros((lanes, REALISATIONS, estimated), dtype).at[..., :1].set(1),
        losses_before=jnp.zeros((lanes, REALISATIONS, estimated), dtype),
        rounding=jnp.full((lanes, estimated // ROWS_PER_BLOCK), CAUTION, dtype),
        again=jnp.zeros(estimated // ROWS_PER_BLOCK, bool),
        step=jnp.zeros((), jnp.int32),
        rows_read=jnp.zeros((), jnp.float32),
    )


def enlarge(state: LanczosState, capacity: int) -> LanczosState:
    """The same state with room for more steps."""
    rows = 0
    if state.basis.shape[1]:
        rows = -(-capacity // ROWS_PER_BLOCK) * ROWS_PER_BLOCK - state.basis.shape[1]
    steps = capacity - state.capacity

    def pad(x: Array, more: int) -> Array:
        return jnp.pad(x, [(0, 0), (0, more), *[(0, 0)] * (x.ndim - 2)])

    estimated = rows if state.losses.shape[-1] else 0

    def pad_last(x: Array) -> Array:
        return jnp.pad(x, [(0, 0), (0, 0), (0, estimated)])

    return dataclasses.replace(
        state,
        basis=pad(state.basis, rows),
        alphas=pad(state.alphas, steps),
        betas=pad(state.betas, steps),
        losses=pad_last(state.losses),
        losses_before=pad_last(state.losses_before),
        rounding=jnp.pad(
            state.rounding, ((0, 0), (0, estimated // ROWS_PER_BLOCK)), constant_values=CAUTION
        ),
        again=jnp.pad(state.again, (0, estimated // ROWS_PER_BLOCK)),
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


def absorb(state: LanczosState, image: Float[Array, "L P"]) -> LanczosState:
    """One step, given the images ``A q_j`` of the current vectors."""
    j = state.step
    current, beta = state.current, state.beta
    basis = state.basis
    if basis.shape[1]:
        basis = jax.lax.dynamic_update_slice_in_dim(basis, current[:, None], j, axis=1)
    image = image - beta[:, None] * state.previous
    alpha = jnp.sum(image * current, -1)
    residual = image - alpha[:, None] * current
    # Once more against the current vector: orthogonality to it is what all else rests on.
    residual = residual - jnp.sum(residual * current, -1)[:, None] * current
    with jax.named_scope("reorthogonalize"):
        again, losses, rounding = state.again, state.losses, state.rounding
        read = jnp.zeros((), jnp.float32)
        if state.losses.shape[-1]:
            residual, losses, rounding, again, read = _partially(state, basis, residual, alpha)
        elif basis.shape[1]:
            filled = jnp.arange(basis.shape[1] // ROWS_PER_BLOCK) * ROWS_PER_BLOCK <= j
            residual, _, read = _sweep_twice(basis, residual, filled)
    length = jnp.linalg.norm(residual, axis=-1)
    scale = jnp.maximum(state.scale, jnp.abs(alpha) + beta + length)
    going = state.alive & ~(length <= BREAKDOWN * jnp.finfo(image.dtype).eps * scale)
    safe = jnp.where(going, length, 1)
    beta_next = jnp.where(state.alive, length, 0)
    at = (jnp.arange(state.capacity) == j)[None]
    return LanczosState(
        basis=basis,
        previous=current,
        current=jnp.where(going[:, None], residual / safe[:, None], 0),
        beta=jnp.where(going, length, 0),
        alphas=jnp.where(at, alpha[:, None], state.alphas),
        betas=jnp.where(at, beta_next[:, None], state.betas),
        num_steps=state.num_steps + state.alive,
        alive=going,
        scale=scale,
        losses=losses,
        losses_before=state.losses,
        rounding=rounding,
        again=again,
        step=j + 1,
        rows_read=state.rows_read + read,
    )


def _partially(
    state: LanczosState, basis: Array, residual: Array, alpha: Array
) -> tuple[Array, Array, Array, Array, Array]:
    """Sweep the blocks whose estimated losses ask for it.

    If any loss has passed √u, every block with one above u^¾ is read, in this step and the next:
    the recurrence brings the losses of the vector before back in (R. M. Larsen, *Lanczos
    bidiagonalization with partial reorthogonalization*, DAIMI PB-357, 1998, on the second level).
    Losses grow fastest along the outliers' eigenvectors, which live in the first rows: the first
    block is read at every step, and many others are spared.

    Returns the residual, the losses, the rounding, the blocks to read again, and the rows read.
    """
    j = state.step
    unit = jnp.finfo(residual.dtype).eps / 2
    length = jnp.linalg.norm(residual, axis=-1)
    # A block that is new starts from what was learnt in the one before it.
    block = jnp.arange(state.again.shape[0])
    new = (block * ROWS_PER_BLOCK == j)[None]
    rounding = jnp.where(new & (j > 0), jnp.roll(state.rounding, 1, 1), state.rounding)
    losses = _estimate_losses(dataclasses.replace(state, rounding=rounding), alpha, length)
    rows = jnp.arange(losses.shape[-1])[None]
    worst = _largest_by_block(jnp.where(rows < j, jnp.abs(losses).max(1), 0))
    living = jnp.where(state.alive[:, None], worst, 0)
    asked = jnp.any(living > jnp.sqrt(unit)) & (living.max(0) > unit**0.75)
    reading = asked | state.again | (block == 0)
    swept, overlaps, read = _sweep_twice(basis, residual, reading)
    true = _largest_by_block(jnp.where(rows < j, jnp.abs(overlaps), 0))
    ratio = CAUTION * true / (jnp.where(worst > 0, worst, 1) * _safe(length)[:, None])
    # The second sweep in a row sees what the vector before brings back: nothing to learn.
    learns = (asked & ~state.again)[None] & state.alive[:, None] & (worst > 0)
    rounding = rounding * jnp.where(learns, jnp.clip(ratio, 1 / CAUTION, CAUTION), 1)
    clean = jnp.repeat(rounding, ROWS_PER_BLOCK, 1)[:, None] * unit * _signs(2 * j + 1, losses)
    swept_rows = jnp.repeat(reading, ROWS_PER_BLOCK)[None] & (rows <= j)
    losses = jnp.where(swept_rows[None], clean, losses)
    losses = jnp.where((rows == j + 1)[None], 1, losses)
    return swept, losses, rounding, asked & ~state.again, read


def _largest_by_block(values: Array) -> Array:
    """(L, R) to (L, B)."""
    return values.reshape(values.shape[0], -1, ROWS_PER_BLOCK).max(-1)


def _safe(length: Array) -> Array:
    return jnp.where(length > 0, length, 1)


def _estimate_losses(state: LanczosState, alpha: Array, length: Array) -> Array:
    """Simon's recurrence: estimates of q_{j+1}ᵀq_i for i ≤ j, (L, R).

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
    local = jnp.repeat(state.rounding, ROWS_PER_BLOCK, 1)[:, None] * unit
    value = value + local * norm * _signs(2 * j, now)
    value = value / _safe(length)
    rows = jnp.arange(num_rows)[None, None]
    return jnp.where(rows < j, value, jnp.where(rows == j, local, 0))


def _signs(number: Array, like: Array) -> Array:
    """Random signs, the same in every run."""
    key = jax.random.fold_in(jax.random.key(0), number)
    _, realisations, num_rows = like.shape
    # Rows first: room for more of them must not change the signs of these.
    return jax.random.rademacher(key, (num_rows, realisations), like.dtype).T[None]


def _sweep_twice(basis: Array, vectors: Array, reading: Array) -> tuple[Array, Array, Array]:
    """Each lane's vector made orthogonal to the rows of some blocks.

    Returns the vectors, their overlaps with the rows before, (L, R), and how many rows were read.
    """
    before = jnp.linalg.norm(vectors, axis=-1)
    once, overlaps = _sweep(basis, vectors, reading)
    after = jnp.linalg.norm(once, axis=-1)
    needed = jnp.any(after < before / jnp.sqrt(2.0))
    twice = jax.lax.cond(needed, lambda v: _sweep(basis, v, reading)[0], lambda v: v, once)
    read = reading.sum() * ROWS_PER_BLOCK * jnp.where(needed, 2, 1)
    return twice, overlaps, read.astype(jnp.float32)


def _sweep(basis: Array, vectors: Array, reading: Array) -> tuple[Array, Array]:
    """One pass of block Gram–Schmidt against some blocks of rows, and the overlaps."""
    # The blocks to read, in order, first: the loop makes no step for the others.
    order = jnp.argsort(~reading, stable=True)

    def remove(index: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        vectors, overlaps = carry
        first = order[index] * ROWS_PER_BLOCK
        rows = jax.lax.dynamic_slice_in_dim(basis, first, ROWS_PER_BLOCK, axis=1)
        inner = jnp.einsum("krp,kp->kr", rows, vectors, precision="highest")
        vectors = vectors - jnp.einsum("kr,krp->kp", inner, rows, precision="highest")
        return vectors, jax.lax.dynamic_update_slice_in_dim(overlaps, inner, first, axis=1)

    overlaps = jnp.zeros(basis.shape[:2], vectors.dtype)
    return jax.lax.fori_loop(0, reading.sum(), remove, (vectors, overlaps))
