"""Pictures of single results: what is drawn is what they say."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from landscape.curvature import DiagonalOperator, stack
from landscape.errors import InputError
from landscape.plots import (
    plot_budgets,
    plot_checks,
    plot_fraction_curve,
    plot_fraction_of_eps,
    plot_intervals,
    plot_shares,
    plot_spectrum,
)
from landscape.spectra import (
    degenerate_fraction,
    dense_spectrum,
    diagonal,
    distribution_function,
    extremal_eigenpairs,
    fraction_curve,
    resolve_fraction,
    slq,
    trace,
)

KEY = jax.random.key(0)


def operator(scale=1.0):
    values = np.concatenate([np.zeros(20), np.linspace(-0.5, 2, 30)])
    return DiagonalOperator(jnp.asarray(scale * values, jnp.float32))


@pytest.fixture
def ax():
    return Figure().add_subplot()


def test_two_spectra_on_one_pair_of_axes_differ_and_both_are_whole(ax):
    wide, narrow = (slq(operator(scale), KEY, num_steps=20) for scale in (10.0, 0.1))
    plot_spectrum(wide, label="wide", ax=ax)
    limits = ax.get_xlim()
    plot_spectrum(narrow, label="narrow", ax=ax)
    assert ax.get_xlim() == limits
    colors = [line.get_color() for line in ax.lines]
    assert len(set(colors)) == len(colors) == 2


def test_curves_of_two_spectra_differ(ax):
    for scale in (1.0, 0.01):
        plot_fraction_of_eps(slq(operator(scale), KEY, num_steps=20), label=f"{scale}", ax=ax)
    assert len({line.get_color() for line in ax.lines}) == 2
    low, high = ax.get_xlim()
    assert high == pytest.approx(4, rel=1e-3)
    assert low < 1e-7


def test_f_of_eps_is_drawn_of_what_fraction_curve_gives(ax):
    epsilons = np.geomspace(1e-3, 1, 9)
    curve = fraction_curve(dense_spectrum(operator()), epsilons)
    plot_fraction_curve(curve, ax=ax)
    (line,) = ax.lines
    np.testing.assert_allclose(line.get_xdata(), epsilons)
    np.testing.assert_allclose(line.get_ydata(), 100 * curve.estimate)
    with pytest.raises(InputError, match="fraction_curve gives"):
        plot_fraction_curve(degenerate_fraction(dense_spectrum(operator()), 1e-2), ax=ax)


def test_shares_of_networks_are_marks_and_of_intervals_a_line(ax):
    family = slq(stack([operator(), operator(3.0)]), KEY, num_steps=20)
    shares = degenerate_fraction(family, 1e-2, relative_to="norm")
    plot_shares(shares, ax=ax)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), 100 * shares.estimate)
    assert ax.get_xlabel() == "network"
    other = Figure().add_subplot()
    points = np.linspace(-1, 3, 5)
    plot_shares(distribution_function(dense_spectrum(operator()), points), ax=other)
    np.testing.assert_allclose(other.lines[0].get_xdata(), points)
    assert other.get_xscale() == "linear"


def test_intervals_stand_below_one_another_also_in_two_calls(ax):
    spectrum = slq(operator(), KEY, num_steps=20)
    plot_intervals({"a": degenerate_fraction(spectrum, 1e-2)}, ax=ax)
    plot_intervals({"b": degenerate_fraction(spectrum, 1e-1)}, ax=ax)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b"]
    assert [bar.get_y() + bar.get_height() / 2 for bar in ax.patches] == [0, 1]
    assert "share" in ax.get_xlabel()
    plot_intervals({"trace": trace(operator(), KEY, num_matvecs=12)}, ax=ax)
    assert ax.get_xlabel() == "shares in %, and estimates"


def test_what_resolve_fraction_gives_is_drawn_by_all(ax):
    found = resolve_fraction(operator(), KEY, eps=1e-2, width=0.2, max_steps=30)
    for draw in (plot_spectrum, plot_fraction_of_eps, plot_intervals):
        assert draw(found, ax=Figure().add_subplot()).has_data()


def test_nothing_to_draw_and_other_things_are_refused(ax):
    for draw, nothing in ((plot_intervals, {}), (plot_budgets, {}), (plot_checks, [])):
        with pytest.raises(InputError, match="nothing to draw"):
            draw(nothing, ax=ax)
    spectrum = slq(operator(), KEY, num_steps=9)
    with pytest.raises(InputError, match="plot_shares takes many"):
        plot_intervals(fraction_curve(spectrum, np.geomspace(1e-2, 1, 4)), ax=ax)


def test_properties_of_lines_are_the_callers(ax):
    spectrum = slq(operator(), KEY, num_steps=9)
    spectrum.plot(ax, c="k", lw=3, label="mine", eps=0.1)
    (line,) = ax.lines
    assert (line.get_color(), line.get_linewidth(), line.get_label()) == ("k", 3, "mine")
    bands = Figure().add_subplot()
    plot_fraction_of_eps(spectrum, color="red", ax=bands)
    assert bands.lines[0].get_color() == "red"
    assert to_rgb(bands.collections[0].get_facecolor()[0, :3]) == to_rgb("red")
    pairs = extremal_eigenpairs(operator(), KEY, num_largest=2)
    errorbars = pairs.plot(Figure().add_subplot(), markersize=9, marker="*").containers[0]
    assert (errorbars[0].get_marker(), errorbars[0].get_markersize()) == ("*", 9)
    assert trace(operator(), KEY, num_matvecs=12).plot(marker="v").lines[0].get_marker() == "v"
    entries = diagonal(operator(), KEY, num_matvecs=12)
    assert len(entries.plot(Figure().add_subplot(), bins=7).patches) == 7


def test_a_result_of_another_kind_is_refused_by_name(ax, monkeypatch):
    # As for users: here the types of arguments are checked before.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    share = degenerate_fraction(slq(operator(), KEY, num_steps=9), 0.1)
    with pytest.raises(
        InputError, match=r"plot_spectrum draws a Spec.* or ResolvedFraction; got Fr"
    ):
        plot_spectrum(share, ax=ax)
    for draw in (plot_intervals, plot_budgets):
        with pytest.raises(InputError, match="got list"):
            draw([share], ax=ax)
    with pytest.raises(InputError, match="plot_checks draws a Check; got Fraction; its own plot"):
        plot_checks(share, ax=ax)
    with pytest.raises(InputError, match="got LanczosSpectrum"):
        plot_fraction_curve(slq(operator(), KEY, num_steps=9), ax=ax)


def test_a_single_outlier_among_very_many_is_seen(ax):
    values = jnp.concatenate([1e-3 * jnp.linspace(-1, 1, 99_999), jnp.array([40.0])])
    plot_spectrum(slq(DiagonalOperator(values), KEY, num_steps=60, num_probes=2), ax=ax)
    (line,) = ax.lines
    beyond = line.get_ydata()[line.get_xdata() > 10]
    low, high = ax.get_ylim()
    assert low < beyond.max() < 1e-4 < 1 < high


def test_a_band_is_shaded_once_however_many_spectra_are_drawn(ax):
    spectra = [slq(operator(scale), KEY, num_steps=20) for scale in (1.0, 10.0)]
    for spectrum in spectra:
        plot_fraction_of_eps(spectrum, ax=ax)
    (band,) = ax.patches
    ends = band.get_patch_transform().transform(band.get_path().vertices)[:, 0]
    floors = [float(spectrum.noise_floor) for spectrum in spectra]
    assert (ends.min(), ends.max()) == pytest.approx((min(floors) / 10, max(floors)))
    assert ax.get_legend_handles_labels()[1] == ["below the noise floor"]


def test_densities_of_two_eps_are_not_drawn_on_one_ordinate(ax):
    spectrum = slq(operator(), KEY, num_steps=20)
    plot_spectrum(spectrum, eps=0.1, ax=ax)
    plot_spectrum(spectrum, eps=0.1, ax=ax)
    assert len(ax.patches) == 1
    with pytest.raises(InputError, match=r"density for eps=0\.1; got eps=0\.01"):
        plot_spectrum(spectrum, eps=0.01, ax=ax)


@pytest.mark.parametrize("eps", [None, "a", 0.0, -1.0, float("nan")])
def test_an_eps_that_is_no_positive_number_is_refused(ax, eps, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(InputError, match="eps must be a positive number"):
        plot_spectrum(slq(operator(), KEY, num_steps=4), eps=eps, ax=ax)


def test_axes_that_are_none_and_properties_named_twice_are_refused(ax):
    spectrum = slq(operator(), KEY, num_steps=4)
    with pytest.raises(InputError, match="ax must be Matplotlib axes; got Figure"):
        spectrum.plot(ax=ax.figure)
    with pytest.raises(InputError, match="aliases"):
        spectrum.plot(ax=ax, c="r", color="b")


def test_a_histogram_knows_short_names(ax):
    diagonal(operator(), KEY, num_matvecs=8).plot(ax=ax, c="red")
    assert {to_rgb(bar.get_facecolor()[:3]) for bar in ax.patches} == {to_rgb("red")}


def test_ticks_of_what_was_drawn_before_are_no_rows(ax):
    share = degenerate_fraction(slq(operator(), KEY, num_steps=20), 0.1)
    ax.axvline(5)
    plot_intervals({"a": share}, ax=ax)
    plot_intervals({"b": share}, ax=ax)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b"]


def test_a_mark_is_no_series(ax):
    spectrum = slq(operator(), KEY, num_steps=20)
    other = Figure().add_subplot()
    for label in "ab":
        plot_fraction_of_eps(spectrum, eps=0.1, label=label, ax=ax)
        plot_spectrum(spectrum, label=label, ax=other)
    colors = [
        [line.get_color() for line in one.lines if line.get_label() in "ab"] for one in (ax, other)
    ]
    assert colors[0] == colors[1]


def test_exact_shares_of_networks_lie_inside_the_frame(ax):
    family = dense_spectrum(stack([operator(1.0), operator(0.01)]))
    share = degenerate_fraction(family, 0.1)
    share.plot(ax=ax)
    low, high = ax.get_ylim()
    assert low < 100 * share.estimate.min() < 100 * share.estimate.max() < high


def test_the_abscissa_of_f_is_eps(ax):
    fraction_curve(slq(operator(), KEY, num_steps=20), np.geomspace(1e-2, 1, 4)).plot(ax=ax)
    assert ax.get_xlabel() == "ε"
