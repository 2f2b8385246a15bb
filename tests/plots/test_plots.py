import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_rgb
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from scipy import stats

from landscape.curvature import DiagonalOperator
from landscape.errors import InputError
from landscape.plots import (
    look,
    mean_interval,
    plot_density,
    plot_fraction_curve,
    plot_fraction_of_eps,
    plot_fractions,
    plot_spectrum,
    plot_through_training,
)
from landscape.spectra import slq

NAMES = ["plain", "residual", "hyper-residual"]
EPSILONS = np.logspace(-7, 2, 19)


def results(along, coordinate, values=None, names=NAMES, seeds=3):
    """Labelled values with a different level for each architecture and a spread over seeds."""
    coordinate = np.asarray(coordinate)
    if values is None:
        level = np.linspace(0.2, 0.6, len(names))[:, None, None]
        spread = np.linspace(-0.05, 0.05, seeds)[:, None]
        values = level + spread + 0.1 * np.linspace(0, 1, len(coordinate))
    return xr.DataArray(
        values,
        dims=("architecture", "seed", along),
        coords={"architecture": names, "seed": np.arange(seeds), along: coordinate},
    )


def bounded(along, coordinate, **options):
    """An estimate and bounds 0.1 below and 0.2 above it."""
    estimate = results(along, coordinate, **options)
    return estimate, estimate - 0.1, estimate + 0.2


@pytest.fixture
def ax():
    return Figure().add_subplot()


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Whatever another test left behind is collected at any time.
        warnings.simplefilter("ignore", ResourceWarning)
        yield


def labelled(ax):
    return ax.get_legend_handles_labels()[1]


def draw(ax):
    """Render: mistakes in labels and scales show only then."""
    ax.figure.savefig("/dev/null", format="png")


DRAWINGS = {
    "through training": lambda ax: plot_through_training(results("epoch", range(5)), ax=ax),
    "fractions": lambda ax: plot_fractions(*bounded("spectrum_epoch", [0, 50, 100]), ax=ax),
    "fraction curve": lambda ax: plot_fraction_curve(*bounded("eps", EPSILONS), ax=ax),
    "density": lambda ax: plot_density(
        results("eigenvalue", np.linspace(-20, 20, 41)), linear_width=1e-3, eps=1e-3, ax=ax
    ),
}


@pytest.mark.parametrize("drawing", DRAWINGS)
def test_the_axes_given_are_drawn_on_and_returned(ax, drawing):
    assert DRAWINGS[drawing](ax) is ax
    assert ax.has_data()
    draw(ax)


@pytest.mark.parametrize("drawing", DRAWINGS)
def test_without_axes_new_ones_come_in_a_figure_of_pyplots_that_notebooks_show(drawing):
    from matplotlib import pyplot

    pyplot.close("all")
    new = DRAWINGS[drawing](None)
    assert new.has_data()
    assert pyplot.gcf() is new.figure
    assert DRAWINGS[drawing](None) is not new
    assert len(pyplot.get_fignums()) == 2
    pyplot.close("all")
    draw(new)


@pytest.mark.parametrize("drawing", DRAWINGS)
def test_there_is_one_labelled_series_per_architecture_in_its_own_look(ax, drawing):
    DRAWINGS[drawing](ax)
    assert labelled(ax) == NAMES
    handles = ax.get_legend_handles_labels()[0]
    lines = [handle.lines[0] if hasattr(handle, "lines") else handle for handle in handles]
    assert [line.get_color() for line in lines] == [look(name).color for name in NAMES]


def test_lines_are_means_over_seeds_in_percent_and_bands_their_intervals(ax):
    data = results("epoch", [0, 10, 20])
    plot_through_training(data, ax=ax)
    for index, line in enumerate(ax.get_lines()):
        mean, half = mean_interval(100 * data.values[index], 0)
        np.testing.assert_array_equal(line.get_xdata(), [0, 10, 20])
        np.testing.assert_allclose(line.get_ydata(), mean)
        band = ax.collections[index].get_paths()[0].vertices
        assert band[:, 1].min() == pytest.approx((mean - half).min())
        assert band[:, 1].max() == pytest.approx((mean + half).max())


