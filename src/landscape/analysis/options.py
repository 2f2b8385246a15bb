"""What a batch job is asked to measure."""

from __future__ import annotations

import dataclasses

from landscape.curvature.memory import device_memory

MATRICES = ("hessian", "ggn", "fisher", "empirical-fisher")

# The part that is all parameters.
WHOLE = "all"

# Vectors that pairs at the ends are found with besides those of the pairs, and fewest.
_SUBSPACE, _LEAST_SUBSPACE = 20, 5

# Products that Hutch++ takes at least, and of the memory what its vectors may take.
_LEAST_HUTCHPP, _TRACE_SHARE = 4, 0.9


@dataclasses.dataclass(frozen=True)
class Options:
    """What is measured.

    Attributes
    ----------
    matrix
        One of ``MATRICES``; all but the Hessian need a classifier's model.
    eps
        Half-widths of the degenerate band.
    num_steps, num_probes
        Of Lanczos quadrature.
    reorthogonalize
        As for ``slq``; bounds are certified unless it is ``"none"``.
    largest, smallest
        Eigenvalues at the ends.
    trace_matvecs
        Products for the trace; 0 leaves it out.
    rank
        Whether the rank of the classifier's centered Jacobian is taken.
    layers
        Whether each layer's block is measured too.
    memory
        Bytes that vectors may take; None half of the device's.
    chunk_size
        Examples at a time; None as the problem has it.
    seed
        Of the probes.
    trace_method
        As for ``trace``; ``"auto"``: Hutch++ if the vectors that it keeps fit into the memory.
    subspace
        As for ``extremal_eigenpairs``; None: fewer than usual where memory does not hold as many.
    """

    matrix: str = "hessian"
    eps: tuple[float, ...] = (1e-3,)
    num_steps: int = 100
    num_probes: int = 1
    reorthogonalize: str = "auto"
    largest: int = 1
    smallest: int = 1
    trace_matvecs: int = 0
    rank: bool = False
    layers: bool = False
    memory: int | None = None
    chunk_size: int | None = None
    seed: int = 0
    trace_method: str = "auto"
    subspace: int | None = None

    def for_size(self, size: int, itemsize: int) -> Options:
        """With what depends on the memory and on P settled."""
        memory = int(_TRACE_SHARE * device_memory()) if self.memory is None else self.memory
        method, subspace = self.trace_method, self.subspace
        if self.trace_matvecs and method == "auto":
            kept = 3 * (self.trace_matvecs // 3) * size * itemsize
            few = self.trace_matvecs < _LEAST_HUTCHPP
            method = "hutchinson" if kept > memory or few else "hutch++"
        count = self.largest + self.smallest
        if count and subspace is None:
            fitting = memory // (size * itemsize) - 1 - count
            subspace = min(2 * count + _SUBSPACE, max(fitting, count + _LEAST_SUBSPACE))
        return dataclasses.replace(self, trace_method=method, subspace=subspace)


def ranks_of(options: Options) -> list[int]:
    """1, 2, … from the largest eigenvalue, −1, −2, … from the smallest; those last."""
    return [*range(1, options.largest + 1), *range(-options.smallest, 0)]
