"""Small systems whose degenerate manifolds can be drawn, solved or integrated."""

from landscape.theory.deep_linear import integrate, learning_time
from landscape.theory.flow import Trajectory, gradient_flow
from landscape.theory.two_mode import TwoMode
from landscape.theory.two_unit import Coordinates, TwoUnit, conserved, reduced_flow

__all__ = [
    "Coordinates",
    "Trajectory",
    "TwoMode",
    "TwoUnit",
    "conserved",
    "gradient_flow",
    "integrate",
    "learning_time",
    "reduced_flow",
]
