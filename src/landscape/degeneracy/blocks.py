r"""The part of a network's Jacobian that belongs to one map, and its null space.

Notation: the rows of map ``l``'s block ``J_l`` are ``Σ_places x̃(x) ⊗ B_c(x)``, one for each example
and logit ``c``; its columns are the kernel's entries, row by row, then the biases. The sum of the
kernels of all blocks, ``K = ⊕ ker J_l``, are the null directions that change one layer at a time.

What is null, is decided by one *cut* on how far the logits move along a unit vector: the one below
which singular values of the whole J count as 0. With the cut divided among L blocks, ``c_l`` with
``Σ c_l² = c²``, the logits move by no more than c along every unit vector of K: so K, as it is
counted, has no more dimensions than the kernel of J, as that is counted (Courant and Fischer).

Vectors of a map's parameters are told apart by where they move the logits, ``J_l v``, in units of
``‖J‖``: up to an isometry that is ``S Vᵀ v`` with ``J_l = U S Vᵀ``. Rounding is of the size of its
unit, however small the singular values are.

Where a block is too large to be decomposed it is known by its action: ``Ω J_l v`` with a random Ω
of more rows than there are vectors, a few entries in each column (J. Nelson and H. L. Nguyễn,
*OSNAP: faster numerical linear algebra algorithms via sparser subspace embeddings*, FOCS 2013). It
cannot add to their rank.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from scipy import linalg, sparse

# Directions along which the logits move by less than this share of ‖J‖ are in K.
INSIDE = 1e-12

# Beyond all maps.
_NOWHERE = 2**31

# Vectors whose coordinates are taken at once.
_AT_ONCE = 32

# Rows of a random matrix beyond twice the vectors whose rank it keeps, and entries in each column.
_MORE = 64
_ENTRIES = 4

# Bytes of a block's rows at a time.
_ROW_BYTES = 2**27


@dataclasses.dataclass(frozen=True)
class LayerRows:
    """The rows of a map's block, by what it reads and what it moves.

    Attributes
    ----------
    read
        (N, places, fan_in), with a column of ones if the map has a bias.
    effects
        B, (N, C, places, n), centered over C.
    """

    read: Float[np.ndarray, "N places fan_in"]
    effects: Float[np.ndarray, "N C places n"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, C, columns)."""
        return (*self.effects.shape[:2], self.read.shape[2] * self.effects.shape[3])

    def of(self, part: slice) -> Float[np.ndarray, "rows columns"]:
        """Rows of some examples."""
        read, effects = self.read[part], self.effects[part]
        if read.shape[1] == 1:
            block = read[:, 0, None, :, None] * effects[:, :, 0, None, :]
        else:
            block = np.einsum("npi,ncpj->ncij", read, effects, optimize=True)
        return block.reshape(-1, self.shape[2])


