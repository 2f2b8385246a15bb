r"""An operator with some of its eigenvectors taken out.

Notation: ``V`` holds q orthonormal eigenvectors as rows, ``Π = I − VᵀV``. On the complement of V
the operator ``ΠA`` is symmetric and has A's other eigenvalues. With Ritz vectors in place of
eigenvectors, A and its two parts differ by the residuals ``R = ΠAVᵀ``, in norm by ``‖R‖``: by
Weyl's inequality no eigenvalue moves farther.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, Float

from landscape._pytrees import pytree
from landscape.curvature.operators import LinearOperator
from landscape.spectra.tiles import joined, remove, tiled


@pytree
@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class DeflatedOperator(LinearOperator):
    """``ΠA``, for vectors in the complement of V.

    Attributes
    ----------
    op
        A.
    block
        (1, T, q, p) V, in tiles.
    """

    op: LinearOperator
    block: Float[Array, "1 T q p"]

    @property
    def shape(self) -> tuple[int, int]:
        """(P, P)."""
        return self.op.shape

    @property
    def dtype(self) -> np.dtype:
        """Type of the entries."""
        return self.op.dtype

    @property
    def traceable(self) -> bool:
        """Whether A is."""
        return self.op.traceable

    @property
    def traceable_parts(self) -> tuple[LinearOperator, ...]:
        """Those of A."""
        return self.op.traceable_parts

    @property
    def recomputes(self) -> bool:
        """Whether A does."""
        return self.op.recomputes

    def project(self, rows: Float[Array, "L P"]) -> Float[Array, "L P"]:
        """Each row without its components along V."""

        def alone(row: Array) -> Array:
            return joined(remove(self.block, tiled(row[None]))[0], len(row))[0]

        return jax.vmap(alone)(rows)

    def _products(self) -> Callable[[Array], Array]:
        product = self.op._products()
        return lambda v: self.project(product(v)[None])[0]

    def _lanes(self) -> Callable[[Array], Array]:
        product = self.op._lanes()
        return lambda rows: self.project(product(rows))

    def _matmat(self, vectors: Array) -> Array:
        if self.traceable:
            return super()._matmat(vectors)
        return self.project(self.op._matmat(vectors).T).T