def test_values_are_left_as_they_are_without_percent(ax):
    data = results("epoch", [0, 1])
    plot_through_training(data, ax=ax, percent=False)
    np.testing.assert_allclose(ax.get_lines()[0].get_ydata(), data[0].mean("seed"))


@pytest.mark.parametrize(
    ("along", "label"),
    [("spectrum_epoch", "epoch"), ("images", "examples N")],
)
def test_the_abscissa_is_named_after_its_dimension(ax, along, label):
    plot_fractions(*bounded(along, [0, 1, 2]), ax=ax)
    assert ax.get_xlabel() == label


def markers(ax):
    """The error-bar containers among all containers."""
    return [container for container in ax.containers if isinstance(container, ErrorbarContainer)]


def test_fractions_stand_at_evenly_spaced_places_labelled_with_their_epochs(ax):
    plot_fractions(*bounded("spectrum_epoch", [0, 50, 1000]), ax=ax)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "50", "1,000"]
    places = [container.lines[0].get_xdata() for container in markers(ax)]
    # Beside each other, so that their bars can be told apart.
    assert len({x[0] for x in places}) == len(NAMES)
    np.testing.assert_allclose(np.mean(places, 0), [0, 1, 2], atol=1e-12)


def test_missing_seeds_are_left_out_of_the_mean(ax):
    data = results("epoch", [0, 1, 2])
    data[0, 1] = np.nan
    plot_through_training(data, ax=ax)
    np.testing.assert_allclose(ax.get_lines()[0].get_ydata(), 100 * data.values[0, [0, 2]].mean(0))
    draw(ax)


def segments(container):
    """The bars of an error-bar container."""
    return container.lines[2][0].get_segments()


def test_fractions_show_resolved_estimates_and_the_certified_intervals_of_the_same(ax):
    estimate, lower, upper = bounded("spectrum_epoch", [0, 1, 2])
    lower[0, 1], upper[0, 1] = 0, 1
    estimate[0, 1] = np.nan
    estimate[0, :, 2] = np.nan
    plot_fractions(estimate, lower, upper, ax=ax)
    drawn = markers(ax)[0].lines[0].get_ydata()
    np.testing.assert_allclose(drawn[:2], 100 * estimate.values[0, [0, 2], :2].mean(0))
    assert np.isnan(drawn[2])
    # From two seeds no interval is drawn, from three one is.
    first, second = (
        np.array([np.ptp(bar, axis=0)[1] if len(bar) else np.nan for bar in segments(container)])
        for container in markers(ax)[:2]
    )
    assert not (first[1:] > 0).any()
    assert (second > 0).all()
    boxes = [(bar.get_y(), bar.get_y() + bar.get_height()) for bar in ax.patches[:3]]
    # Where none is resolved, of all.
    expected = [
        [*100 * bound.values[0, [0, 2], :2].mean(0), 100 * bound.values[0, :, 2].mean()]
        for bound in (lower, upper)
    ]
    np.testing.assert_allclose(np.transpose(boxes), expected)
    draw(ax)


def test_a_curve_is_drawn_where_every_seed_is_resolved_its_bounds_everywhere(ax):
    estimate, lower, upper = bounded("eps", EPSILONS)
    estimate[0, 1, :3] = np.nan
    plot_fraction_curve(estimate, lower, upper, ax=ax)
    line = ax.get_lines()[0].get_ydata()
    assert np.isnan(line[:3]).all()
    np.testing.assert_allclose(line[3:], 100 * estimate.values[0, :, 3:].mean(0))
    band = ax.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(100 * lower.values[0].mean(0).min())
    assert band[:, 1].max() == pytest.approx(100 * upper.values[0].mean(0).max())


@pytest.mark.parametrize("kind", ["through training", "fraction curve"])
def test_an_architecture_without_any_value_keeps_its_place_in_the_legend(ax, kind):
    estimate, *bounds = bounded("eps", EPSILONS)
    estimate[1] = np.nan
    if kind == "fraction curve":
        plot_fraction_curve(estimate, *bounds, ax=ax)
    else:
        plot_through_training(estimate, ax=ax)
    assert labelled(ax) == NAMES
    assert np.isnan(ax.get_lines()[1].get_ydata()).all()
    draw(ax)


