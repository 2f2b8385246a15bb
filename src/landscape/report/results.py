"""How single results look in a notebook: what they say, a short table, a small figure."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable
from functools import partial, singledispatch
from typing import Any

import numpy as np

from landscape import plots
from landscape.degeneracy import (
    Budget,
    Check,
    DirectionFamily,
    Elimination,
    LinearDependence,
    Measures,
    Overlap,
    Rank,
)
from landscape.errors import InputError
from landscape.plots.style import new_axes
from landscape.spectra import (
    EigenPairs,
    Estimate,
    Fraction,
    LanczosSpectrum,
    MixtureFit,
    Moments,
    ResolvedFraction,
    SpectralMeasure,
    Spectrum,
)
from landscape.theory import Coordinates, Trajectory
from landscape.training import TrainingRun

# Of a budget, one for each layer.
_FINDINGS = 6

Rows = list[tuple[str, str]]
Draw = Callable[..., Any]

# What a picture of one share shows.
_KEY = ("in the picture", "light bar: bounds; whiskers: confidence interval")

_TABLE = "border-collapse: collapse; font-size: 90%; font-variant-numeric: tabular-nums"
_CELL = "text-align: left; padding: .1rem 1rem .1rem 0; vertical-align: top"


def fragment(result: Any) -> str:
    """HTML of a result, to stand in a notebook.

    Parameters
    ----------
    result
        Any public result.

    Returns
    -------
    One ``div``; the picture is inside.
    """
    title, rows, draw = view(result)
    cells = "".join(
        f'<tr><td style="{_CELL}">{html.escape(name)}</td>'
        f'<td style="{_CELL}">{html.escape(value)}</td></tr>'
        for name, value in rows
    )
    picture = "" if draw is None else _picture(draw, title)
    return (
        f"<div><p><b>{html.escape(title)}</b></p>"
        '<div style="display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start">'
        f'<table style="{_TABLE}"><tbody>{cells}</tbody></table>{picture}</div></div>'
    )


def drawn(result: Any, ax: Any | None = None, **options: Any) -> Any:
    """The figure of a result on axes of one's own.

    Parameters
    ----------
    result
        Any public result.
    ax
        Matplotlib axes; new ones by default.
    **options
        Of what draws it.

    Returns
    -------
    The axes.

    Raises
    ------
    InputError
        If there is nothing to draw.
    """
    _, _, draw = view(result)
    if draw is None:
        raise InputError(f"there is nothing to draw of {result!r}")
    return draw(ax=new_axes(ax), **options)


def _picture(draw: Draw, title: str) -> str:
    # Not one of pyplot's figures: nothing is left behind in the notebook's state.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, 2.9), layout="constrained")
    draw(ax=figure.add_subplot())
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    data = base64.b64encode(stream.getvalue()).decode()
    return f'<img alt="{html.escape(title, quote=True)}" src="data:image/png;base64,{data}">'


@singledispatch
def view(result: Any) -> tuple[str, Rows, Draw | None]:
    """A title, rows of a table, and what draws the figure."""
    return type(result).__name__, [("", repr(result))], None


@view.register
def _(result: SpectralMeasure) -> tuple[str, Rows, Draw]:
    rows = [*_spectrum_rows(result), ("how", "every eigenvalue"), _band(result)]
    return "All eigenvalues", rows, partial(plots.plot_spectrum, result, eps=_eps(result))


@view.register
def _(result: LanczosSpectrum) -> tuple[str, Rows, Draw]:
    made = (
        f"{_count(result.alphas.shape[-1], 'Lanczos step')}, {_count(result.num_probes, 'probe')}"
    )
    rows = [
        *_spectrum_rows(result),
        ("how", f"{made}, reorthogonalisation {result.reorthogonalize!r}, {result.dtype}"),
    ]
    if result.num_deflated:
        rows.append(("deflated", f"{_count(result.num_deflated, 'eigenvalue')} known one by one"))
    rows.append(_band(result))
    draw = partial(plots.plot_spectrum, result, eps=_eps(result))
    return "Spectral measure by Lanczos", rows, draw


def _spectrum_rows(spectrum: Spectrum) -> Rows:
    batch = spectrum.nodes.shape[:-1]
    rows = [("operators", " × ".join(map(str, batch)))] if batch else []
    return [
        *rows,
        ("parameters P", f"{spectrum.num_parameters:,}"),
        ("nodes between", f"{spectrum.nodes.min():.4g} and {spectrum.nodes.max():.4g}"),
        ("noise floor", f"{float(np.max(spectrum.noise_floor)):.1e}"),
        ("products", f"{spectrum.num_matvecs:,}"),
    ]


def _eps(spectrum: Spectrum) -> float:
    # The degenerate band of the paper, or where rounding begins.
    return max(1e-3, float(np.max(spectrum.noise_floor)))


def _band(spectrum: Spectrum) -> tuple[str, str]:
    return "grey band, and ε of the axis", f"{_eps(spectrum):.2g}"


@view.register
def _(result: Fraction) -> tuple[str, Rows, Draw]:
    title = "Share of the eigenvalues"
    if np.ndim(result.estimate):
        middle = f"{np.mean(result.estimate):.4f}"
        rows = [
            ("shares", f"{np.size(result.estimate):,}, mean {middle}"),
            ("width of the bounds", f"at most {max(np.max(result.width), 0):.4f}"),
            *_hint(result),
        ]
        return title, rows, partial(plots.plot_shares, result)
    return title, [*_fraction_rows(result), _KEY], partial(plots.plot_intervals, result)


def _fraction_rows(share: Fraction) -> Rows:
    low, high = (float(end) for end in share.confidence_interval())
    kind = "counted" if not share.num_probes else "certified" if share.certified else "empirical"
    rounding = f" ± {share.rounding:.0e}" if share.rounding else ""
    return [
        ("interval", "[{:.4g}, {:.4g}]".format(*(float(end) for end in share.interval))),
        ("estimate", f"{float(share.estimate):.4f}"),
        (f"{kind} bounds", f"[{float(share.lower):.4f}, {float(share.upper):.4f}]{rounding}"),
        ("95 % confidence", f"[{low:.4f}, {high:.4f}]"),
        ("noise floor", f"{float(share.noise_floor):.1e}"),
        ("of", f"{share.num_parameters:,} eigenvalues, {_count(share.num_probes, 'probe')}"),
        *_hint(share),
    ]


def _hint(share: Fraction) -> Rows:
    return [("", share.hint)] if share.hint else []


@view.register
def _(result: ResolvedFraction) -> tuple[str, Rows, Draw | None]:
    status = ", ".join(sorted(set(result.status.ravel().tolist())))
    steps = result.spectrum.alphas.shape[-1]
    title, rows, draw = view(result.fraction)
    rows = [("status", f"{status} after {_count(steps, 'step')}"), *rows]
    if np.ndim(result.fraction.estimate) or not result.fraction.interval[1] > 0:
        return title, rows, draw
    eps = float(result.fraction.interval[1])
    rows.remove(_KEY)
    return title, rows, partial(plots.plot_fraction_of_eps, result.spectrum, eps=eps)


@view.register
def _(result: Moments) -> tuple[str, Rows, Draw]:
    rows = [
        (f"mean of λ{_superscript(order)}", f"{value:.4g} ± {error:.1g}")
        for order, (value, error) in enumerate(
            zip(result.moments, result.stderr, strict=True), start=1
        )
    ]
    rows.append(("of", f"P = {result.num_parameters:,}, {_count(result.num_probes, 'probe')}"))
    return "Moments of a spectrum", rows, partial(plots.plot_moments, result)


def _superscript(order: int) -> str:
    return "" if order == 1 else "".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(digit)] for digit in str(order))


@view.register
def _(result: MixtureFit) -> tuple[str, Rows, Draw]:
    rows = [
        ("status", result.status),
        ("weight of the narrow component", f"{result.weight:.4f} ± {result.weight_stderr:.1g}"),
        ("skew-normal ξ, ω, α", f"{result.location:.3g}, {result.scale:.3g}, {result.shape:.3g}"),
        ("largest residual", f"{np.abs(result.residual).max():.1e}"),
    ]
    if result.status == "ambiguous":
        rows.append(("weights that fit", ", ".join(f"{w:.4f}" for w in result.solutions)))
    if result.status not in ("fits", "ambiguous", "narrow_only", "single_eigenvalue"):
        rows.append(("", "no mixture meets the moments: the weight is no estimate of anything"))
    return "Mixture from moments", rows, partial(plots.plot_mixture, result)


@view.register
def _(result: EigenPairs) -> tuple[str, Rows, Draw]:
    pairs = list(zip(result.ranks, result.values, result.residual_norms, strict=True))
    rows = [(f"eigenvalue {n}".replace("-", "−"), f"{v:.6g} ± {r:.1e}") for n, v, r in pairs]
    if len(rows) > 8:
        # Both ends of the list.
        rows = [*rows[:5], ("…", f"{len(rows) - 8} more"), *rows[-3:]]
    rows.append(("status", f"{result.status} after {result.num_matvecs:,} products"))
    return "Eigenvalues at the ends", rows, partial(plots.plot_eigenpairs, result)


@view.register
def _(result: Estimate) -> tuple[str, Rows, Draw]:
    how = f"{result.method}, {_count(result.num_matvecs, 'product')}"
    if result.value.ndim:
        rows = [
            ("entries", f"{result.value.size:,}, mean {result.value.mean():.6g}"),
            ("standard error of each", f"{np.sqrt(np.mean(result.stderr**2)):.1e}"),
            ("how", how),
        ]
        return "Estimate", rows, partial(plots.plot_values, result)
    low, high = (float(end) for end in result.confidence_interval())
    rows = [
        ("value", f"{float(result.value):.6g} ± {float(result.stderr):.1e}"),
        ("95 % confidence", f"[{low:.6g}, {high:.6g}]"),
        ("how", how),
    ]
    return "Estimate", rows, partial(plots.plot_intervals, result)


@view.register
def _(result: Rank) -> tuple[str, Rows, Draw]:
    middle, low, high = (np.ravel(x) for x in (result.rank, result.lower, result.upper))
    title = f"Rank of a {result.shape[0]:,} × {result.shape[1]:,} matrix"
    many = len(middle) > 1
    told = f"{middle.min():,} to {middle.max():,} of {len(middle)}" if many else f"{middle[0]:,}"
    rows = [("rank", told)]
    if result.method == "lanczos":
        rows.append(("interval", f"[{low.min():,}, {high.max():,}]"))
    elif not many:
        above, below = float(np.ravel(result.above)[0]), float(np.ravel(result.below)[0])
        rows.append(("nullity", f"{int(np.ravel(result.nullity)[0]):,}"))
        rows.append(("σ/σ₁ at the cut", f"{above:.1e} | {below:.1e}"))
    status = ", ".join(sorted(set(np.ravel(result.status).tolist())))
    rows.append(("how", f"{result.method}, τ = {result.rtol:.1e}: {status}"))
    return title, rows, partial(plots.plot_rank, result)


@view.register
def _(result: Budget) -> tuple[str, Rows, Draw | None]:
    rows = [(cause, f"{count:,} ({share:.2%})") for cause, count, share in result.rows()]
    more = len(result.findings) - _FINDINGS
    rows += [("", told) for told in (*result.notes, *result.findings[:_FINDINGS])]
    rows += [("", f"… of {more} more layers in .findings")] if more > 0 else []
    draw = (partial(plots.plot_budgets, result)) if result.total else None
    return result.summary(), rows, draw


@view.register
def _(result: Measures) -> tuple[str, Rows, Draw]:
    rows = [
        row
        for part in (result.elimination, result.overlap, result.dependence)
        for row in view(part)[1]
    ]
    title = "How near the singularities"
    return title, rows, partial(plots.plot_measures, result)


@view.register
def _(result: Elimination) -> tuple[str, Rows, Draw]:
    silent = sum(int(np.sum(layer)) for layer in result.never_active)
    rows = [
        ("mean norm of incoming weights", f"{np.mean(result.mean_incoming_norm):.4g}"),
        ("probability of a zero response", f"{np.mean(result.mean_zero_probability):.4f}"),
        ("units that are never active", f"{silent:,}"),
    ]
    return "Elimination", rows, partial(plots.plot_measures, result)


@view.register
def _(result: Overlap) -> tuple[str, Rows, Draw]:
    rows = [("mean correlation of weights", f"{np.mean(result.mean_correlation):+.4f}")]
    if not np.ndim(result.mean_correlation):
        rows += [
            (f"layer {layer} (from 0), units {i} and {j}", f"cosine {cosine:.4f}")
            for layer, i, j, cosine in result.closest(3)
        ]
    return "Overlap", rows, partial(plots.plot_measures, result)


@view.register
def _(result: LinearDependence) -> tuple[str, Rows, Draw]:
    rows = [
        ("variance in the largest eigenvalues", f"{np.mean(result.mean_top_share):.4f}"),
        ("effective rank, mean over layers", f"{np.mean(result.effective_rank):.1f}"),
    ]
    return "Linear dependence", rows, partial(plots.plot_measures, result)


@view.register
def _(result: Check) -> tuple[str, Rows, Draw]:
    rows = [
        ("largest ‖Gd‖", f"{result.gauss_newton_norms.max(initial=0):.1e}"),
        ("largest ‖Hd‖", f"{result.hessian_norms.max(initial=0):.1e}"),
        ("‖∇L‖", f"{result.gradient_norm:.1e}"),
        ("a random direction's ‖Gd‖", f"{result.scale:.1e}"),
    ]
    title = f"{result.cause}: {_count(len(result.hessian_norms), 'direction')}"
    return title, rows, partial(plots.plot_checks, result)


@view.register
def _(result: DirectionFamily) -> tuple[str, Rows, Draw]:
    rows = [("directions", f"{len(result):,} of R^{result.vectors.shape[1]:,}")]
    rows += [("", label) for label in result.labels[:6]]
    if len(result) > 6:
        rows.append(("", f"… {len(result) - 6:,} more"))
    title = f"Null directions: {result.cause}"
    return title, rows, partial(plots.plot_directions, result)


@view.register
def _(result: TrainingRun) -> tuple[str, Rows, Draw]:
    networks = result.loss.shape[0] if result.loss.ndim == 2 else 1
    rows = [
        ("networks", f"{networks:,}"),
        ("epochs", f"{len(result.epochs) - 1:,}"),
        ("final loss", f"{np.mean(result.loss[..., -1]):.4g}"),
        ("final accuracy", f"{np.mean(result.accuracy[..., -1]):.4f}"),
    ]
    rows += [("recorded", ", ".join(result.records))] if result.records else []
    return "Training", rows, partial(plots.plot_training, result)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


@view.register
def _(result: Trajectory) -> tuple[str, Rows, Draw]:
    reached = f"{result.reached:.6g}" if np.isfinite(result.reached) else "not asked for, or not"
    rows = [
        ("points", f"{len(result.times):,}"),
        ("until t", f"{result.times[-1]:.6g}"),
        ("energy", f"{result.energies[0]:.4g} to {result.energies[-1]:.4g}"),
        ("level reached at t", reached),
    ]

    def draw(*, ax: Any, **options: Any) -> Any:
        ax.plot(result.times, result.energies, **options)
        if result.energies.min() > 0:
            ax.set_yscale("log")
        ax.set(xlabel="t", ylabel="energy")
        return ax

    return "Gradient flow", rows, draw


@view.register
def _(result: Coordinates) -> tuple[str, Rows, Draw]:
    rows = [
        (name, f"{values[0]:.4g} to {values[-1]:.4g}")
        for name, values in (("v", result.v), ("z", result.z), ("h", result.h))
    ]

    def draw(*, ax: Any, **options: Any) -> Any:
        (line,) = ax.plot(result.z, result.h, **options)
        ax.plot(result.z[:1], result.h[:1], "o", color=line.get_color())
        ax.set(xlabel="z", ylabel="h")
        return ax

    return "Two units, as seen from their singularities", rows, draw
