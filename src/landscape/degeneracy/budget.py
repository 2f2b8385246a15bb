r"""Where a network's null directions come from: counts by cause that add up.

Notation: J is the Jacobian of the logits, ``G = Jᵀ Λ J`` the Gauss–Newton matrix of the mean
softmax cross-entropy. Every probability is positive, so ``ker G`` are the directions that move all
logits of each example alike: the kernel of the centered Jacobian.

A chain of subspaces of ker G, each holding the one before. A cause counts the dimensions that it
adds, so that nothing is counted twice:

1. within the incoming weights of one unit: *elimination*, *constant input*, *overlap*,
   *dependence* (``targets``);
2. within one layer: targets whose effects coincide, *dependence from above*;
3. across layers: *rescaling*, *translation*, *mixing* (``symmetries``), and *compensation*: all
   else that changes each layer's activities linearly in themselves (``compensation``);
4. *softmax*: the constant that the readout can add to all logits, rank [x_L, 1];
5. what the chain does not reach is *unexplained*;
6. *few data*: null on the batch, and not on a reference set that holds it. The other causes are
   counted on the reference.

The total is the nullity by singular values in float64, on its own route: through the model as it is
and no layer of it.
"""

from __future__ import annotations

import dataclasses
import html
from typing import Any

import jax
import numpy as np

from landscape.curvature import hessian, jacobian
from landscape.degeneracy.blocks import Block, increments, make_block
from landscape.degeneracy.compensation import across_layers
from landscape.degeneracy.jacobian_rank import Rank, jacobian_rank
from landscape.degeneracy.networks import Network, Walk, describe
from landscape.degeneracy.null_directions import in_float64
from landscape.degeneracy.symmetries import flattened
from landscape.degeneracy.targets import TargetCounts, count_targets, leading_columns
from landscape.errors import InputError
from landscape.spectra.dense import dense_spectrum
from landscape.spectra.fractions import Fraction, degenerate_fraction
from landscape.training.losses import logits_of, softmax_cross_entropy

CAUSES = (
    "elimination",
    "constant input",
    "overlap",
    "dependence",
    "dependence from above",
    "rescaling",
    "translation",
    "mixing",
    "compensation",
    "softmax",
    "unexplained",
    "few data",
)


@dataclasses.dataclass(frozen=True, eq=False)
class Budget:
    """Counts by cause, in the order of the chain; made by ``degeneracy_budget``.

    Attributes
    ----------
    counts
        Null directions of the Gauss–Newton matrix by cause; they add up to ``total``.
    total
        Its nullity on the batch, exact.
    num_parameters, num_examples
        P, and N of the batch.
    by_layer
        For the causes that belong to layers: counts by layer, in the order of ``layer_names``.
    layer_names
        Of all maps, the readout last.
    findings
        The units behind the counts, in words.
    rank
        Of the centered Jacobian on the batch, with the gap at its cut.
    nearly_flat
        Share of the Hessian's eigenvalues within ε of 0, another quantity than the null directions
        of G; None if no ε was given.
    eps
        That ε.
    """

    counts: dict[str, int]
    total: int
    num_parameters: int
    num_examples: int
    by_layer: dict[str, tuple[int, ...]]
    layer_names: tuple[str, ...]
    findings: tuple[str, ...]
    rank: Rank
    nearly_flat: Fraction | None
    eps: float | None

    @property
    def explained(self) -> float:
        """Share of the null directions with a cause; 1 if there is none."""
        return 1 - self.counts["unexplained"] / self.total if self.total else 1.0

    def rows(self) -> list[tuple[str, int, float]]:
        """Cause, count, share of P; those that are zero left out."""
        return [(c, n, n / self.num_parameters) for c, n in self.counts.items() if n]

    def __repr__(self) -> str:
        lines = [
            f"{self.total:,} of {self.num_parameters:,} directions are null for the Gauss–Newton "
            f"matrix of this batch (N = {self.num_examples:,}); {self.explained:.1%} have a cause",
        ]
        lines += [f"  {cause:24s}{count:8,d}  {share:7.2%}" for cause, count, share in self.rows()]
        gap = f"σ/σ₁ {float(self.rank.above):.1e} | {float(self.rank.below):.1e}"
        lines.append(f"  singular values at the cut: {gap} ({self.rank.status})")
        if self.nearly_flat is not None:
            share = float(self.nearly_flat.estimate)
            lines.append(f"  of the Hessian's eigenvalues {share:.2%} lie within {self.eps:g} of 0")
        return "\n".join([*lines, *(f"  {finding}" for finding in self.findings)])

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><td>{html.escape(cause)}</td><td>{count:,}</td><td>{share:.2%}</td></tr>"
            for cause, count, share in self.rows()
        )
        told = "".join(f"<li>{html.escape(finding)}</li>" for finding in self.findings)
        return (
            f"<p>{self.total:,} of {self.num_parameters:,} directions are null for the "
            f"Gauss–Newton matrix of this batch (N = {self.num_examples:,}).</p>"
            "<table><tr><th>cause</th><th>directions</th><th>share of P</th></tr>"
            f"{cells}</table><ul>{told}</ul>"
        )


