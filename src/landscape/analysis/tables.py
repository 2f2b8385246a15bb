"""Tables of an analysis that are about layers: for the page, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from landscape.degeneracy import Budget, Measures
from landscape.report import Table


def layers_table(budget: Budget, found: Measures | None) -> Table:
    """Null directions that belong to layers, and the measures of their units."""
    causes = [cause for cause, counts in budget.by_layer.items() if any(counts)]
    rows = []
    for place, name in enumerate(budget.layer_names):
        row = [name, *(f"{budget.by_layer[cause][place]:,}" for cause in causes)]
        if found is not None and place < len(found.elimination.incoming_norms):
            row += [
                f"{float(found.elimination.incoming_norms[place].mean()):.3g}",
                f"{float(found.elimination.zero_probability[place].mean()):.3f}",
                f"{float(found.dependence.effective_rank[place]):.1f}",
            ]
        elif found is not None:
            row += ["", "", ""]
        rows.append(row)
    columns = ["layer", *causes]
    if found is not None:
        columns += ["mean norm of incoming weights", "zero responses", "effective rank"]
    return Table("Layer by layer", columns, rows, "Directions in the incoming weights of a layer.")


def layers_json(found: Measures) -> list[dict[str, Any]]:
    """Unit by unit where there is one number for each; NaN is None."""
    elimination, dependence = found.elimination, found.dependence
    by_layer: dict[str, Any] = {
        "incoming_norms": elimination.incoming_norms,
        "outgoing_norms": elimination.outgoing_norms,
        "zero_probability": elimination.zero_probability,
        "never_active": elimination.never_active,
        "elimination_distances": elimination.distances,
        "overlap_distances": [_nearest(pairs) for pairs in found.overlap.distances],
        "angles": dependence.angles,
        "dependence_distance": dependence.distances,
        "rank": dependence.rank,
        "effective_rank": dependence.effective_rank,
        "top_share": dependence.top_share,
    }

    def values(array: Any) -> Any:
        told = np.asarray(array)
        if told.dtype == bool:
            return told.tolist()
        return [_number(value) for value in told] if told.ndim else _number(told)

    count = len(elimination.incoming_norms)
    return [{name: values(one[i]) for name, one in by_layer.items()} for i in range(count)]


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _nearest(distances: Any) -> np.ndarray:
    """Of each unit, the distance to the nearest other one."""
    pairs = np.array(distances, float)
    np.fill_diagonal(pairs, np.inf)
    return np.asarray(pairs.min(1, initial=np.inf))


def measures_table(found: Measures, names: Sequence[str] | None) -> Table:
    """Means over the network, and the closest pairs; layers by their names, if these are known."""
    elimination, overlap, dependence = found.elimination, found.overlap, found.dependence
    rows = [
        ("elimination", "mean norm of incoming weights",
         f"{float(elimination.mean_incoming_norm):.4g}"),
        ("", "probability of a zero response",
         f"{float(elimination.mean_zero_probability):.4f}"),
        ("", "units that are never active",
         f"{sum(int(layer.sum()) for layer in elimination.never_active):,}"),
        ("overlap", "mean correlation of incoming weights",
         f"{float(overlap.mean_correlation):+.4f}"),
    ]  # fmt: skip
    rows += [
        ("", f"closest pair: {names[layer] if names else f'layer {layer + 1}'}, units {i} and {j}",
         f"cosine {cosine:.4f}")
        for layer, i, j, cosine in overlap.closest(3)
    ]  # fmt: skip
    rows += [
        ("linear dependence", "share of variance in three directions, mean over layers",
         f"{float(dependence.mean_top_share):.4f}"),
        ("", "effective rank, mean over layers",
         f"{np.mean([float(rank) for rank in dependence.effective_rank]):.1f}"),
    ]  # fmt: skip
    return Table("How near the singularities", ("singularity", "measure", "value"), rows)
