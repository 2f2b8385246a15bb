"""Dataclasses as pytrees: structures differ where classes do, whatever their fields hold."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from landscape._pytrees import pytree
from landscape.curvature import empirical_fisher, fisher, ggn


def make_class():
    @pytree
    @dataclasses.dataclass(frozen=True)
    class Node:
        values: object
        other: object
        name: str = dataclasses.field(metadata={"static": True})

    return Node


def test_structures_differ_if_classes_do():
    one, other = (cls(jnp.ones(2), None, "a") for cls in (make_class(), make_class()))
    assert jax.tree.structure(one) != jax.tree.structure(other)
    assert jax.tree.structure([one]) != jax.tree.structure([other])
    again = dataclasses.replace(one, values=jnp.zeros(3))
    assert jax.tree.structure(one) == jax.tree.structure(again)
    assert hash(jax.tree.structure(one)) == hash(jax.tree.structure(again))
    assert jax.tree.structure(one) != jax.tree.structure(dataclasses.replace(one, name="b"))


def test_leaves_paths_and_back():
    node = make_class()(jnp.arange(3.0), {"x": 1.0}, "a")
    leaves, structure = jax.tree.flatten(node)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(node)]
    assert paths == [".values", ".other['x']"]
    back = jax.tree.unflatten(structure, leaves)
    assert (type(back), back.name, back.other) == (type(node), "a", {"x": 1.0})
    np.testing.assert_array_equal(jax.jit(lambda n: n)(node).values, node.values)


def test_a_compiled_function_has_a_program_for_each_class():
    # With structures that compare equal one in hundreds of these went wrong.
    for _ in range(50):
        first, second = make_class(), make_class()
        kind = jax.jit(lambda node, first=first: jnp.where(isinstance(node, first), 1, 2))
        assert int(kind(first(1.0, None, "a"))) == 1
        assert int(kind(second(1.0, None, "a"))) == 2


def test_matrices_of_one_model_differ_in_structure():
    def model(params, batch):
        return batch["x"] @ params

    def loss(outputs, batch):
        return optax.softmax_cross_entropy_with_integer_labels(outputs, batch["y"]).mean()

    params, batch = jnp.ones((3, 2)), {"x": jnp.ones((4, 3)), "y": jnp.zeros(4, int)}
    operators = [
        ggn(model, loss, params, batch),
        empirical_fisher(model, loss, params, batch),
        fisher(model, params, batch, jax.random.key(0)),
    ]
    structures = [jax.tree.structure(op) for op in operators]
    assert all(a != b for i, a in enumerate(structures) for b in structures[:i])
