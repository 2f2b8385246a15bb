"""What a problem's loss computes, written down so that another one is told from it."""

from __future__ import annotations

import contextlib
import json
import logging
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from landscape.analysis.checkpoints import digest
from landscape.analysis.measurement import known_problem
from landscape.analysis.options import Options
from landscape.curvature import Problem
from landscape.curvature.programs import fingerprint
from landscape.curvature.streams import first_batch, is_stream
from landscape.degeneracy.describe import logits_function, opened
from landscape.errors import InputError, LandscapeError
from landscape.runs import RunFolder
from landscape.runs.files import short_hash

_logger = logging.getLogger("landscape")


def expect_same_loss(spec: str, options: Options, folder: RunFolder, *, keep: bool = True) -> None:
    """Refuse a problem whose loss, or whose data, are others than when the folder was made.

    Of the loss its program is compared with all numbers in it, and that of its second derivative
    along a direction; with those of the same version of JAX on the same kind of device alone.

    Parameters
    ----------
    spec
        The problem, as ``load_problem`` takes it.
    options
        What is measured.
    folder
        Where it is written down.
    keep
        Whether to write it down if it is not.

    Raises
    ------
    InputError
        If they are, or if the loss fails.
    """
    where, now = f"jax {jax.__version__}, {jax.default_backend()}", _program(spec, options)
    data, path = data_digest(known_problem(spec)), folder.path / "loss.json"
    known = _read_known(path)
    if known.get("data", data) != data:
        raise InputError(
            f"the data of {spec} are not those that the results in {folder.path} are of. Choose "
            "another --out"
        )
    if known.get(where, now) != now:
        raise InputError(
            f"the loss of {spec} is not the one that the results in {folder.path} are of: "
            "its program, a number in it, or a shape of its state or data has changed. Choose "
            "another --out"
        )
    if keep and where not in known:
        known |= {"data": data, where: now}
        folder.write_json(path.name, {**known, "checksum": _checksum(known)})


def _read_known(path: Path) -> dict[str, str]:
    """What was written down; nothing if it is not what was."""
    try:
        known = dict(json.loads(path.read_text()))
        if known.pop("checksum", None) == _checksum(known):
            return known
        why = "it does not match its checksum"
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        why = str(error)
    _logger.warning("%s is damaged (%s): the loss is not compared with what it was", path, why)
    return {}


def _checksum(known: Mapping[str, str]) -> str:
    return short_hash(json.dumps(known, sort_keys=True).encode())


def data_digest(problem: Problem) -> str:
    """A hash of a problem's data, taken once."""
    if not _LAST or _LAST[0] is not problem.batch:
        _LAST[:] = [problem.batch, digest(problem.batch)]
    return str(_LAST[1])


# The data that were hashed last, and their hash.
_LAST: list[Any] = []


def traced_loss(problem: Problem, name: str) -> Any:
    """The program of a problem's loss.

    Parameters
    ----------
    problem
        Whose loss it is.
    name
        For people.

    Raises
    ------
    InputError
        If the loss fails, with where and why: it is not this package's fault.
    """
    state = () if problem.state is None else (problem.state,)
    return _traced(
        problem.loss, (problem.params, *state, _one_batch(problem)), f"the loss of {name}"
    )


def _one_batch(problem: Problem) -> Any:
    return first_batch(problem.batch) if is_stream(problem.batch) else problem.batch


def _traced(function: Callable[..., Any], arguments: tuple[Any, ...], what: str) -> Any:
    """A program of a user's function; a failure is told as theirs, with its line."""
    try:
        return jax.make_jaxpr(function)(*arguments)
    except LandscapeError:
        raise
    except Exception as error:
        given = {2: "params, batch", 3: "params, state, batch"}.get(len(arguments), "batch")
        frames = traceback.extract_tb(error.__traceback__)
        theirs = [frame for frame in frames if "site-packages" not in frame.filename]
        where = f" in {theirs[-1].filename}, line {theirs[-1].lineno}" if theirs else ""
        told = str(error).strip().splitlines() or [""]
        raise InputError(
            f"{what}, called with ({given}), fails{where}: {type(error).__name__}: {told[0]}"
        ) from error


def _program(spec: str, options: Options) -> str:
    """A hash of what the loss, and the model if it is asked for, compute."""
    problem = known_problem(spec)
    batch = _one_batch(problem)
    state = () if problem.state is None else (problem.state,)
    programs = [traced_loss(problem, spec)]
    leaves, structure = jax.tree.flatten(problem.params)
    real = [place for place, leaf in enumerate(leaves) if _is_real(leaf)]

    # What may differ between checkpoints, or is named by a hash of its own, comes as an argument.
    def along(direction: list[Any], leaves: list[Any], state: Any, batch: Any) -> Any:
        def loss(chosen: list[Any]) -> Any:
            merged = dict(enumerate(leaves)) | dict(zip(real, chosen, strict=True))
            return problem.loss(jax.tree.unflatten(structure, merged.values()), *state, batch)

        chosen = [jnp.asarray(leaves[place]) for place in real]
        return jax.jvp(jax.grad(loss), (chosen,), (direction,))[1]

    given = ([jnp.asarray(leaves[place]) for place in real], leaves, state, batch)
    # What cannot be differentiated twice says so at its first product.
    with contextlib.suppress(InputError):
        programs.append(_traced(along, given, f"the second derivative of {spec}"))
    if problem.weight is not None:
        programs.append(_traced(problem.weight, (batch,), f"the weight of {spec}"))
    pair = isinstance(batch, tuple | list) and len(batch) == 2
    if problem.model is not None and pair and (options.rank or options.matrix != "hessian"):
        model, opened_state = opened(problem.model, problem.state)
        arguments = (problem.params, opened_state or {}, batch[0])
        programs.append(_traced(logits_function(model), arguments, f"the model of {spec}"))
    return fingerprint(*programs)


def _is_real(leaf: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.floating))
