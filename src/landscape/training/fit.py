"""Training one network or many, with records, checkpoints and exact resumption.

``fit`` trains one network, ``fit_many`` one per key. The result is a ``TrainingRun``; what is
recorded at epoch ``e`` describes the network after ``e`` passes over the data (0: the initial one).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from landscape.errors import InputError, StoppedError
from landscape.training.checkpoints import load_checkpoint, save_checkpoint
from landscape.training.config import TrainConfig
from landscape.training.epoch import Program, TrainState, adam, compile_program
from landscape.training.history import Callback, History, TrainingRun, concatenate
from landscape.training.identity import holds_functions, identity
from landscape.training.penalties import Penalty


@runtime_checkable
class Labelled(Protocol):
    """What training needs of a data set; ``landscape.data.Dataset`` is one."""

    @property
    def digest(self) -> str:
        """Identifies the content."""

    def arrays(self) -> tuple[Array, Array]:
        """Float32 inputs (N, …) and int32 labels (N,) on the device."""


_logger = logging.getLogger("landscape")

Progress = Callable[[int, float, float], None]


def fit(
    model: nn.Module,
    dataset: Labelled,
    config: TrainConfig,
    key: Array,
    *,
    optimizer: optax.GradientTransformation | None = None,
    penalty: Penalty | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint_dir: str | Path | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    progress: bool | Progress = False,
) -> TrainingRun:
    """Train one network by mini-batches of softmax cross-entropy.

    Parameters
    ----------
    model
        Linen module from inputs to logits. One with variable collections other than ``params``
        and ``fixed`` (batch statistics) must accept ``train=True``.
    dataset
        The training set; held on the device.
    config
        Epochs, batch size, learning rate.
    key
        JAX random key: initialisation and shuffling.
    optimizer
        Any Optax optimiser; default Adam at ``config.learning_rate``.
    penalty
        Added to the loss that is descended, not to the one that is recorded.
    callbacks
        Computed at their epochs and recorded.
    checkpoint_dir
        Where to keep a checkpoint. If it holds one of this very run, training continues from it
        and ends with the same bits as if it had never been interrupted.
    should_stop
        Asked after each epoch; True saves a checkpoint and raises ``StoppedError``.
    progress
        True shows a bar; a function is called with (epoch, loss, accuracy).

    Returns
    -------
    TrainingRun

    Raises
    ------
    InputError
        Batch size larger than the data, a callback's epoch outside the run, or a checkpoint of
        another run.
    StorageError
        A damaged checkpoint, or a folder that cannot be written.
    StoppedError
        ``should_stop`` said so.

    Examples
    --------
    >>> from landscape.data import load
    >>> from landscape.models import MLP
    >>> digits = load("digits").subset(200, seed=0).standardized()
    >>> config = TrainConfig(epochs=5, batch_size=20, learning_rate=3e-3)
    >>> run = fit(MLP(2, 16, 10), digits, config, jax.random.key(0))
    >>> bool(run.loss[-1] < run.loss[0])
    True
    """
    keys = jax.random.key_data(key)
    if keys.ndim != 1:
        raise InputError(f"fit takes one key; got an array of {keys.shape[0]}: use fit_many")
    return _fit(
        model, dataset, config, keys, str(jax.random.key_impl(key)), False, optimizer, penalty,
        callbacks, checkpoint_dir, should_stop, progress,
    )  # fmt: skip


def fit_many(
    model: nn.Module,
    dataset: Labelled,
    config: TrainConfig,
    keys: Array,
    *,
    block_size: int | None = None,
    optimizer: optax.GradientTransformation | None = None,
    penalty: Penalty | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint_dir: str | Path | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    progress: bool | Progress = False,
) -> TrainingRun:
    """Train one network per key; blocks of them side by side in one program.

    Parameters
    ----------
    model, dataset, config, optimizer, penalty, callbacks, checkpoint_dir, should_stop, progress
        As for ``fit``. A callback is called for each network in turn, unless it wants them
        together.
    keys
        JAX random keys, shape (S,).
    block_size
        Networks trained together through ``vmap``. Default: all on an accelerator; one on a CPU,
        where wide networks keep the cores busy by themselves. Small ones gain from blocks there
        too; ``benchmarks/families.py`` measures from which width they do not.

    Returns
    -------
    TrainingRun with a leading axis S.

    Raises
    ------
    InputError, StorageError, StoppedError
        As ``fit``.

    Notes
    -----
    Blocks of another size round differently, and training amplifies rounding: the networks are then
    other samples of the same experiment. Blocks are formed from the full list of keys, so what is
    done already changes nothing.

    Examples
    --------
    >>> from landscape.data import load
    >>> from landscape.models import MLP
    >>> data = load("digits").subset(100, seed=0).standardized()
    >>> keys = jax.random.split(jax.random.key(0), 3)
    >>> run = fit_many(MLP(2, 4, 10), data, TrainConfig(2, 50), keys, block_size=3)
    >>> run.loss.shape  # networks, epochs 0 to 2
    (3, 3)
    """
    raw = jax.random.key_data(keys)
    if raw.ndim != 2 or raw.shape[0] == 0:
        raise InputError("fit_many takes an array of keys, such as jax.random.split(key, 5)")
    if block_size is None:
        block_size = 1 if jax.default_backend() == "cpu" else raw.shape[0]
    if block_size < 1:
        raise InputError(f"block_size must be at least 1; got {block_size}")
    blocks = []
    for start in range(0, raw.shape[0], block_size):
        folder = None if checkpoint_dir is None else Path(checkpoint_dir) / f"block-{start:05d}"
        blocks.append(
            _fit(
                model,
                dataset,
                config,
                raw[start : start + block_size],
                str(jax.random.key_impl(keys)),
                True,
                optimizer,
                penalty,
                callbacks,
                folder,
                should_stop,
                progress,
            )
        )
    return concatenate(blocks)


def _fit(
    model: nn.Module,
    dataset: Labelled,
    config: TrainConfig,
    key: Array,
    generator: str,
    vectorized: bool,
    optimizer: optax.GradientTransformation | None,
    penalty: Penalty | None,
    callbacks: Sequence[Callback],
    checkpoint_dir: str | Path | None,
    should_stop: Callable[[], bool],
    progress: bool | Progress,
) -> TrainingRun:
    inputs, labels = dataset.arrays()
    _check(config, inputs.shape[0], callbacks)
    program = compile_program(
        model,
        optimizer or adam(config.learning_rate),
        config.batch_size,
        vectorized,
        generator,
        penalty,
    )
    train = program.init(key, inputs[:1])
    _check_labels(program, train, inputs, labels)
    what = (
        None
        if optimizer is None and not holds_functions(model)
        else program.text(train, inputs, labels)
    )
    told = [(callback.name, callback.epochs) for callback in callbacks]
    name = identity(model, config, what, dataset.digest, key, generator, told, penalty)
    history = History(program, callbacks, vectorized, inputs, labels)
    folder = None if checkpoint_dir is None else Path(checkpoint_dir)
    restored = None if folder is None else load_checkpoint(folder, train, name)
    if restored is None:
        done = 0
        history.record(0, train)
    else:
        done, train, recorded = restored
        history.restore(recorded)
    with _reporter(progress, config.epochs) as report:
        for epoch in range(done + 1, config.epochs + 1):
            train = program.run(train, inputs, labels, jnp.uint32(epoch))
            loss, accuracy = history.record(epoch, train)
            report(epoch, loss, accuracy)
            stop = should_stop() and epoch < config.epochs
            due = epoch % config.checkpoint_every == 0 or epoch == config.epochs
            if folder is not None and (stop or due):
                save_checkpoint(folder, epoch, train, history.arrays(), name)
            if stop:
                kept = "; run again to continue" if folder is not None else ""
                raise StoppedError(f"stopped after epoch {epoch} of {config.epochs}{kept}")
    run = history.result(train, config)
    if not np.isfinite(run.loss).all():
        _logger.warning("the training loss became infinite or NaN; lower the learning rate")
    return run


def _check_labels(program: Program, train: TrainState, inputs: Array, labels: Array) -> None:
    """Refuse labels without a logit: indexing past the end would give NaN, silently."""
    num_logits = program.num_logits(train, inputs)
    largest = int(labels.max())
    if largest >= num_logits or int(labels.min()) < 0:
        raise InputError(
            f"the labels go from {int(labels.min())} to {largest}, but the model gives "
            f"{num_logits} logits: num_classes must be at least {largest + 1}"
        )


def _check(config: TrainConfig, num_examples: int, callbacks: Sequence[Callback]) -> None:
    if num_examples == 0:
        raise InputError("the data set is empty")
    if config.batch_size > num_examples:
        raise InputError(
            f"batch_size {config.batch_size} is larger than the {num_examples} training examples"
        )
    names = [callback.name for callback in callbacks]
    if len(set(names)) < len(names):
        raise InputError(f"two callbacks have the same name; got {', '.join(names)}")
    for callback in callbacks:
        outside = [epoch for epoch in callback.epochs if not 0 <= epoch <= config.epochs]
        if outside:
            raise InputError(
                f"callback {callback.name!r} asks for epochs {outside}; the run has epochs "
                f"0 to {config.epochs}"
            )


class _reporter:  # noqa: N801 — used as a function
    """A context that gives the function to call after each epoch."""

    def __init__(self, progress: bool | Progress, epochs: int) -> None:
        self._progress, self._epochs = progress, epochs
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if callable(self._progress):
            return self._progress
        if not self._progress:
            return lambda epoch, loss, accuracy: None
        from rich.console import Console
        from rich.progress import Progress as Bar

        self._bar = Bar(console=Console(stderr=True))
        self._bar.start()
        task = self._bar.add_task("training", total=self._epochs)

        def show(epoch: int, loss: float, accuracy: float) -> None:
            self._bar.update(
                task, completed=epoch, description=f"loss {loss:.3f}  accuracy {accuracy:.3f}"
            )

        return show

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
