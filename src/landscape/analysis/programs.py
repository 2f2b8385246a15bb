"""What a problem's loss computes, written down so that another one is told from it."""

from __future__ import annotations

import contextlib
import json
import logging
import traceback
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from landscape.analysis.measurement import known_problem
from landscape.analysis.options import Options
from landscape.curvature import Problem
from landscape.curvature.programs import fingerprint
from landscape.curvature.streams import first_batch, is_stream
from landscape.degeneracy.describe import logits_function, opened
from landscape.errors import InputError, LandscapeError
from landscape.runs import RunFolder

_logger = logging.getLogger("landscape")


def expect_same_loss(spec: str, options: Options, folder: RunFolder, *, keep: bool = True) -> None:
    """Refuse a problem whose loss computes something else than when the folder was made.

    Its program is compared with all numbers in it, and that of its second derivative along a
    direction; with those of the same version of JAX on the same kind of device alone.

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
        If it does, or if it fails.
    """
    where, now = f"jax {jax.__version__}, {jax.default_backend()}", _program(spec, options)
    path = folder.path / "loss.json"
    try:
        known = dict(json.loads(path.read_text()))
    except FileNotFoundError:
        known = {}
    except (OSError, ValueError, TypeError) as error:
        known = {}
        _logger.warning(
            "%s is damaged (%s): the loss is not compared with what it was", path, error
        )
    if known.get(where, now) != now:
        raise InputError(
            f"the loss of {spec} is not the one that the results in {folder.path} are of: "
            "its program, a number in it, or a shape of its state or data has changed. Choose "
            "another --out"
        )
    if keep and where not in known:
        folder.write_json(path.name, {**known, where: now})


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
