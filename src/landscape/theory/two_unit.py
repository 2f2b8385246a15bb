r"""Two hidden units that learn from a teacher, near the singularities of overlap and elimination.

Notation: inputs ``x ~ N(0, I)`` in R^d, ``φ(a) = erf(a/√2)``; student
``f(x) = Σ_i v_i φ((J_i + q_i)·x)``, i = 1, 2, with fixed skips ``q_i`` (zero for the plain system);
teacher ``y(x) = Σ_k v*_k φ(J*_k·x)``; loss ``½ E(y − f)²``, an explicit function:
``E φ(a·x) φ(b·x) = (2/π) arcsin(a·b / √((1 + |a|²)(1 + |b|²)))`` (D. Saad and S. A. Solla, *On-line
learning in soft committee machines*, Phys. Rev. E 52, 1995).

With ``I_i = J_i + q_i``: ``v = v₁ + v₂``, ``z = (v₁ − v₂)/v``, ``s = (v₁ I₁ + v₂ I₂)/v``,
``u = I₁ − I₂``, ``h = |u|``. The system is degenerate on the manifolds ``h = 0`` (overlap: only v
matters, not z) and ``z = ±1`` (elimination: one unit's v_i is zero, and its incoming weights are
free). With skips they lie where the weights undo them, ``J₁ − J₂ = q₂ − q₁``: a ghost.

Near overlap, with s and v held where one unit alone is best, the flow reduces to

    ``dh/dt = v (1 − z²) κ h / 2``,  ``dz/dt = −κ h² z (3 + z²) / (4 v)``,

κ the eigenvalue along u of ``E[(y − f) φ''(s·x) x xᵀ]``, which conserves
``h² − (4v²/3) ln((z² + 3)²/|z|)``. The full flow follows it qualitatively. Source: H. Wei,
J. Zhang, F. Cousseau, T. Ozeki and S. Amari, *Dynamics of learning near singularities in layered
networks*, Neural Computation 20, 2008.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.integrate import solve_ivp

from landscape._pytrees import pytree
from landscape.errors import InputError
from landscape.results import Result
from landscape.theory.flow import Trajectory, gradient_flow


@dataclasses.dataclass(frozen=True, eq=False)
class TwoUnit:
    """A student of two units, its teacher, and its skips.

    Attributes
    ----------
    teacher_outgoing
        (K,) v*.
    teacher_incoming
        (K, d) J*.
    skips
        (2, d) q; zeros by default.

    Examples
    --------
    >>> system = TwoUnit(np.array([1.0, 1.0]), np.array([[1.0, 0.5], [0.5, 1.0]]))
    >>> system.loss(system.teacher_outgoing, system.teacher_incoming)
    0.0
    """

    teacher_outgoing: Float[np.ndarray, " K"]
    teacher_incoming: Float[np.ndarray, "K d"]
    skips: Float[np.ndarray, "2 d"] | None = None

    def __post_init__(self) -> None:
        outgoing = np.asarray(self.teacher_outgoing, float)
        incoming = np.asarray(self.teacher_incoming, float)
        if outgoing.ndim != 1 or incoming.ndim != 2 or len(outgoing) != len(incoming):
            raise InputError(
                f"a teacher has K outgoing weights and K rows of incoming ones; got shapes "
                f"{outgoing.shape} and {incoming.shape}"
            )
        skips = np.zeros((2, incoming.shape[1])) if self.skips is None else self.skips
        skips = np.asarray(skips, float)
        if skips.shape != (2, incoming.shape[1]):
            raise InputError(f"skips must be of shape (2, {incoming.shape[1]}); got {skips.shape}")
        for name, value in (
            ("teacher_outgoing", outgoing), ("teacher_incoming", incoming), ("skips", skips),
        ):  # fmt: skip
            if not np.isfinite(value).all():
                raise InputError(f"{name} must be finite")
            object.__setattr__(self, name, value)

    @property
    def num_inputs(self) -> int:
        """Of the inputs: d."""
        return int(self.teacher_incoming.shape[1])

    def loss(self, outgoing: Float[np.ndarray, " 2"], incoming: Float[np.ndarray, "2 d"]) -> float:
        """½ E(y − f)².

        Parameters
        ----------
        outgoing, incoming
            (2,) v and (2, d) J.

        Returns
        -------
        In float64, computed without a sample.
        """
        outgoing, incoming = self._student(outgoing, incoming)
        with jax.enable_x64(True):
            return float(_compiled_loss(np.r_[outgoing, np.ravel(incoming)], *self._given))

    def losses(self, states: Float[np.ndarray, "T n"]) -> Float[np.ndarray, " T"]:
        """The same of many states, as a trajectory has them.

        Parameters
        ----------
        states
            (T, 2 + 2d).

        Returns
        -------
        (T,).
        """
        with jax.enable_x64(True):
            return np.asarray(_compiled_losses(np.asarray(states, float), *self._given))

    def flow(
        self,
        outgoing: Float[np.ndarray, " 2"],
        incoming: Float[np.ndarray, "2 d"],
        duration: float,
        *,
        until: float | None = None,
    ) -> Trajectory:
        """Gradient flow of all weights.

        Parameters
        ----------
        outgoing, incoming
            (2,) v and (2, d) J to start from.
        duration, until
            As for ``gradient_flow``.

        Returns
        -------
        Trajectory whose states are v and the rows of J, one after the other: ``unpack`` takes them
        apart.
        """
        outgoing, incoming = self._student(outgoing, incoming)
        start = np.r_[outgoing, np.ravel(incoming)]
        return gradient_flow(_loss, start, duration, until=until, args=self._given)

    @property
    def _given(self) -> tuple[Any, ...]:
        return self.teacher_outgoing, self.teacher_incoming, self.skips

    def _student(self, outgoing: Any, incoming: Any) -> tuple[np.ndarray, np.ndarray]:
        v, rows = np.asarray(outgoing, float), np.asarray(incoming, float)
        shape = (2, self.num_inputs)
        if v.shape != (2,) or rows.shape != shape:
            raise InputError(
                f"the student has (2,) outgoing and {shape} incoming weights; got "
                f"shapes {v.shape} and {rows.shape}"
            )
        return v, rows

    def unpack(
        self, states: Float[np.ndarray, "T n"]
    ) -> tuple[Float[np.ndarray, "T 2"], Float[np.ndarray, "T 2 d"]]:
        """States of a trajectory as v (T, 2) and J (T, 2, d)."""
        return states[:, :2], states[:, 2:].reshape(len(states), 2, -1)

    def coordinates(self, states: Float[np.ndarray, "T n"]) -> Coordinates:
        """A trajectory as seen from the singularities.

        Parameters
        ----------
        states
            (T, 2 + 2d).

        Returns
        -------
        Coordinates; v = 0 has no z.
        """
        v, incoming = self.unpack(states)
        units = incoming + self.skips
        total = v.sum(1)
        u = units[:, 0] - units[:, 1]
        with np.errstate(divide="ignore", invalid="ignore"):
            z = (v[:, 0] - v[:, 1]) / total
            s = np.einsum("ti,tid->td", v, units) / total[:, None]
        return Coordinates(total, z, s, u, np.linalg.norm(u, axis=1))


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
class Coordinates(Result):
    """Of T states: see the module's notation.

    Attributes
    ----------
    v, z, h
        (T,).
    s, u
        (T, d).
    """

    v: Float[np.ndarray, " T"]
    z: Float[np.ndarray, " T"]
    s: Float[np.ndarray, "T d"]
    u: Float[np.ndarray, "T d"]
    h: Float[np.ndarray, " T"]

    _axes = (("T", "state"), ("d", "input"))

    def __repr__(self) -> str:
        ends = f"h {self.h[0]:.4g} to {self.h[-1]:.4g}, z {self.z[0]:.4g} to {self.z[-1]:.4g}"
        return f"Coordinates({len(self.v)} states, {ends})"


def reduced_flow(
    h: float, z: float, *, v: float, kappa: float, duration: float, num_points: int = 400
) -> tuple[Float[np.ndarray, " T"], Float[np.ndarray, " T"], Float[np.ndarray, " T"]]:
    """The flow near overlap with s and v held.

    Parameters
    ----------
    h, z
        Where it starts; h > 0.
    v, kappa
        Constants of the flow.
    duration
        Time to integrate.
    num_points
        T.

    Returns
    -------
    times, h, z
        (T,) each.

    Raises
    ------
    InputError
        If h is not positive, v is zero, or the flow leaves every bound before the end.
    """
    if not h > 0 or v == 0:
        raise InputError(f"h must be positive and v not zero; got h = {h!r}, v = {v!r}")

    def slope(_: float, state: np.ndarray) -> list[float]:
        h, z = state
        return [v * (1 - z**2) * kappa * h / 2, -kappa * h**2 * z * (3 + z**2) / (4 * v)]

    path = solve_ivp(
        slope, (0.0, duration), [h, z], method="LSODA", rtol=1e-10, atol=1e-13,
        t_eval=np.linspace(0, duration, num_points),
    )  # fmt: skip
    if path.status < 0:
        raise InputError(f"the reduced flow cannot be integrated: {path.message}")
    return path.t, path.y[0], path.y[1]


def conserved(
    h: Float[np.ndarray, " T"], z: Float[np.ndarray, " T"], v: float
) -> Float[np.ndarray, " T"]:
    """What the reduced flow keeps: ``h² − (4v²/3) ln((z² + 3)²/|z|)``.

    Parameters
    ----------
    h, z
        (T,) states of the flow.
    v
        Its constant.

    Returns
    -------
    (T,), all alike along one path.
    """
    return np.asarray(h**2 - (4 * v**2 / 3) * np.log((z**2 + 3) ** 2 / np.abs(z)))


def _loss(state: Array, outgoing: Array, incoming: Array, skips: Array) -> Array:
    """From v and the rows of J, one after the other, and the teacher's."""
    units = state[2:].reshape(2, -1) + skips
    return _half_square(jnp.concatenate([state[:2], -outgoing]), jnp.concatenate([units, incoming]))


def _half_square(weights: Array, units: Array) -> Array:
    """½ E(Σ_i w_i φ(a_i·x))²."""
    products = units @ units.T
    norms = jnp.sqrt(1 + jnp.diagonal(products))
    angles = jnp.arcsin(products / (norms[:, None] * norms[None]))
    return weights @ (2 / jnp.pi * angles) @ weights / 2


# Of all systems alike.
_compiled_loss = jax.jit(_loss)
_compiled_losses = jax.jit(jax.vmap(_loss, (0, None, None, None)))
