"""The noise floor of an operator: below it eigenvalues are rounding."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from landscape.curvature.families import FamilyOperator
from landscape.curvature.operators import LinearOperator
from landscape.curvature.preconditions import (
    ASYMMETRY,
    expect_key,
    expect_range,
    expect_square,
    not_symmetric,
)
from landscape.errors import InputError

# Power iterations towards the leading eigenvector. Rounding is largest on vectors near it, and it
# need not be converged for that: twenty steps bring in what random vectors miss.
_POWER_ITERATIONS = 20
_NUM_RANDOM = 2

# An operator of a measured noise floor is refused from so many times that much asymmetry.
FLOORS = 30.0

# The distance of smooth networks' float32 Hessians to their float64 ones, at most, in defects.
_FROM_BELOW = 10.0

# Vectors of length P that are held at once, those of a product included: as XLA's compiler for CPUs
# tells of networks of 0.8 and 0.9 million parameters, and as 101 million were seen to take.
FLOOR_VECTORS = 18


def noise_floor(op: LinearOperator, key: Array) -> float | np.ndarray:
    """How far the operator's products are from those of a matrix, as an error of eigenvalues.

    Parameters
    ----------
    op
        Symmetric operator, (P, P), or a family of them.
    key
        JAX random key for the vectors it is tried on.

    Returns
    -------
    One number, or an array with one for each member of a family: the larger of ``u‖A‖`` (unit
    roundoff times the norm) and the largest defect of additivity,
    ``‖fl(A(v + w)) − fl(Av) − fl(Aw)‖``, over random unit vectors v and a unit vector w near the
    leading eigenvector. An estimate from below, not a bound.

    Raises
    ------
    InputError
        If the operator is not square, or a product is not finite.

    Notes
    -----
    By Weyl's inequality a symmetric perturbation moves no eigenvalue by more than its norm. The
    defect needs no second precision and sees rounding alone. The distance to the float64 Hessian
    at the same parameters does not: where a ReLU's input is within rounding of zero it jumps by
    the whole kink (measured on residual 20×16 networks on digits: 8·10⁻² where the defect is
    5·10⁻⁴), although such a jump has low rank and moves few eigenvalues. For smooth networks it
    was 2 to 10 times the defect. Random vectors alone miss both by a factor of 50.

    Examples
    --------
    >>> from landscape.curvature import DiagonalOperator
    >>> op = DiagonalOperator(jnp.array([0.0, 1.0]))
    >>> 2**-24 <= noise_floor(op, jax.random.key(0)) <= 2**-22
    True
    """
    expect_square(op)
    expect_key(key)
    if op.batch_shape and not isinstance(op, FamilyOperator):
        return np.array([noise_floor(member, key) for member in op.members()])
    if op.batch_shape:
        # In one program, as their Lanczos runs are.
        many, norms = map(np.asarray, _family_images(op, key))
    else:
        images, norm = _trial_images(op, key) if op.traceable else _streamed_images(op, key)
        many, norms = np.asarray(images)[None], np.asarray(norm)[None]
    defects = np.array([_largest_defect(images) for images in many])
    if not (np.isfinite(norms).all() and np.isfinite(defects).all()):
        raise InputError(f"a product with {op!r} is NaN, infinite, or overflows its type")
    expect_range(norms, op)
    unit = float(jnp.finfo(op.dtype).eps) / 2
    floors = np.maximum(unit * norms.astype(float), defects)
    return floors if op.batch_shape else float(floors[0])


def _largest_defect(images: np.ndarray) -> float:
    """Of additivity: of images of v + w, of v and of w."""
    # The sum is rounded before it is multiplied, by at most u in norm: that much of the defect,
    # u‖A‖, is not the operator's, and is as large as the floor below anyway. One after the other:
    # of large models even these are many bytes.
    defects = [
        np.linalg.norm(np.subtract(together, apart, dtype=np.float64) - images[-1])
        for together, apart in zip(images[:_NUM_RANDOM], images[_NUM_RANDOM:-1], strict=True)
    ]
    # Which keeps a NaN, as the built-in one does not.
    return float(np.max(defects))


def _trial_vectors(op: LinearOperator, key: Array) -> tuple[Array, Array]:
    """Random unit vectors, (k, P), and one to start the power iterations from."""
    normals = jax.random.normal(key, (_NUM_RANDOM + 1, op.shape[0]), op.dtype)
    units = normals / jnp.linalg.norm(normals, axis=1, keepdims=True)
    return units[:-1], units[-1]


def _streamed_images(op: LinearOperator, key: Array) -> tuple[Array, Array]:
    """``_trial_images`` of an operator whose products are driven from the host."""
    random, leading = _trial_vectors(op, key)
    norm = jnp.zeros((), op.dtype)
    for _ in range(_POWER_ITERATIONS):
        leading, norm = _unit(op.matvec(leading), leading)
    together = random + leading[None]
    return op.matmat(jnp.concatenate([together, random, leading[None]]).T).T, norm


@jax.jit
def _unit(image: Array, otherwise: Array) -> tuple[Array, Array]:
    """A vector's direction and length, of vectors too whose square leaves their type's range."""
    largest = jnp.abs(image).max()
    scaled = image / jnp.where(largest > 0, largest, 1)
    length = jnp.linalg.norm(scaled)
    return jnp.where(largest > 0, scaled / length, otherwise), largest * length


@jax.jit
def _trial_images(op: LinearOperator, key: Array) -> tuple[Array, Array]:
    """Images of v + w, of v and of w, (2k + 1, P), and an estimate of ‖A‖.

    v are k random unit vectors, w is a unit vector near the leading eigenvector. One loop makes all
    products: a second place in the program would double its compilation. Images of the power
    iterations are not kept: of large models all would be more than there is memory for.
    """
    product = op._products()
    random, start = _trial_vectors(op, key)
    count = 2 * _NUM_RANDOM + 1

    def step(index: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        leading, norm, images = carry
        trial = index - _POWER_ITERATIONS
        iterating = trial < 0
        # v + w, then v, then w.
        v = jnp.where(trial < count - 1, random[trial % _NUM_RANDOM], 0)
        with_leading = (trial < _NUM_RANDOM) | (trial == count - 1)
        tried = v + jnp.where(with_leading, leading, 0)
        image = product(jnp.where(iterating, leading, tried))
        following, length = _unit(image, leading)
        leading = jnp.where(iterating, following, leading)
        images = images.at[jnp.maximum(trial, 0)].set(image)
        return leading, jnp.where(iterating, length, norm), images

    zero = jnp.zeros((), op.dtype)
    begun = start, zero, jnp.zeros((count, op.shape[0]), op.dtype)
    _, norm, images = jax.lax.fori_loop(0, _POWER_ITERATIONS + count, step, begun)
    return images, norm


@jax.jit
def _family_images(op: Any, key: Array) -> tuple[Array, Array]:
    """``_trial_images`` of each member of a family."""
    # Of members that are all alike nothing is stacked.
    images = jax.vmap(lambda mine: _trial_images(op.built(mine), key), axis_size=op.size)
    return images(op.stacked)


def floor_behind(op: LinearOperator, asymmetry: float | np.ndarray) -> np.ndarray:
    """The noise floor of an operator whose asymmetry is larger than rounding beside its norm.

    Near the end of training it can be rounding all the same: the Hessian of a loss that is nearly 0
    is small beside what it is computed of.

    Parameters
    ----------
    op
        Symmetric operator, or a family.
    asymmetry
        What was seen, as an error of products with unit vectors: one number, or as many as there
        are networks, by probes or not.

    Returns
    -------
    () or (S,): ten times ``noise_floor``, which is from below, where it explains what was seen; NaN
    where it does not.
    """
    floor = np.asarray(noise_floor(op, jax.random.key(0)))
    asymmetry = np.asarray(asymmetry, float)
    worst = asymmetry.reshape(*floor.shape, -1).max(-1) if asymmetry.ndim else asymmetry
    return np.where(worst <= FLOORS * floor, _FROM_BELOW * floor, np.nan)


def expect_symmetric(op: LinearOperator, inner: np.ndarray, scale: float) -> None:
    """Refuse an operator, given the products ``xᵢᵀAxⱼ`` of some unit vectors.

    Parameters
    ----------
    op
        Operator, (P, P); no family.
    inner
        (k, k)
    scale
        Its norm, or less.

    Raises
    ------
    InputError
        If the products are less symmetric than what is known of its rounding explains.
    """
    asymmetry = float(np.abs(inner - inner.T).max(initial=0))
    if asymmetry > ASYMMETRY[op.dtype.name] * scale and np.isnan(floor_behind(op, asymmetry)):
        raise not_symmetric(
            op,
            f"two vectors' products with each other's images differ by {asymmetry:.2e} at norm "
            f"{scale:.2e}",
        )


def checked_floor(
    noise_floor: float | np.ndarray | None, batch_shape: tuple[int, ...] = ()
) -> np.ndarray:
    """A noise floor that a user gave, 0 if none.

    Raises
    ------
    InputError
        If it is negative, infinite or NaN, or neither a number nor one for each operator.
    """
    try:
        floor = np.asarray(0 if noise_floor is None else noise_floor, float)
    except (TypeError, ValueError):
        raise InputError(f"noise_floor must be a number; got {noise_floor!r}") from None
    if floor.shape not in ((), batch_shape):
        each = f", or an array of shape {batch_shape}" if batch_shape else ""
        raise InputError(f"noise_floor must be a number{each}; got an array of shape {floor.shape}")
    if not (np.isfinite(floor) & (floor >= 0)).all():
        raise InputError(f"noise_floor must be finite and not negative; got {noise_floor!r}")
    return floor
