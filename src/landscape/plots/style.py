"""One look for every figure: a colour, a dash and a marker per architecture.

Colours are those of M. Okabe and K. Ito, *Color Universal Design* (2008), told apart by readers
with any common colour vision; dashes and markers keep them apart in black and white. Series that
have no look of their own have the colours of Matplotlib's viridis first, from dark to light; on
dark backgrounds (``matplotlib.style.use("dark_background")``) from light to dark.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from landscape.errors import InputError
from landscape.results import Result


@dataclasses.dataclass(frozen=True)
class Look:
    """How a series is drawn."""

    color: str
    linestyle: Any
    marker: str


LOOKS = {
    "plain": Look("#D55E00", "-", "o"),
    "residual": Look("#0072B2", (0, (5, 2)), "s"),
    "hyper-residual": Look("#009E73", (0, (1, 1)), "^"),
    "malicious": Look("#CC79A7", "-.", "D"),
    "orthogonal": Look("#56B4E9", (0, (3, 1, 1, 1)), "<"),
    "BiasReg": Look("#E69F00", "-.", "P"),
    "BiasReg+BN": Look("#000000", (0, (3, 1, 1, 1)), "X"),
    "BiasL2Reg": Look("#999999", (0, (1, 1)), "v"),
    # Plain networks both: two shades of theirs.
    "worst": Look("#7A3600", "-", "o"),
    "best": Look("#F2A365", (0, (5, 2)), "s"),
}
_COLORS = ("#440154", "#3b528b", "#21918c", "#5ec962", "#d8c120", "#E69F00", "#CC79A7", "#000000")
_ON_DARK = ("#d8c120", "#5ec962", "#21918c", "#7a9bd8", "#E69F00", "#CC79A7", "#ffffff", "#b08ad0")
_DASHES = ("-", (0, (5, 2)), "-.", (0, (1, 1)))
_OTHERS = tuple(
    Look(color, _DASHES[place % 4], marker)
    for place, (color, marker) in enumerate(zip(_COLORS, "osD^vPX*", strict=True))
)


# Of series that are no architectures, one after the other.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def look(name: str, index: int = 0) -> Look:
    """The look of an architecture, or one of the spare ones.

    Examples
    --------
    >>> look("plain").color, look("mine", 0) == look("yours", 1)
    ('#D55E00', False)
    """
    if not _dark():
        return LOOKS.get(name, _OTHERS[index % len(_OTHERS)])
    place = index % len(_OTHERS)
    found = LOOKS.get(name, dataclasses.replace(_OTHERS[place], color=_ON_DARK[place]))
    return dataclasses.replace(found, color="#ffffff") if found.color == "#000000" else found


def _dark() -> bool:
    """Whether Matplotlib is set to draw on a background of less than half of white's luminance."""
    from matplotlib import rcParams
    from matplotlib.colors import to_rgb

    # Weights of red, green and blue: Recommendation ITU-R BT.709.
    return bool(np.dot(to_rgb(rcParams["axes.facecolor"]), (0.2126, 0.7152, 0.0722)) < 0.5)


def grey(ax: Any, strength: float) -> tuple[float, float, float]:
    """Between the background of axes (0) and what stands out most from it (1)."""
    from matplotlib.colors import to_rgb

    background = np.array(to_rgb(ax.get_facecolor()))
    red, green, blue = background + strength * (float(_dark()) - background)
    return float(red), float(green), float(blue)


def named(options: Mapping[str, Any]) -> dict[str, Any]:
    """Properties of a line by their full names: ``c`` and ``color`` are one."""
    from matplotlib.cbook import normalize_kwargs
    from matplotlib.lines import Line2D

    try:
        return dict(normalize_kwargs(dict(options), Line2D))
    except TypeError as error:
        raise InputError(str(error)) from None


