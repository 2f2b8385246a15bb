r"""Gradient flow ``dθ/dt = −∇E(θ)`` of small systems, integrated until an energy is reached.

Gradients by JAX in float64; integration by SciPy's LSODA (A. C. Hindmarsh and L. R. Petzold), which
takes long steps on a plateau and finds the time of an event by interpolation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.integrate import solve_ivp

from landscape._pytrees import pytree
from landscape.errors import InputError
from landscape.results import Result

# Relative and absolute errors of a step.
_RELATIVE, _ABSOLUTE = 1e-9, 1e-12


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
class Trajectory(Result):
    """A path of gradient flow.

    Attributes
    ----------
    times
        (T,) where the integrator stopped over, from 0.
    states
        (T, n) parameters.
    energies
        (T,) of them.
    reached
        When the energy that was asked for was reached; NaN if it was not, or none was.
    """

    times: Float[np.ndarray, " T"]
    states: Float[np.ndarray, "T n"]
    energies: Float[np.ndarray, " T"]
    reached: float

    _axes = (("T", "time"), ("n", "parameter"))
    _coordinates = (("time", "times"),)

    def __repr__(self) -> str:
        return (
            f"Trajectory({len(self.times)} points to t = {self.times[-1]:.6g}, energy "
            f"{self.energies[0]:.4g} to {self.energies[-1]:.4g}, reached {self.reached:.6g})"
        )


@lru_cache(maxsize=64)
def _compiled(energy: Callable[..., Array]) -> tuple[Callable[..., Array], ...]:
    """The energy, its gradient and its Hessian; once for one function."""
    return jax.jit(energy), jax.jit(jax.grad(energy)), jax.jit(jax.hessian(energy))


def gradient_flow(
    energy: Callable[..., Array],
    start: Float[np.ndarray, " n"],
    duration: float,
    *,
    until: float | None = None,
    args: tuple[Any, ...] = (),
) -> Trajectory:
    """Follow the negative gradient of an energy.

    Parameters
    ----------
    energy
        ``energy(state, *args)``: from n float64 numbers to a scalar, twice differentiable;
        compiled once for one function and one shape of what it is given.
    start
        (n,).
    duration
        Time to integrate at most.
    until
        Energy to stop at.
    args
        Arrays that the energy depends on besides; in float64.

    Returns
    -------
    Trajectory; relative errors of a step 10⁻⁹.

    Raises
    ------
    InputError
        If the duration is not positive, the start is not finite, or the integrator gives up.

    Examples
    --------
    >>> path = gradient_flow(lambda x: x @ x / 2, np.array([1.0]), 50.0, until=0.5e-4)
    >>> round(path.reached, 4)  # x = exp(−t): log 100
    4.6052
    """
    start = np.asarray(start, np.float64)
    if not duration > 0:
        raise InputError(f"duration must be positive; got {duration!r}")
    if not np.isfinite(start).all():
        raise InputError("the start of a gradient flow must be finite")
    with jax.enable_x64(True):
        functions, constants = _compiled(energy), [jnp.asarray(arg, float) for arg in args]
        value, slope, curvature = (
            lambda state, of=of: np.asarray(of(state, *constants)) for of in functions
        )

        def level(_: float, state: np.ndarray) -> float:
            return float(value(state)) - (-np.inf if until is None else until)

        level.terminal = True  # type: ignore[attr-defined]  # SciPy's way to end at an event
        path = solve_ivp(
            lambda _, state: -slope(state),
            (0.0, duration),
            start,
            method="LSODA",
            jac=lambda _, state: -curvature(state),
            events=None if until is None else level,
            rtol=_RELATIVE,
            atol=_ABSOLUTE,
        )
        if path.status < 0:
            raise InputError(f"the gradient flow cannot be integrated: {path.message}")
        states = path.y.T
        energies = np.array([value(state) for state in states])
    ended = path.status == 1
    already = until is not None and energies[0] <= until
    reached = 0.0 if already else float(path.t_events[0][0]) if ended else np.nan
    return Trajectory(path.t, states, energies, reached)
