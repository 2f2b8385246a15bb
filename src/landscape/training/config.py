"""What a training run is told: plain values, no arrays, nothing imported from JAX."""

from __future__ import annotations

import dataclasses

from landscape.errors import InputError


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long, in what steps, how fast.

    Attributes
    ----------
    epochs
        Passes over the data.
    batch_size
        Examples per update; the last batch of an epoch is filled up with its first examples.
    learning_rate
        Of Adam, unless ``fit`` is given another optimiser.
    checkpoint_every
        Epochs between checkpoints, when a checkpoint folder is given.

    Notes
    -----
    Defaults: 100 epochs, batches of 500, Adam at 5·10⁻⁴, the standard protocol of A. E. Orhan and
    X. Pitkow, *Skip Connections Eliminate Singularities*, ICLR 2018.
    """

    epochs: int = 100
    batch_size: int = 500
    learning_rate: float = 5e-4
    checkpoint_every: int = 10

    def __post_init__(self) -> None:
        for name, least in (("epochs", 0), ("batch_size", 1), ("checkpoint_every", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise InputError(f"{name} must be an integer of at least {least}; got {value!r}")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate must be positive; got {self.learning_rate!r}")
