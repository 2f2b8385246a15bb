r"""The links of a budget's chain, counted on one set of examples; notation as in ``budget``.

With the total of the Jacobian all links are counted, at its cut; without one those that need no
block of a layer to be decomposed.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from landscape.curvature import jacobian
from landscape.curvature.parameters import path_name
from landscape.degeneracy.blocks import (
    INSIDE,
    Block,
    GivenRows,
    LayerRows,
    Rows,
    coordinates,
    increments,
    make_action,
    make_block,
    of_pairs,
)
from landscape.degeneracy.compensation import across_layers
from landscape.degeneracy.describe import Logits
from landscape.degeneracy.effects import walk_and_effects
from landscape.degeneracy.findings import findings
from landscape.degeneracy.jacobian_rank import Rank, rows_of
from landscape.degeneracy.networks import Network
from landscape.degeneracy.symmetries import Change, by_map
from landscape.degeneracy.targets import TargetCounts, count_targets
from landscape.degeneracy.trades import (
    Trade,
    Units,
    normalisations,
    normalised_counts,
    rescalings,
    that_are_null,
)

Families = dict[str, Iterator[tuple[str, Change]]]

# Vectors by the blocks that they change.
Links = dict[str, Iterable[dict[int, np.ndarray]]]


@dataclasses.dataclass(frozen=True)
class Chain:
    """What the links add.

    Attributes
    ----------
    counts
        By cause, those that were taken.
    by_layer
        Of the causes that belong to layers.
    findings
        The units behind them, in words.
    close
        Singular values of single layers that are above the cut and too small for vectors across
        layers to be told apart along them.
    """

    counts: dict[str, int]
    by_layer: dict[str, tuple[int, ...]]
    findings: tuple[str, ...]
    close: int


def count_chain(
    network: Network, logits: Logits, params: Any, state: Any, inputs: Any, total: Rank | None
) -> Chain:
    """All links but the totals.

    Parameters
    ----------
    network
        Made by ``classifier_network``.
    logits
        ``logits(params, state, inputs)``.
    params, state, inputs
        In float64.
    total
        The rank of the centered Jacobian on the inputs; None for the structural links alone.

    Returns
    -------
    Chain

    Raises
    ------
    ResourceError
        If what the layers read and move does not fit in the host's memory.
    """
    walk, effects = walk_and_effects(network, params, state, inputs)
    cut = None if total is None else total.rtol * float(total.norm)
    # One more for the parameters that belong to no map.
    num_targets = 1 + sum(moves.shape[-1] for moves in effects)
    targets: list[TargetCounts] = []
    maps: list[LayerRows] = []
    for number, (one, x, moves) in enumerate(zip(network.maps, walk.inputs, effects, strict=True)):
        read = np.asarray(one.rows(x))
        flat = read.reshape(-1, read.shape[-1])
        bias = one.bias is not None
        centered = moves - moves.mean(1, keepdims=True)
        # Over the places of an image the changes of a logit add up.
        length = moves.shape[2] ** 0.5 * np.linalg.norm(centered, axis=1)
        active = (moves != 0).any(1) if cut is None else length
        share = None if cut is None else cut / num_targets**0.5
        targets.append(
            count_targets(
                flat,
                active.reshape(-1, moves.shape[-1]),
                bias=bias,
                is_input=number == 0,
                cut=share,
            )
        )
        augmented = np.concatenate([read, np.ones((*read.shape[:2], 1))], 2) if bias else read
        maps.append(LayerRows(augmented, centered))
    names = ("elimination", "constant input", "overlap", "dependence", "conditional")
    fields = ("elimination", "constant", "overlap", "dependence", "conditional")
    by_layer = {
        name: tuple(int(getattr(t, field).sum()) for t in targets)
        for name, field in zip(names, fields, strict=True)
    }
    counts = {
        "softmax": int(np.linalg.matrix_rank(maps[-1].read[:, 0])),
        "few data": sum(int(t.few.sum()) for t in targets),
    }
    families, close = {}, 0
    trades: dict[Units, Trade] = {}
    null: dict[Units, np.ndarray] = {}
    if network.rescalable:
        families = across_layers(network, params, state, walk, effects)
    else:
        trades = rescalings(network, params)
        null = that_are_null(trades, logits, params, state, inputs)
    if total is not None and cut is not None:
        rows: list[Rows] = [*maps, *_rows_of_others(network, logits, params, state, inputs)]
        shares = [one.effects.shape[-1] / num_targets for one in maps]
        shares += [1 / num_targets] * (len(rows) - len(maps))
        norm = float(total.norm) or 1.0
        blocks = [
            make_block(one, cut * share**0.5, norm) for one, share in zip(rows, shares, strict=True)
        ]
        above = [
            block.nullity - int(t.total.sum()) for block, t in zip(blocks, targets, strict=False)
        ]
        # What the readout adds to all logits: other relations of its targets are counted above.
        counts["softmax"], above[-1] = above[-1], 0
        by_layer["dependence from above"] = tuple(above)
        close = sum(int((block.values <= INSIDE).sum()) for block in blocks)
        links: Links = {
            cause: (by_map(change) for _, change in family) for cause, family in families.items()
        }
        if trades:
            parts = _parts(network, params)
            size = sum(len(part) for part in parts)
            links["rescaling"] = (
                {n: vector[part] for n, part in enumerate(parts) if vector[part].any()}
                for units, trade in trades.items()
                for _, vector in trade.vectors(null[units], size)
            )
        found = _exact_increments(links, rows, blocks, len(maps), cut)
    else:
        families.pop("compensation", None)
        again = across_layers(network, params, state, walk, effects) if families else {}
        found = _structural_increments(families, again, maps, plain=network.skip == "none")
        if not network.rescalable:
            silent = {number: t.silent for number, t in enumerate(targets)}
            found["rescaling"] = sum(
                int((passed & ~units.that_are(silent, len(passed))).sum())
                for units, passed in null.items()
            )
            found["normalisation"] = _normalised(network, logits, params, state, inputs, targets)
    counts |= {name: sum(values) for name, values in by_layer.items()} | found
    return Chain(counts, by_layer, tuple(findings(network, targets, walk, params)), close)


def _normalised(
    network: Network,
    logits: Logits,
    params: Any,
    state: Any,
    inputs: Any,
    targets: list[TargetCounts],
) -> int:
    """What batch normalisations add, by relations that are known and tried."""
    trades = normalisations(network, params, state)
    null = that_are_null(trades, logits, params, state, inputs)
    total = 0
    for units in trades:
        (number,) = units.maps
        norm, bias = network.norm(number), network.maps[number].bias is not None
        assert norm is not None
        total += normalised_counts(norm, bias, params, targets[number].silent, null[units])
    return total


def _parts(network: Network, params: Any) -> list[np.ndarray]:
    """Places of each map's parameters in the raveled ones, and of all others: as in the blocks."""
    flat, unflatten = ravel_pytree(params)
    numbered = unflatten(jnp.arange(float(flat.size)))
    parts = [
        np.concatenate(
            [np.asarray(leaf.of(numbered), int).ravel() for leaf in (one.kernel, one.bias) if leaf]
        )
        for one in network.maps
    ]
    others = np.setdiff1d(np.arange(flat.size), np.concatenate(parts))
    return [*parts, others] if len(others) else parts


