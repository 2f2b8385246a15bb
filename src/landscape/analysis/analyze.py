"""Spectrum, fractions, extremal eigenvalues, trace, measures, rank and budget of one problem."""

from __future__ import annotations

import dataclasses
import io
import logging
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure

from landscape.analysis.tables import layers_json, layers_table, measures_table
from landscape.curvature import LinearOperator, Problem, StreamedOperator, noise_floor
from landscape.degeneracy import Budget, Measures, degeneracy_budget, measures
from landscape.degeneracy.describe import loss_function, opened
from landscape.errors import InputError, LandscapeError, ResourceError, StoppedError
from landscape.plots import plot_budgets, plot_fraction_of_eps, plot_spectrum
from landscape.report import DPI, Page, Picture, Table
from landscape.results import Result
from landscape.spectra import (
    EigenPairs,
    Estimate,
    Fraction,
    Spectrum,
    degenerate_fraction,
    dense_spectrum,
    extremal_eigenpairs,
    negative_fraction,
    slq,
    trace,
)

_logger = logging.getLogger("landscape")

# Parameters up to which all eigenvalues are taken: seconds.
DENSE = 2_000

# Products of a trace, and eigenvalues at the upper end and the lower.
_TRACE_MATVECS = 60
_LARGEST, _SMALLEST = 5, 2


