r"""The rank of a network's Jacobian: how many directions of parameter space its outputs can see.

Notation: ``J ∈ R^{M × P}`` with ``M = N·C`` rows, singular values ``σ_1 ≥ σ_2 ≥ …``, ``k =
min(M, P)`` of them; the rank at a relative tolerance τ is ``#{σ_i > τ σ_1}``, the nullity ``P −
rank``. Every direction in ker J is null for the Gauss–Newton matrix of any loss.

Three routes:

- *exact*: J in float64, by rows; a QR decomposition that takes them block by block and keeps the
  triangular factor R alone; the singular values of R, which are those of J (G. H. Golub and C. F.
  Van Loan, *Matrix Computations*, 4th ed., section 8.6). Never the Gram matrix: it cannot
  see below 10⁻⁸ σ_1.
- *gram*: eigenvalues of ``J Jᵀ`` or ``Jᵀ J``, the smaller one. Half of the digits, so only
  tolerances of at least 10⁻⁷ are reported, as *numerical*.
- *lanczos*: past the size of both, an interval for the rank at a larger tolerance, from the
  certified distribution function of the smaller Gram matrix. It is positive semi-definite, so the
  mass to the left of 0 is known, and one of the two bounds is for free.

The Gauss–Newton matrix is ``G = (1/N) Σ J_iᵀ Λ_i J_i`` with the output Hessians ``Λ_i = ∇²ℓ_i``, so
N times its eigenvalues are the squared singular values of the rows ``R_iᵀ J_i`` with ``R_i R_iᵀ =
Λ_i``: the Jacobian of the outputs ``R_iᵀ z_i`` at fixed ``R_i``.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from landscape._pytrees import pytree
from landscape.curvature.batches import num_examples
from landscape.curvature.families import FamilyOperator
from landscape.curvature.jacobian import JacobianOperator
from landscape.curvature.memory import host_memory, readable
from landscape.curvature.operators import LinearOperator
from landscape.curvature.preconditions import expect_key
from landscape.degeneracy.outputs import (
    OutputLoss,
    centered_outputs,
    weighted_jacobian,
    weighted_outputs,
)
from landscape.errors import InputError, ResourceError
from landscape.results import Result
from landscape.spectra.fractions import fraction_between
from landscape.spectra.slq import slq

METHODS = ("exact", "gram", "lanczos")

# The two singular values around a cut that is believed are further apart than this.
LEAST_GAP = 1e3

# Squaring loses half of the digits of float64; below, eigenvalues of a Gram matrix are rounding.
_LEAST_GRAM_TOLERANCE = 1e-7

# Rows that are decomposed at a time take so many bytes, and are at least as many as columns.
_BLOCK_BYTES = 2**29


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
class Rank(Result):
    """What a routine says about a rank.

    Attributes
    ----------
    rank
        #{σ_i > τ σ_1}, (*batch,). With ``"lanczos"`` the estimate, rounded.
    lower, upper
        Where it lies: both the rank itself, but for ``"lanczos"`` the ends of an interval at the
        level asked for.
    shape
        (M, P).
    rtol
        τ.
    norm
        σ_1, (*batch,).
    above, below
        The singular values on both sides of the cut over σ_1, (*batch,): σ_rank and σ_{rank+1}.
        NaN where there is none, and with ``"lanczos"``.
    singular_values
        All k, descending, (*batch, k); (*batch, 0) with ``"lanczos"``.
    method
        Which route.
    status
        (*batch,) of ``"gap"``: ``above`` and ``below`` are a factor of 10³ apart, or there is
        nothing on one side (nothing below: ``above`` is 30 times what the route can see);
        ``"no_gap"``: they are not, and another tolerance would give another rank;
        ``"numerical"``: as a gap, by the Gram matrix; ``"interval"``: by Lanczos, with certified
        bounds; ``"empirical"``: by Lanczos without reorthogonalisation, for want of memory.
    num_matvecs
        Products with J or its transpose; 0 where rows are evaluated.
    """

    rank: Int[np.ndarray, "*batch"]
    lower: Int[np.ndarray, "*batch"]
    upper: Int[np.ndarray, "*batch"]
    shape: tuple[int, int]
    rtol: float
    norm: Float[np.ndarray, "*batch"]
    above: Float[np.ndarray, "*batch"]
    below: Float[np.ndarray, "*batch"]
    singular_values: Float[np.ndarray, "*batch k"]
    method: str
    status: np.ndarray
    num_matvecs: int = 0

    _axes = (("k", "direction"),)

    @property
    def nullity(self) -> Int[np.ndarray, "*batch"]:
        """P − rank."""
        return np.asarray(self.shape[1] - self.rank)

    def __repr__(self) -> str:
        told = f"of {self.shape[0]} × {self.shape[1]}, {self.method}, τ = {self.rtol:.1e}"
        if self.rank.ndim:
            low, high = self.rank.min(), self.rank.max()
            return f"Rank({self.rank.size} ranks between {low} and {high} {told})"
        if self.method == "lanczos":
            return f"Rank(≈ {int(self.rank)}, in [{int(self.lower)}, {int(self.upper)}] {told})"
        cut = f"σ/σ₁ {float(self.above):.1e} | {float(self.below):.1e}"
        return f"Rank({int(self.rank)}, nullity {int(self.nullity)} {told}, {cut}, {self.status})"


def jacobian_rank(
    op: LinearOperator,
    *,
    rtol: float | None = None,
    method: str = "exact",
    centered: bool = False,
    output_loss: OutputLoss | None = None,
    key: Array | None = None,
    num_steps: int = 200,
    num_probes: int = 1,
    level: float = 0.95,
) -> Rank:
    """The rank of a Jacobian, or of another matrix, with what it rests on.

    Parameters
    ----------
    op
        Made by ``jacobian``, of all parameters or (``wrt``) of a layer's; another operator, M × P;
        or a ``stack`` of Jacobians: checkpoints, seeds.
    rtol
        τ, relative to the largest singular value. Default for ``"exact"``: max(M, P) units of
        rounding of float64, as in NumPy's ``matrix_rank``; for ``"gram"``: 10⁻⁷, the least. With
        ``"lanczos"`` it has to be given.
    method
        ``"exact"``, ``"gram"`` or ``"lanczos"``; see the module.
    centered
        Take the mean over an example's outputs from its rows first: what is left is null for the
        Gauss–Newton matrix of a softmax, whose kernel consists of the parameters' directions that
        move all logits of each example alike.
    output_loss
        As for ``ggn``: rows are weighted by its Hessian in the outputs, so that the squared
        singular values are N times the eigenvalues of the Gauss–Newton matrix. Eigenvalues of an
        example's Hessian that are rounding (C units of it) count as 0: for the exact nullity under
        a softmax take ``centered``.
    key, num_steps, num_probes, level
        For ``"lanczos"``: as for ``slq``, and the level of the interval.

    Returns
    -------
    Rank

    Raises
    ------
    InputError
        For an unknown method, a tolerance that the route cannot see, outputs that depend on other
        examples, NaN entries, an output loss that is not convex, ``centered`` or ``output_loss``
        for what is no Jacobian or both together.
    ResourceError
        If R does not fit in the host's memory; ``"lanczos"`` needs none.

    Notes
    -----
    "exact" costs 2 M P² operations (k² P for M < P) and keeps 2 P² numbers.

    Examples
    --------
    >>> from landscape.curvature import jacobian
    >>> x = jnp.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 1.0, 2.0]])
    >>> jacobian_rank(jacobian(lambda w, x: x @ w, jnp.ones((3, 2)), x)).nullity.tolist()
    2
    """
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    if rtol is not None and not 0 <= rtol < 1:
        raise InputError(f"rtol is relative to the largest singular value: 0 ≤ τ < 1; got {rtol}")
    if isinstance(op, FamilyOperator):
        options: dict[str, Any] = {"rtol": rtol, "method": method, "centered": centered, "key": key}
        options |= {"num_steps": num_steps, "num_probes": num_probes, "level": level}
        options |= {"output_loss": output_loss}
        return _together([jacobian_rank(member, **options) for member in op.members()])
    op = weighted_jacobian(op, centered, output_loss)
    if method == "lanczos":
        return _interval(op, rtol, key, num_steps, num_probes, level)
    rows, columns = op.shape
    least = max(rows, columns) * float(np.finfo(np.float64).eps)
    if method == "gram":
        least = _LEAST_GRAM_TOLERANCE
        if rtol is not None and rtol < least:
            raise InputError(
                f"a Gram matrix cannot see below {least:.0e} of the largest singular value; got "
                f"rtol = {rtol:.1e}: use method='exact'"
            )
    rtol = least if rtol is None else float(rtol)
    _expect_room(op)
    with jax.enable_x64(True):
        cast = op if op.dtype == np.float64 else op.astype(np.float64)
        if isinstance(cast, JacobianOperator):
            _expect_independent_examples(cast)
        values = np.asarray(singular_values(cast, gram=method == "gram"))
    if not np.isfinite(values).all():
        raise InputError("the matrix has NaN or infinite entries")
    return _cut(values, (rows, columns), rtol, least, method)


@partial(jax.jit, static_argnames=("centered", "output_loss", "gram", "block_bytes"))
def singular_values(
    op: LinearOperator,
    *,
    centered: bool = False,
    output_loss: OutputLoss | None = None,
    gram: bool = False,
    block_bytes: int = _BLOCK_BYTES,
) -> Float[Array, " k"]:
    """All singular values of a Jacobian or another matrix: compiled, and ready for ``vmap``.

    Parameters
    ----------
    op
        M × P. In which type, is the operator's: ``jacobian_rank`` gives it in float64.
    centered, output_loss, gram
        As for ``jacobian_rank``; whether the output loss is convex is not looked at.
    block_bytes
        Of the rows that are decomposed at a time.

    Returns
    -------
    (k,), descending, k = min(M, P).

    Examples
    --------
    Of many checkpoints at once:

    >>> from landscape.curvature import jacobian
    >>> x = jnp.eye(4, 3)
    >>> def values(w):
    ...     return singular_values(jacobian(lambda w, x: jnp.tanh(x @ w), w, x))
    >>> jax.vmap(values)(jnp.zeros((5, 3, 2))).shape
    (5, 6)
    """
    if isinstance(op, JacobianOperator):
        op = op.T if op.transposed else op
        seen = centered_outputs(op.model_fn) if centered else op.model_fn
        seen = seen if output_loss is None else weighted_outputs(seen, output_loss)
        op = dataclasses.replace(op, model_fn=seen)
    rows, columns = op.shape
    with jax.named_scope("singular_values"):
        if rows < columns:
            matrix = _whole(op)
            if gram:
                return _roots(jnp.matmul(matrix, matrix.T, precision="highest"))
            return jnp.linalg.svd(matrix, compute_uv=False)
        if gram:
            return _roots(_over_blocks(op, _add_gram, block_bytes))
        triangle = _over_blocks(op, _add_rows, block_bytes)
        return jnp.linalg.svd(triangle, compute_uv=False)


def _roots(gram: Array) -> Array:
    values = jnp.linalg.eigvalsh(gram)[::-1]
    return jnp.sqrt(jnp.maximum(values, 0))


def _add_rows(triangle: Array, rows: Array) -> Array:
    """R of the rows so far and these: QR is taken again of both."""
    rows = rows.reshape(-1, rows.shape[-1])
    return jnp.linalg.qr(jnp.concatenate([triangle, rows]), mode="r")


def _add_gram(total: Array, rows: Array) -> Array:
    rows = rows.reshape(-1, rows.shape[-1])
    return total + jnp.matmul(rows.T, rows, precision="highest")


def _whole(op: LinearOperator) -> Array:
    """All rows."""
    if isinstance(op, JacobianOperator):
        rows = rows_of(op, op.batch)
        return rows.reshape(-1, rows.shape[-1])
    return op.to_dense()


def rows_of(op: JacobianOperator, examples: Any) -> Array:
    """(n, C, P), each of some examples by itself."""
    return jax.vmap(lambda one: op.example_rows(jax.tree.map(lambda leaf: leaf[None], one)))(
        examples
    )


def _over_blocks(op: LinearOperator, add: Any, block_bytes: int) -> Array:
    """A square (P, P), accumulated over blocks of rows."""
    rows, columns = op.shape
    start = jnp.zeros((columns, columns), op.dtype)
    if not isinstance(op, JacobianOperator):
        return add(start, op.to_dense()[:, None])
    count = num_examples(op.batch)
    most = max(columns, block_bytes // (columns * op.dtype.itemsize))
    per_block = min(count, max(1, most * count // rows))
    num_blocks = -(-count // per_block)
    # The last block is filled up with the first example again, whose rows then count nothing.
    places = np.arange(num_blocks * per_block).reshape(num_blocks, per_block)
    real = jnp.asarray(places < count, op.dtype)

    def step(total: Array, block: Any) -> tuple[Array, None]:
        place, kept = block
        rows = rows_of(op, jax.tree.map(lambda leaf: leaf[place], op.batch))
        return add(total, rows * kept[:, None, None]), None

    return jax.lax.scan(step, start, (jnp.asarray(places % count), real))[0]


def _cut(
    values: np.ndarray, shape: tuple[int, int], rtol: float, least: float, method: str
) -> Rank:
    """Count, and look at both sides of the cut; below ``least`` all is rounding."""
    norm = values[..., 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(norm[..., None] > 0, values / norm[..., None], 0)
    rank = (relative > rtol).sum(-1)
    padded = np.concatenate(
        [np.full((*rank.shape, 1), np.nan), relative, np.full((*rank.shape, 1), np.nan)], -1
    )
    above, below = (
        np.take_along_axis(padded, (rank + shift)[..., None], -1)[..., 0] for shift in (0, 1)
    )
    rounding = least / LEAST_GAP**0.5
    clear = np.isnan(above) | (above >= LEAST_GAP * np.where(np.isnan(below), rounding, below))
    status = np.where(clear, "gap" if method == "exact" else "numerical", "no_gap")
    whole = np.asarray(rank)
    return Rank(
        whole, whole, whole, shape, rtol, np.asarray(norm), above, below, values, method, status
    )


def _interval(
    op: LinearOperator,
    rtol: float | None,
    key: Array | None,
    num_steps: int,
    num_probes: int,
    level: float,
) -> Rank:
    """By the distribution function of the smaller Gram matrix at (τ σ_1)²."""
    if rtol is None or key is None:
        raise InputError("method='lanczos' needs rtol, its τ, and a key for its start vectors")
    if not isinstance(op, JacobianOperator):
        raise InputError("method='lanczos' takes a Jacobian, which has a transpose")
    expect_key(key)
    rows, columns = op.shape
    gram = op.gram() if rows <= columns else op.T.gram()
    spectrum = slq(gram, key, num_steps=min(num_steps, gram.shape[0]), num_probes=num_probes)
    size = gram.shape[0]
    squared = float(spectrum.norm)
    end = rtol**2 * squared
    floor = float(np.max(spectrum.noise_floor))
    if end < floor:
        raise InputError(
            f"τ² = {rtol**2:.1e} lies below the noise floor of the Gram matrix, "
            f"{floor / squared:.1e} of its norm: take τ ≥ {np.sqrt(floor / squared):.1e}, or "
            "compute in float64"
        )
    # Nothing of a Gram matrix lies below 0: from there to the end is all of the small part.
    small = fraction_between(spectrum, -np.inf, end)
    low, high = small.confidence_interval(level)
    lower, estimate, upper = (
        np.asarray(np.rint(size * (1 - np.asarray(x))).astype(int))
        for x in (high, small.estimate, low)
    )
    nothing = np.asarray(np.nan)
    return Rank(
        rank=estimate,
        lower=lower,
        upper=upper,
        shape=(rows, columns),
        rtol=float(rtol),
        norm=np.asarray(np.sqrt(squared)),
        above=nothing,
        below=nothing,
        singular_values=np.zeros(0),
        method="lanczos",
        status=np.asarray("interval" if small.certified else "empirical"),
        num_matvecs=2 * spectrum.num_matvecs,
    )


def _together(ranks: list[Rank]) -> Rank:
    """Of a family, in the order of its members."""
    names = ("rank", "lower", "upper", "norm", "above", "below", "singular_values", "status")
    stacked: dict[str, Any] = {name: np.stack([getattr(r, name) for r in ranks]) for name in names}
    return dataclasses.replace(
        ranks[0], **stacked, num_matvecs=sum(rank.num_matvecs for rank in ranks)
    )


def _expect_room(op: LinearOperator) -> None:
    rows, columns = op.shape
    numbers = 2 * rows * columns if rows < columns else 3 * columns**2
    needed, total = 8 * numbers, host_memory()
    if needed > 0.9 * total:
        raise ResourceError(
            f"a rank by decomposition of {rows} × {columns} needs {readable(needed)}, there are "
            f"{readable(total)}: use method='lanczos'"
        )


def _expect_independent_examples(op: JacobianOperator) -> None:
    """Refuse outputs that depend on other examples: their rows cannot be evaluated alone.

    Raises
    ------
    InputError
        With the difference that was found.
    """
    together, alone = _along(op)
    difference = float(jnp.max(jnp.abs(together - alone)))
    if difference > 1e-8 * float(jnp.max(jnp.abs(together))):
        raise InputError(
            "the outputs of an example change with the other examples of the batch (by up to "
            f"{difference:.1e} in a product with the Jacobian): freeze batch statistics, or take "
            "method='lanczos'"
        )


@jax.jit
def _along(op: JacobianOperator) -> tuple[Array, Array]:
    """J v of the whole batch, and example by example; v is fixed and generic."""
    flat, unflatten = op.selection.flatten(op.params)
    rest = () if op.state is None else (op.state,)
    v = jnp.cos(jnp.arange(1.0, flat.size + 1, dtype=flat.dtype))

    def image(batch: Any) -> Array:
        return jax.jvp(lambda w: op.model_fn(unflatten(w), *rest, batch), (flat,), (v,))[1]

    alone = jax.vmap(lambda one: image(jax.tree.map(lambda leaf: leaf[None], one))[0])(op.batch)
    return image(op.batch), alone
