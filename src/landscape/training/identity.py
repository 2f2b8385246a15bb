"""What a training run is known by: its checkpoints are continued by that very run alone."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import numpy as np
from jaxtyping import Array

from landscape.models import SkipMatrix
from landscape.training.config import TrainConfig
from landscape.training.penalties import Penalty


def identity(
    model: nn.Module,
    config: TrainConfig,
    program: str | None,
    data: str,
    key: Array,
    generator: str,
    callbacks: Sequence[tuple[str, Sequence[int]]],
    penalty: Penalty | None = None,
) -> str:
    """A name that two runs share only if they give the same numbers.

    Parameters
    ----------
    model, config, penalty
        Of the run.
    program
        The text of an epoch's program where an optimiser or a function of the user's own is in it:
        closures have no name to tell them apart by. None if there is none.
    data
        The data set's digest.
    key, generator
        Raw key data, and the generator they belong to.
    callbacks
        Their names and epochs.
    """
    parts = (
        # A function inside another object (functools.partial) is shown with its address.
        re.sub(r" at 0x[0-9a-f]+", "", repr(model)),
        *_matrices(model),
        repr(dataclasses.replace(config, checkpoint_every=1)),
        program or "adam",
        data,
        f"{generator} {np.asarray(key).tobytes().hex()}",
        *([] if penalty is None else [repr(penalty)]),
        repr([(name, tuple(epochs)) for name, epochs in callbacks]),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def holds_functions(value: Any) -> bool:
    """Whether a model holds functions, which its ``repr`` does not tell apart."""
    if isinstance(value, nn.Module):
        fields = (field.name for field in dataclasses.fields(value) if field.name != "parent")
        return any(holds_functions(getattr(value, name)) for name in fields)
    if isinstance(value, tuple):
        return any(holds_functions(item) for item in value)
    return callable(value) and not isinstance(value, type)


def _matrices(value: Any) -> Iterator[str]:
    """The values of a model's skip matrices, of which its ``repr`` shows the size alone."""
    if isinstance(value, SkipMatrix):
        yield value.values.tobytes().hex()
    elif isinstance(value, nn.Module):
        for field in dataclasses.fields(value):
            if field.name != "parent":
                yield from _matrices(getattr(value, field.name))
    elif isinstance(value, tuple):
        for item in value:
            yield from _matrices(item)
