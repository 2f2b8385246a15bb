r"""How near pairs of units are to overlap: to reading their inputs in the same way.

Notation: units ``i``, ``j`` of one layer with incoming weights ``w_i``, ``w_j`` and biases. Where
both agree, only the sum of the outgoing weights matters and their difference is free: the second
singularity of A. E. Orhan and X. Pitkow, ICLR 2018. A skip Q with rows ``q`` keeps the two apart;
the ghost of overlap is ``w_i + q_i = w_j + q_j`` with equal biases, for branches that are always
active.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from landscape._pytrees import pytree
from landscape.degeneracy.elimination import skip_matrices
from landscape.degeneracy.layers import HiddenLayer, expect_layers
from landscape.errors import InputError
from landscape.results import Result


@pytree
@dataclasses.dataclass(frozen=True)
class Overlap(Result):
    """Per pair, one (n, n) array for each layer; and the mean.

    Attributes
    ----------
    correlations
        Pearson's, between the entries of w_i and of w_j; 0 for weights that are all equal.
    cosines
        Of the angle between w_i and w_j; 0 if one of them is zero.
    distances
        From the nearest parameters with ``w_i = w_j`` and ``b_i = b_j``: the length of the
        difference over √2. ReLU units whose weights and biases are positive multiples of one
        another overlap too, at any distance.
    ghost_distances
        The same with w + q in place of w, for layers with a skip of the identity or a matrix; NaN
        for others. A lower bound of the distance to the ghost: the branches have to be always
        active besides.
    mean_correlation
        Over all pairs i < j of all layers: the paper's distance from overlap, large when near.
    """

    correlations: tuple[Float[Array, "... _ _"], ...]
    cosines: tuple[Float[Array, "... _ _"], ...]
    distances: tuple[Float[Array, "... _ _"], ...]
    ghost_distances: tuple[Float[Array, "... _ _"], ...]
    mean_correlation: Float[Array, "*batch"]

    def __repr__(self) -> str:
        told = f"mean correlation of incoming weights {jnp.mean(self.mean_correlation):+.4f}"
        if not np.ndim(self.mean_correlation):
            for layer, i, j, cosine in self.closest(1):
                told += (
                    f", closest units {i} and {j} of layer {layer} (from 0), cosine {cosine:.4f}"
                )
        return f"Overlap({len(self.cosines)} layers: {told})"

    def closest(self, count: int = 10) -> list[tuple[int, int, int, float]]:
        """The pairs of largest cosine: layer, unit, unit, cosine.

        Parameters
        ----------
        count
            At most so many, of all layers.

        Returns
        -------
        Largest first.

        Raises
        ------
        InputError
            If these are the measures of several networks at once: take those of one of them.
        """
        if any(np.ndim(cosines) != 2 for cosines in self.cosines):
            raise InputError(
                "closest tells the pairs of one network; these are the measures of several: take "
                "one of them, jax.tree.map(lambda leaf: leaf[i], overlap)"
            )
        found = []
        for number, cosines in enumerate(self.cosines):
            i, j = np.triu_indices(len(cosines), 1)
            values = np.asarray(cosines)[i, j]
            best = np.argsort(-values, kind="stable")[:count]
            found += [(number, int(i[k]), int(j[k]), float(values[k])) for k in best]
        return sorted(found, key=lambda pair: -pair[3])[:count]


def overlap(
    layers: Sequence[HiddenLayer], params: Any, *, skips: Sequence[Array | None] | None = None
) -> Overlap:
    """Correlations, angles and distances between the incoming weights of all pairs of units.

    Parameters
    ----------
    layers
        As ``hidden_layers`` finds them, or described by hand.
    params
        The pytree they point into.
    skips
        As for ``elimination``.

    Returns
    -------
    Overlap; ready for ``jit`` and ``vmap`` over parameters.

    Raises
    ------
    InputError
        If the layers are none.

    Examples
    --------
    A layer described by hand, whose units read the same in opposite directions.

    >>> from landscape.degeneracy import HiddenLayer, Leaf
    >>> params = {"in": jnp.array([[1.0, -2.0], [2.0, -4.0]]), "out": jnp.ones((2, 1))}
    >>> layer = HiddenLayer("hidden", kernel=Leaf("in"), outgoing=Leaf("out"))
    >>> print(f"{float(overlap([layer], params).cosines[0][0, 1]):.3f}")
    -1.000
    """
    layers = expect_layers(layers)
    weights = [layer.incoming_weights(params) for layer in layers]
    biases = [layer.biases(params) for layer in layers]
    correlations = tuple(_cosines(w - w.mean(0, keepdims=True)) for w in weights)
    pairs = [c[np.triu_indices(len(c), 1)] for c in correlations]
    together = jnp.concatenate(pairs)
    ghosts = tuple(
        jnp.full((w.shape[1],) * 2, jnp.nan, w.dtype) if skip is None else _distances(w + skip.T, b)
        for skip, w, b in zip(skip_matrices(layers, params, skips), weights, biases, strict=True)
    )
    return Overlap(
        correlations,
        tuple(_cosines(w) for w in weights),
        tuple(_distances(w, b) for w, b in zip(weights, biases, strict=True)),
        ghosts,
        together.mean() if together.size else jnp.asarray(jnp.nan),
    )


def _cosines(columns: Array) -> Array:
    """Between all pairs of columns."""
    norms = jnp.linalg.norm(columns, axis=0, keepdims=True)
    units = columns / jnp.where(norms > 0, norms, 1)
    return jnp.clip(jnp.matmul(units.T, units, precision="highest"), -1, 1)


def _distances(weights: Array, bias: Array) -> Array:
    """‖(w_i, b_i) − (w_j, b_j)‖ / √2."""
    columns = jnp.concatenate([weights, bias[None]])
    differences = columns[:, :, None] - columns[:, None, :]
    return jnp.sqrt(jnp.sum(differences**2, 0) / 2)
