"""Every public result shows itself, is saved and loaded, and has labels."""

import copy
import dataclasses
import importlib
import json

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
import xarray as xr
from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import landscape
from landscape.analysis import analyze
from landscape.curvature import DenseOperator, DiagonalOperator, Problem, jacobian, stack
from landscape.data import load
from landscape.degeneracy import (
    check_directions,
    degeneracy_budget,
    jacobian_rank,
    measures,
    null_directions,
)
from landscape.errors import InputError, StorageError
from landscape.models import MLP
from landscape.results import Result
from landscape.spectra import (
    degenerate_fraction,
    dense_spectrum,
    diagonal,
    extremal_eigenpairs,
    fit_mixture,
    fraction_curve,
    resolve_fraction,
    slq,
    spectral_moments,
    trace,
)
from landscape.theory import TwoUnit
from landscape.training import TrainConfig, fit_many, softmax_cross_entropy

KEY = jax.random.key(0)


def every_result():
    """By name, one of each public result, small."""
    values = np.concatenate([np.zeros(20), np.linspace(-0.5, 2, 30)]).astype(np.float32)
    op = DiagonalOperator(jnp.asarray(values))
    spectrum = slq(op, KEY, num_steps=12, num_probes=2)
    family = slq(stack([op, op]), KEY, num_steps=12)
    moments = spectral_moments(op, KEY, num_probes=3)
    model = MLP(3, 4, 10)
    data = load("digits").subset(40, seed=0).pooled(4).standardized()
    inputs, labels = data.arrays()
    batch = (inputs, labels)
    params = model.init(jax.random.key(1), inputs[:1])["params"]
    params["hidden"]["bias"] = params["hidden"]["bias"].at[0, 1].set(-1e3)
    problem = Problem(softmax_cross_entropy(model), params, batch, {}, model=model)
    families = null_directions(model, params, batch)
    found = measures(model, params, inputs)
    units = TwoUnit(np.ones(2), np.array([[1.0, 0.5], [0.5, 1.0]]))
    path = units.flow(np.array([0.6, 0.5]), 0.3 * np.eye(2), 5.0)
    matrix = DenseOperator(jnp.asarray(np.diag(values[:5])))
    return {
        "dense spectrum": dense_spectrum(op),
        "Lanczos spectrum": spectrum,
        "Lanczos spectra of a family": family,
        "deflated spectrum": slq(op, KEY, num_steps=8, deflate=2),
        "fraction": degenerate_fraction(spectrum, 1e-2),
        "fractions of a family": degenerate_fraction(family, 1e-2),
        "relative fractions of a family": degenerate_fraction(family, 1e-2, relative_to="norm"),
        "fraction that was counted": degenerate_fraction(dense_spectrum(op), 1e-2),
        "curve": fraction_curve(spectrum, np.geomspace(1e-3, 1, 7)),
        "curves of a family": fraction_curve(family, np.geomspace(1e-3, 1, 7)),
        "resolved fraction": resolve_fraction(op, KEY, eps=1e-2, width=0.2, max_steps=30),
        "moments": moments,
        "mixture": fit_mixture(moments),
        "eigenpairs": extremal_eigenpairs(op, KEY, num_largest=2, num_smallest=1),
        "trace": trace(op, KEY, num_matvecs=12),
        "diagonal": diagonal(op, KEY, num_matvecs=12),
        "rank": jacobian_rank(jacobian(model_logits(model), params, inputs)),
        "rank by Lanczos": jacobian_rank(
            jacobian(model_logits(model), params, inputs), method="lanczos", rtol=1e-2, key=KEY
        ),
        "rank of a matrix": jacobian_rank(matrix),
        "measures": found,
        "elimination": found.elimination,
        "overlap": found.overlap,
        "dependence": found.dependence,
        "measures of several": jax.vmap(lambda p: measures(model, p, inputs))(
            jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), params)
        ),
        "directions": families[0],
        "check": check_directions(families[:1], model, params, batch)[0],
        "budget": degeneracy_budget(model, params, batch, eps=1e-3),
        "analysis": analyze(problem),
        "training": fit_many(model, data, TrainConfig(2, 20), jax.random.split(KEY, 2)),
        "trajectory": path,
        "coordinates": units.coordinates(path.states),
    }


def model_logits(model):
    return lambda params, x: model.apply({"params": params}, x)


@pytest.fixture(scope="module")
def results():
    return every_result()


