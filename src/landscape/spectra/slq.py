"""Stochastic Lanczos quadrature: a spectral measure from a few hundred products.

Gaussian probes ``v``, Lanczos from ``v/‖v‖``, Gauss quadrature of the probe's measure; probes are
pooled with weights ``‖v‖²``. Source: Z. Bai, M. Fahey and G. Golub, *Some large-scale matrix
computation problems*, J. Comput. Appl. Math. 74, 1996; S. Ubaru, J. Chen and Y. Saad, *Fast
estimation of tr(f(A)) via stochastic Lanczos quadrature*, SIAM J. Matrix Anal. Appl. 38, 2017.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.linalg import eigvalsh_tridiagonal

from landscape.curvature.inner_types import (
    coarser_inside,
    coarser_products,
    expect_known_rounding,
)
from landscape.curvature.memory import device_memory
from landscape.curvature.noise import FLOORS, checked_floor, floor_behind
from landscape.curvature.operators import LinearOperator, expect_switched_on
from landscape.curvature.preconditions import (
    ASYMMETRY,
    expect_integer,
    expect_kept,
    expect_key,
    expect_positive,
    expect_pytree,
    expect_range,
    expect_real,
    expect_square,
    is_used_up,
    not_finite,
    not_symmetric,
)
from landscape.curvature.sharding import Layout, layout, on_host
from landscape.errors import InputError
from landscape.spectra import lanczos
from landscape.spectra.deflation import DeflatedOperator
from landscape.spectra.extremal import EigenPairs, extremal_eigenpairs
from landscape.spectra.lanczos import LanczosState
from landscape.spectra.measures import LanczosSpectrum
from landscape.spectra.schemes import basis_bytes, fitting_scheme
from landscape.spectra.tiles import block_of, tile_shape

# Rounding of the steps themselves, as a perturbation of the operator, relative to ‖A‖. In float32
# ten units of rounding: vectors have their length and inner products up to some of them each, and a
# node that stands for much of the mass, as of the identity, was off by up to 7.4 (P of 100 to
# 1,000,000; it does not grow). In float64 there is room for more.
LANCZOS_ROUNDING = {"float32": 10 * 2.0**-24, "float64": 1e-12}

# Rows that overlap by ω move T by ω²‖A‖ while ω is small. From 0.1 on nothing is known of T.
_LOST = 0.01


class LostOrthogonalityError(InputError):
    """Partial reorthogonalisation failed: its estimates did not see the losses coming."""


def slq(
    op: LinearOperator,
    key: Array,
    *,
    num_steps: int,
    num_probes: int = 1,
    reorthogonalize: str = "auto",
    noise_floor: float | np.ndarray | None = None,
    deflate: int = 0,
    capacity: int | None = None,
    memory: int | None = None,
) -> LanczosSpectrum:
    """Estimate the spectral measure of an operator.

    Parameters
    ----------
    op
        Symmetric operator, (P, P), or a family of S of them.
    key
        JAX random key for the probes; probe ``i`` depends on the key and ``i`` alone, and is the
        same for all networks of a family.
    num_steps
        m, Lanczos steps per probe; no more than P are made, except without reorthogonalisation.
        More steps resolve finer structure.
    num_probes
        k. At large P one probe and many steps is the right budget: one probe's standard deviation
        of a mass is at most √(1/(2P)).
    reorthogonalize
        ``"full"`` keeps the basis, k·m vectors of length P, orthogonal to rounding. ``"partial"``
        keeps it orthogonal to the square root of rounding, which gives the same spectrum for a
        fifth to a third of the memory traffic (``benchmarks/schemes.py``). ``"none"`` keeps three
        vectors a probe for any m; the measure stays right but converged outliers return as ghosts
        and waste steps, and bounds become empirical.
        ``"auto"`` is ``"partial"`` if the basis fits in ``memory``, else ``"none"``; and ``"full"``
        where partial reorthogonalisation turns out to fail, as beside rounding of products that
        their norm does not explain.
    noise_floor
        Of the operator, from ``landscape.curvature.noise_floor``, one number or one per network;
        recorded if it is larger than what Lanczos itself rounds (``LANCZOS_ROUNDING``, relative to
        ``‖A‖``), and fractions below it are refused. Without it the operator's own rounding is
        taken to be no larger, and an operator that computes in a coarser type inside, such as
        bfloat16, is refused. Asymmetry that the steps see is part of the floor; from 10⁻⁴‖A‖ in
        float32, and 2·10⁻¹¹‖A‖ in float64, it would move bounds by more than their rounding, and is
        refused, unless it is rounding itself: the Hessian of a loss that is nearly 0 is small
        beside what it is computed of. The floor is ten times what ``noise_floor`` measures then.
    deflate
        q, eigenvalues of largest magnitude to find first (``extremal_eigenpairs``) and take out:
        what is left has a smaller norm, and is resolved in fewer steps. Memory is q vectors; the
        products it took are counted, and the residuals it left are part of the noise floor.
    capacity
        Steps to reserve room for; calls with one capacity share a compiled program whatever their
        ``num_steps``. Default ``num_steps``.
    memory
        Bytes that the vectors of Lanczos may take. Default: half of the host's memory, or of the
        accelerator's.

    Returns
    -------
    LanczosSpectrum, with a leading axis S for a family.

    Raises
    ------
    InputError
        For num_steps or num_probes below 1, an unknown scheme, a family to deflate, or an operator
        that returns NaN or is not symmetric.
    ResourceError
        If the vectors that the scheme keeps do not fit in ``memory``.

    Examples
    --------
    >>> from landscape.curvature import DiagonalOperator
    >>> op = DiagonalOperator(jnp.array([0.0, 0.0, 0.0, 1.0]))
    >>> spectrum = slq(op, jax.random.key(0), num_steps=4)
    >>> spectrum.num_steps.tolist()  # two different eigenvalues: exhausted after two steps
    [2]
    """
    expect_positive(num_steps=num_steps, capacity=1 if capacity is None else capacity)
    run = lanczos_run(
        op,
        key,
        num_probes=num_probes,
        reorthogonalize=reorthogonalize,
        deflate=deflate,
        capacity=max(num_steps, capacity or num_steps),
        memory=memory,
    )
    expect_known_rounding(run.coarser, op, noise_floor)
    try:
        return run.advance(num_steps).spectrum(noise_floor)
    except LostOrthogonalityError:
        if reorthogonalize != "auto":
            raise
    return slq(
        op, key, num_steps=num_steps, num_probes=num_probes, reorthogonalize="full",
        noise_floor=noise_floor, deflate=deflate, capacity=capacity, memory=memory,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LanczosRun:
    """Lanczos in progress: can be advanced, looked at, and advanced again.

    Attributes
    ----------
    op
        The operator, or family; what is left of it after deflation.
    state
        On the device: everything the next steps need. A pytree of arrays: store it, and make the
        run anew with ``dataclasses.replace(run, state=stored)``.
    probe_norms
        (*batch, k) squared lengths of the probes.
    reorthogonalize
        The scheme, resolved.
    memory
        Bytes that the vectors may take.
    deflated
        The eigenpairs that were taken out, or None.
    coarser
        Name of a coarser type that the products compute in, if there is one.
    """

    op: LinearOperator
    state: LanczosState
    probe_norms: np.ndarray
    reorthogonalize: str
    memory: int
    deflated: EigenPairs | None = None
    coarser: str = ""

    def __repr__(self) -> str:
        if is_used_up(self.state.current):
            return f"LanczosRun({self.op!r}: used up)"
        steps = f"{self.num_steps} of {self.state.capacity} steps"
        probes = f"{self.probe_norms.shape[-1]} probe{'s'[: self.probe_norms.shape[-1] != 1]}"
        return (
            f"LanczosRun({self.op!r}: {steps}, {probes}, reorthogonalize={self.reorthogonalize!r})"
        )

    @property
    def num_steps(self) -> int:
        """Steps made so far; fewer than asked for if every lane has broken down."""
        expect_kept(self.state.current)
        return int(self.state.step)

    @property
    def _dimensions(self) -> int:
        """Of the space that the probes live in."""
        taken = 0 if self.deflated is None else len(self.deflated.values)
        return self.op.shape[0] - taken

    def advance(self, num_steps: int) -> LanczosRun:
        """Go on until ``num_steps`` steps have been made in all; at most P if reorthogonalised.

        The run it is called on is used up: its arrays are reused. Room for more steps than
        reserved is made by doubling, so that few programs are compiled.

        Returns
        -------
        The run after these steps; the same bits whether they were made at once or in parts.

        Raises
        ------
        InputError
            If num_steps is below 1, this run was advanced before, or its operator is of float64
            and float64 is switched off.
        ResourceError
            If they do not fit in the run's memory.
        """
        expect_positive(num_steps=num_steps)
        expect_switched_on(self.op.dtype)
        # Without reorthogonalisation ghosts use steps up: more than P can be needed.
        limit = num_steps if self.reorthogonalize == "none" else self._dimensions
        num_steps = min(num_steps, limit)
        state = self.state
        expect_kept(state.current)
        if num_steps > state.capacity:
            room = min(max(num_steps, 2 * state.capacity), limit)
            one = self.probe_norms.size * self.op.shape[0] * self.op.dtype.itemsize
            one, devices = _of_a_device(one, state.layout)
            if self.reorthogonalize != "none" and basis_bytes(one, room, devices) > self.memory:
                room = num_steps
            fitting_scheme(self.reorthogonalize, one, room, self.memory, devices)
            state = lanczos.enlarge(state, room)
        walk = lanczos.advance_compiled if self.op.traceable else lanczos.advance_from_host
        return dataclasses.replace(self, state=walk(self.op, state, num_steps))

    def ritz_values(self) -> np.ndarray:
        """Eigenvalues of T, steps after a breakdown included.

        Returns
        -------
        (*batch, k, m) in ascending order; NaN for steps that were not made.

        Raises
        ------
        InputError
            Before the first step.
        """
        made = self.num_steps
        if not made:
            raise InputError("no Lanczos step has been made yet: advance the run first")
        alphas, betas = (
            on_host(x).astype(float)[:, :made] for x in (self.state.alphas, self.state.betas)
        )
        steps = on_host(self.state.num_steps)
        values = np.full(alphas.shape, np.nan)
        for lane, count in enumerate(np.full_like(steps, made) if self.state.continues else steps):
            values[lane, :count] = eigvalsh_tridiagonal(
                alphas[lane, :count], betas[lane, : count - 1]
            )
        return values.reshape(*self.probe_norms.shape, made)

    def spectrum(self, noise_floor: float | np.ndarray | None = None) -> LanczosSpectrum:
        """What is known after the steps made; ``noise_floor`` as for ``slq``.

        Raises
        ------
        InputError
            Before the first step, if a product was NaN or infinite, if the operator proved not to
            be symmetric, and if partial reorthogonalisation failed.
        """
        made = self.num_steps
        if not made:
            raise InputError("no Lanczos step has been made yet: advance the run first")
        expect_known_rounding(self.coarser, self.op, noise_floor)
        lanes = self.probe_norms.shape
        alphas, betas = (
            on_host(x).astype(float)[:, :made].reshape(*lanes, made)
            for x in (self.state.alphas, self.state.betas)
        )
        scales, asymmetry = (
            on_host(x).astype(float).reshape(lanes)
            for x in (self.state.scale, self.state.asymmetry)
        )
        finite = bool(np.isfinite(alphas).all() and np.isfinite(betas).all())
        drift = lanczos.drift(self.state).reshape(lanes)
        kept = np.isfinite(scales) & (drift <= _LOST * scales)
        lost = self.reorthogonalize == "partial" and not kept.all()
        # A product that is not finite shows at once; later it is what became of lost vectors.
        if not finite and not (lost and np.isfinite(alphas[..., 0]).all()):
            raise not_finite()
        floor = np.broadcast_to(checked_floor(noise_floor, lanes[:-1]), lanes[:-1])
        if finite:
            expect_range(scales, self.op)
            floor = self._floor_beside(asymmetry, scales, floor)
        if lost:
            raise LostOrthogonalityError(
                "partial reorthogonalisation lost the orthogonality of its vectors, and with it "
                "all meaning: products round by more than the operator's norm explains, as of a "
                "loss that is nearly 0. Take reorthogonalize='full', or float64"
            )
        # Gershgorin bounds ‖T‖, and T's norm is what rounding is relative to.
        before = np.concatenate([np.zeros((*lanes, 1)), betas[..., :-1]], -1)
        norm = (np.abs(alphas) + betas + before).max((-2, -1))
        deflated, spent, left = np.zeros((*lanes[:-1], 0)), 0, 0.0
        if self.deflated is not None:
            deflated, spent = self.deflated.values, self.deflated.num_matvecs
            norm = np.maximum(norm, np.abs(deflated).max())
            # A and what is taken apart differ by the residuals: in norm no more than this.
            left = float(np.linalg.norm(self.deflated.residual_norms))
        rounding = np.maximum(LANCZOS_ROUNDING[self.op.dtype.name] * norm, drift.max(-1))
        rounding = np.maximum(rounding, asymmetry.max(-1))
        # Where a space was exhausted, what is left behind a small β is not told apart.
        ended = on_host(self.state.exhausted).reshape(lanes)
        left_out = lanczos.BREAKDOWN * float(jnp.finfo(self.op.dtype).eps) * scales
        rounding = np.maximum(rounding, np.where(ended, left_out, 0).max(-1))
        return LanczosSpectrum(
            alphas=alphas,
            betas=betas,
            num_steps=on_host(self.state.num_steps).reshape(lanes),
            probe_norms=self.probe_norms,
            num_parameters=self.op.shape[0],
            noise_floor=np.asarray(np.maximum(rounding, floor) + left),
            reorthogonalize=self.reorthogonalize,
            dtype=self.op.dtype.name,
            num_matvecs=made * self.probe_norms.size + spent,
            deflated=deflated,
        )

    def _floor_beside(
        self, asymmetry: np.ndarray, scales: np.ndarray, floor: np.ndarray
    ) -> np.ndarray:
        """The noise floor; measured, if the products are less symmetric than they should be."""
        allowed = np.maximum(ASYMMETRY[self.op.dtype.name] * scales, FLOORS * floor[..., None])
        seen = ~(asymmetry <= allowed)
        if not seen.any():
            return floor
        whole = self.op.op if isinstance(self.op, DeflatedOperator) else self.op
        measured = np.maximum(floor, floor_behind(whole, asymmetry))
        if not np.isnan(measured[seen.any(-1)]).any():
            return np.where(seen.any(-1), measured, floor)
        relative = np.divide(asymmetry, scales, out=np.zeros_like(scales), where=seen)
        worst = np.unravel_index(np.argmax(relative), seen.shape)
        raise not_symmetric(
            self.op,
            "two vectors' products with each other's images differ by "
            f"{asymmetry[worst]:.2e} at norm {scales[worst]:.2e}"
            + (f" (member {worst[0]} of the family)" if len(worst) > 1 else ""),
        )


def lanczos_run(
    op: LinearOperator,
    key: Array,
    *,
    num_probes: int = 1,
    reorthogonalize: str = "auto",
    deflate: int = 0,
    capacity: int = 100,
    reserve: int | None = None,
    memory: int | None = None,
    continue_after_breakdown: bool = False,
) -> LanczosRun:
    """Lanczos that can be stopped, looked at and continued; no step is made yet.

    Parameters
    ----------
    op, key, num_probes, reorthogonalize, deflate, memory
        As for ``slq``; but a run keeps its scheme, and ``spectrum`` refuses what has failed.
    capacity
        Steps to choose the scheme for, and to reserve room for.
    reserve
        Reserve room for so many steps only; ``LanczosRun.advance`` makes more.
    continue_after_breakdown
        Go on from a fresh vector orthogonal to all before when a Krylov space is exhausted, until P
        steps have been made: eigenvalues come as often as they are multiple
        (``LanczosRun.ritz_values``). The spectral measure is that of the probe alone, as ever.
        Needs ``reorthogonalize="full"``.

    Returns
    -------
    LanczosRun

    Raises
    ------
    InputError, ResourceError
        As ``slq``.

    Examples
    --------
    >>> from landscape.curvature import DiagonalOperator
    >>> run = lanczos_run(DiagonalOperator(jnp.arange(50.0)), jax.random.key(0))
    >>> run = run.advance(10)
    >>> run = run.advance(20)
    >>> run.spectrum().num_steps.tolist()
    [20]
    """
    expect_positive(
        num_probes=num_probes, capacity=capacity, reserve=1 if reserve is None else reserve
    )
    expect_integer(deflate=deflate)
    expect_real(memory=1 if memory is None else memory)
    if memory is not None and not memory > 0:
        raise InputError(f"memory must be a positive number of bytes; got {memory!r}")
    expect_square(op)
    expect_pytree(op)
    expect_key(key)
    size = op.shape[0]
    batch = (*op.batch_shape, num_probes)
    one = int(np.prod(batch)) * size * op.dtype.itemsize
    memory = device_memory() // 2 if memory is None else memory
    shared = layout(op, num_probes, tile_shape(size)[1])
    one, devices = _of_a_device(one, shared)
    scheme = fitting_scheme(reorthogonalize, one, min(capacity, size - deflate), memory, devices)
    if scheme != "none":
        capacity = min(capacity, size - deflate)
    if continue_after_breakdown and scheme != "full":
        raise InputError("continue_after_breakdown needs reorthogonalize='full'")
    probes = gaussian_probes(key, num_probes, size, op.dtype)
    pairs = _outliers(op, key, deflate) if deflate else None
    if pairs is not None:
        op = DeflatedOperator(op, block_of(pairs.vectors.T[None]))
        # Twice: the vectors are orthonormal up to rounding only.
        probes = op.project(op.project(probes))
    reserve = min(capacity, reserve or capacity)
    norms, state = _begin(probes, batch, reserve, scheme, continue_after_breakdown, shared)
    if pairs is not None:
        # Products round relative to the whole operator's norm.
        norm = jnp.asarray(np.abs(pairs.values).max(), op.dtype)
        state = dataclasses.replace(state, scale=jnp.full_like(state.scale, norm))
    lengths = np.broadcast_to(on_host(norms).astype(float), batch)
    if op.traceable:
        # The program that is run afterwards: the trace is shared with it.
        coarser = coarser_inside(lanczos.advance_compiled.trace(op, state, 1).jaxpr, op.dtype)
    else:
        coarser = coarser_products(op)
    return LanczosRun(op, state, lengths, scheme, memory, pairs, coarser)


@partial(jax.jit, static_argnums=(1, 2, 3, 4, 5))
def _begin(
    probes: Array,
    batch: tuple[int, ...],
    capacity: int,
    scheme: str,
    continues: bool,
    shared: Layout | None,
) -> tuple[Array, LanczosState]:
    """Squared lengths of the probes, and the state before the first step, in one program."""
    start = jnp.broadcast_to(probes, (*batch, probes.shape[-1])).reshape(-1, probes.shape[-1])
    return jnp.sum(probes**2, -1), lanczos.begin(start, capacity, scheme, continues, shared)


def _of_a_device(one: int, shared: Layout | None) -> tuple[int, int]:
    """Bytes of one vector for each lane that a device has, and how many share a basis vector."""
    return (one, 1) if shared is None else (one // shared.groups, shared.parts)


def _outliers(op: LinearOperator, key: Array, count: int) -> EigenPairs:
    """The pairs to deflate, as exact as rounding lets them be."""
    if not 1 <= count < op.shape[0]:
        raise InputError(f"deflate must lie between 0 and P − 1 = {op.shape[0] - 1}; got {count}")
    # A key that no probe is drawn from: theirs are folded with their numbers, which the first part
    # of a split key is too.
    apart = jax.random.fold_in(key, 2**32 - 1)
    return extremal_eigenpairs(op, apart, num_by_magnitude=count, tol=0.0, verify=False)


@partial(jax.jit, static_argnums=(1, 2, 3))
def gaussian_probes(
    key: Array, num_probes: int, size: int, dtype: np.dtype
) -> Float[Array, "num_probes size"]:
    """Standard normal vectors, one a row; row ``i`` depends on the key and ``i`` alone."""
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(num_probes))
    return jax.vmap(lambda k: jax.random.normal(k, (size,), dtype))(keys)
