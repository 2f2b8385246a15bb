"""From parameter pytrees to flat vectors and back, once, at the edge of this room.

``wrt`` selects the differentiated leaves by a predicate on the key path, written with slashes
(``"hidden/kernel"``) whatever the pytree is made of.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from landscape.curvature.sides import side_by_side
from landscape.errors import InputError

Predicate = Callable[[str], bool]


def path_name(path: tuple[Any, ...]) -> str:
    """Key path of a leaf as ``"a/b/0"``: dictionary keys, attributes and indices alike.

    The last step into a variable of Flax's NNX, ``.value``, is left out.
    """
    if (
        len(path) > 1
        and isinstance(path[-1], jax.tree_util.GetAttrKey)
        and path[-1].name == "value"
    ):
        path = path[:-1]
    return "/".join(
        str(getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", entry))))
        for entry in path
    )


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which leaves of a pytree are differentiated; hashable.

    Attributes
    ----------
    structure
        Of the whole pytree.
    chosen
        For each leaf, whether it is differentiated.
    """

    structure: Any
    chosen: tuple[bool, ...]

    def split(self, params: Any) -> tuple[list[Array], list[Array]]:
        """Differentiated leaves and the others."""
        leaves = jax.tree.leaves(params)
        mine = [leaf for leaf, chosen in zip(leaves, self.chosen, strict=True) if chosen]
        others = [leaf for leaf, chosen in zip(leaves, self.chosen, strict=True) if not chosen]
        return mine, others

    def merge(self, mine: list[Array], others: list[Array]) -> Any:
        """The inverse of ``split``."""
        first, second = iter(mine), iter(others)
        leaves = [next(first) if chosen else next(second) for chosen in self.chosen]
        return jax.tree.unflatten(self.structure, leaves)

    def flatten(self, params: Any) -> tuple[Array, Callable[[Array], Any]]:
        """The differentiated leaves as one vector, and the map from such a vector to a pytree."""
        mine, others = self.split(params)
        return ravel(mine), lambda vector: self.merge(unravel(vector, mine), others)


def ravel(leaves: Sequence[Array]) -> Array:
    """Leaves as one vector, one after the other; on a CPU written to their places (``sides``)."""
    rows = [jnp.ravel(leaf) for leaf in leaves]
    if jax.default_backend() != "cpu" or len(leaves) == 1:
        return jnp.concatenate(rows)
    dtype = jnp.result_type(*leaves)
    return side_by_side([row.astype(dtype) for row in rows])


def unravel(vector: Array, leaves: Sequence[Array]) -> list[Array]:
    """The inverse of ``ravel``, into the shapes of these leaves."""
    return [
        vector[start : start + jnp.size(leaf)].reshape(jnp.shape(leaf))
        for leaf, start in zip(leaves, _starts(leaves), strict=True)
    ]


def on_vectors(
    product: Callable[[list[Array]], Sequence[Array]], leaves: Sequence[Array]
) -> Callable[[Array], Array]:
    """A map from leaves to leaves of these shapes as one from vectors to vectors."""
    return lambda v: ravel(product(unravel(v, leaves)))


def _starts(leaves: Sequence[Array]) -> list[int]:
    """Where each leaf begins in the vector."""
    return [0, *itertools.accumulate(map(jnp.size, leaves))][:-1]


def _expect_array(name: str, leaf: Any) -> None:
    """Refuse a leaf that is no array and no number."""
    try:
        jnp.result_type(leaf)
    except (TypeError, ValueError) as error:
        what = f"parameter {name!r} is" if name else "params are"
        model = hasattr(leaf, "init") and hasattr(leaf, "apply")
        raise InputError(
            f"{what} a {type(leaf).__name__}, no array: "
            + (
                "pass the parameters that the module's init returns, and call its apply in the loss"
                if model
                else "split the model, and put it together again inside the loss (Equinox: "
                "eqx.partition(model, eqx.is_inexact_array), eqx.combine)"
            )
        ) from error


def _expect_no_statistics(params: Any) -> None:
    """Refuse what Flax keeps beside parameters, such as running statistics.

    They are floating leaves like any other: a loss is flat, or curved, along them too.
    """
    if isinstance(params, Mapping) and {"params", "batch_stats"} <= set(params):
        raise InputError(
            "the pytree holds batch_stats beside params: running statistics would count as "
            "parameters. Pass variables['params'], and the rest as `state`; or choose leaves "
            "with `wrt`"
        )
    others = [
        f"{path_name(path)} ({type(leaf).__name__})"
        for path, leaf in jax.tree_util.tree_flatten_with_path(params, is_leaf=_is_variable)[0]
        if _is_variable(leaf) and "Param" not in {kind.__name__ for kind in type(leaf).__mro__}
    ]
    if others:
        raise InputError(
            f"{', '.join(others[:3])}{', …' * (len(others) > 3)} would count as parameters. Split "
            "the model by `graph, params, rest = nnx.split(model, nnx.Param, ...)` and pass "
            "`rest` as `state`; or choose leaves with `wrt`"
        )


def _is_variable(leaf: Any) -> bool:
    """Whether it is one of Flax's NNX, which this room does not import."""
    kinds = type(leaf).__mro__
    return any(k.__name__ == "Variable" and k.__module__.startswith("flax.nnx") for k in kinds)


def select(params: Any, wrt: Predicate | None) -> Selection:
    """Choose the differentiated leaves.

    Parameters
    ----------
    params
        A pytree of arrays.
    wrt
        Predicate on the leaf's path, such as ``lambda path: path.startswith("hidden")``. None
        chooses every leaf.

    Raises
    ------
    InputError
        If a leaf is no array, nothing is chosen, a chosen leaf is not of a real floating type,
        they are of several, or nothing is said of which and Flax's running statistics are there.
    """
    if wrt is not None and not callable(wrt):
        raise InputError(
            "wrt must be a function of a leaf's path, such as "
            f"lambda path: path.startswith('hidden'); got {wrt!r}"
        )
    with_paths, structure = jax.tree_util.tree_flatten_with_path(params)
    names = [path_name(path) for path, _ in with_paths]
    for name, (_, leaf) in zip(names, with_paths, strict=True):
        _expect_array(name, leaf)
    if wrt is None:
        _expect_no_statistics(params)
    chosen = tuple(wrt is None or bool(wrt(name)) for name in names)
    if not any(chosen):
        known = ", ".join(names) or "none: the pytree is empty"
        raise InputError(f"no parameter is chosen; the leaves are: {known}")
    for name, (_, leaf), mine in zip(names, with_paths, chosen, strict=True):
        dtype = jnp.result_type(leaf)
        if mine and not jnp.issubdtype(dtype, np.floating):
            raise InputError(
                f"parameter {name!r} has type {dtype}; only real floating leaves can be "
                "differentiated: move it to `state`, or leave it out with `wrt`"
            )
    types = {
        str(jnp.result_type(leaf))
        for (_, leaf), mine in zip(with_paths, chosen, strict=True)
        if mine
    }
    if len(types) > 1:
        raise InputError(
            f"the differentiated parameters are of types {', '.join(sorted(types))}: products "
            "would be no more exact than the coarsest; cast them to one type"
        )
    return Selection(structure, chosen)
