"""What a training run records: at every epoch its loss, at chosen ones what callbacks compute."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from landscape._pytrees import pytree
from landscape.errors import InputError
from landscape.results import Result
from landscape.training.config import TrainConfig
from landscape.training.epoch import Program, TrainState


@dataclasses.dataclass(frozen=True, repr=False)
class Snapshot:
    """A network at one epoch, as callbacks see it.

    Attributes
    ----------
    epoch
        Epochs finished.
    params, state
        The network's variables; copies that stay valid.
    loss, accuracy
        Over the whole training set: nats per example, and a fraction; arrays (S,) if a callback is
        given S networks together.
    """

    epoch: int
    params: Any
    state: Any
    loss: Any
    accuracy: Any

    def __repr__(self) -> str:
        size = sum(jnp.size(leaf) for leaf in jax.tree.leaves(self.params))
        loss, accuracy = np.mean(self.loss), np.mean(self.accuracy)
        return (
            f"Snapshot(epoch {self.epoch}, {size:,} parameters, loss {loss:.4g}, "
            f"accuracy {accuracy:.4f})"
        )


@dataclasses.dataclass(frozen=True)
class Callback:
    """Something to compute at chosen epochs; its results are recorded.

    Attributes
    ----------
    name
        Prefix of what it records.
    epochs
        When it is called; 0 is the initial network.
    function
        ``Snapshot -> {quantity: array}``; shapes must not change over epochs.
    together
        Whether it is given all networks of a block at once: then every array of the snapshot has a
        leading axis, also with ``fit``, where it is 1; and so must every array that is returned.

    Examples
    --------
    >>> import jax, optax
    >>> from landscape.data import load
    >>> from landscape.models import MLP
    >>> from landscape.training import TrainConfig, fit
    >>> size = Callback("size", [0, 1], lambda at: {"of all": optax.tree.norm(at.params)})
    >>> data = load("digits").subset(100, seed=0).standardized()
    >>> run = fit(MLP(2, 4, 10), data, TrainConfig(1, 50), jax.random.key(0), callbacks=[size])
    >>> run.records["size/of all"].shape
    (2,)
    """

    name: str
    epochs: Sequence[int]
    function: Callable[[Snapshot], Mapping[str, Any]]
    together: bool = False


def found_by(callback: Callback, snapshot: Snapshot) -> dict[str, np.ndarray]:
    """What a callback finds: arrays of numbers by their names.

    Raises
    ------
    InputError
        If it gives anything else.
    """
    found = callback.function(snapshot)
    if not isinstance(found, Mapping):
        raise InputError(
            f"callback {callback.name!r} must return a mapping of names to arrays, such as "
            f'{{"norm": 1.0}}; got a {type(found).__name__}'
        )
    for name, value in found.items():
        if isinstance(value, Result) or np.asarray(value).dtype.kind not in "biufcV":
            raise InputError(
                f"callback {callback.name!r} must return arrays of numbers; {name!r} is a "
                f"{type(value).__name__}: of a result give its numbers, as .estimate, .lower"
            )
    return {name: np.asarray(value) for name, value in found.items()}


def same_as_before(
    callback: Callback, found: Mapping[str, Any], before: Mapping[str, Any], number: int
) -> None:
    """Refuse names or shapes that a callback did not give the first time.

    Raises
    ------
    InputError
        Saying both.
    """
    now, then = ({k: np.shape(v) for k, v in each.items()} for each in (found, before))
    if now != then:
        raise InputError(
            f"callback {callback.name!r} gave {then} at first, and {now} at {number}: names and "
            "shapes must not change"
        )


@pytree
@dataclasses.dataclass(frozen=True)
class TrainingRun(Result):
    """A trained network, or several with a leading axis S on every array but ``epochs``.

    Attributes
    ----------
    params, state
        Final variables.
    epochs
        (E+1,) 0 … E.
    loss, accuracy
        ([S,] E+1) over the whole training set: nats per example, and a fraction.
    records
        ``"callback/quantity"`` to ([S,] number of the callback's epochs, …).
    config
        What was asked for.
    record_epochs
        By the callback's name, the epochs of its records, in their order.
    """

    params: Any
    state: Any
    epochs: np.ndarray
    loss: np.ndarray
    accuracy: np.ndarray
    records: Mapping[str, np.ndarray]
    config: TrainConfig
    record_epochs: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict, kw_only=True)

    def to_xarray(self) -> Any:
        """As an ``xarray.Dataset``: loss, accuracy and records; the parameters are left out.

        Records lie along ``"epoch_of_<callback>"``, whose coordinate tells when they were taken.
        """
        import xarray

        networks = ("network",) if self.loss.ndim == 2 else ()
        dims = (*networks, "epoch")
        variables: dict[str, Any] = {
            "loss": (dims, self.loss),
            "accuracy": (dims, self.accuracy),
        }
        for name, values in self.records.items():
            callback, own = name.split("/")[0], name.replace("/", "_")
            inner = [f"{own}_{axis}" for axis in range(values.ndim - len(networks) - 1)]
            variables[own] = ((*networks, f"epoch_of_{callback}", *inner), values)
        times = {f"epoch_of_{callback}": epochs for callback, epochs in self.record_epochs.items()}
        return xarray.Dataset(
            variables, coords={"epoch": self.epochs, **times}, attrs=dataclasses.asdict(self.config)
        )

    def __repr__(self) -> str:
        networks = f"{self.loss.shape[0]} networks, " if self.loss.ndim == 2 else ""
        return (
            f"TrainingRun({networks}{len(self.epochs) - 1} epochs, final loss "
            f"{np.mean(self.loss[..., -1]):.4g}, accuracy {np.mean(self.accuracy[..., -1]):.4f})"
        )


class History:
    """What is recorded through one run."""

    def __init__(
        self,
        program: Program,
        callbacks: Sequence[Callback],
        vectorized: bool,
        inputs: Array,
        labels: Array,
    ) -> None:
        self._program, self._callbacks, self._vectorized = program, callbacks, vectorized
        self._data = (inputs, labels)
        self._rows: dict[str, list[np.ndarray]] = {"loss": [], "accuracy": []}
        self._first: dict[str, dict[str, np.ndarray]] = {}

    def record(self, epoch: int, train: TrainState) -> tuple[float, float]:
        """Evaluate the network, call whose epoch it is, and give loss and accuracy."""
        loss, accuracy = self._program.evaluate(train.params, train.state, *self._data)
        metrics = {"loss": np.asarray(loss), "accuracy": np.asarray(accuracy)}
        for name, value in metrics.items():
            self._rows[name].append(value)
        for callback in self._callbacks:
            if epoch in callback.epochs:
                found = self._call(callback, epoch, train, metrics)
                same_as_before(callback, found, self._first.setdefault(callback.name, found), epoch)
                for name, value in found.items():
                    self._rows.setdefault(f"{callback.name}/{name}", []).append(value)
        return float(np.mean(loss)), float(np.mean(accuracy))

    def _call(
        self, callback: Callback, epoch: int, train: TrainState, metrics: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        # The epoch program donates its state: a callback that keeps its snapshot needs a copy.
        params, state = jax.tree.map(jnp.copy, (train.params, train.state))

        def one(index: Any) -> Mapping[str, Any]:
            pick = (lambda x: x) if index is None else (lambda x: x[index])
            snapshot = Snapshot(
                epoch,
                jax.tree.map(pick, params),
                jax.tree.map(pick, state),
                float(pick(metrics["loss"])),
                float(pick(metrics["accuracy"])),
            )
            return found_by(callback, snapshot)

        if callback.together:
            return self._together(callback, epoch, params, state, metrics)
        if not self._vectorized:
            return dict(one(None))
        results = [one(index) for index in range(metrics["loss"].shape[0])]
        return {name: np.stack([result[name] for result in results]) for name in results[0]}

    def _together(
        self, callback: Callback, epoch: int, params: Any, state: Any, metrics: dict[str, Any]
    ) -> dict[str, np.ndarray]:
        if not self._vectorized:
            params, state, metrics = jax.tree.map(lambda x: x[None], (params, state, metrics))
        count = len(metrics["loss"])
        found = found_by(callback, Snapshot(epoch, params, state, **metrics))
        for name, value in found.items():
            if value.shape[:1] != (count,):
                raise InputError(
                    f"callback {callback.name!r} is given {count} networks together and must "
                    f"return as many rows; {name!r} has shape {value.shape}"
                )
        return found if self._vectorized else {name: value[0] for name, value in found.items()}

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything recorded so far, epochs first: for a checkpoint."""
        return {name: np.stack(rows) for name, rows in self._rows.items()}

    def restore(self, recorded: Mapping[str, np.ndarray]) -> None:
        """Go on from a checkpoint's."""
        self._rows = {name: list(values) for name, values in recorded.items()}

    def result(self, train: TrainState, config: TrainConfig) -> TrainingRun:
        """The whole run, networks first."""
        axis = 1 if self._vectorized else 0
        arrays = {name: np.stack(rows, axis) for name, rows in self._rows.items()}
        loss, accuracy = arrays.pop("loss"), arrays.pop("accuracy")
        epochs = np.arange(config.epochs + 1)
        # Of those that have recorded something.
        told = {name.rpartition("/")[0] for name in arrays}
        times = {
            one.name: np.array(sorted(set(one.epochs)))
            for one in self._callbacks
            if one.name in told
        }
        return TrainingRun(
            train.params, train.state, epochs, loss, accuracy, arrays, config, record_epochs=times
        )


def concatenate(blocks: Sequence[TrainingRun]) -> TrainingRun:
    """Blocks of networks that were trained one after the other, as one."""

    def join(*leaves: Any) -> Any:
        return jnp.concatenate(leaves)

    first = blocks[0]
    return TrainingRun(
        params=jax.tree.map(join, *[block.params for block in blocks]),
        state=jax.tree.map(join, *[block.state for block in blocks]),
        epochs=first.epochs,
        loss=np.concatenate([block.loss for block in blocks]),
        accuracy=np.concatenate([block.accuracy for block in blocks]),
        records={
            name: np.concatenate([block.records[name] for block in blocks])
            for name in first.records
        },
        config=first.config,
        record_epochs=first.record_epochs,
    )
