r"""A linear network of one hidden layer that learns independent modes.

Notation: in the coordinates of the modes of the data, mode α = 1 … K has the strength ``s_α``, goes
into H hidden units by ``a^α`` and out of them by ``b^α``, both in R^H; with skips by ``a^α + u^α``
and ``b^α + v^α``, u and v fixed. Gradient flow of

    ``E = ½ Σ_α (s_α − a^α·b^α)² + ½ Σ_{α≠β} (a^α·b^β)²``.

Hidden units that are zero in all modes are eliminated, those that are alike in all modes overlap;
where all a and b are zero E is flat. Source: A. M. Saxe, J. L. McClelland and S. Ganguli, *Exact
solutions to the nonlinear dynamics of learning in deep linear neural networks*, ICLR 2014
(arXiv:1312.6120); skips: A. E. Orhan and X. Pitkow, ICLR 2018.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from landscape.errors import InputError
from landscape.theory.flow import Trajectory, gradient_flow


@dataclasses.dataclass(frozen=True, eq=False)
class TwoMode:
    """Strengths of K modes, and the skips of H hidden units.

    Attributes
    ----------
    strengths
        (K,) s.
    num_hidden
        H.
    skips_in, skips_out
        (K, H) u and v; zeros by default.

    Examples
    --------
    >>> system = TwoMode(np.array([3.0, 1.0]))
    >>> system.energy(np.eye(2) * [3.0, 1.0], np.eye(2))
    0.0
    """

    strengths: Float[np.ndarray, " K"]
    num_hidden: int = 2
    skips_in: Float[np.ndarray, "K H"] | None = None
    skips_out: Float[np.ndarray, "K H"] | None = None

    def __post_init__(self) -> None:
        strengths = np.asarray(self.strengths, float)
        if strengths.ndim != 1 or not np.isfinite(strengths).all():
            raise InputError(f"strengths must be a finite number for each mode; got {strengths}")
        if self.num_hidden < 1:
            raise InputError(f"num_hidden must be at least 1; got {self.num_hidden}")
        shape = (len(strengths), self.num_hidden)
        object.__setattr__(self, "strengths", strengths)
        for name in ("skips_in", "skips_out"):
            given = getattr(self, name)
            value = np.zeros(shape) if given is None else np.asarray(given, float)
            if value.shape != shape:
                raise InputError(f"{name} must be of shape {shape}; got {value.shape}")
            object.__setattr__(self, name, value)

    def energy(self, a: Float[np.ndarray, "K H"], b: Float[np.ndarray, "K H"]) -> float:
        """E.

        Parameters
        ----------
        a, b
            (K, H).

        Returns
        -------
        In float64.
        """
        with jax.enable_x64(True):
            return float(_compiled_energy(jnp.asarray(self._flat(a, b)), *self._given))

    @property
    def _given(self) -> tuple[Any, ...]:
        return self.strengths, self.skips_in, self.skips_out

    def _flat(self, a: Any, b: Any) -> np.ndarray:
        shape = (len(self.strengths), self.num_hidden)
        for name, value in (("a", a), ("b", b)):
            if np.shape(value) != shape:
                raise InputError(f"{name} must be of shape {shape}; got {np.shape(value)}")
        return np.r_[np.ravel(a), np.ravel(b)].astype(float)

    def flow(
        self,
        a: Float[np.ndarray, "K H"],
        b: Float[np.ndarray, "K H"],
        duration: float,
        *,
        until: float | None = None,
    ) -> Trajectory:
        """Gradient flow of all weights.

        Parameters
        ----------
        a, b
            (K, H) to start from.
        duration, until
            As for ``gradient_flow``.

        Returns
        -------
        Trajectory whose states are a and then b: ``unpack`` takes them apart.
        """
        return gradient_flow(_energy, self._flat(a, b), duration, until=until, args=self._given)

    def unpack(
        self, states: Float[np.ndarray, "T n"]
    ) -> tuple[Float[np.ndarray, "T K H"], Float[np.ndarray, "T K H"]]:
        """States of a trajectory as a and b, (T, K, H) each."""
        first, second = np.split(states, 2, axis=1)
        shape = (len(states), len(self.strengths), self.num_hidden)
        return first.reshape(shape), second.reshape(shape)


def _energy(state: Array, strengths: Array, skips_in: Array, skips_out: Array) -> Array:
    a, b = (x.reshape(skips_in.shape) for x in jnp.split(state, 2))
    paths = (a + skips_in) @ (b + skips_out).T
    return jnp.sum((jnp.diag(strengths) - paths) ** 2) / 2


_compiled_energy = jax.jit(_energy)