def test_one_seed_has_a_line_and_no_band(ax):
    data = results("epoch", [0, 1, 2], values=np.ones((3, 1, 3)) / 2, seeds=1)
    plot_through_training(data, ax=ax)
    np.testing.assert_array_equal(ax.get_lines()[0].get_ydata(), [50, 50, 50])
    draw(ax)


def test_architectures_of_other_names_have_looks_that_differ():
    assert len({look("mine", 0), look("yours", 1), *(look(name) for name in NAMES)}) == 5


def test_the_fraction_curve_has_its_axes_named_and_in_range(ax):
    plot_fraction_curve(*bounded("eps", EPSILONS), ax=ax)
    assert ax.get_xscale() == "log"
    assert ax.get_ylim() == (0, 100)
    assert ax.get_xlim() == pytest.approx((EPSILONS[0], EPSILONS[-1]))
    assert ax.get_xlabel() == "ε"
    assert "|λ| ≤ ε" in ax.get_ylabel()
    assert "%" in ax.get_ylabel()


def test_what_lies_below_the_noise_floor_is_shaded_and_named(ax):
    plot_fraction_curve(*bounded("eps", EPSILONS), ax=ax, noise_floor=1e-5)
    assert labelled(ax) == [*NAMES, "below the noise floor"]
    shaded = ax.patches[0].get_extents().transformed(ax.transData.inverted())
    assert (shaded.x0, shaded.x1) == pytest.approx((EPSILONS[0], 1e-5))


def test_a_noise_floor_below_the_curve_is_not_drawn(ax):
    plot_fraction_curve(*bounded("eps", EPSILONS), ax=ax, noise_floor=1e-9)
    assert labelled(ax) == NAMES
    assert not ax.patches


def test_densities_have_both_signs_zero_and_the_degenerate_band(ax):
    grid = 1e-3 * np.sinh(np.linspace(-11, 11, 101))
    plot_density(results("eigenvalue", grid), linear_width=1e-3, eps=1e-3, ax=ax)
    assert ax.get_xscale() == "asinh"
    assert ax.get_yscale() == "log"
    assert ax.get_xlabel() == "eigenvalue λ"
    assert ax.get_ylabel()
    assert ax.get_xlim() == pytest.approx((grid[0], grid[-1]))
    ticks = [tick.get_text() for tick in ax.get_xticklabels()]
    assert "0" in ticks
    assert "$10^{-1}$" in ticks
    assert "$-10^{-1}$" in ticks
    # Every label says where its tick is.
    for place, text in zip(ax.get_xticks(), ticks, strict=True):
        if text != "0":
            assert place == pytest.approx(float(text.strip("$").replace("10^{", "1e").strip("}")))
    band = ax.patches[0].get_extents().transformed(ax.transData.inverted())
    assert (band.x0, band.x1) == pytest.approx((-1e-3, 1e-3))


def test_a_density_is_the_mean_over_the_seeds_that_have_one(ax):
    data = results("eigenvalue", np.linspace(-1, 1, 9))
    data[0, 0] = np.nan
    plot_density(data, linear_width=1e-3, eps=1e-3, ax=ax)
    np.testing.assert_allclose(ax.get_lines()[0].get_ydata(), data.values[0, 1:].mean(0))
    draw(ax)


@pytest.mark.parametrize("axis", [0, 1])
def test_the_interval_is_students_of_scipy(axis):
    values = np.random.default_rng(0).normal(size=(5, 5))
    mean, half = mean_interval(values, axis)
    expected = stats.t.interval(0.95, 4, values.mean(axis), stats.sem(values, axis))
    np.testing.assert_allclose((mean - half, mean + half), expected, rtol=1e-12)


