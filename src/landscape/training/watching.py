"""A callback in a training loop that is not ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from landscape.errors import InputError
from landscape.training.history import Callback, Snapshot, found_by, same_as_before


class Watch:
    """A callback in a training loop of one's own: called at every step, it looks at its own.

    Parameters
    ----------
    callback
        What to compute, and when: its ``epochs`` are numbers as the loop counts them.

    Attributes
    ----------
    numbers
        At which it has looked, in that order.

    Examples
    --------
    >>> watch = Watch(Callback("norm", (0, 2), lambda seen: {"w": jnp.linalg.norm(seen.params)}))
    >>> for number in range(4):
    ...     _ = watch(number, jnp.full(4, 1.0 + number))
    >>> watch.numbers, watch.records["norm/w"].tolist()
    ([0, 2], [2.0, 6.0])
    """

    def __init__(self, callback: Callback) -> None:
        if callback.together:
            raise InputError(
                f"callback {callback.name!r} wants networks together; a Watch sees one at a time"
            )
        self.callback = callback
        self.numbers: list[int] = []
        self._found: list[dict[str, np.ndarray]] = []

    def __call__(
        self,
        number: int,
        params: Any,
        state: Any = None,
        *,
        loss: float = float("nan"),
        accuracy: float = float("nan"),
    ) -> Mapping[str, np.ndarray] | None:
        """Compute, if it is time.

        Parameters
        ----------
        number
            Of the epoch or the step.
        params, state
            The network as it stands; what the callback keeps of it is copied, so the loop may
            donate its buffers.
        loss, accuracy
            For the snapshot, if they are known.

        Returns
        -------
        What was found; None if this is not one of its numbers.

        Raises
        ------
        InputError
            If it has looked at this number, or finds quantities of other names or shapes.
        """
        if number not in self.callback.epochs:
            return None
        if number in self.numbers:
            raise InputError(f"callback {self.callback.name!r} has looked at {number} already")
        params, state = jax.tree.map(jnp.copy, (params, state))
        found = found_by(self.callback, Snapshot(number, params, state, loss, accuracy))
        same_as_before(self.callback, found, self._found[0] if self._found else found, number)
        self.numbers.append(number)
        self._found.append(found)
        return found

    @property
    def records(self) -> dict[str, np.ndarray]:
        """``"callback/quantity"`` to (looks, …), as in ``TrainingRun``."""
        names = self._found[0] if self._found else ()
        return {
            f"{self.callback.name}/{name}": np.stack([one[name] for one in self._found])
            for name in names
        }
