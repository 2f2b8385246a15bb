r"""The null directions themselves, by cause, and what the real matrices make of them.

Notation: a direction ``d`` is a unit vector of R^P, kept by its entries that are not zero. At any
parameters it is null for the Jacobian of the logits, or (*softmax*) moves all logits of an example
alike; so it is null for the Gauss–Newton matrix G of the softmax cross-entropy L. For the Hessian H
of L that holds only where the residuals vanish or a unit is dead: elsewhere ``‖Hd‖`` is of the size
of the gradient ``‖∇L‖`` (for rescaling ``Hd = −D ∇L``), which is why the three are shown together.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float
from scipy import sparse

from landscape._pytrees import pytree
from landscape.curvature import ggn, hessian
from landscape.curvature.batches import num_examples
from landscape.curvature.memory import host_memory, readable
from landscape.degeneracy.compensation import across_layers
from landscape.degeneracy.consistency import classifier_network, expect_labelled
from landscape.degeneracy.describe import logits_function, loss_function, opened
from landscape.degeneracy.effects import walk_and_effects
from landscape.degeneracy.networks import Network
from landscape.degeneracy.symmetries import flattened
from landscape.degeneracy.targets import target_directions
from landscape.degeneracy.trades import normalisations, rescalings, that_are_null
from landscape.errors import InputError, ResourceError
from landscape.results import Result
from landscape.training.losses import example_losses

CAUSES = (
    "elimination",
    "constant input",
    "overlap",
    "few data",
    "dependence",
    "conditional",
    "rescaling",
    "translation",
    "mixing",
    "compensation",
    "normalisation",
    "softmax",
)

# Those within the incoming weights of one unit.
_WITHIN = {"elimination", "constant input", "overlap", "few data", "dependence", "conditional"}

# Of the host's memory, for the vectors.
_SHARE = 0.5

# Columns of one product when directions are checked.
_BLOCK = 64


@dataclasses.dataclass(frozen=True, eq=False)
class DirectionFamily(Result):
    """Unit vectors of R^P with one cause.

    Attributes
    ----------
    cause
        One of ``CAUSES``.
    labels
        (k,): which layer and unit.
    vectors
        (k, P), sparse rows in the order of the raveled parameters.
    """

    cause: str
    labels: tuple[str, ...]
    vectors: sparse.csr_array

    def __len__(self) -> int:
        return len(self.labels)

    def to_xarray(self) -> Any:
        """As an ``xarray.Dataset``: the entries that are not zero, with their places."""
        import xarray

        entries = self.vectors.tocoo()
        row, column = entries.coords
        return xarray.Dataset(
            {
                "value": ("entry", entries.data),
                "direction": ("entry", np.asarray(row)),
                "parameter": ("entry", np.asarray(column)),
            },
            coords={"label": ("directions", np.asarray(self.labels, str))},
            attrs={"cause": self.cause, "num_parameters": self.vectors.shape[1]},
        )

    def __repr__(self) -> str:
        k, size = self.vectors.shape
        return f"DirectionFamily({self.cause}: {k} vectors of R^{size}, {self.vectors.nnz} entries)"


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
class Check(Result):
    """What the matrices make of a family; made by ``check_directions``.

    Attributes
    ----------
    cause
        Of the family.
    gauss_newton_norms, hessian_norms
        (k,): ‖Gd‖ and ‖Hd‖.
    gradient_norm
        ‖∇L‖.
    scale
        ‖G g‖/√P of a standard normal vector g, about the root mean square of G's eigenvalues: what
        ‖Gd‖ is for a unit vector of random direction.
    """

    cause: str
    gauss_newton_norms: Float[np.ndarray, " k"]
    hessian_norms: Float[np.ndarray, " k"]
    gradient_norm: float
    scale: float

    _axes = (("k", "direction"),)

    def __repr__(self) -> str:
        return (
            f"Check({self.cause}: ‖Gd‖ ≤ {self.gauss_newton_norms.max(initial=0):.1e}, ‖Hd‖ ≤ "
            f"{self.hessian_norms.max(initial=0):.1e}, ‖∇L‖ = {self.gradient_norm:.1e}, "
            f"random ‖Gd‖ ≈ {self.scale:.1e})"
        )


def null_directions(
    model: Any,
    params: Any,
    batch: Any,
    *,
    state: Any = None,
    causes: Collection[str] = CAUSES,
) -> tuple[DirectionFamily, ...]:
    """Directions of parameter space that are null, by cause, of a classifier on a batch.

    Parameters
    ----------
    model
        As for ``degeneracy_budget``.
    params, state
        Its parameters, and its other collections.
    batch
        (inputs, labels).
    causes
        Those that are wanted, of ``CAUSES``; by default all.

    Returns
    -------
    One family for each cause that has any. Vectors of different causes need not be independent
    (compensations hold rescalings, translations and mixings): ``degeneracy_budget`` counts what
    each adds. Relations among what a unit reads are those up to rounding, as in a structural
    budget; what an exact one finds between layers by decomposing them (*dependence from above*,
    *neighbours*) has no vectors here.

    Raises
    ------
    InputError
        If the structure of the model is not understood, the batch is no pair of inputs and
        labels, or a cause is unknown.
    ResourceError
        If the vectors, or what the layers read and move, do not fit in the host's memory.

    Examples
    --------
    >>> from landscape.models import MLP
    >>> model = MLP(depth=2, width=3, num_classes=2)
    >>> x = jax.random.normal(jax.random.key(0), (50, 4))
    >>> params = model.init(jax.random.key(1), x)["params"]
    >>> [family.cause for family in null_directions(model, params, (x, jnp.zeros(50, int)))]
    ['rescaling', 'compensation', 'softmax']
    """
    expect_labelled(batch)
    if unknown := sorted(set(causes) - set(CAUSES)):
        raise InputError(f"causes must be of {', '.join(CAUSES)}; got {', '.join(unknown)}")
    model, state = opened(model, state)
    with jax.enable_x64(True):
        params, state, inputs = jax.tree.map(in_float64, (params, state, batch[0]))
        network = classifier_network(model, params, state, inputs)
        flat, unflatten = ravel_pytree(params)
        numbered = unflatten(jnp.arange(float(flat.size)))
        places = []
        for one in network.maps:
            kernel = np.asarray(one.kernel.of(numbered), int)
            bias = None if one.bias is None else np.asarray(one.bias.of(numbered), int)
            places.append((kernel, bias))
        found: dict[str, list[tuple[str, np.ndarray, np.ndarray]]] = {}
        room = _SHARE * host_memory()
        for cause, label, where, values in _all(
            model, network, params, state, inputs, places, flat.size, causes
        ):
            # Copied once, when a family is put together.
            room -= 2 * (where.nbytes + values.nbytes)
            if room < 0:
                raise ResourceError(
                    f"the null directions take more than {_SHARE:.0%} of the host's "
                    f"{readable(host_memory())} ({cause}, {label}): name fewer causes"
                )
            found.setdefault(cause, []).append((label, where, values))
    return tuple(_family(cause, found[cause], flat.size) for cause in CAUSES if cause in found)


Entries = tuple[str, str, np.ndarray, np.ndarray]


def _all(
    model: Any,
    network: Network,
    params: Any,
    state: Any,
    inputs: Any,
    places: list[Any],
    size: int,
    causes: Collection[str],
) -> Iterator[Entries]:
    """Cause, label, places and values of every direction with one of some causes."""
    walk, effects = walk_and_effects(network, params, state, inputs)
    within = zip(network.maps, walk.inputs, effects, strict=True) if _WITHIN & set(causes) else ()
    for number, (one, x, moves) in enumerate(within):
        rows = np.asarray(one.rows(x))
        rows = rows.reshape(-1, rows.shape[-1])
        active = np.asarray((moves != 0).any(1)).reshape(len(rows), -1)
        of_any = np.asarray(active.any(1))
        kernel, bias = places[number]
        kernel = kernel.reshape(-1, kernel.shape[-1])
        for target in range(active.shape[1]):
            where = kernel[:, target]
            where = where if bias is None else np.append(where, bias[target])
            for cause, vector in target_directions(
                rows, active[:, target], bias=bias is not None, is_input=number == 0,
                of_any=of_any,
            ):  # fmt: skip
                if cause in causes:
                    yield cause, f"{one.name}: unit {target}", where, vector
    if network.rescalable:
        for cause, family in across_layers(network, params, state, walk, effects).items():
            for label, change in family if cause in causes else ():
                vector = flattened(change, places, size)
                where = np.flatnonzero(vector)
                if len(where):
                    yield cause, label, where, vector[where]
    else:
        logits = logits_function(model)
        for cause, trades in (
            ("rescaling", rescalings(network, params)),
            ("normalisation", normalisations(network, params, state)),
        ):
            if cause not in causes:
                continue
            null = that_are_null(trades, logits, params, state or {}, inputs)
            for units, trade in trades.items():
                name = " + ".join(network.maps[number].name for number in units.maps)
                for unit, vector in trade.vectors(null[units], size):
                    where = np.flatnonzero(vector)
                    yield cause, f"{name}: unit {units.start + unit}", where, vector[where]
    if "softmax" not in causes:
        return
    kernel, bias = places[-1]
    width = kernel.shape[-1]
    for source, row in enumerate(kernel):
        yield "softmax", f"source {source}", row, np.full(width, width**-0.5)
    if bias is not None:
        yield "softmax", "constant", bias, np.full(width, width**-0.5)


def _family(
    cause: str, made: list[tuple[str, np.ndarray, np.ndarray]], size: int
) -> DirectionFamily:
    ends = np.cumsum([0] + [len(where) for _, where, _ in made])
    where = np.concatenate([where for _, where, _ in made])
    values = np.concatenate([values for _, _, values in made])
    vectors = sparse.csr_array((values, where, ends), shape=(len(made), size))
    return DirectionFamily(cause, tuple(label for label, _, _ in made), vectors)


def check_directions(
    families: Iterable[DirectionFamily], model: Any, params: Any, batch: Any, *, state: Any = None
) -> tuple[Check, ...]:
    """‖Gd‖ and ‖Hd‖ of each direction beside ‖∇L‖, by one product each, in float64.

    Parameters
    ----------
    families
        Made by ``null_directions``.
    model, params, batch, state
        As given there; L is the mean softmax cross-entropy.

    Returns
    -------
    One for each family.

    Examples
    --------
    >>> from landscape.models import MLP
    >>> model = MLP(depth=2, width=3, num_classes=2)
    >>> batch = jax.random.normal(jax.random.key(0), (50, 4)), jnp.zeros(50, int)
    >>> params = model.init(jax.random.key(1), batch[0])["params"]
    >>> families = null_directions(model, params, batch)
    >>> for check in check_directions(families, model, params, batch):
    ...     print(check.cause, bool((check.gauss_newton_norms < 1e-12).all()))
    rescaling True
    compensation True
    softmax True
    """
    model, state = opened(model, state)
    with jax.enable_x64(True):
        params, state, inputs = jax.tree.map(in_float64, (params, state or {}, batch[0]))
        whole = (inputs, jnp.asarray(batch[1]))
        logits, loss = logits_function(model), loss_function(model)
        gauss_newton = ggn(
            _on_pairs(logits), _mean_loss, params, whole, state=state, check=False
        ).linearized()
        curvature = hessian(loss, params, whole, state=state, check=False).linearized()
        gradient = ravel_pytree(jax.grad(loss)(params, state, whole))[0]
        size = gradient.size
        random = jax.random.normal(jax.random.key(num_examples(whole)), (size, 1), gradient.dtype)
        scale = float(jnp.linalg.norm(gauss_newton.matmat(random))) / size**0.5
        found = []
        for family in families:
            norms: list[list[np.ndarray]] = [[], []]
            for start in range(0, len(family), _BLOCK):
                block = jnp.asarray(family.vectors[start : start + _BLOCK].toarray().T)
                for op, into in zip((gauss_newton, curvature), norms, strict=True):
                    into.append(np.linalg.norm(np.asarray(op.matmat(block)), axis=0))
            of_gauss_newton, of_hessian = (np.concatenate([np.zeros(0), *n]) for n in norms)
            found.append(
                Check(
                    family.cause,
                    of_gauss_newton,
                    of_hessian,
                    float(jnp.linalg.norm(gradient)),
                    scale,
                )
            )
    return tuple(found)


@functools.cache
def _on_pairs(logits: Any) -> Any:
    """A function of inputs as one of (inputs, labels)."""
    return lambda params, state, batch: logits(params, state, batch[0])


def _mean_loss(outputs: Any, batch: Any) -> Any:
    return example_losses(outputs, batch[1]).mean()


def in_float64(leaf: Any) -> Any:
    """A leaf with its floating numbers in float64; call it under ``jax.enable_x64``."""
    floating = jnp.issubdtype(jnp.result_type(leaf), np.floating)
    return jnp.asarray(leaf, jnp.float64) if floating else jnp.asarray(leaf)