def degeneracy_budget(
    model: Any,
    params: Any,
    batch: Any,
    *,
    state: Any = None,
    reference: Any = None,
    eps: float | None = None,
) -> Budget:
    """Null directions of a classifier's Gauss–Newton matrix, by cause.

    Parameters
    ----------
    model
        ``MLP`` with any skip, ``ResNet``, or another Linen module of dense layers and convolutions;
        symmetries across layers are counted for ``MLP``.
    params, state
        Its parameters, and its other collections; statistics are frozen.
    batch
        (inputs, labels) that the curvature is taken over.
    reference
        Examples that hold the batch: what is null for the batch and not for them, is for want of
        data. Default the batch itself.
    eps
        If given, the share of the loss's Hessian within ε of 0 is taken too, all eigenvalues.

    Returns
    -------
    Budget

    Raises
    ------
    InputError
        If the structure of the model is not understood: ``measures`` of layers described by hand
        still work.
    ResourceError
        If the Jacobian is too large for an exact rank.

    Notes
    -----
    Exact, in float64, at the cost of the singular values of J: minutes for P = 6,000. The counting
    is described in the module; that skips of the identity leave a remainder *unexplained* is known.

    Examples
    --------
    >>> from landscape.models import MLP
    >>> model = MLP(depth=2, width=3, num_classes=2)
    >>> x = jax.random.normal(jax.random.key(0), (50, 4))
    >>> params = model.init(jax.random.key(1), x)["params"]
    >>> budget = degeneracy_budget(model, params, (x, np.zeros(50, int)))
    >>> sum(budget.counts.values()) == budget.total
    True
    """
    expect_classifier(batch)
    inputs, labels = batch
    whole = inputs if reference is None else reference[0]
    with jax.enable_x64(True):
        params64, state64, inputs64, whole64 = jax.tree.map(
            in_float64, (params, state, inputs, whole)
        )
        network = describe(model, params64, whole64[:1], state=state64)
        chain = _chain(network, params64, state64, whole64)

        def nullity(x: Any) -> Rank:
            op = jacobian(logits_of(model), params64, x, state=state64 or {})
            return jacobian_rank(op, centered=True)

        rank = nullity(inputs64)
        held = rank if reference is None else nullity(whole64)
    counts = dict.fromkeys(CAUSES, 0) | chain.counts
    counts["unexplained"] = int(held.nullity) - sum(chain.counts.values())
    counts["few data"] = int(rank.nullity) - int(held.nullity)
    flat = None
    if eps is not None:
        loss = softmax_cross_entropy(model)
        op = hessian(loss, params, (inputs, labels), state=state or {}, check=False)
        flat = degenerate_fraction(dense_spectrum(op), eps)
    return Budget(
        counts=counts,
        total=int(rank.nullity),
        num_parameters=rank.shape[1],
        num_examples=len(inputs),
        by_layer=chain.by_layer,
        layer_names=tuple(one.name for one in network.maps),
        findings=chain.findings,
        rank=rank,
        nearly_flat=flat,
        eps=eps,
    )


@dataclasses.dataclass(frozen=True)
class _Chain:
    counts: dict[str, int]
    by_layer: dict[str, tuple[int, ...]]
    findings: tuple[str, ...]


