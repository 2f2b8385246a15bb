r"""Lanczos tridiagonalisation as one compiled program, several probes in lockstep.

Notation: symmetric operator ``A`` on R^P, start vectors ``q_1`` (one row per probe), m steps.
``A Q_m = Q_m T_m + β_m q_{m+1} e_mᵀ`` with orthonormal rows in Q and T tridiagonal with diagonal
``α`` and off-diagonal ``β``. Source: C. C. Paige, *Computational variants of the Lanczos method
for the eigenproblem*, J. Inst. Maths Applics 10, 1972; reorthogonalisation by blocks of the rows
that are filled, with a second pass only if the first took more than a factor √2 off the norm
(B. N. Parlett, *The Symmetric Eigenvalue Problem*, 1980, §6.9, "twice is enough").
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from landscape.curvature.operators import LinearOperator

# Rows of the basis that one projection reads at a time. Unfilled rows are touched only within the
# last block; fewer rows per block would leave the matrix-vector products too short.
ROWS_PER_BLOCK = 16

# A step has broken down when β falls to rounding level: the Krylov space is exhausted. Cutting
# there moves every Ritz value by at most β (Weyl), so by no more than rounding already has.
BREAKDOWN = 10.0


class Tridiagonal(NamedTuple):
    """Tridiagonal matrices of k probes.

    Attributes
    ----------
    alphas, betas
        (k, m); ``betas[:, -1]`` couples to the step that was not made.
    num_steps
        (k,) steps before the Krylov space was exhausted.
    """

    alphas: Float[Array, "k m"]
    betas: Float[Array, "k m"]
    num_steps: Int[Array, " k"]


def tridiagonalize(
    op: LinearOperator, start: Float[Array, "k P"], num_steps: int, reorthogonalize: str = "full"
) -> Tridiagonal:
    """Run m Lanczos steps from each start vector; for use inside compiled functions.

    Parameters
    ----------
    op
        Symmetric operator, (P, P).
    start
        (k, P), nonzero rows; normalised here.
    num_steps
        m ≥ 1.
    reorthogonalize
        ``"full"``: the basis is kept and stays orthogonal to rounding, (k, m, P) numbers.
        ``"none"``: three vectors a probe; converged eigenvalues return as ghosts.

    Returns
    -------
    Tridiagonal
    """
    product = jax.vmap(op._products())
    num_probes, size = start.shape
    keep = reorthogonalize == "full"
    rows = -(-num_steps // ROWS_PER_BLOCK) * ROWS_PER_BLOCK if keep else 0
    eps = jnp.finfo(start.dtype).eps

    def step(carry: tuple[Array, ...], index: Array) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        basis, previous, current, beta, scale, alive = carry
        if keep:
            basis = jax.lax.dynamic_update_slice(basis, current[:, None], (0, index, 0))
        with jax.named_scope("matvec"):
            image = product(current) - beta[:, None] * previous
        alpha = jnp.sum(image * current, -1)
        residual = image - alpha[:, None] * current
        if keep:
            with jax.named_scope("reorthogonalize"):
                residual = _reorthogonalize(basis, residual, index + 1)
        length = jnp.linalg.norm(residual, axis=-1)
        scale = jnp.maximum(scale, jnp.abs(alpha) + beta + length)
        going = alive & ~(length <= BREAKDOWN * eps * scale)
        beta_next = jnp.where(going, length, 0)
        following = jnp.where(going[:, None], residual / jnp.where(going, length, 1)[:, None], 0)
        return (basis, current, following, beta_next, scale, going), (alpha, beta_next, alive)

    zeros = jnp.zeros(num_probes, start.dtype)
    first = start / jnp.linalg.norm(start, axis=-1, keepdims=True)
    carry: tuple[Array, ...] = (
        jnp.zeros((num_probes, rows, size), start.dtype),
        jnp.zeros_like(first),
        first,
        zeros,
        zeros,
        jnp.ones(num_probes, bool),
    )
    _, (alphas, betas, alive) = jax.lax.scan(step, carry, jnp.arange(num_steps))
    return Tridiagonal(alphas.T, betas.T, alive.sum(0))


def _reorthogonalize(basis: Array, vectors: Array, count: Array) -> Array:
    """Make each probe's vector orthogonal to the first ``count`` rows of its basis."""
    num_probes, _, size = basis.shape
    num_blocks = (count + ROWS_PER_BLOCK - 1) // ROWS_PER_BLOCK

    def remove(block: Array, vectors: Array) -> Array:
        rows = jax.lax.dynamic_slice(
            basis, (0, block * ROWS_PER_BLOCK, 0), (num_probes, ROWS_PER_BLOCK, size)
        )
        overlaps = jnp.einsum("krp,kp->kr", rows, vectors, precision="highest")
        return vectors - jnp.einsum("kr,krp->kp", overlaps, rows, precision="highest")

    def sweep(vectors: Array) -> Array:
        return jax.lax.fori_loop(0, num_blocks, remove, vectors)

    before = jnp.linalg.norm(vectors, axis=-1)
    once = sweep(vectors)
    after = jnp.linalg.norm(once, axis=-1)
    return jax.lax.cond(jnp.any(after < before / jnp.sqrt(2.0)), sweep, lambda v: v, once)
