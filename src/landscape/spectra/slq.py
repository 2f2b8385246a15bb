"""Stochastic Lanczos quadrature: a spectral measure from a few hundred products.

Gaussian probes ``v``, Lanczos from ``v/‖v‖``, Gauss quadrature of the probe's measure; probes are
pooled with weights ``‖v‖²``. Source: Z. Bai, M. Fahey and G. Golub, *Some large-scale matrix
computation problems*, J. Comput. Appl. Math. 74, 1996; S. Ubaru, J. Chen and Y. Saad, *Fast
estimation of tr(f(A)) via stochastic Lanczos quadrature*, SIAM J. Matrix Anal. Appl. 38, 2017.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from landscape.curvature.operators import LinearOperator
from landscape.errors import InputError
from landscape.spectra.lanczos import Tridiagonal, tridiagonalize
from landscape.spectra.measures import LanczosSpectrum

SCHEMES = ("auto", "full", "none")


def slq(
    op: LinearOperator,
    key: Array,
    *,
    num_steps: int,
    num_probes: int = 1,
    reorthogonalize: str = "auto",
    noise_floor: float | None = None,
) -> LanczosSpectrum:
    """Estimate the spectral measure of an operator.

    Parameters
    ----------
    op
        Symmetric operator, (P, P).
    key
        JAX random key for the probes; probe ``i`` depends on the key and ``i`` alone.
    num_steps
        m, Lanczos steps per probe; no more than P are made. More steps resolve finer structure.
    num_probes
        k. At large P one probe and many steps is the right budget: one probe's standard deviation
        of a mass is at most √(1/(2P)).
    reorthogonalize
        ``"full"`` keeps the basis, k·m vectors of length P, and gives what exact arithmetic would.
        ``"none"`` keeps three vectors; the measure stays right but converged outliers return as
        ghosts and waste steps, and bounds become empirical. ``"auto"`` is ``"full"``.
    noise_floor
        Of the operator, from ``landscape.curvature.noise_floor``; recorded, and fractions below it
        are refused. None takes its lower estimate, ``u‖A‖``.

    Returns
    -------
    LanczosSpectrum

    Raises
    ------
    InputError
        For num_steps or num_probes below 1, an unknown scheme, or an operator that returns NaN.

    Examples
    --------
    >>> from landscape.curvature import DiagonalOperator
    >>> op = DiagonalOperator(jnp.array([0.0, 0.0, 0.0, 1.0]))
    >>> spectrum = slq(op, jax.random.key(0), num_steps=4)
    >>> spectrum.num_steps.tolist()  # two different eigenvalues: exhausted after two steps
    [2]
    """
    for name, value in (("num_steps", num_steps), ("num_probes", num_probes)):
        if value < 1:
            raise InputError(f"{name} must be at least 1; got {value}")
    if reorthogonalize not in SCHEMES:
        raise InputError(
            f"reorthogonalize must be one of {', '.join(SCHEMES)}; got {reorthogonalize!r}"
        )
    scheme = "full" if reorthogonalize == "auto" else reorthogonalize
    size = op.shape[0]
    num_steps = min(num_steps, size)
    tridiagonal, norms = _run(op, key, num_steps, num_probes, scheme)
    alphas, betas = np.asarray(tridiagonal.alphas, float), np.asarray(tridiagonal.betas, float)
    if not (np.isfinite(alphas).all() and np.isfinite(betas).all()):
        raise InputError(
            "a product with the operator is NaN or infinite: the loss has no finite second "
            "derivative at these parameters"
        )
    # Gershgorin bounds ‖T‖, and T's norm is what rounding is relative to.
    norm = (np.abs(alphas) + betas + np.pad(betas[..., :-1], ((0, 0), (1, 0)))).max()
    return LanczosSpectrum(
        alphas=alphas,
        betas=betas,
        num_steps=np.asarray(tridiagonal.num_steps),
        probe_norms=np.asarray(norms, float),
        num_parameters=size,
        noise_floor=np.asarray(
            norm * float(jnp.finfo(op.dtype).eps) / 2 if noise_floor is None else noise_floor, float
        ),
        reorthogonalize=scheme,
        num_matvecs=num_steps * num_probes,
    )


@partial(jax.jit, static_argnums=(2, 3, 4))
def _run(
    op: LinearOperator, key: Array, num_steps: int, num_probes: int, scheme: str
) -> tuple[Tridiagonal, Array]:
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(num_probes))
    probes = jax.vmap(lambda k: jax.random.normal(k, op.shape[:1], op.dtype))(keys)
    return tridiagonalize(op, probes, num_steps, scheme), jnp.sum(probes**2, -1)
