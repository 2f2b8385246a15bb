"""Figures: functions that take a result and optional axes, and return the axes.

Those that draw one series pass on Matplotlib's properties of its line or marks (``color``,
``linewidth``, …), name it by ``label`` and leave the legend to ``ax.legend()``. Those whose colours
have meanings (measures, checks, causes, components of a mixture, the cut of a rank) draw the legend
that explains them.
"""

from landscape.plots.budgets import plot_budgets
from landscape.plots.curves import (
    plot_density,
    plot_fraction_curve,
    plot_fractions,
    plot_through_training,
)
from landscape.plots.networks import (
    plot_checks,
    plot_directions,
    plot_measures,
    plot_training,
)
from landscape.plots.spectra import (
    plot_fraction_of_eps,
    plot_mixture,
    plot_moments,
    plot_spectrum,
)
from landscape.plots.style import look, mean_interval
from landscape.plots.values import (
    plot_eigenpairs,
    plot_intervals,
    plot_rank,
    plot_shares,
    plot_values,
)

__all__ = [
    "look",
    "mean_interval",
    "plot_budgets",
    "plot_checks",
    "plot_density",
    "plot_directions",
    "plot_eigenpairs",
    "plot_fraction_curve",
    "plot_fraction_of_eps",
    "plot_fractions",
    "plot_intervals",
    "plot_measures",
    "plot_mixture",
    "plot_moments",
    "plot_rank",
    "plot_shares",
    "plot_spectrum",
    "plot_through_training",
    "plot_training",
    "plot_values",
]
