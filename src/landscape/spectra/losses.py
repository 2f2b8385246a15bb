r"""How orthogonality is lost: estimates without looking at the basis.

Notation as in ``lanczos``; ``ω_{j,i} = q_jᵀq_i`` are the losses, ``u`` is the unit roundoff. They
obey a recurrence of their own, driven by rounding, and grow where eigenvalues have converged
(H. D. Simon, *The Lanczos algorithm with partial reorthogonalization*, Math. Comp. 42, 1984).
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from landscape._pytrees import pytree
from landscape.spectra.blocks import PANEL
from landscape.spectra.tiles import nonzero

# The recurrence needs to know how much rounding enters at each step. It starts from u‖A‖, and every
# sweep, which sees the true losses, corrects it towards estimates this many times too large,
# upwards by no more than that factor at a time. Products of a network round by more than u‖A‖ in
# some directions, and on most vectors by far less.
CAUTION = 10.0

# Downwards by no more than this: one sweep may see little by chance. With 10, one network of 108
# (digits, 6×16, float32) was met by losses eight times √u, and the noise floor of its spectrum was
# fourteen times that of rounding; with 2 none was above it, for 1 % more rows.
LOWERED = 2.0

# … nor below this, whatever the sweeps have seen: what is small now need not stay so. With a third
# of it, two clusters 1000 apart in size lost orthogonality until T was wrong by 3 % of ‖A‖; with 30
# times as much, twice as many rows were read on trained networks, and T was no better for it.
LEAST_ROUNDING = 0.03

# Losses may grow by ‖A‖/β in a step. Where that is more than so much, they are not let come as far.
# Without it, two clusters 10⁷ apart in size moved T by 10⁻⁴‖A‖ in float64.
GROWTH = 1000.0

# If any loss has passed √u, all panels with one above this much of it are read. With u^¾, Larsen's
# second level, the trained residual network's basis was read a third more often (this number, and
# those of LEAST_ROUNDING, while the first two blocks were read at every step).
SECOND_LEVEL = 0.1

# Realisations of the random signs of that rounding: one alone may by chance miss the mode of the
# recurrence that grows fastest.
REALISATIONS = 4


@pytree
@dataclasses.dataclass(frozen=True)
class Losses:
    """Estimated losses of orthogonality of L bases with room for R rows each, K times.

    Attributes
    ----------
    now, before
        (L, K, R) estimates of q_jᵀq_i and q_{j-1}ᵀq_i.
    rounding
        (L, B) what enters the losses of each panel of rows at each step, in units of u‖A‖; learnt
        from the sweeps.
    swept
        (B,) panels that the last step has read: the current vector has no losses there.
    """

    now: Float[Array, "L K R"]
    before: Float[Array, "L K R"]
    rounding: Float[Array, "L B"]
    swept: Bool[Array, " B"]

    @property
    def local(self) -> Float[Array, "L 1 R"]:
        """What rounding leaves in a vector just made orthogonal."""
        unit = jnp.finfo(self.now.dtype).eps / 2
        return jnp.repeat(self.rounding, PANEL, 1)[:, None] * unit


def none_lost(lanes: int, num_rows: int, dtype: np.dtype) -> Losses:
    """Before the first step."""
    nothing = jnp.zeros((lanes, REALISATIONS, num_rows), dtype)
    return Losses(
        now=nothing.at[..., :1].set(1),
        before=nothing,
        rounding=jnp.full((lanes, num_rows // PANEL), CAUTION, dtype),
        swept=jnp.zeros(num_rows // PANEL, bool),
    )


def with_room(losses: Losses, more: int) -> Losses:
    """The same losses with room for more rows."""
    return Losses(
        now=_padded(losses.now, more),
        before=_padded(losses.before, more),
        rounding=_padded(losses.rounding, more // PANEL, CAUTION),
        swept=_padded(losses.swept, more // PANEL),
    )


def _padded(x: Array, more: int, value: float = 0) -> Array:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, more)], constant_values=value)


def predict(
    losses: Losses,
    step: Int[Array, ""],
    alphas: Float[Array, "L M"],
    betas: Float[Array, "L M"],
    alpha: Float[Array, " L"],
    beta: Float[Array, " L"],
    length: Float[Array, " L"],
    norm: Float[Array, " L"],
) -> Losses:
    """Simon's recurrence: the losses of ``q_{j+1}``.

    ``β_{j+1} ω_{j+1,i} = β_{i+1} ω_{j,i+1} + (α_i − α_j) ω_{j,i} + β_i ω_{j,i−1} − β_j ω_{j−1,i}``
    plus rounding of random sign: with the sign that makes each estimate larger, the modes that grow
    fastest (which alternate) were missed by a factor of 100.

    Parameters
    ----------
    losses
        Of q_j and q_{j-1}.
    step
        j, counted from 0.
    alphas, betas
        T so far.
    alpha, beta, length, norm
        α_j, β_j, β_{j+1} before any sweep, and the estimate of ‖A‖.
    """
    now = losses.now
    num_rows = now.shape[-1]
    # A panel that is new starts from what was learnt in the one before it.
    new = (jnp.arange(losses.rounding.shape[-1]) * PANEL == step)[None]
    rounding = jnp.where(new & (step > 0), jnp.roll(losses.rounding, 1, 1), losses.rounding)
    losses = dataclasses.replace(losses, rounding=rounding)
    alphas, betas = (
        _padded(x, max(0, num_rows - x.shape[1]))[:, None, :num_rows] for x in (alphas, betas)
    )
    up = jnp.pad(now[..., 1:], ((0, 0), (0, 0), (0, 1)))
    down = jnp.pad((betas * now)[..., :-1], ((0, 0), (0, 0), (1, 0)))
    alpha, beta, length, norm = (x[:, None, None] for x in (alpha, beta, length, norm))
    value = betas * up + (alphas - alpha) * now + down - beta * losses.before
    value = value + losses.local * norm * _signs(step, 0, now)
    value = value / nonzero(length)
    rows = _rows(losses)[None]
    value = jnp.where(rows < step, value, jnp.where(rows == step, losses.local, 0))
    return dataclasses.replace(losses, now=value, before=now)


def largest_by_panel(losses: Losses, step: Int[Array, ""]) -> Float[Array, "L B"]:
    """The largest estimate of all realisations in each panel, of rows before the last."""
    return _by_panel(jnp.where(_rows(losses) < step, jnp.abs(losses.now).max(1), 0))


def asked_for(
    losses: Losses,
    step: Int[Array, ""],
    alive: Bool[Array, " L"],
    length: Float[Array, " L"],
    scale: Float[Array, " L"],
) -> Bool[Array, " B"]:
    """Panels that must be read.

    If any loss has passed √u, every one above a second, lower level is read (R. M. Larsen, *Lanczos
    bidiagonalization with partial reorthogonalization*, DAIMI PB-357, 1998).
    """
    level = jnp.sqrt(jnp.finfo(losses.now.dtype).eps / 2)
    growth = jnp.maximum(1, scale / (GROWTH * nonzero(length)))
    largest = jnp.where(alive[:, None], largest_by_panel(losses, step), 0) * growth[:, None]
    return jnp.any(largest > level) & (largest.max(0) > SECOND_LEVEL * level)


def corrected(
    losses: Losses,
    step: Int[Array, ""],
    true: Float[Array, "L R"],
    asked: Bool[Array, "L B"],
    panels: Bool[Array, " B"],
    both: Bool[Array, ""],
) -> Losses:
    """The losses after a sweep, and what it taught about rounding.

    Parameters
    ----------
    losses
        Predicted.
    step
        j, counted from 0.
    true
        Losses of q_{j+1} that the sweep has found and taken away.
    asked
        Where to compare them with the prediction.
    panels
        Those that were read, for q_{j+1} and, if ``both``, for q_j.
    """
    predicted = largest_by_panel(losses, step)
    ratio = CAUTION * _by_panel(jnp.abs(true)) / jnp.where(predicted > 0, predicted, 1)
    factor = jnp.where(asked & (predicted > 0), jnp.clip(ratio, 1 / LOWERED, CAUTION), 1)
    rounding = jnp.maximum(losses.rounding * factor, LEAST_ROUNDING)
    losses = dataclasses.replace(losses, rounding=rounding, swept=panels)
    rows, read = _rows(losses), jnp.repeat(panels, PANEL)[None]
    now = jnp.where(
        (read & (rows <= step))[None], losses.local * _signs(step, 1, losses.now), losses.now
    )
    now = jnp.where((rows == step + 1)[None], 1, now)
    again = (read & both & (rows < step))[None]
    before = jnp.where(again, losses.local * _signs(step, 2, losses.now), losses.before)
    return dataclasses.replace(losses, now=now, before=before)


def _rows(losses: Losses) -> Int[Array, "1 R"]:
    return jnp.arange(losses.now.shape[-1])[None]


def _by_panel(values: Float[Array, "L R"]) -> Float[Array, "L B"]:
    return values.reshape(values.shape[0], -1, PANEL).max(-1)


def _signs(step: Int[Array, ""], draw: int, like: Array) -> Float[Array, "1 K R"]:
    """Random signs, the same in every run.

    Bits of a hash of step and row (the finaliser of A. Appleby's MurmurHash3, 2011): JAX's own
    generator took a third of the time that the whole program takes to compile.
    """
    _, realisations, num_rows = like.shape
    x = jnp.arange(num_rows, dtype=jnp.uint32) + step.astype(jnp.uint32) * jnp.uint32(0x9E3779B9)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    x = x ^ (x >> 16)
    bits = jnp.arange(realisations, dtype=jnp.uint32)[None, :, None] + draw * realisations
    return jnp.where((x[None, None] >> bits) & 1, 1, -1).astype(like.dtype)
