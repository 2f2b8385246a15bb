"""Decompositions of many matrices in one program, without a CPU waiting for itself.

On a CPU, jaxlib shares a batch of decompositions out among the threads that run the program, and
the thread that asked for it waits. Where a program has several batches, or two programs run, all
threads may wait, for ever: seen with jaxlib 0.10.2 on two cores within seconds, of twenty batches
of three matrices of 32² in one program. A single matrix is decomposed by the thread itself, so
matrices go one after the other there, in a loop.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

import jax
from jaxtyping import Array

T = TypeVar("T")


def one_by_one(decompose: Callable[[Array], T]) -> Callable[[Array], T]:
    """The same, which ``vmap`` takes matrix by matrix on a CPU, and all together elsewhere.

    Parameters
    ----------
    decompose
        Of one matrix, to a pytree of arrays.
    """

    @jax.custom_batching.sequential_vmap
    def looped(matrix: Array) -> T:
        # Without the options that it may have beside the matrix.
        return decompose(matrix)

    @functools.wraps(decompose)
    def decomposed(matrix: Array) -> T:
        of_one = looped if jax.default_backend() == "cpu" else decompose
        return of_one(matrix)

    return decomposed