def series(name: str, index: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """Properties of a series' line: its look, and over it what the caller asks for."""
    style = look(name, index)
    kept = {"color": style.color, "linestyle": style.linestyle, "label": name or None}
    return {**kept, **named(options)}


def expect(function: str, value: Any, *kinds: type) -> None:
    """Refuse to draw what the function is not made for.

    Raises
    ------
    InputError
        If the value is of none of these kinds.
    """
    if isinstance(value, kinds):
        return
    names = [kind.__name__ for kind in kinds]
    told = " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    hint = "; its own plot() draws it" if isinstance(value, Result) else ""
    raise InputError(f"{function} draws a {told}; got {type(value).__name__}{hint}")


def new_axes(ax: Any | None) -> Any:
    """The axes given, or new ones of a new pyplot figure, which notebooks show by themselves.

    Raises
    ------
    InputError
        If what is given are no axes.
    """
    from matplotlib import pyplot
    from matplotlib.axes import Axes

    if isinstance(ax, Axes):
        return ax
    if ax is not None:
        raise InputError(f"ax must be Matplotlib axes; got {type(ax).__name__}")
    return pyplot.subplots(figsize=(5, 3.5), layout="constrained")[1]


def widen(ax: Any, fresh: bool, x: Any = None, y: Any = None) -> None:
    """Set the limits of axes, or, if something was drawn on them before, widen them.

    Parameters
    ----------
    ax
        Matplotlib axes.
    fresh
        Whether nothing was.
    x, y
        (low, high), or None to leave them.
    """
    for limits, get, put in ((x, ax.get_xlim, ax.set_xlim), (y, ax.get_ylim, ax.set_ylim)):
        if limits is None:
            continue
        if not fresh:
            old = sorted(get())
            limits = min(old[0], limits[0]), max(old[1], limits[1])
        put(*limits)


def shade(ax: Any, low: float, high: float, label: str = "_band") -> None:
    """Shade a band of the abscissa behind all that is drawn.

    Parameters
    ----------
    ax
        Matplotlib axes.
    low, high
        The band's ends; of one that was shaded under the same label before, the wider ones.
    label
        For a legend; none if it begins with an underscore, as in Matplotlib.
    """
    for band in [patch for patch in ax.patches if patch.get_gid() == label]:
        ends = band.get_patch_transform().transform(band.get_path().vertices)[:, 0]
        low, high = min(low, *ends), max(high, *ends)
        band.remove()
    ax.axvspan(low, high, color=grey(ax, 0.15), zorder=0, label=label, gid=label)


def rows_before(ax: Any) -> list[str]:
    """Names of the rows that horizontal bars have been drawn at before."""
    from matplotlib.ticker import FixedLocator, ScalarFormatter

    # Ticks of anything else move, or are numbers.
    axis = ax.yaxis
    rows = isinstance(axis.get_major_locator(), FixedLocator)
    rows = rows and not isinstance(axis.get_major_formatter(), ScalarFormatter)
    return [text.get_text() for text in ax.get_yticklabels()] if rows else []


def mark(ax: Any, place: float, **options: Any) -> None:
    """A dotted line across, which is no series."""
    ax.axvline(place, color=grey(ax, 0.7), linestyle=":", linewidth=1, gid="mark", **options)


def series_before(ax: Any) -> int:
    """How many series have been drawn."""
    return sum(line.get_gid() != "mark" for line in ax.lines)


def tidy(ax: Any) -> Any:
    """Light grid, no box on the right and top."""
    ax.grid(True, color=grey(ax, 0.1), linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def mean_interval(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean over seeds and half-width of its 95 % Student interval; NaN seeds are left out.

    Examples
    --------
    >>> mean, half = mean_interval(np.array([0.4, 0.5, 0.6]), axis=0)
    >>> print(f"{mean:.2f} ± {half:.2f}")
    0.50 ± 0.25
    """
    from scipy.stats import t

    count = np.isfinite(values).sum(axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.nansum(values, axis) / count
        deviation = np.sqrt(
            np.nansum((values - np.expand_dims(mean, axis)) ** 2, axis) / (count - 1)
        )
        half = t.ppf(0.975, np.maximum(count - 1, 1)) * deviation / np.sqrt(count)
    return np.asarray(mean), np.where(count > 1, half, np.nan)
