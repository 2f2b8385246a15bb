"""Where null directions come from, as stacked bars: one for each network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from landscape.degeneracy.budget import CAUSES, Budget
from landscape.errors import InputError
from landscape.plots.style import expect, grey, new_axes, rows_before, tidy

# A family of colours for each link of the chain: within a unit, within a layer, across layers, the
# readout; grey for what is left, white for want of data. Hatches tell neighbours apart in print.
_LOOKS = {
    "elimination": ("#D55E00", ""),
    "constant input": ("#E69F00", ""),
    "overlap": ("#F0E442", ""),
    "dependence": ("#F5C08A", "//"),
    "conditional": ("#FBE3C5", ".."),
    "dependence from above": ("#CC79A7", ""),
    "rescaling": ("#0072B2", ""),
    "translation": ("#56B4E9", ""),
    "mixing": ("#A6D3EE", "//"),
    "compensation": ("#1B3A57", ""),
    "normalisation": ("#7F8FA6", ""),
    "neighbours": ("#7F8FA6", "//"),
    "softmax": ("#009E73", ""),
    "unexplained": ("0.55", ""),
    "few data": ("1.0", "xx"),
}


def plot_budgets(budgets: Mapping[str, Budget] | Budget, *, ax: Any | None = None) -> Any:
    """Draw what share of all directions is null, and why.

    Parameters
    ----------
    budgets
        By the name of the network; or one.
    ax
        Matplotlib axes; new ones by default.

    Returns
    -------
    The axes. Bars are in percent of P, causes from the left in the order of the chain; those that
    reach 4 % are numbered. Of a structural budget a dotted bar goes on to the upper bound. If all
    budgets have the Hessian's nearly flat share, it stands below each bar as an open one: another
    quantity, of another matrix.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from landscape.degeneracy import degeneracy_budget
    >>> from landscape.models import MLP
    >>> model = MLP(depth=2, width=3, num_classes=2)
    >>> batch = jax.random.normal(jax.random.key(0), (50, 4)), jnp.zeros(50, int)
    >>> params = model.init(jax.random.key(1), batch[0])["params"]
    >>> budget = degeneracy_budget(model, params, batch)
    >>> [text.get_text() for text in plot_budgets({"plain": budget}).get_yticklabels()]
    ['plain']
    """
    if not isinstance(budgets, Mapping):
        budgets = {"": budgets}
    if not budgets:
        raise InputError("there is nothing to draw")
    for budget in budgets.values():
        expect("plot_budgets", budget, Budget)
    ax = tidy(new_axes(ax))
    before = rows_before(ax)
    flat = all(budget.nearly_flat is not None for budget in budgets.values())
    named: set[str] = set(ax.get_legend_handles_labels()[1])
    for place, budget in enumerate(budgets.values(), len(before)):
        left = 0.0
        for cause in CAUSES:
            share = 100 * budget.counts[cause] / budget.num_parameters
            if not budget.counts[cause]:
                continue
            color, hatch = _LOOKS[cause]
            label = cause if cause not in named else "_" + cause
            named.add(cause)
            ax.barh(
                place,
                share,
                0.5,
                left,
                color=color,
                hatch=hatch,
                edgecolor=grey(ax, 0.0) if color != "1.0" else "0.4",
                linewidth=0.5,
                label=label,
            )
            if share >= 4:
                dark = cause in ("elimination", "rescaling", "compensation", "softmax")
                ax.text(
                    left + share / 2,
                    place,
                    f"{share:.0f}",
                    ha="center",
                    va="center",
                    fontsize="small",
                    color="white" if dark else "black",
                )
            left += share
        equations = (budget.rank.shape[0] - budget.num_examples) / budget.num_parameters
        told = f"N (C − 1)/P = {equations:.3g}" + ", no gap" * bool(budget.rank.status == "no_gap")
        ax.text(0, place - 0.28, told, va="bottom", fontsize="small", color=grey(ax, 0.7))
        if budget.method == "structural":
            share = 100 * (budget.upper - budget.total) / budget.num_parameters
            label = f"null or σ ≤ {budget.rank.rtol:g} σ₁"
            look = {"color": "none", "edgecolor": grey(ax, 0.8), "linestyle": ":"}
            ax.barh(place, share, 0.5, left, label="_" * (label in named) + label, **look)
            named.add(label)
        if flat and budget.nearly_flat is not None:
            share = 100 * float(budget.nearly_flat.estimate)
            label = f"Hessian within {budget.eps:g} of 0"
            label = "_" * (label in named) + label
            named.add(label)
            ax.barh(place + 0.36, share, 0.16, color="none", edgecolor=grey(ax, 0.8), label=label)
    names = [*before, *budgets]
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(axis="y", length=3 if any(names) else 0)
    ax.set_ylim(len(names) - 0.4, -0.6)
    # From the left edge on: beside a legend there is little room.
    ax.set_xlabel("null directions\nof the Gauss–Newton matrix (% of P)", loc="left")
    handles, labels = ax.get_legend_handles_labels()
    # In the order of the chain, whatever network had a cause first; the Hessian's share last.
    places = {cause: place for place, cause in enumerate(CAUSES)}
    ordered = sorted(
        zip(handles, labels, strict=True), key=lambda pair: places.get(pair[1], len(CAUSES))
    )
    ax.legend(
        *zip(*ordered, strict=True),
        frameon=False,
        fontsize="small",
        loc="upper left",
        bbox_to_anchor=(1, 1),
    )
    return ax
