"""What a batch job will take, before it begins: products, memory, time."""

from __future__ import annotations

import dataclasses
import functools
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import jax
import numpy as np

from landscape.analysis.batch import Job
from landscape.analysis.blocks import product_bytes
from landscape.analysis.matrices import by_smaller_chunks, layer_names, operator
from landscape.analysis.measurement import at_checkpoint, known_problem, lanczos_of
from landscape.analysis.options import Options, ranks_of
from landscape.curvature import LinearOperator, Problem, data_mesh, place, stack
from landscape.curvature.memory import device_memory, readable
from landscape.curvature.noise import FLOOR_VECTORS
from landscape.curvature.preconditions import expect_square
from landscape.errors import ResourceError, StoppedError
from landscape.runs import Unit
from landscape.runs.progress import in_words
from landscape.spectra.restarts import BESIDES
from landscape.spectra.schemes import lanczos_bytes

# Lanczos steps of a trial: so many that compile, then as many at a time for so long at least.
_TRIED, _TRIED_SECONDS = 3, 0.5

# Trials of hosts that work together, which have to be equally many on each.
_TRIALS_TOGETHER = 3

# Products that the ends of a spectrum and the noise floor usually take.
_END_MATVECS, _FLOOR_MATVECS = 60, 20

_logger = logging.getLogger("landscape")


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
    stage_bytes
        What the noise floor, or the eigenvalues at the ends, take more than Lanczos.
    peak_bytes
        What a worker took at most when it was tried out; 0 if it was not.
    seconds
        For what is left, with so many workers; NaN if nothing was timed.
    workers
        Units at a time.
    compiling
        Seconds that compiling takes at least with all layers, once; 0 without them.
    besides
        What the time leaves out, for people.
    devices, hosts
        That do a unit together.
    """

    units: tuple[Unit, ...]
    done: int
    num_parameters: int
    num_examples: int
    matvecs: int
    vector_bytes: int
    product_bytes: int
    stage_bytes: int
    peak_bytes: int
    seconds: float
    workers: int
    compiling: float = 0.0
    besides: str = ""
    devices: int = 1
    hosts: int = 1

    @property
    def memory(self) -> int:
        """Bytes that a worker takes: as tried out, or of vectors and products alone."""
        return (self.peak_bytes or self.vector_bytes + self.product_bytes) + self.stage_bytes

    def event(self) -> dict[str, float | int | None]:
        """For a log."""
        seconds = round(self.seconds, 3) if np.isfinite(self.seconds) else None
        return {
            "left": len(self.units) - self.done, "matvecs": self.matvecs, "memory": self.memory,
            "seconds": seconds, "workers": self.workers,
        }  # fmt: skip

    def lines(self) -> Iterator[str]:
        """For people."""
        left = len(self.units) - self.done
        yield f"{len(self.units):,} units, {self.done:,} done before, {left:,} to do"
        examples = f"N = {self.num_examples:,}" if self.num_examples else "a stream of batches"
        yield (
            f"P = {self.num_parameters:,}, {examples}; {self.matvecs:,} matrix–vector products a "
            "unit"
        )
        if self.devices > 1 or self.hosts > 1:
            hosts = f" of {self.hosts} processes" if self.hosts > 1 else ""
            yield f"each by {self.devices} devices{hosts} together"
        yield (
            f"memory about {readable(self.memory * self.workers)} "
            f"({self.workers} × {readable(self.memory)}) of {readable(device_memory())}"
        )
        if np.isfinite(self.seconds):
            # Of Lanczos alone; the ends and the noise floor have programs of their own.
            compiling = f"at least {in_words(self.compiling)} of" if self.compiling else "what"
            yield (
                f"about {in_words(self.seconds)} with {self.workers} at a time, and {compiling} "
                f"compiling{'' if self.compiling else ' takes'}, once{self.besides}"
            )


@dataclasses.dataclass(frozen=True)
class Trial:
    """What some Lanczos steps have taken, where units will be done.

    Attributes
    ----------
    seconds
        Of a step, with all probes and all checkpoints of a block.
    peak_bytes
        What the process has taken at most, of an accelerator's memory on one; 0 if it is not told.
    layer_seconds, layer_first_seconds
        Of a step with one layer's block, and of the first steps with it, which compile; 0 if layers
        are not asked for.
    """

    seconds: float
    peak_bytes: int
    layer_seconds: float = 0.0
    layer_first_seconds: float = 0.0


def plan(
    job: Job,
    units: Sequence[Unit],
    done: int,
    workers: int,
    *,
    pool: Executor | None = None,
    timed: bool = True,
) -> Plan:
    """What a job will take, by some Lanczos steps at the first checkpoint.

    Parameters
    ----------
    job, units
        What is asked for, and the units of it.
    done
        How many are done.
    workers
        How many are done at a time.
    pool
        Worker processes: all of them try at once, as they will work at once, and what they have
        compiled serves the units. None tries in this process.
    timed
        Whether to try; without it there is no estimate of the time, and memory is that of vectors
        and products alone.

    Raises
    ------
    ResourceError
        If a worker process died when it tried.
    """
    problem, op, options = _at_the_first(job)
    job = dataclasses.replace(job, options=options)
    size = op.shape[0]
    parts = [size]
    if options.layers:
        parts += [operator(problem, options, part).shape[0] for part in layer_names(problem.params)]
    steps = [min(options.num_steps, part) for part in parts]
    # A block has its ends from Lanczos itself.
    ends = _END_MATVECS * bool(options.largest + options.smallest) * (job.together == 1)
    besides = ends + options.trace_matvecs + _FLOOR_MATVECS
    products = [step * options.num_probes + besides for step in steps]
    matvecs = sum(products)
    vectors = lanczos_bytes(
        size, op.dtype.itemsize, options.num_probes, steps[0], options.memory,
        reorthogonalize=options.reorthogonalize, devices=jax.device_count() if job.across else 1,
    )  # fmt: skip
    left = len(units) - done
    seconds, peak, compiling = float("nan"), 0, 0.0
    if timed and left:
        trials = (
            _tried_by_all(pool, job, workers)
            if isinstance(pool, ProcessPoolExecutor)
            else [try_out(job)]
        )
        step, layer, first, peak = (
            max(getattr(trial, name) for trial in trials)
            for name in ("seconds", "layer_seconds", "layer_first_seconds", "peak_bytes")
        )
        each = (step * products[0] + layer * sum(products[1:])) / options.num_probes
        seconds = each * -(-left // workers)
        compiling = first * len(products[1:])
    examples = getattr(op, "num_examples", 0)
    product = product_bytes(op)
    subspace = options.for_size(size, op.dtype.itemsize).subspace or 0
    of_ends = subspace + 1 + max(len(ranks_of(options)), BESIDES)
    one = size * op.dtype.itemsize
    stages = max(FLOOR_VECTORS * one, (of_ends * one + product) * bool(ends))
    more = max(stages - vectors - product, 0)
    return Plan(
        tuple(units), done, size, int(examples), matvecs * job.together, vectors * job.together,
        product * job.together, more * job.together, peak, seconds, workers, compiling,
        "; the rank's time is not in it" if options.rank else "",
        jax.device_count() if job.across else 1, jax.process_count() if job.across else 1,
    )  # fmt: skip


def _tried_by_all(pool: Executor, job: Job, workers: int) -> list[Trial]:
    futures = [pool.submit(try_out, job) for _ in range(workers)]
    try:
        return [future.result() for future in futures]
    except BrokenProcessPool as error:
        raise ResourceError(
            "a worker process died when the job was tried out, most likely for lack of memory: "
            "take fewer --workers, or a --chunk-size"
        ) from error


def try_out(job: Job) -> Trial:
    """Some steps at the first checkpoint, or the first block: a few that compile, and more.

    NaN and 0 if memory does not suffice: units know how to do with less.
    """
    try:
        return _tried(job)
    except (MemoryError, jax.errors.JaxRuntimeError):
        return Trial(float("nan"), 0)


def _tried(job: Job) -> Trial:
    problem, op, options = _at_the_first(job)
    _, seconds = _timed(job, op, options)
    first_layer, layer = 0.0, 0.0
    if options.layers:
        # One of the middle stands for all.
        names = layer_names(problem.params)
        part = operator(problem, options, names[len(names) // 2])
        first_layer, layer = _timed(job, part, options)
    return Trial(seconds, _peak_bytes(), layer, first_layer)


def _timed(job: Job, op: Any, options: Options) -> tuple[float, float]:
    """Seconds of the first steps, which compile, and of each one after them."""
    if job.together > 1:
        op = stack([op] * min(job.together, len(job.names)))
    elif job.across:
        op = place(op, data_mesh())
    begun = time.perf_counter()
    run, steps = lanczos_of(op, jax.random.key(0), options)
    run = run.advance(min(_TRIED, steps))
    jax.block_until_ready(run.state)
    compiled = time.perf_counter() - begun
    if job.across and run.num_steps < steps:
        # What comes back is split among the devices as the compiler chose: that compiles again.
        run = run.advance(min(run.num_steps + _TRIED, steps))
        jax.block_until_ready(run.state)
    begun, first, tries = time.perf_counter(), run.num_steps, 0
    while run.num_steps < steps and _tries_on(tries, begun):
        before, tries = run.num_steps, tries + 1
        run = run.advance(min(before + _TRIED, steps))
        jax.block_until_ready(run.state)
        if run.num_steps == before:
            break
    return compiled, (time.perf_counter() - begun) / max(run.num_steps - first, 1)


def _tries_on(tries: int, begun: float) -> bool:
    if jax.process_count() > 1:
        return tries < _TRIALS_TOGETHER
    return time.perf_counter() - begun < _TRIED_SECONDS


def _peak_bytes() -> int:
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    try:
        import resource
    except ImportError:
        return 0
    # In bytes on macOS, else in kibibytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _at_the_first(job: Job) -> tuple[Problem, LinearOperator, Options]:
    """The problem at the first checkpoint that can be measured; units say why others cannot.

    With the operator, and the options with which memory suffices for it.
    """
    problem = known_problem(job.problem)

    def there(problem: Problem) -> tuple[Problem, LinearOperator, Options]:
        make = functools.partial(operator, problem)
        op, options = by_smaller_chunks(problem, job.options, make)
        expect_square(op)
        return problem, op, options

    for checkpoint in job.checkpoints:
        try:
            return there(at_checkpoint(problem, checkpoint, job.params_key))
        except (MemoryError, ResourceError, StoppedError, jax.errors.JaxRuntimeError):
            raise
        except Exception as error:
            _logger.debug("%s cannot be measured", checkpoint, exc_info=error)
    return there(problem)
