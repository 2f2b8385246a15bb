"""Why a loss landscape is degenerate: which directions are null, and because of which units."""

from landscape.degeneracy.budget import Budget, degeneracy_budget
from landscape.degeneracy.dependence import LinearDependence, linear_dependence
from landscape.degeneracy.describe import hidden_layers
from landscape.degeneracy.elimination import Elimination, elimination
from landscape.degeneracy.gradients import activity_gradient_norms
from landscape.degeneracy.jacobian_rank import Rank, jacobian_rank, singular_values
from landscape.degeneracy.layers import HiddenLayer, Leaf
from landscape.degeneracy.measures import Measures, measures
from landscape.degeneracy.null_directions import (
    Check,
    DirectionFamily,
    check_directions,
    null_directions,
)
from landscape.degeneracy.overlap import Overlap, overlap

__all__ = [
    "Budget",
    "Check",
    "DirectionFamily",
    "Elimination",
    "HiddenLayer",
    "Leaf",
    "LinearDependence",
    "Measures",
    "Overlap",
    "Rank",
    "activity_gradient_norms",
    "check_directions",
    "degeneracy_budget",
    "elimination",
    "hidden_layers",
    "jacobian_rank",
    "linear_dependence",
    "measures",
    "null_directions",
    "overlap",
    "singular_values",
]
