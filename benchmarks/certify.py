"""Whether certified means certified: bounds, schemes, coverage and distances against dense truth.

Four tables, on prescribed spectra (diagonal, and rotated into dense matrices) and on Hessians of
small trained networks, in float64 and float32:

1. The certified interval against the probe's own measure μ, by the definition: with noise floor δ
   and allowance η, ``lower − η ≤ μ[a−δ, b+δ]`` and ``upper + η ≥ μ[a+δ, b−δ]``. Every exception is
   printed. The truth of a float32 network is its float64 Hessian at the same parameters; as the
   two differ by whole kinks where a ReLU's input is within rounding of zero, the float32
   operator's own matrix is a second truth, counted apart.
2. Intervals of partial against full reorthogonalisation. Where eigenvalues lie within δ of an end
   either answer is right, and the difference is counted apart; so are intervals that end at 1.1δ,
   where a cluster at zero is only just resolved, and answers whose stated η is larger than 10⁻³.
3. Coverage of the confidence intervals over probes; p-values that it is below its level, and the
   smallest of them after Holm's correction.
4. Kolmogorov–Smirnov (ends known to δ only) and Wasserstein-1 distance (relative to the norm) of
   the Lanczos measure to the spectrum and to the probe's own measure.

    python benchmarks/certify.py --out certify.json

Exits with 1 if a bound with reorthogonalisation has an exception, or coverage is below its level.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from harness import machine, write
from scipy import stats
from subjects import (
    DTYPES,
    EPS,
    WIDE,
    Measure,
    Subject,
    dense_subject,
    diagonal_subject,
    in_type,
    kolmogorov_smirnov,
    subjects,
    wasserstein,
)

from landscape.errors import InputError
from landscape.spectra import (
    Fraction,
    LanczosSpectrum,
    degenerate_fraction,
    fraction_between,
    lanczos_run,
    negative_fraction,
    slq,
)
from landscape.spectra.slq import gaussian_probes

STEPS = {"diagonal": (7, 40, 150), "dense": (7, 40, 150), "network": (40, 200)}


# The certified interval


def questions(values: np.ndarray) -> dict[str, Callable[[LanczosSpectrum, bool], Fraction]]:
    """Intervals to ask for; ends at eigenvalues where the name says so."""
    middle = float(np.quantile(np.abs(values), 0.5, method="nearest"))
    low, high = (float(np.quantile(values, q, method="nearest")) for q in (0.3, 0.9))

    def above_floor(spectrum: LanczosSpectrum) -> float:
        return 1.1 * float(spectrum.noise_floor)

    return {
        "±1e-3": lambda s, force: degenerate_fraction(s, EPS, force=force),
        "±1/16": lambda s, force: degenerate_fraction(s, WIDE, force=force),
        "±median": lambda s, force: degenerate_fraction(
            s, max(middle, np.finfo(float).tiny), force=force
        ),
        "±1.1δ": lambda s, force: degenerate_fraction(s, above_floor(s), force=force),
        "negative": lambda s, force: negative_fraction(s, EPS, force=force),
        "negative, 1.1δ": lambda s, force: negative_fraction(s, above_floor(s), force=force),
        "between quantiles": lambda s, force: fraction_between(s, low, high),
    }


@dataclasses.dataclass(frozen=True)
class Answer:
    """One question, asked of one Lanczos spectrum, and judged by one truth.

    Attributes
    ----------
    over, under
        ``lower − μ[a−δ, b+δ]`` and ``μ[a+δ, b−δ] − upper``: exceptions are those above η.
    at_ends
        μ within δ of the ends.
    """

    family: str
    name: str
    seed: int
    dtype: str
    scheme: str
    steps: int
    question: str
    truth: str
    forced: bool
    lower: float
    upper: float
    over: float
    under: float
    rounding: float
    noise_floor: float
    interval: tuple[float, float]
    at_ends: float

    @property
    def violation(self) -> float:
        """Beyond η; an exception if positive."""
        return max(self.over, self.under) - self.rounding

    def __str__(self) -> str:
        which = "lower" if self.over > self.under else "upper"
        return (
            f"{self.family} {self.name!r} seed {self.seed} {self.dtype} {self.scheme} "
            f"m={self.steps} {self.question} {tuple(f'{end:.6g}' for end in self.interval)} "
            f"against {self.truth}: {which} off by η + {self.violation:.2e}, "
            f"[{self.lower:.6f}, {self.upper:.6f}], δ={self.noise_floor:.1e}"
        )


def ask(
    spectrum: LanczosSpectrum, subject: Subject, seed: int, steps: int, measures: dict[str, Measure]
) -> Iterator[Answer]:
    """All questions to one spectrum; those that are refused are forced."""
    first = next(iter(measures.values()))
    for question, answer in questions(first.points).items():
        try:
            fraction, forced = answer(spectrum, False), False
        except InputError:
            fraction, forced = answer(spectrum, True), True
        low, high = (float(end) for end in fraction.interval)
        floor = float(fraction.noise_floor)
        lower, upper = float(fraction.lower), float(fraction.upper)
        for truth, measure in measures.items():
            outer = measure.between(low - floor, high + floor)
            inner = measure.between(low + floor, high - floor)
            yield Answer(
                family=subject.family,
                name=subject.name,
                seed=seed,
                dtype=spectrum.dtype,
                scheme=spectrum.reorthogonalize,
                steps=steps,
                question=question,
                truth=truth,
                forced=forced,
                lower=lower,
                upper=upper,
                over=lower - outer,
                under=inner - upper,
                rounding=float(fraction.rounding),
                noise_floor=floor,
                interval=(low, high),
                at_ends=outer - inner,
            )


def certify(subject: Subject, refusals: list[str]) -> Iterator[Answer]:
    """Every probe, type, scheme and number of steps of one subject.

    A run that the library takes for broken goes to ``refusals``: every operator here is symmetric.
    """
    for dtype, op in subject.operators.items():
        size, steps = op.shape[0], STEPS[subject.family]
        capacity = min(steps[-1], size)
        for seed in subject.seeds:
            # Without reorthogonalisation bounds are empirical: a look at them.
            empirical = seed in (0, 100) and subject.family != "network"
            schemes = ("full", "partial", "none") if empirical else ("full", "partial")
            with in_type(dtype):
                key = jax.random.key(seed)
                probe = np.asarray(gaussian_probes(key, 1, size, op.dtype)[0])
                measures = {
                    name: truth.measure(probe) for name, truth in subject.truths[dtype].items()
                }
                for scheme in schemes:
                    run = lanczos_run(op, key, reorthogonalize=scheme, capacity=capacity)
                    for m in steps:
                        run = run.advance(m)
                        try:
                            spectrum = run.spectrum(subject.floors[dtype])
                        except InputError as error:
                            refusals.append(
                                f"{subject.family} {subject.name!r} seed {seed} {dtype} {scheme} "
                                f"m={m}: {error}"
                            )
                            continue
                        yield from ask(spectrum, subject, seed, m, measures)


def summarise(answers: list[Answer]) -> list[dict[str, Any]]:
    """Exceptions by family, type, scheme and truth."""
    groups = defaultdict(list)
    for answer in answers:
        smooth = "smooth " if "tanh" in answer.name else ""
        family = f"{smooth}{answer.family}"
        groups[family, answer.dtype, answer.scheme, answer.truth, answer.forced].append(answer)
    rows = []
    for (family, dtype, scheme, truth, forced), group in sorted(groups.items()):
        worst = max(group, key=lambda a: max(a.over, a.under))
        rows.append(
            {
                "family": family,
                "dtype": dtype,
                "scheme": scheme,
                "truth": truth,
                "refused": forced,
                "checks": 2 * len(group),
                "exceptions": sum((a.over > a.rounding) + (a.under > a.rounding) for a in group),
                "largest_error": max(worst.over, worst.under, 0.0),
                "rounding": float(np.median([a.rounding for a in group])),
                "largest_rounding": max(a.rounding for a in group),
                "median_width": float(np.median([a.upper - a.lower for a in group])),
                "worst": f"{worst.name} {worst.seed} m={worst.steps} {worst.question}",
            }
        )
    return rows


def compare_schemes(answers: list[Answer]) -> tuple[list[dict[str, Any]], list[str]]:
    """How far partial's bounds are from full's, and the pairs further apart than 10⁻³."""
    pairs: dict[Any, dict[str, Answer]] = defaultdict(dict)
    for a in answers:
        if a.truth != "own" and not a.forced:
            pairs[a.family, a.name, a.seed, a.dtype, a.steps, a.question][a.scheme] = a
    groups, apart = defaultdict(list), []
    for key, pair in pairs.items():
        if not {"full", "partial"} <= pair.keys():
            continue
        full, partial = pair["full"], pair["partial"]
        difference = (abs(full.lower - partial.lower), abs(full.upper - partial.upper))
        ambiguous = max(full.at_ends, partial.at_ends) > 1e-4
        turned = max(full.rounding, partial.rounding) > 1e-3
        where = (
            "eigenvalues within δ"
            if ambiguous
            else "at 1.1δ"
            if "δ" in full.question
            else "η above 1e-3"
            if turned
            else "clear"
        )
        groups[full.dtype, where].append(difference)
        if max(difference) > 1e-3 and not ambiguous and not turned:
            apart.append(
                f"{' '.join(map(str, key))}: full [{full.lower:.6f}, {full.upper:.6f}], partial "
                f"[{partial.lower:.6f}, {partial.upper:.6f}], δ={full.noise_floor:.1e}"
            )
    rows = []
    for (dtype, where), group in sorted(groups.items()):
        for bound, differences in zip(("lower", "upper"), np.array(group).T, strict=True):
            quantiles = np.quantile(differences, [0.5, 0.9, 0.99, 1]).tolist()
            rows.append(
                {
                    "dtype": dtype,
                    "ends": where,
                    "bound": bound,
                    "pairs": len(group),
                    "above_1e-3": int((differences > 1e-3).sum()),
                    **dict(zip(("median", "q90", "q99", "max"), quantiles, strict=True)),
                }
            )
    return rows, apart


# Coverage


def coverage(nets: dict[str, Subject], quick: bool) -> list[dict[str, Any]]:
    """How often the confidence interval covers the share, over sets of probes."""
    trials = 200
    matrices = [("diagonal", diagonal_subject("zeros, outliers", 1), 60, EPS)]
    if not quick:
        matrices += [
            ("diagonal", diagonal_subject("continuum", 1), 30, EPS),
            ("diagonal", diagonal_subject("rank deficient", 1), 45, WIDE / 2),
            ("diagonal", diagonal_subject("few distinct", 1), 20, 0.5),
            ("dense", dense_subject("negative part", 1), 60, WIDE),
            ("network", nets["identity relu"], 60, 0.25),
            ("network", nets["hyper tanh"], 60, 0.25),
        ]
    rows = []
    for family, subject, steps, eps in matrices:
        for dtype in ("float32",) if family == "network" else DTYPES:
            op, floor = subject.operators[dtype], subject.floors[dtype]
            values = subject.truths[dtype]["float64" if family == "network" else "exact"].values
            share = float((np.abs(values) <= eps).mean())
            with in_type(dtype):
                singles = [one for part in range(6) for one in probes_apart(
                    slq(op, jax.random.key(1000 + part), num_steps=steps, num_probes=trials // 2,
                        reorthogonalize="full", noise_floor=floor)
                )]  # fmt: skip
            for num_probes in (1, 3):
                fractions = [
                    degenerate_fraction(pooled(singles[i * num_probes : (i + 1) * num_probes]), eps)
                    for i in range(trials)
                ]
                for level in (0.8, 0.95):
                    ends = [fraction.confidence_interval(level) for fraction in fractions]
                    covered = sum(bool(low <= share <= high) for low, high in ends)
                    rows.append(
                        {
                            "matrix": f"{family} {subject.name}",
                            "dtype": dtype,
                            "steps": steps,
                            "eps": eps,
                            "share": share,
                            "num_probes": num_probes,
                            "level": level,
                            "trials": trials,
                            "coverage": covered / trials,
                            "median_width": float(np.median([high - low for low, high in ends])),
                            "p_value": float(
                                stats.binomtest(covered, trials, level, "less").pvalue
                            ),
                        }
                    )
    order = np.argsort([row["p_value"] for row in rows])
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(rows) - rank) * rows[index]["p_value"]))
        rows[index]["holm"] = running
    return rows


def probes_apart(spectrum: LanczosSpectrum) -> list[LanczosSpectrum]:
    """One spectrum for each probe: probe i depends on the key and i alone."""
    return [
        dataclasses.replace(
            spectrum,
            alphas=spectrum.alphas[i : i + 1],
            betas=spectrum.betas[i : i + 1],
            num_steps=spectrum.num_steps[i : i + 1],
            probe_norms=spectrum.probe_norms[i : i + 1],
        )
        for i in range(spectrum.num_probes)
    ]


def pooled(spectra: list[LanczosSpectrum]) -> LanczosSpectrum:
    """One spectrum of several probes; those that broke down earlier are filled up with zeros."""
    most = max(one.alphas.shape[-1] for one in spectra)

    def joined(name: str) -> np.ndarray:
        arrays = [getattr(one, name) for one in spectra]
        if name in ("alphas", "betas"):
            arrays = [np.pad(x, [(0, 0), (0, most - x.shape[-1])]) for x in arrays]
        return np.concatenate(arrays)

    names = ("alphas", "betas", "num_steps", "probe_norms")
    return dataclasses.replace(spectra[0], **{name: joined(name) for name in names})


# Distances


def distances(chosen: list[Subject]) -> Iterator[dict[str, Any]]:
    """How near the Lanczos measure comes, by scheme and number of steps; float32, one probe."""
    for subject in chosen:
        op, floor = subject.operators["float32"], subject.floors["float32"]
        truth = next(iter(subject.truths["float32"].values()))
        key = jax.random.key(0)
        own = truth.measure(np.asarray(gaussian_probes(key, 1, op.shape[0], op.dtype)[0]))
        norm = float(np.abs(truth.values).max())
        steps = STEPS[subject.family]
        for scheme in ("full", "partial", "none"):
            capacity = min(steps[-1], op.shape[0])
            run = lanczos_run(op, key, reorthogonalize=scheme, capacity=capacity)
            for m in sorted({10, *steps}):
                run = run.advance(m)
                spectrum = run.spectrum(floor)
                found = Measure(*spectrum.quadrature((0,)))
                delta = float(spectrum.noise_floor)
                yield {
                    "matrix": f"{subject.family} {subject.name}",
                    "num_parameters": op.shape[0],
                    "scheme": scheme,
                    "steps": m,
                    "ks": kolmogorov_smirnov(found, truth.spectrum(), delta),
                    "ks_probe": kolmogorov_smirnov(found, own, delta),
                    "wasserstein": wasserstein(found, truth.spectrum()) / norm,
                    "wasserstein_probe": wasserstein(found, own) / norm,
                }


# The script


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """A table with one column for each entry."""
    print(f"\n{title}")
    if not rows:
        return

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.3g}"
        return str(value)

    cells = [[cell(v) for v in row.values()] for row in rows]
    names = list(rows[0])
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    for line in (names, *cells):
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a minute's run: few cases")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    start = time.perf_counter()
    answers: list[Answer] = []
    kept: dict[str, Subject] = {}
    refusals: list[str] = []
    cases = 0
    for subject in subjects(options.quick):
        answers += certify(subject, refusals)
        cases += len(subject.seeds)
        if subject.family == "network":
            kept[subject.name] = subject
            print(f"{subject.name}: {time.perf_counter() - start:.0f} s", flush=True)
    summary = summarise(answers)
    show(f"1. Certified intervals: {cases} cases", summary)
    exceptions = sorted((a for a in answers if a.violation > 0), key=lambda a: -a.violation)
    for exception in exceptions:
        print(("  refused, forced: " if exception.forced else "  EXCEPTION: ") + str(exception))
    for refusal in refusals:
        print(f"  REFUSED: {refusal}")
    schemes, apart = compare_schemes(answers)
    show("2. Partial against full: differences of bounds", schemes)
    for pair in apart:
        print(f"  APART: {pair}")
    print(f"{time.perf_counter() - start:.0f} s", flush=True)
    covered = coverage(kept, options.quick)
    show("3. Coverage of confidence intervals", covered)
    print(f"{time.perf_counter() - start:.0f} s", flush=True)
    shown = [diagonal_subject(kind, 0) for kind in ("zeros, outliers", "power law", "continuum")]
    few, networks = (1, 0) if options.quick else (3, 4)
    table = list(distances([*shown[:few], *list(kept.values())[:networks]]))
    show("4. Distance of the Lanczos measure to the spectrum, and to the probe's own", table)
    seconds = time.perf_counter() - start
    print(f"{seconds:.0f} s")
    if options.out:
        record = {
            "environment": machine(),
            "quick": options.quick,
            "seconds": seconds,
            "cases": cases,
            "certified": summary,
            "exceptions": [{**dataclasses.asdict(a), "violation": a.violation} for a in exceptions],
            "refused_spectra": refusals,
            "schemes": schemes,
            "schemes_apart": apart,
            "coverage": covered,
            "distances": table,
        }
        write(options.out, record)
    proved = [a for a in exceptions if not a.forced and a.scheme != "none"]
    failed = bool(proved) or any(" none m=" not in refusal for refusal in refusals)
    sys.exit(failed or any(row["holm"] <= 0.01 for row in covered))


if __name__ == "__main__":
    main()