def test_the_interval_leaves_missing_seeds_out():
    values = np.random.default_rng(0).normal(size=(5, 2))
    values[[1, 3], 0] = np.nan
    mean, half = mean_interval(values, 0)
    for column, kept in ((0, [0, 2, 4]), (1, [0, 1, 2, 3, 4])):
        alone = stats.ttest_1samp(values[kept, column], 0).confidence_interval(0.95)
        assert (mean - half)[column] == pytest.approx(alone.low)
        assert (mean + half)[column] == pytest.approx(alone.high)


def test_the_interval_of_one_seed_or_none_is_unknown():
    mean, half = mean_interval(np.array([[1.0, np.nan], [np.nan, np.nan]]), 0)
    np.testing.assert_array_equal(mean, [1.0, np.nan])
    assert np.isnan(half).all()


def test_the_interval_of_equal_values_is_empty():
    mean, half = mean_interval(np.full(4, 0.5), 0)
    assert (float(mean), float(half)) == (0.5, 0.0)


def test_seeds_without_any_bounds_are_left_aside():
    eps = np.logspace(-3, 0, 4)
    coords = {"architecture": ["best"], "seed": [0, 1], "eps": eps}
    values = np.stack([[0.2, 0.4, 0.6, 0.8], np.full(4, np.nan)])[None]
    lower, upper = (
        xr.DataArray(values + shift, coords=coords, dims=tuple(coords)) for shift in (-0.1, 0.1)
    )
    estimate = xr.DataArray(values, coords=coords, dims=tuple(coords)).where(lower > 0.2)
    ax = plot_fraction_curve(estimate, lower, upper)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [np.nan, 40, 60, 80])


def test_on_a_dark_background_everything_stands_out():
    """Contrast of every series and mark with what is behind it, as of WCAG 2.2 for graphics."""
    from matplotlib import pyplot, style

    def luminance(color):
        parts = np.array(to_rgb(color))
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return linear @ (0.2126, 0.7152, 0.0722)

    with style.context("dark_background"):
        figure, (axes, other) = pyplot.subplots(1, 2)
        spectrum = slq(
            DiagonalOperator(jnp.linspace(-1.0, 1.0, 50)), jax.random.key(0), num_steps=20
        )
        for index in range(8):
            plot_spectrum(spectrum, eps=0.1, label=f"network {index}", ax=axes)
        axes.plot([0, 1], [0, 1], color=look("BiasReg+BN").color)
        plot_fraction_of_eps(spectrum, eps=0.1, ax=other)
        for line in [*axes.lines, *other.lines]:
            assert (luminance(line.get_color()) + 0.05) / 0.05 >= 3, line.get_label()
        band = [patch for patch in [*axes.patches, *other.patches] if patch.get_gid()]
        assert band
        assert all(luminance(patch.get_facecolor()[:3]) < 0.1 for patch in band)
        pyplot.close(figure)
    assert look("BiasReg+BN").color == "#000000"


@pytest.mark.parametrize("dims", [("epoch",), ("seed", "epoch"), ("epoch", "architecture")])
def test_one_network_needs_no_architecture_and_no_seed(ax, dims):
    whole = results("epoch", [0, 5, 10], seeds=1, names=["plain"])
    part = whole.squeeze([dim for dim in whole.dims if dim not in dims], drop="seed" in dims)
    part = part.transpose(*dims)
    plot_through_training(part, ax=ax)
    plot_fractions(part, part - 0.1, part + 0.1, ax=ax)
    expected = 100 * whole.values[0, 0]
    np.testing.assert_allclose(ax.get_lines()[0].get_ydata(), expected)
    np.testing.assert_allclose(ax.get_lines()[1].get_ydata(), expected)


def test_arrays_of_other_dimensions_are_refused(ax, unchecked):
    array = xr.DataArray(np.ones((2, 3)), dims=("layer", "epoch"))
    with pytest.raises(InputError, match="one along the abscissa; got 'layer', 'epoch'"):
        plot_through_training(array, ax=ax)
    with pytest.raises(InputError, match="and 'eigenvalue'; got 'epoch'"):
        plot_density(array[0], linear_width=1.0, eps=0.1, ax=ax)
    with pytest.raises(InputError, match="plot_fractions draws a DataArray"):
        plot_fractions(np.ones(3), np.ones(3), np.ones(3), ax=ax)
