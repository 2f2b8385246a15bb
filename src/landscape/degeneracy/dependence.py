r"""How near a layer's activities are to linear dependence over the data.

Notation: ``X`` (N, n) are a layer's activities, centered ``X_c``, with singular values ``s_1 ≥ … ≥
s_n``; the covariance ``X_cᵀ X_c / N`` has eigenvalues ``s²/N``. If a combination of units is
constant over the data, it can be added to the weights of any unit that reads them and taken from
its bias: the third singularity of A. E. Orhan and X. Pitkow, ICLR 2018.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from landscape._decompositions import one_by_one
from landscape._pytrees import pytree
from landscape.degeneracy.layers import flat_activities
from landscape.errors import InputError
from landscape.results import Result


@pytree
@dataclasses.dataclass(frozen=True)
class LinearDependence(Result):
    """Per layer, (L,), and per unit, one array for each layer; and the mean.

    Attributes
    ----------
    top_share
        Share of the variance in the k largest eigenvalues of the covariance; 1 if nothing varies.
    effective_rank
        exp of the entropy of the eigenvalues' shares (O. Roy and M. Vetterli, EUSIPCO 2007); 0 if
        nothing varies.
    rank
        Of [X, 1]: singular values above ``rtol`` of the largest, of the centered activities, and
        one for the constant.
    angles
        Of each unit's centered activities to the span of those of the others, in radians; 0 for a
        unit that does not vary. One array for each layer.
    smallest_angle
        The least of a layer.
    distances
        A lower bound of the distance, in the units of a layer's incoming weights, to parameters at
        which its activities are dependent: ``s_n`` over the largest singular value of what the
        layer reads, as a branch that is 1-Lipschitz cannot change by more; NaN if the latter was
        not given.
    mean_top_share
        Over layers: the paper's distance from linear dependence, large when near.
    """

    top_share: Float[Array, "... L"]
    effective_rank: Float[Array, "... L"]
    rank: Int[Array, "... L"]
    angles: tuple[Float[Array, "... _"], ...]
    smallest_angle: Float[Array, "... L"]
    distances: Float[Array, "... L"]
    mean_top_share: Float[Array, "*batch"]

    _axes = (("L", "layer"),)

    def __repr__(self) -> str:
        return (
            f"LinearDependence({len(self.angles)} layers: share of the variance in the largest "
            f"eigenvalues {jnp.mean(self.mean_top_share):.4f}, mean effective rank "
            f"{jnp.mean(self.effective_rank):.3g})"
        )


def linear_dependence(
    activities: Sequence[Array],
    *,
    k: int = 3,
    rtol: float | None = None,
    inputs: Sequence[Array] | None = None,
) -> LinearDependence:
    """Shares of variance, ranks and angles of the activities of each layer.

    Parameters
    ----------
    activities
        Of each layer, (N, n) or (N, H, W, n): places in images count as examples.
    k
        Eigenvalues in the top share; the paper has 3.
    rtol
        Of the rank. Default max(N, n) units of rounding of the activities' type.
    inputs
        What each layer reads, in rows of fan_in numbers: for the distances, of layers whose branch
        is 1-Lipschitz in the pre-activations (ReLU, tanh; no normalisation after them).

    Returns
    -------
    LinearDependence; ready for ``jit`` and ``vmap``.

    Raises
    ------
    InputError
        If there are no activities, or not as many inputs.

    Examples
    --------
    Three units that are two, the last the sum of the others; with the constant, of rank three.

    >>> import jax
    >>> x = jax.random.normal(jax.random.key(0), (20, 2))
    >>> found = linear_dependence([jnp.column_stack([x, x.sum(1)])], k=2)
    >>> int(found.rank[0]), f"{float(found.top_share[0]):.3f}"
    (3, '1.000')
    """
    if not len(activities):
        raise InputError("linear_dependence needs the activities of at least one layer; got none")
    if k < 1:
        raise InputError(f"k must be at least 1; got {k}")
    shares, effective, ranks, angles, least = [], [], [], [], []
    for array in activities:
        x = flat_activities(array)
        centered = x - x.mean(0, keepdims=True)
        s, modes = _decomposed(centered)
        total = jnp.sum(s**2)
        share = s**2 / jnp.where(total > 0, total, 1)
        shares.append(_top_share(centered, k))
        logs = jnp.log(jnp.where(share > 0, share, 1))
        effective.append(jnp.where(total > 0, jnp.exp(-jnp.sum(share * logs)), 0))
        unit = float(jnp.finfo(x.dtype).eps)
        cut = max(x.shape) * unit if rtol is None else rtol
        # Relative to the activities, not to their variation: that of a constant is rounding.
        largest = jnp.maximum(s[0], jnp.linalg.norm(x.mean(0)) * jnp.sqrt(len(x)))
        ranks.append(1 + jnp.sum((s > cut * largest) & (s > 0)))
        angles.append(_angles(centered, s, modes, cut * largest))
        least.append(s[-1] if len(x) > x.shape[1] else jnp.zeros_like(s[-1]))
    distances = jnp.full(len(shares), jnp.nan)
    if inputs is not None and len(inputs) != len(shares):
        raise InputError(f"inputs must be one for each of {len(shares)} layers; got {len(inputs)}")
    if inputs is not None:
        spans = [_span(_with_one(flat_activities(x))) for x in inputs]
        distances = jnp.stack(least) / jnp.stack(spans)
    top = jnp.stack(shares)
    return LinearDependence(
        top,
        jnp.stack(effective),
        jnp.stack(ranks),
        tuple(angles),
        jnp.stack([a.min() for a in angles]),
        distances,
        top.mean(),
    )


def _top_share(x: Array, k: int) -> Array:
    """Of the variance, in the k largest eigenvalues: those need no singular vectors."""
    values = _eigenvalues(jnp.matmul(x.T, x, precision="highest"))
    total = jnp.sum(x**2)
    return jnp.where(total > 0, jnp.sum(values[-k:]) / jnp.where(total > 0, total, 1), 1)


_eigenvalues = one_by_one(jnp.linalg.eigvalsh)


@one_by_one
def _span(x: Array) -> Array:
    """The largest singular value."""
    return jnp.linalg.norm(x, 2)


@one_by_one
def _decomposed(x: Array) -> tuple[Array, Array]:
    """Singular values and right singular vectors (as rows), by way of R."""
    triangle = jnp.linalg.qr(x, mode="r") if len(x) > x.shape[1] else x
    _, s, modes = jnp.linalg.svd(triangle, full_matrices=True)
    return jnp.pad(s, (0, len(modes) - len(s))), modes


def _angles(centered: Array, s: Array, modes: Array, cut: Array) -> Array:
    """sin² = 1 / (‖x_j‖² [(XᵀX)⁻¹]_jj), and 0 where a dependence involves the unit."""
    lengths = jnp.sum(centered**2, 0)
    alive = s > cut
    inverse = jnp.sum(
        jnp.where(alive[:, None], modes**2 / jnp.where(alive, s, 1)[:, None] ** 2, 0), 0
    )
    unit = float(jnp.finfo(s.dtype).eps)
    involved = jnp.sum(jnp.where(alive[:, None], 0, modes**2), 0) > len(s) * unit
    free = ~involved & (lengths > 0)
    sine = jnp.where(free, 1 / jnp.where(free, lengths * inverse, 1), 0)
    return jnp.arcsin(jnp.sqrt(jnp.clip(sine, 0, 1)))


def _with_one(x: Array) -> Array:
    return jnp.concatenate([x, jnp.ones((len(x), 1), x.dtype)], 1)
