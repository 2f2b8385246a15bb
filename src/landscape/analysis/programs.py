"""What a problem's loss computes, written down so that another one is told from it."""

from __future__ import annotations

import json
import traceback
from typing import Any

import jax

from landscape.analysis.measurement import known_problem
from landscape.analysis.options import Options
from landscape.curvature import Problem, hessian
from landscape.curvature.programs import fingerprint
from landscape.curvature.streams import first_batch, is_stream
from landscape.degeneracy.describe import logits_function, opened
from landscape.errors import InputError, LandscapeError
from landscape.runs import RunFolder


def expect_same_loss(spec: str, options: Options, folder: RunFolder) -> None:
    """Refuse a problem whose loss computes something else than when the folder was made.

    Its program is compared with all numbers in it, and that of its products with vectors, in which
    derivatives are; of other versions of JAX they are not.

    Parameters
    ----------
    spec
        The problem, as ``load_problem`` takes it.
    options
        What is measured.
    folder
        Where it is written down.

    Raises
    ------
    InputError
        If it does, or if it fails.
    """
    now = {"jax": jax.__version__, "program": _program(spec, options)}
    path = folder.path / "loss.json"
    try:
        before = json.loads(path.read_text())
    except (OSError, ValueError):
        folder.write_json(path.name, now)
        return
    if before.get("jax") == now["jax"] and before.get("program") != now["program"]:
        raise InputError(
            f"the loss of {spec} is not the one that the results in {folder.path} are of: "
            "its program, a number in it, or a shape of its data has changed. Choose another --out"
        )


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
    batch = first_batch(problem.batch) if is_stream(problem.batch) else problem.batch
    try:
        return jax.make_jaxpr(problem.loss)(problem.params, *state, batch)
    except LandscapeError:
        raise
    except Exception as error:
        given = "params, state, batch" if state else "params, batch"
        frames = traceback.extract_tb(error.__traceback__)
        theirs = [frame for frame in frames if "site-packages" not in frame.filename]
        where = f" in {theirs[-1].filename}, line {theirs[-1].lineno}" if theirs else ""
        told = str(error).strip().splitlines() or [""]
        raise InputError(
            f"the loss of {name}, called with ({given}), fails{where}: "
            f"{type(error).__name__}: {told[0]}"
        ) from error


def _program(spec: str, options: Options) -> str:
    """A hash of what the loss, and the model if it is asked for, compute."""
    problem = known_problem(spec)
    batch = first_batch(problem.batch) if is_stream(problem.batch) else problem.batch
    make = jax.make_jaxpr
    programs = [traced_loss(problem, spec)]
    op = hessian(problem.loss, problem.params, batch, state=problem.state, check=False)
    vector = jax.ShapeDtypeStruct(op.shape[:1], op.dtype)
    programs.append(make(lambda op, v: op.matvec(v))(op, vector))
    if problem.weight is not None:
        programs.append(make(problem.weight)(batch))
    if problem.model is not None and (options.rank or options.matrix != "hessian"):
        model, state = opened(problem.model, problem.state)
        programs.append(make(logits_function(model))(problem.params, state or {}, batch[0]))
    return fingerprint(*programs)