def _exact_increments(
    vectors: Links, rows: list[Rows], blocks: list[Block], num_maps: int, cut: float
) -> dict[str, int]:
    """Of all links across layers; rows and blocks of the maps, and of all other parameters."""
    links: Links = {cause: coordinates(family, blocks) for cause, family in vectors.items()}
    numbers = range(num_maps)
    scaled = itertools.product(numbers, range(num_maps, len(rows)))
    links["normalisation"] = of_pairs(rows, blocks, scaled, cut)
    links["neighbours"] = of_pairs(rows, blocks, itertools.pairwise(numbers), cut)
    found = dict(zip(links, increments(links.values()), strict=True))
    found["normalisation"] += sum(block.nullity for block in blocks[num_maps:])
    return found


def _structural_increments(
    families: Families, again: Families, maps: list[LayerRows], *, plain: bool
) -> dict[str, int]:
    """Of the symmetries, which are walked through twice: once to count.

    Those of a plain network change two neighbouring maps, which move the logits by a and −a. Sums
    of such pairs over the layers are zero only if each a is, from the first layer on: so the layers
    count separately, and what one adds is the rank of its vectors a, seen in the first of the maps.
    """

    def seen(family: Iterator[tuple[str, Change]]) -> Iterator[dict[int, np.ndarray]]:
        for _, change in family:
            yield by_map({min(change): change[min(change)]} if plain else change)

    touched = Counter(
        number for cause in families for part in seen(again[cause]) for number in part
    )
    kernels = [
        make_action(rows.read[:, 0], rows.effects[:, :, 0], touched[number])
        for number, rows in enumerate(maps)
        if families
    ]
    links = (coordinates(seen(family), kernels) for family in families.values())
    return dict(zip(families, increments(links), strict=True))


def _rows_of_others(
    network: Network, logits: Logits, params: Any, state: Any, inputs: Any
) -> list[GivenRows]:
    """Of the parameters that belong to no map: scales and shifts of normalisations."""
    mine = {leaf.path for one in network.maps for leaf in (one.kernel, one.bias) if leaf}
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    if not set(paths) - mine:
        return []
    op = jacobian(logits, params, inputs, state=state or {}, wrt=lambda path: path not in mine)
    rows = np.asarray(jax.jit(rows_of)(op, inputs))
    return [GivenRows(rows - rows.mean(1, keepdims=True))]