@dataclasses.dataclass(frozen=True, eq=False)
class Analysis(Result):
    """What was found of one problem; made by ``analyze``.

    Attributes
    ----------
    name, num_parameters, num_examples
        Of the problem: its name, P, N (0 of a stream).
    loss
        Its value; NaN of a stream.
    eps
        Half-width of the degenerate band.
    noise_floor
        Of products with the Hessian.
    spectrum
        Of the Hessian: all eigenvalues, or Lanczos's.
    degenerate, negative
        Shares of the eigenvalues with |λ| ≤ ε and λ < −ε; None where ε is below the noise floor.
    pairs
        The largest and the smallest eigenvalues.
    trace
        Their sum, with its error.
    measures, budget
        Of the model, if it was given and understood.
    refused
        Why there are no causes, or no measures; empty if there are.
    seconds
        What it took.
    """

    name: str
    num_parameters: int
    num_examples: int
    loss: float
    eps: float
    noise_floor: float
    spectrum: Spectrum
    degenerate: Fraction | None
    negative: Fraction | None
    pairs: EigenPairs
    trace: Estimate
    measures: Measures | None
    budget: Budget | None
    refused: str
    seconds: float

    def __repr__(self) -> str:
        return f"Analysis({self.name!r}, P = {self.num_parameters:,}, {self._share()})"

    def _share(self) -> str:
        if self.degenerate is None:
            return f"ε = {self.eps:g} is below the noise floor of {self.noise_floor:.1e}"
        low, high = (100 * float(end) for end in self.degenerate.confidence_interval())
        return (
            f"{100 * float(self.degenerate.estimate):.1f} % of the eigenvalues within "
            f"{self.eps:g} of 0 [{low:.1f}, {high:.1f}]"
        )

    def plot(self, ax: Any | None = None, **options: Any) -> Any:
        """Draw the spectral density; ``page`` has all pictures.

        Parameters
        ----------
        ax
            Matplotlib axes; new ones by default.
        **options
            Of ``plots.plot_spectrum``.

        Returns
        -------
        The axes.
        """
        return plot_spectrum(self.spectrum, **{"eps": self.eps, "ax": ax, **options})

    def _repr_html_(self) -> str:
        return self.page().to_fragment()

    def page(self) -> Page:
        """Tables and a figure, for the terminal and the browser."""
        parts: list[Table | Picture] = [self._spectrum_table()]
        if self.measures is not None:
            names = None if self.budget is None else self.budget.layer_names
            parts.append(measures_table(self.measures, names))
        if self.budget is not None:
            parts += [self._budget_table(self.budget), layers_table(self.budget, self.measures)]
        caption = (
            "Left: spectral density of the Hessian, smoothed with a Gaussian of 0.25 in "
            "asinh(λ/ε). Right: share of the eigenvalues within ε of zero, between certified "
            "bounds; shaded below the noise floor."
        )
        if self.budget is not None:
            caption += " Below: null directions of the Gauss–Newton matrix by cause."
        parts.append(Picture("Spectrum", caption, self.picture("png")))
        return Page(
            title=f"How degenerate is {self.name}?",
            lead=[self._lead(), *([self.refused] if self.refused else [])],
            parts=parts,
            footer=[f"Everything is of this batch. It took {self.seconds:.0f} s."],
        )

    def _lead(self) -> str:
        many = f"N = {self.num_examples:,} examples" if self.num_examples else "a stream of batches"
        text = f"The Hessian of the loss over {many} at P = {self.num_parameters:,} parameters: "
        text += f"{self._share()} (95 % confidence)."
        if self.degenerate is not None and self.degenerate.hint:
            text += " The bounds are wide; more steps narrow them (num_steps)."
        if self.budget is not None:
            text += f" {self.budget.summary()}."
        return text

    def _spectrum_table(self) -> Table:
        rows = [("loss", f"{self.loss:.6g}", "", "")] if np.isfinite(self.loss) else []
        for name, share in (
            (f"share with |λ| ≤ {self.eps:g}", self.degenerate),
            (f"share with λ < −{self.eps:g}", self.negative),
        ):
            if share is None:
                rows.append((name, "—", "", "below the noise floor"))
                continue
            low, high = share.confidence_interval()
            kind = "counted" if not share.num_probes else "certified" if share.certified else ""
            rows.append(
                (name, f"{float(share.estimate):.4f}", f"[{float(low):.4f}, {float(high):.4f}]",
                 f"{kind} [{float(share.lower):.4f}, {float(share.upper):.4f}]")
            )  # fmt: skip
        pairs = zip(self.pairs.values, self.pairs.residual_norms, strict=True)
        for place, (value, error) in enumerate(pairs):
            rank = place + 1 if place < _LARGEST else place - len(self.pairs.values)
            named = f"eigenvalue {rank}".replace("-", "−")
            rows.append((named, f"{value:.6g}", f"± {error:.1e}", self.pairs.status))
        low, high = self.trace.confidence_interval()
        rows.append(
            ("trace", f"{float(self.trace.value):.6g}", f"[{float(low):.6g}, {float(high):.6g}]",
             f"{self.trace.num_matvecs} products")
        )  # fmt: skip
        rows.append(("noise floor", f"{self.noise_floor:.1e}", "", "of eigenvalues"))
        return Table(
            "Spectrum of the Hessian",
            ("quantity", "value", "95 % interval", "how"),
            rows,
            "Eigenvalues are counted from the largest (1, 2, …) and from the smallest (−1, −2, …), "
            "with the norm of the residual: one lies as near.",
        )

    def _budget_table(self, budget: Budget) -> Table:
        rows = [(cause, f"{count:,}", f"{share:.2%}") for cause, count, share in budget.rows()]
        rank, size = budget.rank, budget.num_parameters
        low, high = int(rank.lower), int(rank.upper)
        known = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        rows.append((f"not null: rank of the centered Jacobian ({rank.status})", known, ""))
        if low == high:
            rows[-1] = (*rows[-1][:2], f"{low / size:.2%}")
        told = [f"{note[0].upper()}{note[1:]}." for note in budget.notes]
        return Table(
            "Null directions of the Gauss–Newton matrix, by cause",
            ("cause", "directions", "share of P"),
            rows,
            " ".join([*told, *(f"In {found}." for found in budget.findings)]),
        )

    def picture(self, kind: str) -> bytes:
        """The figure.

        Parameters
        ----------
        kind
            ``"png"``, ``"pdf"`` or another of Matplotlib's formats.

        Returns
        -------
        The file's bytes.
        """
        alone = self.budget is None
        heights = [4.0] if alone else [4.0, 2.2]
        figure = Figure(figsize=(10.4, sum(heights)), layout="constrained")
        axes = figure.subplot_mosaic("dc" if alone else "dc;bb", height_ratios=heights)
        plot_spectrum(self.spectrum, eps=self.eps, ax=axes["d"])
        plot_fraction_of_eps(self.spectrum, eps=self.eps, ax=axes["c"])
        if self.budget is not None:
            plot_budgets(self.budget, ax=axes["b"])
        stream = io.BytesIO()
        figure.savefig(stream, format=kind, dpi=DPI)
        return stream.getvalue()

    def to_json(self) -> dict[str, Any]:
        """All numbers, with names, as JSON values; intervals are at 95 %, None is not a number."""

        def number(value: Any) -> float | None:
            return float(value) if np.isfinite(value) else None

        def share(value: Fraction | None) -> dict[str, Any] | None:
            if value is None:
                return None
            return {
                "estimate": float(value.estimate),
                "certified": [float(value.lower), float(value.upper)],
                "interval": [float(end) for end in value.confidence_interval()],
            }

        result: dict[str, Any] = {
            "name": self.name,
            "num_parameters": self.num_parameters,
            "num_examples": self.num_examples or None,
            "loss": number(self.loss),
            "eps": self.eps,
            "noise_floor": self.noise_floor,
            "degenerate": share(self.degenerate),
            "negative": share(self.negative),
            "eigenvalues": {
                "values": self.pairs.values.tolist(),
                "residual_norms": self.pairs.residual_norms.tolist(),
                "status": self.pairs.status,
            },
            "trace": {
                "value": float(self.trace.value),
                "stderr": float(self.trace.stderr),
                "interval": [float(end) for end in self.trace.confidence_interval()],
            },
            "spectrum": {
                "nodes": np.asarray(self.spectrum.nodes, float).tolist(),
                "weights": np.asarray(self.spectrum.weights, float).tolist(),
            },
            "refused": self.refused or None,
            "seconds": self.seconds,
        }
        if self.measures is not None:
            found = self.measures
            result["measures"] = {
                "mean_incoming_norm": number(found.elimination.mean_incoming_norm),
                "mean_zero_probability": number(found.elimination.mean_zero_probability),
                "mean_correlation": number(found.overlap.mean_correlation),
                "mean_top_share": number(found.dependence.mean_top_share),
                "layers": layers_json(found),
            }
        if self.budget is not None:
            result["budget"] = {
                "counts": dict(self.budget.counts),
                "total": self.budget.total,
                "upper": self.budget.upper,
                "explained": self.budget.explained,
                "rank": [int(self.budget.rank.lower), int(self.budget.rank.upper)],
                "rank_status": str(self.budget.rank.status),
                "singular_values_at_the_cut": [
                    number(self.budget.rank.above),
                    number(self.budget.rank.below),
                ],
                "by_layer": {
                    cause: dict(zip(self.budget.layer_names, counts, strict=True))
                    for cause, counts in self.budget.by_layer.items()
                },
                "method": self.budget.method,
                "num_examples": self.budget.num_examples,
                "rtol": float(self.budget.rank.rtol),
                "left_out": self.budget.left_out,
                "close": self.budget.close,
                "nearly_null": self.budget.nearly_null,
                "notes": list(self.budget.notes),
                "findings": list(self.budget.findings),
            }
        return result


