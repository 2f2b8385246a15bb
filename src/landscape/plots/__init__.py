"""Figures: functions that take a result and optional axes, and return the axes."""

from landscape.plots.budgets import plot_budgets
from landscape.plots.curves import (
    plot_density,
    plot_fraction_curve,
    plot_fractions,
    plot_through_training,
)
from landscape.plots.style import look, mean_interval

__all__ = [
    "look",
    "mean_interval",
    "plot_budgets",
    "plot_density",
    "plot_fraction_curve",
    "plot_fractions",
    "plot_through_training",
]
