"""What a batch job will take, before it begins: products, memory, time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from landscape.analysis.batch import Job
from landscape.analysis.measurement import at_checkpoint, known_problem, layer_names, operator
from landscape.curvature.memory import device_memory, readable
from landscape.errors import InputError
from landscape.runs import Unit
from landscape.spectra.slq import lanczos_bytes

# Products that are timed, after one that compiles.
_TIMED = 3

# Products that the ends of a spectrum and the noise floor usually take.
_END_MATVECS, _FLOOR_MATVECS = 60, 20


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a job will take; made by ``plan``.

    Attributes
    ----------
    units
        All of them.
    done
        How many have been done before.
    num_parameters, num_examples
        P, and N (0 of a stream) of the first checkpoint.
    matvecs
        Products with the whole matrix and with its parts, for each unit.
    vector_bytes
        Of the vectors of one Lanczos run.
    product_bytes
        What products keep at a time, estimated from their program; 0 if that is not known.
    seconds
        For what is left, with so many workers; NaN if nothing was timed.
    workers
        Units at a time.
    """

    units: tuple[Unit, ...]
    done: int
    num_parameters: int
    num_examples: int
    matvecs: int
    vector_bytes: int
    product_bytes: int
    seconds: float
    workers: int

    def lines(self) -> Iterator[str]:
        """For people."""
        left = len(self.units) - self.done
        yield f"{len(self.units):,} units, {self.done:,} done before, {left:,} to do"
        examples = f"N = {self.num_examples:,}" if self.num_examples else "a stream of batches"
        yield (
            f"P = {self.num_parameters:,}, {examples}; {self.matvecs:,} matrix–vector products a "
            "unit"
        )
        memory = self.vector_bytes + self.product_bytes
        yield (
            f"memory about {readable(memory * self.workers)} "
            f"({self.workers} × {readable(memory)}) of {readable(device_memory())}"
        )
        if np.isfinite(self.seconds):
            yield f"about {_duration(self.seconds)} with {self.workers} at a time"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def plan(job: Job, units: Sequence[Unit], done: int, workers: int, *, timed: bool = True) -> Plan:
    """What a job will take, by the first checkpoint and some products with its matrix.

    Parameters
    ----------
    job, units
        What is asked for, and the units of it.
    done
        How many are done.
    workers
        How many are done at a time.
    timed
        Whether to time products; without it there is no estimate of the time.
    """
    options = job.options
    problem = known_problem(job.problem)
    for checkpoint in job.checkpoints:
        try:
            problem = at_checkpoint(problem, checkpoint, job.params_key)
            break
        except InputError:
            # Of one that can be read; its own unit says why it cannot.
            continue
    op = operator(problem, options)
    size = op.shape[0]
    parts = [size]
    if options.layers:
        parts += [operator(problem, options, part).shape[0] for part in layer_names(problem.params)]
    steps = [min(options.num_steps, part) for part in parts]
    # Lanczos; both ends, by a few dozen products each; the trace; the noise floor.
    matvecs = sum(
        step * options.num_probes + _END_MATVECS * bool(options.largest + options.smallest)
        + options.trace_matvecs + _FLOOR_MATVECS
        for step in steps
    )  # fmt: skip
    vectors = lanczos_bytes(size, op.dtype.itemsize, options.num_probes, steps[0], options.memory)
    seconds = float("nan")
    left = len(units) - done
    if timed and left:
        seconds = _seconds_of_a_product(op) * matvecs * -(-left // workers)
    examples = getattr(op, "num_examples", 0)
    return Plan(
        tuple(units), done, size, int(examples), matvecs, vectors, _product_bytes(op), seconds,
        workers,
    )  # fmt: skip


def _seconds_of_a_product(op: Any) -> float:
    vector = np.ones(op.shape[0], op.dtype)
    jax.block_until_ready(op.matvec(vector))
    begun = time.perf_counter()
    for _ in range(_TIMED):
        jax.block_until_ready(op.matvec(vector))
    return (time.perf_counter() - begun) / _TIMED


def _product_bytes(op: Any) -> int:
    """What the compiler says that a product needs besides its arguments; 0 if it does not."""
    if not op.traceable:
        return 0
    try:
        compiled = (
            jax.jit(lambda op, v: op.matvec(v))
            .lower(op, jax.ShapeDtypeStruct((op.shape[0],), op.dtype))
            .compile()
        )
        told: Any = compiled.memory_analysis()
        return int(told.temp_size_in_bytes + told.output_size_in_bytes)
    except (AttributeError, NotImplementedError, jax.errors.JaxRuntimeError):
        return 0
