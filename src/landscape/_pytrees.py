"""Dataclasses as pytrees whose structures differ if their classes do.

``jax.tree_util.register_dataclass`` makes structures that compare equal whatever class they are of,
if their static fields are equal, though their hashes differ (jaxlib 0.10.2 and 0.12). A compiled
function finds its program in a hash table: where the hashes of two classes agree in the few bits
that it looks at first, it runs the program of the other. In some processes, one in hundreds,
products of an empirical Fisher matrix were those of the Gauss-Newton matrix of the same model.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import jax

Class = TypeVar("Class", bound=type[Any])


def pytree(cls: Class) -> Class:
    """Register a dataclass as a pytree; a decorator.

    Fields with ``metadata={"static": True}`` are part of the structure, as
    ``jax.tree_util.register_dataclass`` has it, and so are counts, words and flags; the others are
    children.
    """
    fields = dataclasses.fields(cls)
    static = tuple(
        field.name
        for field in fields
        if field.metadata.get("static", str(field.type) in ("int", "str", "bool"))
    )
    children = tuple(field.name for field in fields if field.name not in static)
    keys = tuple(jax.tree_util.GetAttrKey(name) for name in children)

    def flatten(node: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return tuple(getattr(node, name) for name in children), tuple(
            getattr(node, name) for name in static
        )

    def flatten_with_keys(node: Any) -> tuple[tuple[tuple[Any, Any], ...], tuple[Any, ...]]:
        found, aux = flatten(node)
        return tuple(zip(keys, found, strict=True)), aux

    def unflatten(aux: tuple[Any, ...], found: Any) -> Any:
        return cls(**dict(zip(children, found, strict=True)), **dict(zip(static, aux, strict=True)))

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls
