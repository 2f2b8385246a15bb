r"""Where a network's null directions come from: counts by cause that add up.

Notation: J is the Jacobian of the logits, ``G = Jᵀ Λ J`` the Gauss–Newton matrix of the mean
softmax cross-entropy. Every probability is positive, so ``ker G`` are the directions that move all
logits of each example alike: the kernel of the centered Jacobian.

A chain of subspaces of ker G, each holding the one before. A cause counts the dimensions that it
adds, so that nothing is counted twice:

1. within the incoming weights of one unit: *elimination*, *constant input*, *overlap*,
   *dependence*, *conditional* (``targets``);
2. within one layer: targets whose effects coincide, *dependence from above*;
3. across layers: *rescaling*, *translation*, *mixing* (``symmetries``), and *compensation*: all
   else that changes each layer's activities linearly in themselves (``compensation``);
   *normalisation*: changes of a layer that a normalisation's scales and shifts undo, and theirs
   alone; *neighbours*: all other changes of two neighbouring layers, of which one undoes the other;
4. *softmax*: the constant that the readout can add to all logits, rank [x_L, 1];
5. what the chain does not reach is *unexplained*;
6. *few data*: relations that any sources of a layer would have on so few examples (``targets``);
   what is null on the batch, and not on a reference set that holds it; and of the unexplained those
   that are null for want of equations, N (C − 1) for P parameters, whatever the network. The other
   causes are counted on the reference.

The total is the nullity by singular values in float64, on its own route: through the model as it is
and no layer of it. The singular value below which they count as zero is the cut of all links
(``blocks``), so that these cannot add up to more; where singular values lie near the cut, which is
told, its place decides what is null.

Of a network that is too large for that, the *structural* budget counts what needs no block of a
layer to be decomposed: all of 1.; rescaling, translation, mixing and what batch normalisations undo
(``trades``) of 3.; and 4. These directions are null and independent; so many more are null for want
of equations. Their sum is a lower bound of the nullity. From above it is bounded by the certified
number of singular values of the centered Jacobian that are greater than τ σ₁.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from landscape.curvature import hessian, jacobian
from landscape.degeneracy.blocks import INSIDE
from landscape.degeneracy.chain import count_chain
from landscape.degeneracy.consistency import (
    classifier_network,
    expect_classes,
    expect_labelled,
)
from landscape.degeneracy.describe import logits_function, loss_function, opened
from landscape.degeneracy.jacobian_rank import Rank, jacobian_rank
from landscape.degeneracy.null_directions import in_float64
from landscape.errors import InputError
from landscape.results import Result
from landscape.spectra.dense import dense_spectrum
from landscape.spectra.fractions import Fraction, degenerate_fraction
from landscape.spectra.slq import slq

CAUSES = (
    "elimination",
    "constant input",
    "overlap",
    "dependence",
    "conditional",
    "dependence from above",
    "rescaling",
    "translation",
    "mixing",
    "compensation",
    "normalisation",
    "neighbours",
    "softmax",
    "unexplained",
    "few data",
)


# Links whose vectors change several layers, and the first of them last.
_ACROSS = ("neighbours", "normalisation", "compensation", "mixing", "translation", "rescaling")

METHODS = ("auto", "exact", "structural")

# Singular values beyond this share of σ₁ are seen by float64: they are not rounding.
_SEEN = 1e-14

# τ of a structural budget, and what is taken where that is below the noise floor.
_COARSE = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)

# Operations of the exact route, 2 M P² or 2 M² P and as many for the layers' blocks, beyond which
# the structural one is taken: some minutes of two cores.
_EXACT_OPERATIONS = 1e13


@dataclasses.dataclass(frozen=True, eq=False)
class Budget(Result):
    """Counts by cause, in the order of the chain; made by ``degeneracy_budget``.

    Attributes
    ----------
    counts
        Null directions of the Gauss–Newton matrix by cause; they add up to ``total``.
    total
        Its nullity on the batch, exact; of a structural budget the directions that are surely null.
    upper
        The exact nullity again; of a structural budget P less the lower end of the interval for the
        number of singular values above τ σ₁.
    num_parameters, num_examples
        P, and N of the batch.
    by_layer
        For the causes that belong to layers: counts by layer, in the order of ``layer_names``.
    layer_names
        Of all maps, the readout last.
    findings
        The units behind the counts, in words.
    rank
        Of the centered Jacobian on the batch, with the gap at its cut; of a structural budget the
        interval for the singular values above τ σ₁.
    method
        ``"exact"`` or ``"structural"``.
    nearly_flat
        Share of the Hessian's eigenvalues within ε of 0, another quantity than the null directions
        of G; None if no ε was given.
    eps
        That ε.
    left_out
        Directions across layers that are null by algebra but not by the total's singular values:
        not counted.
    close
        Singular values of single layers between the cut and 10⁻¹² of the largest: relations that
        nearly hold, along which directions across layers cannot be told apart and may be missed.
    nearly_null
        How many of the ``total`` move the logits by more than rounding, σ/σ₁ > 10⁻¹⁴: null by the
        cut alone, which a smaller ``rtol`` leaves out. 0 for a structural budget.
    """

    counts: dict[str, int]
    total: int
    upper: int
    num_parameters: int
    num_examples: int
    by_layer: dict[str, tuple[int, ...]]
    layer_names: tuple[str, ...]
    findings: tuple[str, ...]
    rank: Rank
    method: str
    nearly_flat: Fraction | None
    eps: float | None
    left_out: int = 0
    close: int = 0
    nearly_null: int = 0

    @property
    def explained(self) -> float:
        """Share of the null directions with a cause; 1 if there is none.

        Of a structural budget the least that it can be.
        """
        with_cause = self.total - self.counts["unexplained"]
        return with_cause / self.upper if self.upper else 1.0

    def rows(self) -> list[tuple[str, int, float]]:
        """Cause, count, share of P; those that are zero left out."""
        return [(c, n, n / self.num_parameters) for c, n in self.counts.items() if n]

    def summary(self) -> str:
        """How many directions are null, and how many of them have a cause: one line."""
        least = "" if self.method == "exact" else "at least "
        told = f"{self._headline()}; {least}{self.explained:.1%} have a cause"
        if not self.counts["few data"]:
            return told
        few = self.counts["few data"] / self.upper
        return f"{told}, {self.explained - few:.1%} one besides few data"

    def __repr__(self) -> str:
        lines = [self.summary()]
        lines += [f"  {cause:24s}{count:8,d}  {share:7.2%}" for cause, count, share in self.rows()]
        return "\n".join([*lines, *(f"  {told}" for told in (*self.notes, *self.findings))])

    @property
    def notes(self) -> tuple[str, ...]:
        """What the counts rest on, a line each."""
        told = []
        if self.method == "exact":
            gap = f"σ/σ₁ {float(self.rank.above):.1e} | {float(self.rank.below):.1e}"
            told.append(f"singular values at the cut: {gap} ({self.rank.status})")
            if self.rank.status == "no_gap":
                told.append(
                    "there is no gap at the cut: what is null there, and its causes, would be "
                    "others at another tolerance"
                )
            if self.nearly_null:
                told.append(
                    f"{self.nearly_null:,} of them are nearly null, σ/σ₁ between {_SEEN:g} and the "
                    f"cut at {self.rank.rtol:.1e}: rtol={_SEEN:g} counts what is null by rounding"
                )
        if self.left_out:
            told.append(
                f"{self.left_out:,} directions across layers are null by algebra but not by the "
                "total's singular values, and are not counted"
            )
        if self.close and self.counts["unexplained"]:
            told.append(
                f"{self.close:,} relations nearly hold within single layers (σ/σ₁ between the cut "
                f"and {INSIDE:g}): directions across layers that differ along these alone are "
                "among the unexplained"
            )
        equations = self.rank.shape[0] - self.num_examples
        if equations >= self.num_parameters:
            told.append(
                f"N (C − 1) = {equations:,} equations for {self.num_parameters:,} parameters, "
                f"{equations / self.num_parameters:.3g} each"
            )
        else:
            told.append(
                f"N (C − 1) = {equations:,} equations for {self.num_parameters:,} parameters: at "
                f"least {self.num_parameters - equations:,} directions are null for any network"
            )
        if self.nearly_flat is not None:
            share, (low, high) = self.nearly_flat.estimate, self.nearly_flat.confidence_interval()
            told.append(
                f"of the Hessian's eigenvalues {float(share):.2%} [{float(low):.2%}, "
                f"{float(high):.2%}] lie within {self.eps:g} of 0"
            )
        return tuple(told)

    @property
    def _empirical(self) -> str:
        return ", by empirical bounds" if str(self.rank.status) == "empirical" else ""

    def _headline(self) -> str:
        matrix = f"the Gauss–Newton matrix of this batch (N = {self.num_examples:,})"
        if self.method == "exact":
            many = f"{self.total:,} of {self.num_parameters:,} directions are null"
            return f"{many} for {matrix}"
        return (
            f"at least {self.total:,} of {self.num_parameters:,} directions are null for {matrix}, "
            f"and at most {self.upper:,} (95 %{self._empirical}) have σ ≤ {self.rank.rtol:g} σ₁"
        )

    def to_xarray(self) -> Any:
        """As an ``xarray.Dataset``: counts by cause, and by cause and layer.

        The names of the rank's numbers begin with ``rank_``, those of the Hessian's share with
        ``flat_``; all else are attributes.
        """
        import xarray

        causes = list(self.by_layer)
        by_layer = np.array([self.by_layer[cause] for cause in causes], int)
        dataset = xarray.Dataset(
            {
                "counts": ("cause", np.array([self.counts[cause] for cause in CAUSES])),
                "by_layer": (
                    ("layer_cause", "layer"),
                    by_layer.reshape(len(causes), len(self.layer_names)),
                ),
            },
            coords={
                "cause": list(CAUSES),
                "layer_cause": np.asarray(causes, str),
                "layer": np.asarray(self.layer_names, str),
            },
            attrs={
                "total": self.total,
                "upper": self.upper,
                "explained": self.explained,
                "num_parameters": self.num_parameters,
                "num_examples": self.num_examples,
                "method": self.method,
                "left_out": self.left_out,
                "close": self.close,
                "nearly_null": self.nearly_null,
                "findings": list(self.findings),
            },
        )
        rank = self.rank.to_xarray()
        dataset = dataset.merge(rank.rename({name: f"rank_{name}" for name in rank.variables}))
        if self.nearly_flat is not None:
            flat = self.nearly_flat.to_xarray()
            dataset = dataset.merge(flat.rename({name: f"flat_{name}" for name in flat.variables}))
            dataset.attrs["eps"] = self.eps
        return dataset


def degeneracy_budget(
    model: Any,
    params: Any,
    batch: Any,
    *,
    state: Any = None,
    reference: Any = None,
    eps: float | None = None,
    method: str = "auto",
    rtol: float | None = None,
    key: Array | None = None,
    num_steps: int = 200,
    num_probes: int = 2,
) -> Budget:
    """Null directions of a classifier's Gauss–Newton matrix, by cause.

    Parameters
    ----------
    model
        ``MLP`` with any skip, ``ResNet``, or another Linen module of dense layers and convolutions;
        an NNX module; or a function ``f(params, inputs)`` of logits, a sequence of such layers.
        Translation, mixing and compensation are counted for ``MLP``; of other models they are
        among the relations of neighbouring layers.
    params, state
        Its parameters (of an NNX module ``nnx.state(model, nnx.Param)``), and its other
        collections; statistics are frozen.
    batch
        (inputs, labels) that the curvature is taken over.
    reference
        Examples that hold the batch: what is null for the batch and not for them, is for want of
        data. Default the batch itself.
    eps
        If given, the share of the loss's Hessian within ε of 0 is taken too: all eigenvalues, or of
        a structural budget certified bounds.
    method
        ``"exact"``, ``"structural"``, or ``"auto"``: exact up to 10¹³ operations.
    rtol
        τ: singular values of the centered Jacobian up to τ σ₁ are null. Default of an exact budget
        max(N C, P) units of rounding, as in ``jacobian_rank``; of a structural one 10⁻³.
    key, num_steps, num_probes
        Of a structural budget, as for ``slq``; the key is 0 by default.

    Returns
    -------
    Budget

    Raises
    ------
    InputError
        For an unknown method; if the structure of the model is not understood (``measures`` of
        layers described by hand still work); if it computes in a coarser type than its parameters
        have; for a reference with a structural budget, or one that does not hold the batch; if τ or
        ε lie below the noise floor; for outputs of another shape than (N, C) with C ≥ 2.
    ResourceError
        If the Jacobian is too large for an exact rank, or there are too many examples.

    Notes
    -----
    An exact budget is taken in float64, at the cost of the singular values of J: minutes for
    P = 6,000. The counting is described in the module; under skips of the identity a few directions
    may stay *unexplained*. Of a structural one the counts are in float64, the interval in the
    parameters' type.

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
    expect_labelled(batch)
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    inputs, labels = batch
    model, state = opened(model, state)
    logits = logits_function(model)
    whole = inputs if reference is None else reference[0]
    if reference is not None:
        expect_labelled(reference)
        _expect_held(inputs, whole)
    with jax.enable_x64(True):
        params64, state64, inputs64, whole64 = jax.tree.map(
            in_float64, (params, state, inputs, whole)
        )
        network = classifier_network(model, params64, state64, whole64)
        expect_classes(labels, network.maps[-1].kernel.of(params64).shape[-1])
    op = jacobian(logits, params, inputs, state=state or {})
    if method == "auto":
        least, most = sorted(op.shape)
        method = "exact" if 4 * least**2 * most <= _EXACT_OPERATIONS else "structural"
    exact = method == "exact"
    if reference is not None and not exact:
        raise InputError("a reference is compared by exact totals: use method='exact'")
    with jax.enable_x64(True):

        def exact_rank(x: Any) -> Rank:
            op = jacobian(logits, params64, x, state=state64 or {})
            return jacobian_rank(op, centered=True, rtol=rtol)

        if exact:
            rank = exact_rank(inputs64)
            held = rank if reference is None else exact_rank(whole64)
        chain = count_chain(network, logits, params64, state64, whole64, held if exact else None)
    counts = dict.fromkeys(CAUSES, 0) | chain.counts
    caused = sum(chain.counts.values())
    if exact:
        total = upper = int(rank.nullity)
        # Those of single layers are null by the total's cut; links across layers are exact by their
        # algebra, and may move the logits by more than the cut, by rounding or nearly null units.
        left_out = caused - int(held.nullity) if caused > held.nullity else 0
        for cause in _ACROSS:
            excess = min(counts[cause], max(0, caused - int(held.nullity)))
            counts[cause], caused = counts[cause] - excess, caused - excess
        unreached = int(held.nullity) - caused
        wanted = min(unreached, _wanting(op.shape[1], held.shape[0], len(whole), caused))
        counts["unexplained"] = unreached - wanted
        counts["few data"] += wanted + int(rank.nullity) - int(held.nullity)
    else:
        key = jax.random.key(0) if key is None else key
        lanczos: dict[str, Any] = {"key": key, "num_steps": num_steps, "num_probes": num_probes}
        rank = _interval(op, rtol, lanczos)
        size = op.shape[1]
        missing = _wanting(size, op.shape[0], len(inputs), caused)
        counts["few data"] += missing
        total = caused + missing
        # The interval holds at its level: one that ends below what is surely null has missed.
        upper = max(total, size - int(rank.lower))
        left_out = 0
    flat = None
    if eps is not None:
        loss = loss_function(model)
        curvature = hessian(loss, params, (inputs, labels), state=state or {}, check=False)
        spectrum = dense_spectrum(curvature) if exact else slq(curvature, **lanczos)
        flat = degenerate_fraction(spectrum, eps)
    return Budget(
        counts=counts,
        total=total,
        upper=upper,
        num_parameters=op.shape[1],
        num_examples=len(inputs),
        by_layer=chain.by_layer,
        layer_names=tuple(one.name for one in network.maps),
        findings=chain.findings,
        rank=rank,
        method=method,
        nearly_flat=flat,
        eps=eps,
        left_out=left_out,
        close=chain.close,
        nearly_null=_nearly_null(rank) if exact else 0,
    )