NAMES = (
    "dense spectrum", "Lanczos spectrum", "Lanczos spectra of a family", "deflated spectrum",
    "fraction", "fractions of a family", "relative fractions of a family",
    "fraction that was counted", "curve",
    "curves of a family", "resolved fraction", "moments", "mixture", "eigenpairs", "trace",
    "diagonal", "rank", "rank by Lanczos", "rank of a matrix", "measures", "elimination",
    "overlap", "dependence", "measures of several", "directions", "check", "budget", "analysis",
    "training", "trajectory", "coordinates",
)  # fmt: skip


def test_every_public_result_is_among_those_tested(results):
    assert tuple(results) == NAMES
    public = set()
    for room in ("spectra", "degeneracy", "analysis", "training", "theory"):
        module = importlib.import_module(f"landscape.{room}")
        values = [getattr(module, name) for name in module.__all__]
        public |= {v for v in values if isinstance(v, type) and issubclass(v, Result)}
    assert {type(result) for result in results.values()} == public


def same(one, other):
    if dataclasses.is_dataclass(one):
        assert type(one) is type(other)
        for field in dataclasses.fields(one):
            same(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            same(one[key], other[key])
    elif isinstance(one, tuple | list):
        assert type(one) is type(other)
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            same(a, b)
    elif type(one).__name__ == "csr_array":
        assert (one != other).nnz == 0
    elif hasattr(one, "dtype"):
        assert one.dtype == other.dtype
        assert isinstance(one, jax.Array) == isinstance(other, jax.Array)
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    else:
        assert one == other or (one != one and other != other)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_loaded_is_what_was_saved(results, name, tmp_path):
    path = results[name].save(tmp_path / "result")
    assert path.name == "result.npz"
    assert [p.name for p in tmp_path.iterdir()] == ["result.npz"]
    found = landscape.load(path)
    same(results[name], found)
    assert found == results[name]
    assert hash(found) == hash(results[name])
    assert found != results["fraction" if name != "fraction" else "trace"]


@pytest.mark.parametrize("name", sorted({*NAMES} - {"analysis", "budget", "directions"}))
def test_it_is_a_pytree_of_its_arrays(results, name):
    result = results[name]
    leaves, structure = jax.tree.flatten(result)
    assert not any(isinstance(leaf, Result | str) for leaf in leaves)
    assert len(leaves) > 1
    same(jax.tree.unflatten(structure, leaves), result)


def test_results_with_other_numbers_types_or_shapes_are_others():
    spectrum = dense_spectrum(DiagonalOperator(jnp.arange(4.0)))
    nodes = np.asarray(spectrum.nodes)
    for other in (nodes + 1, nodes.astype(np.float32)):
        assert dataclasses.replace(spectrum, nodes=other) != spectrum
    part = {"nodes": nodes[:3], "weights": spectrum.weights[:3]}
    assert dataclasses.replace(spectrum, **part) != spectrum
    assert dataclasses.replace(spectrum, nodes=nodes.copy()) in [spectrum]
    lacking = dataclasses.replace(spectrum, nodes=nodes * np.nan)
    assert lacking == copy.deepcopy(lacking) != spectrum


@pytest.mark.parametrize("name", NAMES)
def test_it_shows_itself_with_a_table_and_a_picture(results, name):
    text = repr(results[name])
    assert len(text) < 3000
    assert "array(" not in text
    shown = results[name]._repr_html_()
    assert "<table" in shown
    assert "data:image/png;base64," in shown
    assert "<html" not in shown


def test_a_picture_of_one_share_is_explained_beside_it(results):
    share, resolved = results["fraction"], results["resolved fraction"]
    assert "whiskers: confidence interval" in share._repr_html_()
    # Its picture is f(ε).
    assert "whiskers" not in resolved._repr_html_()


@pytest.mark.parametrize("name", NAMES)
def test_it_draws_itself_on_axes_that_are_given_once_and_twice(results, name):
    before, style = pyplot.get_fignums(), dict(matplotlib.rcParams)
    figure = Figure(figsize=(4.4, 2.9), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.add_subplot()
    assert results[name].plot(ax=ax) is ax
    figure.canvas.draw()
    assert ax.get_xlabel() or ax.get_ylabel()
    expect_inside(figure)
    limits = [sorted(ax.get_xlim()), sorted(ax.get_ylim())]
    assert results[name].plot(ax) is ax
    figure.canvas.draw()
    for (low, high), (left, right) in zip(
        limits, [sorted(ax.get_xlim()), sorted(ax.get_ylim())], strict=True
    ):
        assert left <= low
        assert right >= high
    labels = ax.get_legend().get_texts() if ax.get_legend() else []
    texts = [text.get_text() for text in labels]
    if name == "budget":
        assert len(set(texts)) == len(texts)
        assert len(ax.get_yticks()) == 2
    assert pyplot.get_fignums() == before
    assert dict(matplotlib.rcParams) == style
    new = results[name].plot()
    assert new is pyplot.gca()
    pyplot.close(new.figure)


def expect_inside(figure):
    """No letter leaves the canvas."""
    box = figure.bbox
    for ax in figure.axes:
        legend = ax.get_legend().get_texts() if ax.get_legend() else []
        for text in (ax.xaxis.label, ax.yaxis.label, ax.title, *ax.texts, *legend):
            if text.get_text().strip():
                extent = text.get_window_extent()
                assert extent.x0 >= box.x0 - 1, text
                assert extent.x1 <= box.x1 + 1, text
                assert extent.y0 >= box.y0 - 1, text
                assert extent.y1 <= box.y1 + 1, text


@pytest.mark.parametrize("name", NAMES)
def test_labels_survive_netcdf(results, name, tmp_path):
    dataset = results[name].to_xarray()
    assert isinstance(dataset, xr.Dataset)
    assert len(dataset.variables)
    dataset.to_netcdf(tmp_path / "labelled.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "labelled.nc", engine="h5netcdf") as again:
        assert set(again.variables) == set(dataset.variables)


def test_axes_have_the_names_of_the_docstrings(results):
    dims = {
        ("Lanczos spectrum", "alphas"): ("probe", "step"),
        ("Lanczos spectra of a family", "alphas"): ("network", "probe", "step"),
        ("Lanczos spectra of a family", "weights"): ("network", "node"),
        ("dense spectrum", "nodes"): ("P",),
        ("curves of a family", "estimate"): ("network", "interval"),
        ("diagonal", "value"): ("P",),
        ("measures", "elimination_incoming_norms"): ("layer", "unit"),
        ("measures of several", "overlap_cosines"): ("layer", "network", "unit", "other_unit"),
        ("budget", "counts"): ("cause",),
        ("training", "loss"): ("network", "epoch"),
    }
    for (result, name), expected in dims.items():
        assert results[result].to_xarray()[name].dims == expected, (result, name)
    relative = results["relative fractions of a family"].to_xarray()
    assert relative["upper_end"].dims == relative["estimate"].dims == ("network",)
    np.testing.assert_allclose(relative["upper_end"], [0.02, 0.02], rtol=0.02)
    curve = results["curve"].to_xarray()
    np.testing.assert_allclose(curve["upper_end"], np.geomspace(1e-3, 1, 7))


def test_numpy_alone_reads_the_arrays(results, tmp_path):
    path = results["Lanczos spectrum"].save(tmp_path / "spectrum.npz")
    with np.load(path, allow_pickle=False) as file:
        np.testing.assert_array_equal(file["alphas"], results["Lanczos spectrum"].alphas)


def test_types_that_numpy_does_not_know_are_kept(results, tmp_path):
    run = dataclasses.replace(results["training"], params={"w": jnp.ones(3, jnp.bfloat16)})
    same(run, landscape.load(run.save(tmp_path / "run")))


def test_float64_arrays_of_jax_stay_float64(results, tmp_path):
    with jax.enable_x64(True):
        params = {"w": jnp.ones(3, jnp.float64)}
    run = dataclasses.replace(results["training"], params=params)
    assert landscape.load(run.save(tmp_path / "run")).params["w"].dtype == jnp.float64


def test_what_cannot_be_saved_is_named(results, tmp_path):
    run = dataclasses.replace(results["training"], params={"w": object()})
    with pytest.raises(InputError, match=r"params\.w is of type object"):
        run.save(tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_result_is_refused(results, tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        landscape.load(tmp_path / "nothing.npz")
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    for name in ("text.npz", "other.npz"):
        with pytest.raises(InputError, match="is no result"):
            landscape.load(tmp_path / name)
    good = results["trace"].save(tmp_path / "good")
    good.write_bytes(good.read_bytes()[:-100])
    with pytest.raises(InputError, match="is no result"):
        landscape.load(good)


def rewritten(path, change):
    with np.load(path) as file:
        arrays = dict(file)
    told = json.loads(arrays["structure"].tobytes())
    change(told)
    arrays["structure"] = np.frombuffer(json.dumps(told).encode(), np.uint8)
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    "name", ["spectra.slq", "errors.InputError", "curvature.Problem", "os.path"]
)
def test_nothing_but_public_results_is_made_from_a_file(results, name, tmp_path):
    path = results["trace"].save(tmp_path / "result")
    rewritten(path, lambda told: told["result"].update({"class": name}))
    with pytest.raises(InputError, match="cannot be read"):
        landscape.load(path)


def test_a_newer_file_says_so(results, tmp_path):
    path = results["trace"].save(tmp_path / "result")
    rewritten(path, lambda told: told.update(format=99, version="9.0"))
    with pytest.raises(InputError, match=r"saved by landscape 9\.0, which is newer"):
        landscape.load(path)


def test_the_ending_of_a_file_may_be_left_out_and_a_folder_is_refused(results, tmp_path):
    results["trace"].save(tmp_path / "one")
    same(results["trace"], landscape.load(tmp_path / "one"))
    with pytest.raises(InputError, match="is a folder"):
        results["trace"].save(tmp_path)
    with pytest.raises(InputError, match=r"there is no file \."):
        landscape.load(".")


def test_a_file_that_cannot_be_written_is_a_storage_error(results, tmp_path):
    with pytest.raises(StorageError, match="cannot write"):
        results["trace"].save(tmp_path / "nowhere" / "result")


def test_parts_of_a_result_have_axes_of_their_own(results):
    analysis = results["analysis"]
    spectrum = slq(DiagonalOperator(jnp.linspace(-1, 1, 60)), jax.random.key(0), num_steps=9)
    dataset = dataclasses.replace(analysis, spectrum=spectrum).to_xarray()
    assert dataset["spectrum_nodes"].dims == ("spectrum_node",)
    assert dataset["pairs_values"].dims == ("pairs_rank",)
    # Parts say all that they say by themselves.
    alone = analysis.budget.to_xarray()
    np.testing.assert_array_equal(dataset["budget_counts"], alone["counts"])
    assert list(dataset["budget_cause"].values) == list(alone["cause"].values)
    assert dataset.attrs["degenerate_interval"] == [-analysis.eps, analysis.eps]
    resolved = results["resolved fraction"].to_xarray()
    assert resolved.attrs["fraction_interval"][1] > 0
    np.testing.assert_array_equal(dataset["pairs_rank"], analysis.pairs.ranks)


def test_ranks_orders_and_times_are_coordinates(results):
    pairs, moments = results["eigenpairs"], results["moments"]
    smallest = pairs.to_xarray()["values"].sel(rank=-1)
    assert float(smallest) == pairs.values[-1]
    assert float(moments.to_xarray()["moments"].sel(order=2)) == moments.moments[1]
    flow = results["trajectory"]
    at = flow.to_xarray()["energies"].sel(time=flow.times[1])
    assert float(at) == flow.energies[1]


def test_parameters_whose_names_hold_dots_come_back_as_they_were(results, tmp_path):
    params = {"a.b": np.ones(2), "a": {"b": np.zeros(2)}}
    run = dataclasses.replace(results["training"], params=params)
    again = landscape.load(run.save(tmp_path / "run"))
    np.testing.assert_array_equal(again.params["a.b"], np.ones(2))
    np.testing.assert_array_equal(again.params["a"]["b"], np.zeros(2))


@pytest.mark.parametrize("name", ["__main__.run", "cli.main", "errors.InputError", "spectra.a.b"])
def test_a_file_names_results_alone(results, tmp_path, name, monkeypatch):
    path = results["trace"].save(tmp_path / "one")
    with np.load(path) as file:
        arrays = dict(file)
    told = json.loads(arrays["structure"].tobytes())
    told["result"]["class"] = name
    arrays["structure"] = np.frombuffer(json.dumps(told).encode(), np.uint8)
    np.savez(path, **arrays)
    with pytest.raises(InputError, match="cannot be read"):
        landscape.load(path)
    told["result"] = 3
    arrays["structure"] = np.frombuffer(json.dumps(told).encode(), np.uint8)
    np.savez(path, **arrays)
    with pytest.raises(InputError, match="is no result"):
        landscape.load(path)
