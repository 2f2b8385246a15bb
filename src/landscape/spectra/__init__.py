"""What an operator's spectrum looks like: exact, by Lanczos or by moments; densities, fractions."""

from landscape.spectra.adaptive import ResolvedFraction, resolve_fraction
from landscape.spectra.curves import distribution_function, fraction_curve
from landscape.spectra.dense import dense_spectrum
from landscape.spectra.densities import asinh_density, density
from landscape.spectra.extremal import (
    EigenPairs,
    ExtremalRun,
    extremal_eigenpairs,
    extremal_run,
)
from landscape.spectra.fractions import (
    Fraction,
    degenerate_fraction,
    fraction_between,
    negative_fraction,
)
from landscape.spectra.measures import LanczosSpectrum, SpectralMeasure, Spectrum
from landscape.spectra.mixture import MixtureFit, fit_mixture
from landscape.spectra.moments import Moments, spectral_moments
from landscape.spectra.slq import LanczosRun, lanczos_run, slq
from landscape.spectra.trace import Estimate, diagonal, frobenius_norm, trace

__all__ = [
    "EigenPairs",
    "Estimate",
    "ExtremalRun",
    "Fraction",
    "LanczosRun",
    "LanczosSpectrum",
    "MixtureFit",
    "Moments",
    "ResolvedFraction",
    "SpectralMeasure",
    "Spectrum",
    "asinh_density",
    "degenerate_fraction",
    "dense_spectrum",
    "density",
    "diagonal",
    "distribution_function",
    "extremal_eigenpairs",
    "extremal_run",
    "fit_mixture",
    "fraction_between",
    "fraction_curve",
    "frobenius_norm",
    "lanczos_run",
    "negative_fraction",
    "resolve_fraction",
    "slq",
    "spectral_moments",
    "trace",
]
