"""A small problem that all tests of training share, so that it compiles once."""

import jax
import numpy as np
import pytest

from landscape.data import load
from landscape.models import MLP
from landscape.training import Callback, TrainConfig


@pytest.fixture(scope="session")
def digits():
    return load("digits").subset(120, seed=0).standardized()


@pytest.fixture(scope="session")
def model():
    return MLP(2, 6, 10)


@pytest.fixture(scope="session")
def config():
    # 120 examples in batches of 25: the last batch of an epoch is filled up.
    return TrainConfig(epochs=6, batch_size=25, learning_rate=3e-3, checkpoint_every=2)


@pytest.fixture(scope="session")
def probe():
    def measure(snapshot):
        bias = snapshot.params["input"]["bias"]
        return {"bias": bias, "norm": sum((x**2).sum() for x in jax.tree.leaves(snapshot.params))}

    return Callback("probe", (0, 3, 6), measure)


@pytest.fixture(scope="session")
def assert_same_bits():
    def compare(first, second):
        one = (first.params, first.state, first.epochs, first.loss, first.accuracy, first.records)
        two = (
            second.params, second.state, second.epochs, second.loss, second.accuracy,
            second.records,
        )  # fmt: skip
        assert jax.tree.structure(one) == jax.tree.structure(two)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
            a, b = np.asarray(a), np.asarray(b)
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            assert a.tobytes() == b.tobytes()

    return compare
