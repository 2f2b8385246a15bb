r"""The part of a network's Jacobian that belongs to one map, and its null space.

Notation: the rows of map ``l``'s block ``J_l`` are ``Σ_places x̃(x) ⊗ B_c(x)``, one for each example
and logit ``c``; its columns are the kernel's entries, row by row, then the biases. The sum of the
kernels of all blocks, ``K = ⊕ ker J_l``, are the null directions that change one layer at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import linalg

# Bytes of a block's rows at a time.
_ROW_BYTES = 2**27


@dataclasses.dataclass(frozen=True)
class Block:
    """A map's block, by its row space.

    Attributes
    ----------
    basis
        Orthonormal rows, (rank, columns).
    num_columns
        As many as the map has parameters.
    gap
        The smallest singular value that counts over the largest, and the largest that does not.
    """

    basis: Float[np.ndarray, "rank columns"]
    num_columns: int
    gap: tuple[float, float]

    @property
    def nullity(self) -> int:
        """Dimension of ker J_l."""
        return self.num_columns - len(self.basis)


def make_block(
    rows: Float[np.ndarray, "N places fan_in"], effects: Float[np.ndarray, "N C places n"]
) -> Block:
    """The row space of one map's block, by QR of its rows block by block and an SVD of R.

    Parameters
    ----------
    rows
        What the map reads, with a column of ones if it has a bias.
    effects
        B.

    Returns
    -------
    Block
    """
    count, classes, _, width = effects.shape
    size = rows.shape[2] * width
    step = max(1, _ROW_BYTES // (8 * size * classes), -(-size // classes))
    triangle = np.zeros((0, size))
    for start in range(0, count, step):
        part = slice(start, start + step)
        if rows.shape[1] == 1:
            block = rows[part, 0, None, :, None] * effects[part, :, 0, None, :]
        else:
            block = np.einsum("npi,ncpj->ncij", rows[part], effects[part], optimize=True)
        stacked = np.concatenate([triangle, block.reshape(-1, size)])
        triangle = linalg.qr(stacked, mode="r", overwrite_a=True, check_finite=False)[0][:size]
    _, values, modes = linalg.svd(triangle, full_matrices=False, check_finite=False)
    largest = values[0] if len(values) else 0.0
    cut = max(count * classes, size) * np.finfo(float).eps * largest
    rank = int((values > cut).sum())
    padded = np.concatenate([values, [0.0]]) / (largest or 1)
    return Block(
        modes[:rank], size, (float(padded[rank - 1]) if rank else 0.0, float(padded[rank]))
    )


def increments(
    families: Sequence[Sequence[np.ndarray]], blocks: Sequence[Block], bounds: Sequence[int]
) -> list[int]:
    """How many dimensions each family of vectors adds to K and to the families before it.

    Parameters
    ----------
    families
        Vectors of R^P, parameters in the order of the blocks.
    blocks
        Of all maps.
    bounds
        Where each block begins, and P.

    Returns
    -------
    One number for each family.
    """
    found: list[int] = []
    parts: list[np.ndarray] = []
    for family in families:
        for vector in family:
            pieces = [
                block.basis @ vector[low:high]
                for block, low, high in zip(blocks, bounds[:-1], bounds[1:], strict=True)
            ]
            parts.append(np.concatenate(pieces))
        found.append(_rank(parts) - sum(found))
    return found


def _rank(vectors: list[np.ndarray]) -> int:
    """Of unit vectors and their projections: what is left of one that K holds is rounding."""
    if not vectors:
        return 0
    values = linalg.svd(np.array(vectors), compute_uv=False, check_finite=False)
    return int((values > 1e-9).sum())
