"""How far a run is, for people who watch, and how many units it does at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from landscape.errors import InputError


def default_workers(asked: int | None) -> int:
    """Units at a time: as many as asked for; else one per core on a CPU, one per accelerator.

    Parameters
    ----------
    asked
        None takes the default.

    Raises
    ------
    InputError
        If fewer than one is asked for.
    """
    import jax

    if asked is not None:
        if asked < 1:
            raise InputError(f"--workers must be at least 1; got {asked}")
        return asked
    if jax.default_backend() != "cpu":
        return jax.local_device_count()
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def progress(console: Any, title: str, total: int) -> Iterator[Any]:
    """A bar on a terminal, a line now and then elsewhere.

    Parameters
    ----------
    console
        A ``rich`` console.
    title
        What is done.
    total
        How many units.

    Yields
    ------
    A function to call with the name of a unit that is done, the number done, and the total.
    """
    if console.is_terminal:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(), TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(title, total=total)
            yield lambda name, done, total: bar.update(task, completed=done)
        return
    console.print(f"{title} …")
    start, said = time.perf_counter(), 0.0

    def line(name: str, done: int, total: int) -> None:
        nonlocal said
        now = time.perf_counter() - start
        if done == total or now - said > 15:
            said = now
            console.print(f"  {done}/{total} done after {now:.0f} s (last: {name})")

    yield line