def analyze(
    problem: Problem,
    *,
    eps: float = 1e-3,
    num_steps: int = 200,
    causes: bool = True,
    seed: int = 0,
) -> Analysis:
    """Look at one problem from every side.

    Parameters
    ----------
    problem
        A loss at its parameters, and the model if causes are wanted.
    eps
        Half-width of the degenerate band.
    num_steps
        Lanczos steps. Up to 2,000 parameters all eigenvalues are taken instead.
    causes
        Whether to look for causes, if the problem has a model: minutes for thousands of parameters.
    seed
        Of the random probes.

    Returns
    -------
    Analysis; prints as a table and, in a notebook, as a page.

    Raises
    ------
    InputError
        As ``hessian`` and ``slq``. A model whose structure is not understood is no error: what
        can be said without it is said.
    ResourceError
        As ``slq``.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> problem = Problem(lambda w, x: ((x @ w) ** 2).mean() / 2, jnp.ones(3), jnp.eye(2, 3))
    >>> analyze(problem)
    Analysis('the problem', P = 3, 33.3 % of the eigenvalues within 0.001 of 0 [33.3, 33.3])
    """
    if not eps > 0:
        raise InputError(f"eps must be positive; got {eps!r}")
    start = time.perf_counter()
    op = problem.hessian()
    size = op.shape[0]
    keys = jax.random.split(jax.random.key(seed), 4)
    floor = float(noise_floor(op, keys[0]))
    spectrum: Spectrum
    if size <= DENSE:
        spectrum = dense_spectrum(op, noise_floor=floor)
    else:
        spectrum = slq(op, keys[1], num_steps=min(num_steps, size), noise_floor=floor)
    known = eps >= float(spectrum.noise_floor)
    largest, smallest = min(_LARGEST, size), max(0, min(_SMALLEST, size - _LARGEST))
    pairs = extremal_eigenpairs(op, keys[2], num_largest=largest, num_smallest=smallest, tol=1e-3)
    found, budget, refused = _causes(problem, causes)
    near = degenerate_fraction(spectrum, eps) if known else None
    if budget is not None and near is not None:
        # The loss is the one that the budget belongs to.
        budget = dataclasses.replace(budget, nearly_flat=near, eps=eps)
    streamed = isinstance(op, StreamedOperator)
    return Analysis(
        name=problem.name or "the problem",
        num_parameters=size,
        num_examples=0 if streamed else op.num_examples,
        loss=np.nan if streamed else _value(problem),
        eps=eps,
        noise_floor=floor,
        spectrum=spectrum,
        degenerate=near,
        negative=negative_fraction(spectrum, eps) if known else None,
        pairs=pairs,
        trace=_trace(op, spectrum, keys[3]),
        measures=found,
        budget=budget,
        refused=refused,
        seconds=time.perf_counter() - start,
    )


