import subprocess
import sys

import pytest

from landscape.errors import InputError
from landscape.training.config import TrainConfig


def test_defaults_are_the_standard_protocol():
    assert TrainConfig() == TrainConfig(100, 500, 5e-4, 10)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", -1),
        ("batch_size", 0),
        ("checkpoint_every", 0),
        ("learning_rate", 0.0),
        ("learning_rate", -1e-3),
        ("learning_rate", float("nan")),
    ],
)
def test_impossible_values_are_refused_by_name(name, value):
    with pytest.raises(InputError, match=f"{name} must be .*got {value}"):
        TrainConfig(**{name: value})


def test_a_batch_size_that_is_no_integer_is_refused():
    # In a fresh process: here the type checker of the suite would refuse it first.
    code = (
        "from landscape.training.config import TrainConfig\n"
        "from landscape.errors import InputError\n"
        "try: TrainConfig(batch_size=2.5)\n"
        "except InputError as error: print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "batch_size must be an integer of at least 1; got 2.5"