@dataclasses.dataclass(frozen=True)
class GivenRows:
    """The rows of a block that is no map's.

    Attributes
    ----------
    rows
        (N, C, columns), centered over C.
    """

    rows: Float[np.ndarray, "N C columns"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, C, columns)."""
        return self.rows.shape

    def of(self, part: slice) -> Float[np.ndarray, "rows columns"]:
        """Rows of some examples."""
        return self.rows[part].reshape(-1, self.rows.shape[2])


Rows = LayerRows | GivenRows


@dataclasses.dataclass(frozen=True)
class Block:
    """A map's block ``J_l = U S Vᵀ``, what is below the cut left out.

    Attributes
    ----------
    values
        The singular values in units of ‖J‖, (rank,).
    basis
        Vᵀ, orthonormal rows, (rank, columns).
    """

    values: Float[np.ndarray, " rank"]
    basis: Float[np.ndarray, "rank columns"]

    @property
    def nullity(self) -> int:
        """Dimension of ker J_l."""
        return self.basis.shape[1] - len(self.basis)

    @property
    def length(self) -> int:
        """The rank."""
        return len(self.basis)

    def coordinates(self, vectors: Float[np.ndarray, "k columns"]) -> Float[np.ndarray, "k rank"]:
        """``S Vᵀ v``."""
        return (vectors @ self.basis.T) * self.values


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
    sketch: sparse.csr_array | None
    scale: float

    @property
    def length(self) -> int:
        """s, or N·C."""
        count, classes, _ = self.effects.shape
        return count * classes if self.sketch is None else int(self.sketch.shape[0])

    def coordinates(self, vectors: Float[np.ndarray, "k columns"]) -> Float[np.ndarray, "k s"]:
        """``Ω J_l v``, scaled."""
        weights = vectors.reshape(len(vectors), self.rows.shape[1], -1)
        sources, targets = weights.any((0, 2)), weights.any((0, 1))
        weights = weights[:, sources][:, :, targets]
        moved = np.tensordot(self.rows[:, sources], weights, (1, 1)).swapaxes(1, 2)
        images = (self.effects[:, :, targets] @ moved).reshape(-1, len(vectors))
        return (images if self.sketch is None else self.sketch @ images).T / self.scale


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
    wanted = 2 * num_vectors + _MORE
    sketch = _sparse_signs(wanted, total) if wanted < total else None
    lengths = np.linalg.norm(rows, axis=1) * np.sqrt((effects**2).sum((1, 2)))
    return Action(rows, effects, sketch, float(np.sqrt((lengths**2).sum())) or 1.0)


def _sparse_signs(rows: int, columns: int) -> sparse.csr_array:
    """A random matrix with a few entries of random signs in each column."""
    rng = np.random.default_rng(0)
    places = rng.integers(0, rows, (columns, _ENTRIES))
    signs = rng.choice([-1.0, 1.0], places.shape) / np.sqrt(_ENTRIES)
    pairs = (places.ravel(), np.repeat(np.arange(columns), _ENTRIES))
    return sparse.csr_array((signs.ravel(), pairs), shape=(rows, columns))


def make_block(rows: Rows, cut: float, norm: float) -> Block:
    """One block, by QR of its rows some at a time and an SVD of R.

    Parameters
    ----------
    rows
        Of a map, or others.
    cut
        Singular values up to here are zero.
    norm
        ‖J‖, of all blocks.

    Returns
    -------
    Block
    """
    values, modes = linalg.svd(_triangle([rows], [None]), full_matrices=False, check_finite=False)[
        1:
    ]
    rank = int((values > cut).sum())
    return Block(values[:rank] / norm, modes[:rank])


def of_pairs(
    rows: Sequence[Rows],
    blocks: Sequence[Block],
    pairs: Iterable[tuple[int, int]],
    cut: float,
) -> Iterator[dict[int, np.ndarray]]:
    """Null directions of two blocks at once, modulo K.

    Parameters
    ----------
    rows, blocks
        The blocks by number, made of the rows by ``make_block``.
    pairs
        Which two.
    cut
        Singular values of two blocks up to here are zero.

    Yields
    ------
    Coordinates in both blocks.
    """
    for pair in pairs:
        first, second = (blocks[number] for number in pair)
        triangle = _triangle([rows[number] for number in pair], [first.basis, second.basis])
        values, modes = linalg.svd(triangle, check_finite=False)[1:]
        for mode in modes[int((values > cut).sum()) :]:
            parts = np.split(mode, [first.length])
            yield {
                number: blocks[number].values * part
                for number, part in zip(pair, parts, strict=True)
            }


def _triangle(sources: Sequence[Rows], bases: Sequence[np.ndarray | None]) -> np.ndarray:
    """R of the blocks' rows side by side, each in a basis of its own if there is one."""
    count, classes = sources[0].shape[:2]
    columns = sum(source.shape[2] for source in sources)
    size = sum(
        source.shape[2] if basis is None else len(basis)
        for source, basis in zip(sources, bases, strict=True)
    )
    step = max(1, _ROW_BYTES // (8 * columns * classes), -(-columns // classes))
    triangle = np.zeros((0, size))
    for start in range(0, count, step):
        part = slice(start, start + step)
        found = [
            source.of(part) if basis is None else source.of(part) @ basis.T
            for source, basis in zip(sources, bases, strict=True)
        ]
        stacked = np.concatenate([triangle, np.concatenate(found, 1)])
        triangle = linalg.qr(stacked, mode="r", overwrite_a=True, check_finite=False)[0][:size]
    return triangle


def coordinates(
    vectors: Iterable[Mapping[int, np.ndarray]], kernels: Sequence[MapKernel]
) -> Iterator[dict[int, np.ndarray]]:
    """Of vectors that are given by the maps that they change, in those maps."""
    remaining = iter(vectors)
    while chunk := list(itertools.islice(remaining, _AT_ONCE)):
        found: list[dict[int, np.ndarray]] = [{} for _ in chunk]
        for number, kernel in enumerate(kernels):
            places = [place for place, vector in enumerate(chunk) if number in vector]
            if places:
                images = kernel.coordinates(np.stack([chunk[place][number] for place in places]))
                for place, image in zip(places, images, strict=True):
                    found[place][number] = image
        yield from found


def increments(families: Iterable[Iterable[dict[int, np.ndarray]]]) -> list[int]:
    """How many dimensions each family of vectors adds to K and to the families before it.

    Parameters
    ----------
    families
        Coordinates of vectors of R^P of length 1 or less, in the maps that they change.

    Returns
    -------
    One number for each family.
    """
    found: list[int] = []
    parts: list[dict[int, np.ndarray]] = []
    for family in families:
        parts += family
        found.append(_rank(parts) - sum(found))
    return found


def _rank(vectors: list[dict[int, np.ndarray]]) -> int:
    """How many dimensions, map by map.

    Vectors that one map tells apart are counted, and combinations of them that it does not see go
    on to the next one. What is left of a vector that K holds is rounding.
    """
    total = 0
    while vectors:
        number = min(min(vector, default=_NOWHERE) for vector in vectors)
        if number == _NOWHERE:
            break
        here = [vector for vector in vectors if number in vector]
        vectors = [vector for vector in vectors if number not in vector]
        seen = np.stack([vector[number] for vector in here])
        later = sorted({m for vector in here for m in vector} - {number})
        if not later:
            total += int((linalg.svdvals(seen, check_finite=False) > INSIDE).sum())
            continue
        modes, values, _ = linalg.svd(seen, check_finite=False)
        rank = int((values > INSIDE).sum())
        total += rank
        unseen = modes[:, rank:].T
        mixed: list[dict[int, np.ndarray]] = [{} for _ in unseen]
        for m in later:
            length = next(len(vector[m]) for vector in here if m in vector)
            images = unseen @ np.stack([vector.get(m, np.zeros(length)) for vector in here])
            for combination, image in zip(mixed, images, strict=True):
                combination[m] = image
        vectors += mixed
    return total