def _trace(op: LinearOperator, spectrum: Spectrum, key: Array) -> Estimate:
    """The sum of all eigenvalues if they are known, and an estimate otherwise."""
    size = op.shape[0]
    if size <= DENSE:
        value = np.asarray(np.sum(spectrum.nodes, dtype=float))
        return Estimate(value, np.zeros(()), num_matvecs=size, num_probes=0, method="exact")
    try:
        return trace(op, key, num_matvecs=_TRACE_MATVECS)
    except ResourceError:
        # The directions that are captured first do not fit; plain probes keep none.
        return trace(op, key, num_matvecs=_TRACE_MATVECS, method="hutchinson")


def _value(problem: Problem) -> float:
    state = () if problem.state is None else (problem.state,)
    return float(problem.loss(problem.params, *state, problem.batch))


def _causes(problem: Problem, wanted: bool) -> tuple[Measures | None, Budget | None, str]:
    """Measures and budget of the model, and why one of them is missing.

    Models are other people's: whatever they do when they are taken apart, the rest is kept.
    """
    if not wanted or problem.model is None:
        return None, None, "" if not wanted else "Causes: the problem names no model."
    if obstacle := _no_classifier(problem):
        return None, None, f"Causes: {obstacle}"
    found, budget, refused = None, None, []
    inputs, labels = problem.batch
    try:
        found = measures(problem.model, problem.params, inputs, state=problem.state)
    except StoppedError:
        raise
    except Exception as error:
        refused.append(f"Measures: {_told(error)}")
    try:
        budget = degeneracy_budget(
            problem.model, problem.params, (inputs, labels), state=problem.state
        )
    except StoppedError:
        raise
    except Exception as error:
        refused.append(f"Causes: {_told(error)}")
    return found, budget, " ".join(refused)


def _told(error: Exception) -> str:
    """In one line; where it came from is logged, as it may be a bug of ours."""
    _logger.info("causes were not found", exc_info=error)
    kind = "" if isinstance(error, LandscapeError) else f"{type(error).__name__}: "
    return f"{kind}{str(error).splitlines()[0] if str(error) else 'no message'}."


def _no_classifier(problem: Problem) -> str:
    """Why null directions of a softmax classifier would not be those of this loss; or nothing."""
    batch = problem.batch
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        return "they are looked for where the batch is (inputs, labels)."
    if problem.weight is not None:
        return "they are counted for examples of equal weight, and the problem has a weight."
    labels = batch[1]
    integers = hasattr(labels, "dtype") and jnp.issubdtype(labels.dtype, jnp.integer)
    if not integers or jnp.ndim(labels) != 1:
        return "they are counted for classifiers, whose labels are integers of shape (N,)."
    try:
        model, state = opened(problem.model, problem.state)
        expected = float(loss_function(model)(problem.params, state or {}, tuple(batch)))
    except StoppedError:
        raise
    except Exception as error:
        return f"the model cannot be evaluated: {_told(error)}"
    if not np.isclose(_value(problem), expected, rtol=1e-4, atol=1e-6):
        return (
            "they are counted for the mean softmax cross-entropy of the model, which is "
            f"{expected:.6g} here, and the loss is {_value(problem):.6g}: another loss, or a "
            "penalty in it."
        )
    return ""