def _interval(op: Any, rtol: float | None, lanczos: dict[str, Any]) -> Rank:
    """The interval for a structural budget, at the least of some τ that is above the noise."""
    for coarse in _COARSE if rtol is None else (rtol,):
        try:
            return jacobian_rank(op, centered=True, method="lanczos", rtol=coarse, **lanczos)
        except InputError as error:
            refused = error
    raise refused


def _nearly_null(rank: Rank) -> int:
    """How many singular values lie between what float64 sees and the cut."""
    values = rank.singular_values / (float(rank.norm) or 1.0)
    return int(((values > _SEEN) & (values <= rank.rtol)).sum())


def _wanting(num_parameters: int, num_rows: int, num_examples: int, caused: int) -> int:
    """How many more directions than those with a cause are null for want of equations.

    There are N (C − 1): centered rows of an example add up to zero.
    """
    return max(0, num_parameters - (num_rows - num_examples) - caused)


def _expect_held(inputs: Any, reference: Any) -> None:
    """Refuse a reference that lacks an example of the batch."""
    # Adding 0 makes −0 the same as 0.
    known = {one.tobytes() for one in np.asarray(reference, float) + 0}
    missing = sum(one.tobytes() not in known for one in np.asarray(inputs, float) + 0)
    if missing:
        raise InputError(
            f"the reference has to hold the batch: {missing} of its {len(inputs)} examples are not "
            "in it"
        )
