"""Why a loss landscape is degenerate: which directions are null, and because of which units."""

from landscape.degeneracy.jacobian_rank import Rank, jacobian_rank, singular_values

__all__ = ["Rank", "jacobian_rank", "singular_values"]
