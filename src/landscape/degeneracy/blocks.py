r"""The part of a network's Jacobian that belongs to one map, and its null space.

Notation: the rows of map ``l``'s block ``J_l`` are ``Σ_places x̃(x) ⊗ B_c(x)``, one for each example
and logit ``c``; its columns are the kernel's entries, row by row, then the biases. The sum of the
kernels of all blocks, ``K = ⊕ ker J_l``, are the null directions that change one layer at a time.

Where a block is too large to be decomposed it is known by its action: a vector of the map's
parameters is told from those of the kernel by ``Ω J_l v`` with a random Ω of more rows than there
are vectors, which keeps their rank with probability one (N. Halko, P.-G. Martinsson and
J. A. Tropp, *Finding structure with randomness*, SIAM Review 53, 2011).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from scipy import linalg

# Singular values of unit vectors' coordinates below this are rounding.
_INSIDE = 1e-9

# Rows of a random matrix beyond the vectors whose rank it keeps.
_MORE = 16

# Bytes of a block's rows at a time.
_ROW_BYTES = 2**27


# What a map reads, (N, places, fan_in), and how its pre-activations move the logits, (N, C, places,
# n).
MapRows = Float[np.ndarray, "_ _ _"]
MapEffects = Float[np.ndarray, "_ _ _ _"]


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

    @property
    def length(self) -> int:
        """The rank."""
        return len(self.basis)

    def coordinates(self, vector: np.ndarray) -> np.ndarray:
        """Of the projection onto the row space."""
        return self.basis @ vector


@dataclasses.dataclass(frozen=True)
class Action:
    """A dense map's block, by what its parameters do to the logits.

    Attributes
    ----------
    rows
        (N, fan_in), with a column of ones if the map has a bias.
    effects
        B, (N, C, n).
    sketch
        Ω, (s, N·C), or None for all rows.
    scale
        What coordinates are divided by: of the size of ``‖J_l‖``.
    """

    rows: Float[np.ndarray, "N fan_in"]
    effects: Float[np.ndarray, "N C n"]
    sketch: Float[np.ndarray, "s rows"] | None
    scale: float

    @property
    def length(self) -> int:
        """s, or N·C."""
        count, classes, _ = self.effects.shape
        return count * classes if self.sketch is None else len(self.sketch)

    def coordinates(self, vector: np.ndarray) -> np.ndarray:
        """``Ω J_l v``, scaled."""
        weights = vector.reshape(self.rows.shape[1], -1)
        sources, targets = (np.flatnonzero(weights.any(axis)) for axis in (1, 0))
        moved = self.rows[:, sources] @ weights[np.ix_(sources, targets)]
        image = np.einsum("nj,ncj->nc", moved, self.effects[:, :, targets]).ravel()
        return (image if self.sketch is None else self.sketch @ image) / self.scale


# What tells a vector of a map's parameters from the kernel of the map's block: it has a length and
# coordinates, which are zero if and only if the vector is in the kernel.
MapKernel = Block | Action


def make_action(
    rows: Float[np.ndarray, "N fan_in"], effects: Float[np.ndarray, "N C n"], num_vectors: int
) -> Action:
    """A block that tells so many vectors apart.

    Parameters
    ----------
    rows, effects
        As for ``Action``.
    num_vectors
        Of this map's parameters, of which a rank will be taken.

    Returns
    -------
    Action
    """
    total = effects.shape[0] * effects.shape[1]
    wanted = num_vectors + _MORE
    sketch = None
    if wanted < total:
        sketch = np.random.default_rng(0).normal(size=(wanted, total)) / np.sqrt(wanted)
    lengths = np.linalg.norm(rows, axis=1) * np.sqrt((effects**2).sum((1, 2)))
    return Action(rows, effects, sketch, float(np.sqrt((lengths**2).sum())) or 1.0)


def make_block(rows: MapRows, effects: MapEffects) -> Block:
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
    size = rows.shape[2] * effects.shape[3]
    count, classes = effects.shape[:2]
    triangle = _triangle([(rows, effects)], [None], size)
    values, modes = linalg.svd(triangle, full_matrices=False, check_finite=False)[1:]
    rank = _numerical_rank(values, max(count * classes, size))
    padded = np.concatenate([values, [0.0]]) / (values[0] if len(values) and values[0] else 1)
    return Block(
        modes[:rank], size, (float(padded[rank - 1]) if rank else 0.0, float(padded[rank]))
    )


def of_neighbours(
    maps: Sequence[tuple[MapRows, MapEffects]], blocks: Sequence[Block]
) -> Iterator[list[np.ndarray]]:
    """Null directions of two maps at once, for each map and the next one, modulo K.

    Parameters
    ----------
    maps
        Rows and effects of each.
    blocks
        Made of them by ``make_block``.

    Yields
    ------
    Coordinates in every block: not zero in two of them, and orthonormal for each pair.
    """
    for l in range(len(maps) - 1):
        pair = slice(l, l + 2)
        bases = [block.basis for block in blocks[pair]]
        size = sum(len(basis) for basis in bases)
        count, classes = maps[l][1].shape[:2]
        triangle = _triangle(maps[pair], bases, size)
        values, modes = linalg.svd(triangle, check_finite=False)[1:]
        for mode in modes[_numerical_rank(values, max(count * classes, size)) :]:
            whole = [np.zeros(block.length) for block in blocks]
            whole[pair] = np.split(mode, [len(bases[0])])
            yield whole


def _triangle(
    maps: Sequence[tuple[MapRows, MapEffects]], bases: Sequence[np.ndarray | None], size: int
) -> np.ndarray:
    """R of the maps' rows side by side, each in a basis of its own if there is one."""
    count, classes = maps[0][1].shape[:2]
    columns = sum(rows.shape[2] * effects.shape[3] for rows, effects in maps)
    step = max(1, _ROW_BYTES // (8 * columns * classes), -(-columns // classes))
    triangle = np.zeros((0, size))
    for start in range(0, count, step):
        parts = []
        for (rows, effects), basis in zip(maps, bases, strict=True):
            block = _rows_of(rows[start : start + step], effects[start : start + step])
            parts.append(block if basis is None else block @ basis.T)
        stacked = np.concatenate([triangle, np.concatenate(parts, 1)])
        triangle = linalg.qr(stacked, mode="r", overwrite_a=True, check_finite=False)[0][:size]
    return triangle


def _rows_of(rows: MapRows, effects: MapEffects) -> np.ndarray:
    """(n·C, columns), of some examples."""
    if rows.shape[1] == 1:
        block = rows[:, 0, None, :, None] * effects[:, :, 0, None, :]
    else:
        block = np.einsum("npi,ncpj->ncij", rows, effects, optimize=True)
    return block.reshape(-1, rows.shape[2] * effects.shape[3])


def _numerical_rank(values: np.ndarray, size: int) -> int:
    """As NumPy's ``matrix_rank`` has it."""
    largest = values[0] if len(values) else 0.0
    return int((values > size * np.finfo(float).eps * largest).sum())


def coordinates(vector: Mapping[int, np.ndarray], kernels: Sequence[MapKernel]) -> list[np.ndarray]:
    """In every map, of a vector given by the maps that it changes."""
    return [
        kernel.coordinates(vector[number]) if number in vector else np.zeros(kernel.length)
        for number, kernel in enumerate(kernels)
    ]


def increments(families: Iterable[Iterable[Sequence[np.ndarray]]]) -> list[int]:
    """How many dimensions each family of vectors adds to K and to the families before it.

    Parameters
    ----------
    families
        Coordinates of unit vectors of R^P, in every map.

    Returns
    -------
    One number for each family.
    """
    found: list[int] = []
    parts: list[np.ndarray] = []
    for family in families:
        parts += [np.concatenate(pieces) for pieces in family]
        found.append(_rank(parts) - sum(found))
    return found


def _rank(vectors: list[np.ndarray]) -> int:
    """Of vectors of length about 1 and less: what is left of one that K holds is rounding."""
    if not vectors:
        return 0
    values = linalg.svd(np.array(vectors), compute_uv=False, check_finite=False)
    return int((values > _INSIDE).sum())
