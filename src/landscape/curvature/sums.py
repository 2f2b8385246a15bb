"""A look at whether the compiler in use computes sums right; see ``landscape._xla``."""

from __future__ import annotations

import functools
import warnings

import jax
import jax.numpy as jnp

from landscape._xla import FLAG, computes_sums_wrongly


@functools.cache
def warn_of_wrong_sums() -> None:
    """Warn, once, if this process computes sums wrongly on its CPU.

    It does where jaxlib is of a version that can, and was used before this package was imported.
    """
    if not computes_sums_wrongly() or jax.default_backend() != "cpu":
        return
    # The case of jax issue 39103, long enough that it fails in float32.
    rows = jnp.arange(32_769, dtype=jnp.float32)[:, None] * jnp.array([[1.0, 0.0, 0.0]])
    with jax.ensure_compile_time_eval():
        found = float(_last_square(rows))
    if found != 32_768.0**2:
        warnings.warn(
            "jaxlib 0.10.2 computes some sums wrongly on a CPU, and does so here: curvatures may "
            "be wrong by any amount. Import landscape before JAX is first used, or set "
            f"XLA_FLAGS={FLAG}= in the environment, or install another version of jaxlib",
            UserWarning,
            stacklevel=4,
        )


@jax.jit
def _last_square(rows: jax.Array) -> jax.Array:
    return jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2))(rows)[-1]
