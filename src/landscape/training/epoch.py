"""One training epoch as one compiled program.

The data live on the device, are shuffled there, and are walked by ``lax.scan`` in mini-batches;
the training state is donated. The last batch of an epoch is filled up with its first examples.
Randomness of epoch ``e`` comes from ``fold_in(key, e)`` alone, so an epoch can be repeated from its
start without replaying the ones before it.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from landscape._convolutions import channels_last
from landscape._pytrees import pytree
from landscape.models import hashable
from landscape.training.losses import accuracy, apply, example_losses, train_logits
from landscape.training.penalties import COLLECTION, Penalty

# Examples per forward pass of an evaluation: large enough for good matrix products, small enough
# that its activations never matter beside the data.
EVALUATION_CHUNK = 1024

# What is folded into the key for the targets of a penalty: no number of an epoch.
_TARGETS = 2**32 - 1


@pytree
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything an epoch changes, and the key it draws from.

    Attributes
    ----------
    params, state
        Differentiated parameters; every other variable collection.
    opt_state
        The optimiser's.
    key
        Raw key data of the run, constant through training.
    """

    params: Any
    state: Any
    opt_state: Any
    key: Array


@dataclasses.dataclass(frozen=True)
class Program:
    """Compiled functions of one model, optimiser and batch size, for one network or a block.

    Attributes
    ----------
    init
        ``(key, example inputs (1, …)) -> TrainState``.
    run
        ``(TrainState, inputs, labels, epoch) -> TrainState``; the state given is donated.
    evaluate
        ``(params, state, inputs, labels) -> (mean loss, accuracy)`` over all examples.
    text
        ``(TrainState, inputs, labels) -> str``: the epoch's program, the same for the same
        computation.
    num_logits
        ``(TrainState, inputs) -> int``: C.
    """

    init: Callable[..., TrainState]
    run: Callable[..., TrainState]
    evaluate: Callable[..., tuple[Array, Array]]
    text: Callable[..., str]
    num_logits: Callable[..., int]


@functools.lru_cache(maxsize=64)
def adam(learning_rate: float) -> optax.GradientTransformation:
    """Adam at one learning rate; the same object each time, so that nothing compiles twice."""
    return optax.adam(learning_rate)


def compile_program(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    vectorized: bool,
    generator: str = "threefry2x32",
    penalty: Penalty | None = None,
) -> Program:
    """The program of a model; ``vectorized`` adds a leading network axis to state and metrics.

    ``generator`` names the implementation of the random keys, whose raw data the state carries.
    Losses are evaluated without the penalty.
    """
    # Given or left to its default, an argument is the same: the cache would tell them apart.
    return _compiled(hashable(model), optimizer, batch_size, vectorized, generator, penalty)


@functools.lru_cache(maxsize=64)
def _compiled(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    vectorized: bool,
    generator: str,
    penalty: Penalty | None,
) -> Program:
    wrap = functools.partial(jax.random.wrap_key_data, impl=generator)

    def init(key: Array, example: Array) -> TrainState:
        variables = dict(model.init(wrap(key), example))
        params = variables.pop("params")
        if penalty is not None:
            targets = jax.random.fold_in(wrap(key), _TARGETS)
            variables[COLLECTION] = penalty.draw(targets, params)
        return TrainState(params, variables, optimizer.init(params), key)

    def update(
        prepare: Callable[..., Any], train: TrainState, batch: tuple[Array, Array]
    ) -> tuple[TrainState, None]:
        inputs, labels = batch

        def loss(params: Any) -> tuple[Array, Any]:
            logits, state = train_logits(model, params, train.state, inputs)
            mean = example_losses(logits, labels).mean()
            return (mean if penalty is None else mean + penalty(params, state)), state

        gradient, state = prepare(jax.grad(loss, has_aux=True))(train.params)
        updates, opt_state = optimizer.update(gradient, train.opt_state, train.params)
        params = optax.apply_updates(train.params, updates)
        return TrainState(params, state, opt_state, train.key), None

    def run(
        train: TrainState,
        inputs: Array,
        labels: Array,
        epoch: Array,
        prepare: Callable[..., Any] = channels_last,
    ) -> TrainState:
        key = jax.random.fold_in(wrap(train.key), epoch)
        order = jax.random.permutation(key, inputs.shape[0])
        with jax.named_scope("epoch"):
            train, _ = jax.lax.scan(
                lambda carry, rows: update(prepare, carry, (inputs[rows], labels[rows])),
                train,
                _blocks(order, batch_size),
            )
        return train

    def evaluate(params: Any, state: Any, inputs: Array, labels: Array) -> tuple[Array, Array]:
        size = inputs.shape[0]
        chunk = min(EVALUATION_CHUNK, size)

        def totals(rows: Array, count: Array) -> Array:
            logits = apply(model, params, state, inputs[rows])
            losses = example_losses(logits, labels[rows])
            hits = accuracy(logits, labels[rows])
            counted = jnp.arange(chunk) < count
            return jnp.stack([jnp.where(counted, x, 0).sum() for x in (losses, hits)])

        rows = _blocks(jnp.arange(size), chunk)
        counts = jnp.minimum(chunk, size - chunk * jnp.arange(rows.shape[0]))
        loss, hits = jax.lax.map(lambda block: totals(*block), (rows, counts)).sum(0) / size
        return loss, hits

    def logits(params: Any, state: Any, inputs: Array) -> Array:
        return apply(model, params, state, inputs)

    # Without what is done for the machine at hand.
    plain_run: Callable[..., TrainState] = functools.partial(run, prepare=lambda function: function)
    if vectorized:
        logits = jax.vmap(logits, in_axes=(0, 0, None))
        init = jax.vmap(init, in_axes=(0, None))
        run, plain_run = (jax.vmap(f, in_axes=(0, None, None, None)) for f in (run, plain_run))
        evaluate = jax.vmap(evaluate, in_axes=(0, 0, None, None))

    def text(train: TrainState, inputs: Array, labels: Array) -> str:
        jaxpr = str(jax.make_jaxpr(plain_run)(train, inputs, labels, jnp.uint32(1)))
        return re.sub(r"0x[0-9a-f]+", "", jaxpr)

    return Program(
        text=text,
        num_logits=lambda train, inputs: jax.eval_shape(
            logits, train.params, train.state, inputs[:1]
        ).shape[-1],
        init=jax.jit(init),
        run=jax.jit(run, donate_argnums=0),
        evaluate=jax.jit(evaluate),
    )


def _blocks(order: Array, size: int) -> Array:
    """Rows of batches of one size, (⌈N / size⌉, size); the last is filled up from the start.

    One shape means one compiled update: a second one for a ragged batch would double compilation.
    """
    count = -(-order.shape[0] // size)
    return jnp.resize(order, (count, size))
