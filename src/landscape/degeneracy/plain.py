r"""What the symmetries of a plain network add, layer by layer.

Notation: a symmetry of hidden map ``l`` puts source i into unit j: column j of ``W̃_l`` is moved by
the weights of i, and row i of ``W̃_{l+1}`` by minus those out of j. With i = j that is *rescaling*,
with the constant for i *translation* (j is always active), with another unit that is active on the
same examples *mixing*. Both halves do the same to the logits, up to the sign:
``y_i(x) B_{l,j}(x)``, y what map ``l + 1`` reads.

Modulo the null directions within maps such a direction is therefore ``(a, −a)`` in the images of
maps ``l`` and ``l + 1``, with ``a = y_i B_{l,j}``. Sums over layers of such pairs are zero only if
each a is, from the first layer on: the layers count separately, and what one adds is the rank of
its vectors a, N·C numbers each.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy import linalg

from landscape.degeneracy.blocks import INSIDE, Action, LayerRows, make_action
from landscape.degeneracy.symmetries import Weights

CAUSES = ("rescaling", "translation", "mixing")

# Vectors whose images are held at once.
_AT_ONCE = 64

Pairs = list[tuple[int, int]]


def plain_increments(
    weights: Weights, patterns: Sequence[Bool[np.ndarray, "_ _"]], maps: Sequence[LayerRows]
) -> dict[str, int]:
    """How many null directions each symmetry adds to those within maps and to the ones before it.

    Parameters
    ----------
    weights
        Of a plain ``MLP``.
    patterns
        For each hidden map, which units are active on the examples that count, (N_l, n).
    maps
        The rows of all maps' blocks, all examples.

    Returns
    -------
    By cause, in the order of ``CAUSES``.
    """
    found = dict.fromkeys(CAUSES, 0)
    for l, active in enumerate(patterns):
        families = _pairs(active)
        pairs = list(itertools.chain.from_iterable(families))
        action = make_action(maps[l].read[:, 0], maps[l].effects[:, :, 0], len(pairs))
        images = _images(pairs, weights, l, maps[l + 1].read[:, 0], action)
        counted = np.cumsum([0, *map(len, families)])
        ranks = [_rank(images[:stop]) for stop in counted]
        for cause, before, after in zip(CAUSES, ranks[:-1], ranks[1:], strict=True):
            found[cause] += after - before
    return found


def _pairs(active: Bool[np.ndarray, "N n"]) -> tuple[Pairs, Pairs, Pairs]:
    """(source, unit) of each cause; the constant's number is n."""
    size = active.shape[1]
    _, group = np.unique(active, axis=1, return_inverse=True)
    living = np.flatnonzero(active.any(0)).tolist()
    return (
        [(j, j) for j in range(size)],
        [(size, int(j)) for j in np.flatnonzero(active.all(0))],
        [(i, j) for i, j in itertools.permutations(living, 2) if group[i] == group[j]],
    )


def _images(
    pairs: Pairs, weights: Weights, l: int, read: Float[np.ndarray, "N n+1"], action: Action
) -> Float[np.ndarray, "k s"]:
    """``Ω a`` for unit directions, in units of ``‖J_l‖``."""
    incoming = np.concatenate([weights.kernels[l], weights.biases[l][None]])
    into = np.append(np.linalg.norm(incoming, axis=0), 1.0)
    out = np.linalg.norm(weights.kernels[l + 1], axis=1)
    images = np.empty((len(pairs), action.length))
    for start in range(0, len(pairs), _AT_ONCE):
        sources, units = np.array(pairs[start : start + _AT_ONCE]).T
        moved = read[:, None, sources] * action.effects[:, :, units]
        moved = moved.reshape(-1, len(units))
        lengths = np.hypot(into[sources], out[units])
        seen = moved if action.sketch is None else action.sketch @ moved
        # A direction that is no change at all has the length 0, and so has its image.
        images[start : start + len(units)] = (seen / np.where(lengths > 0, lengths, 1)).T
    return images / action.scale


def _rank(images: Float[np.ndarray, "k s"]) -> int:
    if not len(images):
        return 0
    return int((linalg.svdvals(images, check_finite=False) > INSIDE).sum())
