"""Every eigenvalue, by a dense eigendecomposition: exact up to rounding, for small networks."""

from __future__ import annotations

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import eigvalsh

from landscape.curvature.inner_types import coarser_products, expect_known_rounding
from landscape.curvature.noise import checked_floor, floor_behind
from landscape.curvature.operators import LinearOperator
from landscape.curvature.preconditions import expect_pytree, expect_square, not_symmetric
from landscape.errors import InputError
from landscape.spectra.measures import SpectralMeasure

_POWER_ITERATIONS = 20


def dense_spectrum(
    op: LinearOperator, *, dtype: Any = None, noise_floor: float | np.ndarray | None = None
) -> SpectralMeasure:
    """All P eigenvalues of an operator.

    Parameters
    ----------
    op
        Symmetric operator, (P, P), or a family of S of them.
    dtype
        Type the matrix is evaluated in; ``numpy.float64`` asks for float64 products. Default the
        operator's. The eigendecomposition itself is always float64 (LAPACK ``syevd``).
    noise_floor
        Of the operator, as for ``slq``: recorded if it is larger than rounding of the type and than
        the antisymmetric part, and needed for an operator that computes in a coarser type inside.

    Returns
    -------
    SpectralMeasure, with a leading axis S for a family.

    Raises
    ------
    ResourceError
        If the matrix does not fit in the host's memory.
    InputError
        If the operator is not symmetric (beyond 10³ units of rounding of its norm), has NaN
        entries, cannot be evaluated in the type asked for, or computes in a coarser one inside and
        no noise floor is given.

    Examples
    --------
    >>> from landscape.curvature import DiagonalOperator
    >>> dense_spectrum(DiagonalOperator(jnp.array([2.0, 0.0, 1.0]))).nodes.tolist()
    [0.0, 1.0, 2.0]
    """
    expect_square(op)
    expect_pytree(op)
    if op.batch_shape:
        checked_floor(noise_floor, op.batch_shape)
        members = list(op.members())
        given = np.broadcast_to(np.asarray(noise_floor, object), len(members)).tolist()
        each = [
            dense_spectrum(member, dtype=dtype, noise_floor=floor)
            for member, floor in zip(members, given, strict=True)
        ]
        nodes, weights, floors = (
            np.stack([getattr(one, name) for one in each])
            for name in ("nodes", "weights", "noise_floor")
        )
        return SpectralMeasure(nodes, weights, floors, sum(one.num_matvecs for one in each))
    dtype = np.dtype(op.dtype if dtype is None else dtype)
    other = dtype != op.dtype
    with jax.enable_x64(dtype == np.float64) if other else contextlib.nullcontext():
        cast = op.astype(dtype) if other else op
        expect_known_rounding(coarser_products(cast), cast, noise_floor)
        matrix = np.asarray(cast.to_dense(), np.float64)
    if not np.isfinite(matrix).all():
        raise InputError("the matrix has NaN or infinite entries")
    unit = float(jnp.finfo(dtype).eps) / 2
    scale = np.abs(matrix).sum(-1).max()
    skew = (matrix - matrix.T) / 2
    asymmetry, of_skew = 2 * np.abs(skew).max(), _norm(skew)
    # As large as the matrix.
    del skew
    floor = float(checked_floor(noise_floor))
    if asymmetry > 1e3 * max(unit * scale, floor):
        with jax.enable_x64(dtype == np.float64) if other else contextlib.nullcontext():
            floor = float(floor_behind(cast, asymmetry))
    if np.isnan(floor):
        raise not_symmetric(
            op,
            f"entries differ from the transposed ones by {asymmetry:.2e}, with absolute sums of "
            f"rows up to {scale:.2e}",
        )
    floor = max(floor, of_skew)
    values = eigvalsh((matrix + matrix.T) / 2, overwrite_a=True, check_finite=False)
    return SpectralMeasure(
        nodes=values,
        weights=np.full_like(values, 1 / len(values)),
        noise_floor=np.asarray(max(unit * np.abs(values).max(), floor)),
        num_matvecs=len(values),
    )


def _norm(skew: np.ndarray) -> float:
    """The spectral norm of an antisymmetric matrix, within some percent from below."""
    vector = np.random.default_rng(0).standard_normal(len(skew))
    length = 0.0
    for _ in range(_POWER_ITERATIONS):
        size = np.linalg.norm(vector)
        if not size:
            return 0.0
        # Twice: its eigenvalues are imaginary.
        vector = skew @ (skew @ (vector / size))
        length = float(np.linalg.norm(vector)) ** 0.5
    return length
