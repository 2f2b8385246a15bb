"""Checkpoints of one shape that are measured together, in one program.

A small network leaves an accelerator idle; many side by side do not. A block is a unit of work of
its own: blocks are formed from the full list of checkpoints, those that are finished stay as they
are, so that a job that is continued makes the same blocks, and the same numbers to the bit.

Two things differ from a checkpoint that is measured alone. The eigenvalues at the ends are Ritz
values of the Lanczos run itself, with the norms of their residuals, of the first probe: no products
are spent on them, and none on making sure that none is missed. And sums are taken in another order,
so that the numbers agree within rounding.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from landscape.analysis.kept import Interruptible, advanced, kept_or_done
from landscape.analysis.matrices import by_smaller_chunks, layer_names, loss_of, operator, rank_of
from landscape.analysis.measurement import (
    at_checkpoint,
    expect_content,
    known_problem,
    lanczos_of,
    ritz_ends,
    trace_of,
    with_less_memory,
)
from landscape.analysis.options import WHOLE, Options, ranks_of
from landscape.curvature import LinearOperator, Problem, noise_floor, stack
from landscape.curvature.memory import device_memory
from landscape.curvature.streams import is_stream
from landscape.spectra import (
    Fraction,
    degenerate_fraction,
    negative_fraction,
)
from landscape.spectra.schemes import lanczos_bytes

# What blocks are no larger than: beyond it an accelerator is busy, and a kill costs more.
LARGEST = 64

# Kind of a checkpoint that no block takes: one that cannot be read, or would spoil the others.
ALONE = ""

# Of the memory, for vectors and products together.
_SHARE = 0.5

_logger = logging.getLogger("landscape")


@dataclasses.dataclass(frozen=True)
class BlockMeasurement:
    """A unit's work: several checkpoints of one shape; picklable.

    Attributes
    ----------
    problem, params_key, options
        As for ``Measurement``.
    checkpoints
        Their paths.
    expected
        Digests, as for ``Measurement``.
    """

    problem: str
    checkpoints: tuple[str, ...]
    params_key: str
    options: Options
    expected: tuple[str, ...]

    def __call__(self, folder: Path, should_stop: Callable[[], bool]) -> xr.Dataset:
        """Measure; ``folder`` is for what survives a kill."""
        problem = known_problem(self.problem)
        problems = []
        for path, expected in zip(self.checkpoints, self.expected, strict=True):
            problems.append(at_checkpoint(problem, path, self.params_key))
            expect_content(problems[-1], expected, path)
        return measure_together(problems, self.options, folder, should_stop)


def measure_together(
    problems: Sequence[Problem],
    options: Options,
    folder: Path,
    should_stop: Callable[[], bool],
) -> xr.Dataset:
    """What ``measure`` gives of each checkpoint, along a dimension ``checkpoint``.

    Parameters
    ----------
    problems
        One problem at several checkpoints of one shape.
    options, folder, should_stop
        As for ``measure``. Where memory does not suffice the block is halved.

    Raises
    ------
    InputError
        If the shapes differ.
    StoppedError, ResourceError
        As for ``measure``.
    """
    parts = (WHOLE, *(layer_names(problems[0].params) if options.layers else ()))
    found = [
        kept_or_done(
            folder / f"part-{number}",
            functools.partial(_halved, problems, options, part, should_stop=should_stop),
            keep=len(parts) > 1,
        )
        for number, part in enumerate(parts)
    ]
    result = xr.concat(found, xr.Variable("part", list(parts)))
    chunk = int(result["chunk_size"].max()) or None
    result["loss"] = (("checkpoint",), [loss_of(problem, chunk) for problem in problems])
    if options.rank:
        ranks = [xr.Dataset(rank_of(problem)) for problem in problems]
        result = result.merge(xr.concat(ranks, "checkpoint"))
    return result.transpose("checkpoint", ...)


def _halved(
    problems: Sequence[Problem],
    options: Options,
    part: str,
    place: Path,
    should_stop: Callable[[], bool],
) -> xr.Dataset:
    """A part of all, or, where memory does not suffice, of each half; of one as it is alone."""
    if len(problems) == 1:
        found = with_less_memory(problems[0], options, part, place, should_stop, across=False)
        found["short_of_memory"] = ((), True)
        return found.expand_dims("checkpoint")
    try:
        return _part(problems, options, part, place, should_stop)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        short = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
        if not short:
            raise
    middle = len(problems) // 2
    _logger.warning(
        "out of memory with %d checkpoints at a time; going on with half", len(problems)
    )
    halves = [
        _halved(some, options, part, place.with_name(f"{place.name}-{name}"), should_stop)
        for some, name in ((problems[:middle], "first"), (problems[middle:], "second"))
    ]
    found = xr.concat(halves, "checkpoint")
    found["short_of_memory"] = xr.ones_like(found["short_of_memory"])
    return found


def _part(
    problems: Sequence[Problem],
    options: Options,
    part: str,
    place: Path,
    should_stop: Callable[[], bool],
) -> xr.Dataset:
    members = [operator(problem, options, part) for problem in problems]
    family = stack(members)
    options = options.for_size(family.shape[0], family.dtype.itemsize)
    keys = jax.random.split(jax.random.key(options.seed), 4)
    floor = np.asarray(noise_floor(family, keys[0]))
    run, steps = lanczos_of(family, keys[1], options)
    spectrum = advanced(run, steps, place, should_stop).spectrum(noise_floor=floor)
    room = options.num_steps * options.num_probes
    padding = ((0, 0), (0, room - spectrum.nodes.shape[1]))
    many = len(problems)
    chunk = options.chunk_size or problems[0].chunk_size or 0
    data: dict[str, Any] = {
        "parameters": (("checkpoint",), np.full(many, family.shape[0])),
        "noise_floor": (("checkpoint",), np.asarray(spectrum.noise_floor, float)),
        "matvecs": (("checkpoint",), np.full(many, spectrum.num_matvecs // many)),
        "chunk_size": (("checkpoint",), np.full(many, chunk)),
        "short_of_memory": (("checkpoint",), np.full(many, False)),
        "certified": (("checkpoint",), np.full(many, spectrum.reorthogonalize != "none")),
        "nodes": (
            ("checkpoint", "node"),
            np.pad(spectrum.nodes, padding, constant_values=np.nan),
        ),
        "weights": (("checkpoint", "node"), np.pad(spectrum.weights, padding)),
    }
    for name, measured in (("degenerate", degenerate_fraction), ("negative", negative_fraction)):
        table = np.full((5, many, len(options.eps)), np.nan)
        for column, eps in enumerate(options.eps):
            known = np.asarray(spectrum.noise_floor) <= eps
            table[:, known, column] = _ends(measured(spectrum, eps, force=True))[:, known]
        for row, end in enumerate(("", "_lower", "_upper", "_low", "_high")):
            data[name + end] = (("checkpoint", "eps"), table[row])
    ranks = ranks_of(options)
    if ranks:
        pairs = [ritz_ends(spectrum, (index, 0), options) for index in range(many)]
        data["rank"] = ranks
        data["eigenvalue"] = (("checkpoint", "rank"), [values for values, _ in pairs])
        data["eigenvalue_residual"] = (("checkpoint", "rank"), [errors for _, errors in pairs])
        data["eigenvalue_status"] = (("checkpoint",), ["ritz"] * many)
    if options.trace_matvecs:
        found = [trace_of(Interruptible(op, should_stop), keys[3], options) for op in members]
        data["trace"] = (("checkpoint",), [float(one.value) for one in found])
        data["trace_stderr"] = (("checkpoint",), [float(one.stderr) for one in found])
        data["trace_method"] = (("checkpoint",), [one.method for one in found])
    return xr.Dataset(data, coords={"eps": list(options.eps)})


def _ends(fraction: Fraction) -> np.ndarray:
    """Estimate, certified bounds, and interval, (5, S)."""
    told = (fraction.estimate, fraction.lower, fraction.upper, *fraction.confidence_interval())
    return np.stack([np.asarray(value, float) for value in told])


def kind(problem: Problem, options: Options) -> str:
    """What checkpoints of one block have in common.

    ``ALONE`` of one that would spoil the others: whose numbers, loss or curvature are not finite,
    or which cannot be looked at so far; its own unit says why.
    """
    leaves, structure = jax.tree.flatten((problem.params, problem.state))
    if is_stream(problem.batch):
        return ALONE
    if not all(np.isfinite(np.asarray(leaf, float)).all() for leaf in leaves if _is_real(leaf)):
        return ALONE
    loss, _ = by_smaller_chunks(
        problem, options, lambda with_: loss_of(problem, with_.chunk_size or problem.chunk_size)
    )
    if not np.isfinite(loss):
        return ALONE
    # A loss may be finite where its curvature is not.
    product, _ = by_smaller_chunks(problem, options, lambda with_: _some_product(problem, with_))
    if not np.isfinite(product).all():
        return ALONE
    shapes = [(np.shape(leaf), str(jnp.result_type(leaf))) for leaf in leaves]
    return hashlib.sha256(repr((structure, shapes)).encode()).hexdigest()[:16]


def _some_product(problem: Problem, options: Options) -> np.ndarray:
    """With a random vector."""
    op = operator(problem, options)
    vector = jax.random.normal(jax.random.key(options.seed), (op.shape[0],), op.dtype)
    return np.asarray(op.matvec(vector))


def _is_real(leaf: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.floating))


def blocks_of(
    kinds: Sequence[str], size: int, kept: Sequence[tuple[int, ...]] = ()
) -> Iterator[tuple[int, ...]]:
    """Numbers of checkpoints that go together: neighbours of one kind, so many at most.

    Parameters
    ----------
    kinds
        Of each checkpoint.
    size
        Of a block, at most.
    kept
        Blocks that stay as they are.

    Examples
    --------
    >>> list(blocks_of(["a", "a", "a", "b", ALONE, ALONE], 2))
    [(0, 1), (2,), (3,), (4,), (5,)]
    """
    blocks: list[list[int]] = []
    for number, mine in enumerate(kinds):
        last = blocks[-1] if blocks else []
        if last and mine != ALONE and mine == kinds[last[0]] and len(last) < size:
            last.append(number)
        else:
            blocks.append([number])
    # What is kept takes its numbers out of those blocks, whose rests go together; no other changes.
    taken = {number for one in kept for number in one}
    whole = [block for block in blocks if taken.isdisjoint(block)]
    rests: dict[str, list[int]] = {}
    for number in (n for block in blocks if block not in whole for n in block if n not in taken):
        rests.setdefault(kinds[number] or f"{number}", []).append(number)
    for rest in rests.values():
        whole += [rest[start : start + size] for start in range(0, len(rest), size)]
    yield from sorted([*kept, *map(tuple, whole)])


def block_size(op: LinearOperator, options: Options) -> int:
    """How many checkpoints go together: 1 on a CPU, else what the memory holds.

    Parameters
    ----------
    op
        Of one checkpoint.
    options
        What is measured.
    """
    if jax.default_backend() == "cpu" or not op.traceable:
        return 1
    memory = options.memory or int(_SHARE * device_memory())
    steps = min(options.num_steps, op.shape[0])
    vectors = lanczos_bytes(op.shape[0], op.dtype.itemsize, options.num_probes, steps)
    return max(1, min(LARGEST, memory // max(vectors + product_bytes(op), 1)))


def product_bytes(op: Any) -> int:
    """What the compiler says that a product needs besides its arguments; 0 if it does not."""
    if not op.traceable:
        return 0
    lowered = jax.jit(lambda op, v: op.matvec(v)).lower(
        op, jax.ShapeDtypeStruct((op.shape[0],), op.dtype)
    )
    try:
        told: Any = lowered.compile().memory_analysis()
    except jax.errors.JaxRuntimeError:
        # It does not fit, or the device's compiler does not tell: units find out and do with less.
        return 0
    return 0 if told is None else int(told.temp_size_in_bytes + told.output_size_in_bytes)