def _chain(network: Network, params: Any, state: Any, inputs: Any) -> _Chain:
    """All links but the totals, on one set of examples."""
    walk = network.walk(params, state, inputs)
    effects = [np.asarray(b) for b in network.effects(params, state, inputs)]
    targets: list[TargetCounts] = []
    blocks: list[Block] = []
    for number, (one, x, moves) in enumerate(zip(network.maps, walk.inputs, effects, strict=True)):
        rows = np.asarray(one.rows(x))
        flat = rows.reshape(-1, rows.shape[-1])
        active = (moves != 0).any(1).reshape(-1, moves.shape[-1])
        bias = one.bias is not None
        targets.append(count_targets(flat, active, bias=bias, is_input=number == 0))
        augmented = np.concatenate([rows, np.ones((*rows.shape[:2], 1))], 2) if bias else rows
        blocks.append(make_block(augmented, moves))
    names = ("elimination", "constant input", "overlap", "dependence")
    fields = ("elimination", "constant", "overlap", "dependence")
    by_layer = {
        name: tuple(int(getattr(t, field).sum()) for t in targets)
        for name, field in zip(names, fields, strict=True)
    }
    by_layer["dependence from above"] = tuple(
        block.nullity - int(t.total.sum()) for block, t in zip(blocks, targets, strict=True)
    )
    counts = {name: sum(values) for name, values in by_layer.items()}
    if network.rescalable:
        counts |= _across(network, params, state, walk, effects, blocks)
    last = np.asarray(walk.inputs[-1]).reshape(len(inputs), -1)
    readout = np.concatenate([last, np.ones((len(last), 1))], 1)
    bias = network.maps[-1].bias is not None
    counts["softmax"] = int(np.linalg.matrix_rank(readout if bias else last))
    return _Chain(counts, by_layer, tuple(_findings(network, targets, walk)))


def _across(
    network: Network, params: Any, state: Any, walk: Walk, effects: Any, blocks: list[Block]
) -> dict[str, int]:
    """Symmetries, in the coordinates of the blocks: each map's kernel, then its bias."""
    bounds: list[int] = [0]
    places = []
    for one in network.maps:
        kernel, bias = one.kernel.of(params), one.bias.of(params) if one.bias else None
        middle = bounds[-1] + kernel.size
        end = middle + (0 if bias is None else bias.size)
        places.append((np.arange(bounds[-1], middle).reshape(kernel.shape), np.arange(middle, end)))
        bounds.append(end)
    families = across_layers(network, params, state, walk, effects)
    vectors = [
        [flattened(change, places, bounds[-1]) for _, change in family]
        for family in families.values()
    ]
    return dict(zip(families, increments(vectors, blocks, bounds), strict=True))


def _findings(network: Network, targets: list[TargetCounts], walk: Any) -> list[str]:
    """Which units: silent ones, constant ones, pairs that overlap."""
    found = []
    for number, (one, counts) in enumerate(zip(network.maps[:-1], targets[:-1], strict=True)):
        response = np.asarray(walk.activities[number])
        response = response.reshape(-1, response.shape[-1])
        silent = np.flatnonzero(counts.silent)
        never = np.zeros(0, int)
        if network.rescalable:
            never = np.flatnonzero(np.asarray(walk.preactivations[number] <= 0).all(0))
        unread = np.setdiff1d(silent, never)
        parts = []
        if len(never):
            parts.append(f"{_units(never)} never active")
        if len(unread):
            # Of what is between a map and its readers nothing is known but for an MLP of ReLUs.
            why = "read by nobody" if network.rescalable else "without effect"
            parts.append(f"{_units(unread)} {why}")
        if response.shape[-1] == len(counts.silent):
            for first, second in _twins(response):
                parts.append(f"{first} and {second} overlap")
        if parts:
            found.append(f"{one.name}: {'; '.join(parts)}")
    return found


def _units(numbers: np.ndarray) -> str:
    listed = ", ".join(map(str, numbers[:12])) + (", …" if len(numbers) > 12 else "")
    return f"unit{'s' if len(numbers) > 1 else ''} {listed}"


def _twins(response: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of units whose responses are multiples of one another."""
    varying = np.flatnonzero(np.ptp(response, axis=0) > 0)
    leaders = leading_columns(response[:, varying])
    return [
        (int(varying[leader]), int(varying[place]))
        for place, leader in enumerate(leaders)
        if leader != place
    ]


def expect_classifier(batch: Any) -> None:
    """Refuse a batch that is no pair of inputs and labels.

    Raises
    ------
    InputError
        With what was given.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise InputError(f"batch must be (inputs, labels); got {type(batch).__name__}")
