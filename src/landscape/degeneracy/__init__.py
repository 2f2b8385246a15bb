"""Why a loss landscape is degenerate: which directions are null, and because of which units."""

from landscape.degeneracy.dependence import LinearDependence, linear_dependence
from landscape.degeneracy.elimination import Elimination, elimination
from landscape.degeneracy.jacobian_rank import Rank, jacobian_rank, singular_values
from landscape.degeneracy.layers import HiddenLayer, Leaf
from landscape.degeneracy.measures import Measures, measures
from landscape.degeneracy.networks import hidden_layers
from landscape.degeneracy.overlap import Overlap, overlap

__all__ = [
    "Elimination",
    "HiddenLayer",
    "Leaf",
    "LinearDependence",
    "Measures",
    "Overlap",
    "Rank",
    "elimination",
    "hidden_layers",
    "jacobian_rank",
    "linear_dependence",
    "measures",
    "overlap",
    "singular_values",
]
