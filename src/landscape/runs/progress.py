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


def in_words(seconds: float) -> str:
    """Seconds, minutes or hours.

    Examples
    --------
    >>> in_words(75.0), in_words(600.0), in_words(7200.0)
    ('75 s', '10 min', '2.0 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


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
    start, said, before = time.perf_counter(), 0.0, -1

    def line(name: str, done: int, total: int) -> None:
        nonlocal said, before
        now = time.perf_counter() - start
        # What was there already says nothing of the time that is left.
        before = done - 1 if before < 0 else before
        if done == total or now - said > 15:
            said = now
            left = (total - done) * now / max(done - before, 1)
            told = "" if done == total else f", about {in_words(left)} left"
            said_now = f"  {done}/{total} done after {in_words(now)}{told} (last: {name})"
            console.print(said_now, markup=False)

    yield line
