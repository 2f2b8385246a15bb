import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from landscape.models import MLP
from landscape.training.losses import (
    accuracy,
    example_losses,
    softmax_cross_entropy,
    train_logits,
)

LOGITS = np.array([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0], [-300.0, 300.0, 0.0]], np.float32)
LABELS = np.array([0, 2, 0], np.int32)


def test_cross_entropy_is_minus_the_log_probability_in_nats():
    first = np.log(np.exp([2.0, -1.0, 0.5]).sum()) - 2.0
    expected = [first, np.log(3.0), 600.0]
    found = example_losses(jnp.asarray(LOGITS), jnp.asarray(LABELS))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_accuracy_is_one_where_the_largest_logit_is_the_label():
    labels = jnp.array([0, 0, 0], jnp.int32)
    assert accuracy(jnp.asarray(LOGITS), labels).tolist() == [1.0, 1.0, 0.0]


def test_loss_is_the_mean_over_examples_and_the_same_object_for_the_same_model():
    model = MLP(1, 4, 3)
    inputs = jax.random.normal(jax.random.key(0), (7, 5))
    labels = jnp.arange(7) % 3
    variables = model.init(jax.random.key(1), inputs)
    loss = softmax_cross_entropy(model)
    found = loss(variables["params"], {}, (inputs, labels))
    expected = example_losses(model.apply(variables, inputs), labels)
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-6)
    assert softmax_cross_entropy(MLP(1, 4, 3)) is loss


def test_a_model_without_statistics_is_not_asked_for_training_mode():
    class Plain(nn.Module):
        @nn.compact
        def __call__(self, inputs):
            self.variable("fixed", "offset", lambda: jnp.ones(2))
            return nn.Dense(2)(inputs)

    inputs = jnp.ones((3, 4))
    variables = dict(Plain().init(jax.random.key(0), inputs))
    params = variables.pop("params")
    logits, state = train_logits(Plain(), params, variables, inputs)
    assert logits.shape == (3, 2)
    assert state is variables
