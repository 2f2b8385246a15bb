import base64
import io
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from rich.console import Console

from landscape.errors import DataError, InputError, StorageError, UnitsFailedError
from landscape.experiments import networks
from landscape.experiments import reproduce as reproduce_module
from landscape.experiments.reproduce import EXPERIMENTS, Request, report, reproduce
from landscape.experiments.scales import make_scale
from landscape.experiments.variants import STANDARD
from landscape.report import Page

# Whole runs and processes of their own.
pytestmark = pytest.mark.slow

REQUEST = Request("fig3", scale="smoke")
GROUP = make_scale("smoke", "digits", None).accuracy
STATUSES = {"holds", "fails", "undecided", "no verdict"}
# Gauss weights and bounds are sums over the same nodes in another order.
ROUNDING = 1e-6


def run(out, request=REQUEST, *, resume=False, workers=1):
    """Run an experiment, in this process; what it printed."""
    console = Console(file=io.StringIO(), width=120)
    page = reproduce(request, out, resume=resume, console=console, workers=workers)
    assert isinstance(page, Page)
    return console.file.getvalue()


def results_of(folder):
    with xr.open_dataset(folder / f"results-{GROUP.name}.nc", engine="h5netcdf") as dataset:
        return dataset.load()


def units_of(folder, kind=""):
    return sorted((folder / "units").glob(f"{kind}*.nc"))


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The folder of a finished run, with what it printed; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "smoke"
    return folder, run(folder)


@pytest.fixture
def finished(smoke, tmp_path):
    """A copy of the finished run, to be changed."""
    return Path(shutil.copytree(smoke[0], tmp_path / "copy"))


@pytest.fixture
def no_figures(monkeypatch):
    """Leave out the drawing: it has tests of its own."""
    blank = Page("title", [], [], [])
    monkeypatch.setattr(reproduce_module, "make_page", lambda *arguments, **options: blank)


@pytest.fixture
def nothing_computes(monkeypatch):
    """Let every unit that is computed fail."""

    def refuse(*arguments, **options):
        raise AssertionError("a unit was computed")

    monkeypatch.setattr(networks, "slq", refuse)
    monkeypatch.setattr(networks, "fit_many", refuse)


class Links(HTMLParser):
    """Everything that a page refers to, and its tags."""

    def __init__(self):
        super().__init__()
        self.references, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.references += [value for name, value in attrs if name in ("src", "href", "data")]


def test_a_run_leaves_its_files_and_nothing_else(smoke):
    folder, _ = smoke
    assert {path.name for path in folder.iterdir()} >= {
        "config.json", "units", "results-small.nc", "claims.json", "figures", "report.html",
    }  # fmt: skip
    figures = sorted(path.name for path in (folder / "figures").iterdir())
    names = ("densities", "distances", "fraction-curves", "through-training")
    stems = [f"fig3-{name}" for name in names]
    assert figures == [f"{stem}.{kind}" for stem in stems for kind in ("pdf", "png")]
    for path in (folder / "figures").iterdir():
        magic = b"%PDF" if path.suffix == ".pdf" else b"\x89PNG"
        assert path.read_bytes().startswith(magic)
    assert not list(folder.rglob(".writing-*"))


def test_there_is_one_unit_for_each_block_of_networks_and_for_each_spectrum(smoke):
    blocks = -(-GROUP.seeds // GROUP.block)
    assert len(units_of(smoke[0], "train-")) == len(STANDARD) * blocks
    spectra = len(STANDARD) * GROUP.seeds * len(GROUP.spectrum_epochs)
    # Of the networks that do not end at the matched loss, one more.
    matched = int((results_of(smoke[0])["matched_epoch"] != GROUP.epochs).sum())
    assert 0 < matched <= (len(STANDARD) - 1) * GROUP.seeds
    assert len(units_of(smoke[0], "spectrum-")) == spectra + matched


def test_networks_are_matched_by_their_training_loss(smoke):
    results = results_of(smoke[0])
    level = results["loss"].isel(epoch=-1).max("architecture")
    assert (results["matched_loss"] <= level).all()
    for (i, j), epoch in np.ndenumerate(results["matched_epoch"].values):
        before = results["loss"].values[i, j, : int(epoch)]
        assert (before > float(level[j])).all()
        assert results["matched_loss"].values[i, j] == results["loss"].values[i, j, int(epoch)]
    last = results["matched_epoch"].values == GROUP.epochs
    final = results["degenerate"].isel(spectrum_epoch=-1, images=-1).values
    np.testing.assert_array_equal(results["matched_degenerate"].values[last], final[last])


def test_the_configuration_says_what_was_run_and_where(smoke):
    record = json.loads((smoke[0] / "config.json").read_text())
    assert record["config"]["request"] == {
        "experiment": "fig3", "dataset": "digits", "scale": "smoke", "seeds": None, "seed": 0,
    }  # fmt: skip
    assert record["config"]["scale"]["accuracy"]["depth"] == GROUP.depth
    assert record["environments"][0]["landscape"]
    assert str(smoke[0]) not in json.dumps(record)


def test_progress_is_told_in_plain_lines_where_there_is_no_terminal(smoke):
    _, printed = smoke
    lines = printed.splitlines()
    assert lines[0] == "training 6 networks of 4×8 …"
    count = len(units_of(smoke[0], "spectrum-"))
    assert any(f"{count}/{count} done" in line for line in lines)
    assert "\x1b" not in printed


def test_results_have_names_on_their_axes(smoke):
    results = results_of(smoke[0])
    assert results["architecture"].values.tolist() == list(STANDARD)
    assert results.sizes["seed"] == GROUP.seeds
    assert results["epoch"].values.tolist() == list(range(GROUP.epochs + 1))
    assert results["spectrum_epoch"].values.tolist() == list(GROUP.spectrum_epochs)
    assert results["images"].values.tolist() == [200]
    assert (results.attrs["num_parameters"], results.attrs["num_classes"]) == (826, 10)
    assert results.attrs["num_examples"] == 200


def test_training_is_recorded_from_the_initial_network_on(smoke):
    results = results_of(smoke[0])
    assert np.isfinite(results["loss"].values).all()
    assert ((results["accuracy"] >= 0) & (results["accuracy"] <= 1)).all()
    # 200 images: accuracies are multiples of 1/200.
    counts = 200 * results["accuracy"].values
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-3)
    assert (results["loss"].isel(epoch=-1) < results["loss"].isel(epoch=0)).all()
    # No network is another one's copy.
    finals = results["loss"].isel(epoch=-1).values.ravel()
    assert len(set(finals)) == len(finals)


@pytest.mark.parametrize("kind", ["degenerate", "negative"])
def test_fractions_lie_between_their_certified_bounds(smoke, kind):
    results = results_of(smoke[0])
    estimate = results[kind]
    lower, upper = results[f"{kind}_lower"], results[f"{kind}_upper"]
    assert estimate.notnull().all()
    assert ((lower >= 0) & (upper <= 1)).all()
    assert (lower <= estimate + ROUNDING).all()
    assert (estimate <= upper + ROUNDING).all()
    assert (upper > lower).any()
    assert (results[f"{kind}_stderr"] <= np.sqrt(1 / (2 * 826 + 4)) + ROUNDING).all()


def test_fractions_do_not_exceed_one_together(smoke):
    results = results_of(smoke[0])
    assert (results["degenerate"] + results["negative"] <= 1 + ROUNDING).all()


@pytest.mark.parametrize(("name", "axis"), [("curve", "eps"), ("relative_curve", "relative")])
def test_curves_rise_from_the_noise_floor_to_one(smoke, name, axis):
    results = results_of(smoke[0])
    curve = results[name].transpose(..., axis).values
    known = np.isfinite(curve)
    # Once resolved, a curve stays so.
    assert (np.diff(known.astype(int), axis=-1) >= 0).all()
    steps = np.diff(curve, axis=-1)
    assert (steps[np.isfinite(steps)] >= -1e-12).all()
    np.testing.assert_allclose(curve[..., -1], 1, atol=ROUNDING)
    assert (curve[known] >= 0).all()
    lower, upper = (
        results[f"{name}_{end}"].transpose(..., axis).values for end in ("lower", "upper")
    )
    assert (lower[known] <= curve[known] + ROUNDING).all()
    assert (curve[known] <= upper[known] + ROUNDING).all()
    assert (lower[known] > 0).any()
    assert (upper[known] < 1).any()
    floor = results["noise_floor"].values[..., None]
    scale = results["norm"].values[..., None] if axis == "relative" else 1.0
    np.testing.assert_array_equal(known, results[axis].values * scale >= floor)


def test_the_curve_passes_through_the_reported_fraction(smoke):
    results = results_of(smoke[0])
    at = results["curve"].sel(eps=1e-3, method="nearest")
    assert float(at["eps"]) == pytest.approx(1e-3)
    np.testing.assert_allclose(at.values, results["degenerate"].values, atol=0.02)


def test_densities_are_non_negative_and_hold_all_the_mass(smoke):
    density = results_of(smoke[0])["density"]
    assert (density >= 0).all()
    t = np.arcsinh(density["eigenvalue"].values / 1e-3)
    mass = np.trapezoid(density.transpose(..., "eigenvalue").values, t, axis=-1)
    np.testing.assert_allclose(mass, 1, atol=0.01)


def test_verdicts_are_those_of_the_results(smoke):
    claims = json.loads((smoke[0] / "claims.json").read_text())
    assert len(claims) == 6
    assert {claim["status"] for claim in claims} <= STATUSES
    results = results_of(smoke[0])
    accuracy = results["accuracy"].isel(epoch=slice(1, None)).mean("epoch")
    first = claims[0]
    assert first["claim"] == "accuracy: residual > plain"
    larger, smaller = (accuracy.sel(architecture=n).values for n in ("residual", "plain"))
    np.testing.assert_allclose(first["larger"], larger, rtol=1e-12)
    np.testing.assert_allclose(first["smaller"], smaller, rtol=1e-12)
    assert first["effect"] == pytest.approx((larger - smaller).mean())
    assert first["interval"][0] <= first["effect"] <= first["interval"][1]
    for claim in claims:
        # NaN is no JSON: what is not known is null.
        pairs = zip(claim["larger"], claim["smaller"], strict=True)
        assert claim["pairs"] == sum(None not in pair for pair in pairs)


def test_the_report_stands_alone(smoke):
    folder, _ = smoke
    text = (folder / "report.html").read_text(encoding="utf-8")
    links = Links()
    links.feed(text)
    assert not {"script", "iframe"} & set(links.tags)
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    pictures = []
    # An icon of nothing, without which a browser asks the page's host for one.
    assert links.references.count("data:,") == 1
    for reference in filter("data:,".__ne__, links.references):
        kind, _, data = reference.partition(",")
        assert kind == "data:image/png;base64"
        pictures.append(base64.b64decode(data, validate=True))
    files = [path.read_bytes() for path in (folder / "figures").glob("*.png")]
    assert sorted(pictures) == sorted(files)


def test_the_report_says_what_was_measured(smoke):
    text = (smoke[0] / "report.html").read_text(encoding="utf-8")
    assert "Plain, residual and hyper-residual networks on digits (smoke scale)" in text
    for claim in json.loads((smoke[0] / "claims.json").read_text()):
        assert claim["claim"].replace(">", "&gt;") in text
    for words in ("N = 200", "P = 826", "N(C−1)/P = 2.18", "float32", "Hessian of the training"):
        assert words in text
    assert str(smoke[0]) not in text


def test_a_finished_run_is_continued_without_computing_anything(
    finished, nothing_computes, no_figures
):
    before = {path: path.read_bytes() for path in units_of(finished)}
    claims = (finished / "claims.json").read_bytes()
    results = results_of(finished)
    (finished / "claims.json").unlink()
    run(finished, resume=True)
    assert (finished / "claims.json").read_bytes() == claims
    assert {path: path.read_bytes() for path in units_of(finished)} == before
    xr.testing.assert_identical(results_of(finished), results)


def test_missing_units_are_computed_again_to_the_same_bits(finished, no_figures):
    names = [path.name for path in units_of(finished)]
    results = results_of(finished)
    training, spectrum = units_of(finished, "train-")[0], units_of(finished, "spectrum-")[-1]
    with xr.open_dataset(training) as dataset:
        parameters = dataset.load()["parameters"]
    training.unlink()
    spectrum.unlink()
    shutil.rmtree(finished / "checkpoints")
    run(finished, resume=True)
    xr.testing.assert_identical(results_of(finished), results)
    again = units_of(finished, "train-")[0]
    with xr.open_dataset(again) as dataset:
        xr.testing.assert_identical(dataset.load()["parameters"], parameters)
    # A unit's name holds the hash of its content: the files themselves are the same.
    assert [path.name for path in units_of(finished)] == names


def test_a_damaged_unit_is_set_aside_and_done_again(finished, nothing_computes, caplog):
    path = units_of(finished, "spectrum-")[3]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(UnitsFailedError, match=r"1 of \d+ units failed.*\n.*a unit was computed"):
        run(finished, resume=True)
    assert str(path) in caplog.text
    assert (finished / "set-aside" / path.name).read_bytes() == bytes(content)


def test_units_that_fail_are_named_and_the_others_kept(finished, monkeypatch):
    gone = units_of(finished, "spectrum-")[:2]
    for path in gone:
        path.unlink()

    def fail(*arguments, **options):
        raise InputError("no finite second derivative")

    monkeypatch.setattr(networks, "slq", fail)
    kept = units_of(finished)
    with pytest.raises(UnitsFailedError, match=r"2 of \d+ units failed") as error:
        run(finished, resume=True)
    assert error.value.exit_code == 3
    for path in gone:
        assert f"{path.name.split('.')[0]}: no finite second derivative" in str(error.value)
    assert units_of(finished) == kept


def test_a_report_can_be_written_anew_and_is_the_same(finished, nothing_computes):
    before = (finished / "report.html").read_bytes()
    (finished / "report.html").unlink()
    shutil.rmtree(finished / "figures")
    page = report(finished, Console(file=io.StringIO()))
    assert (finished / "report.html").read_bytes() == before
    assert page.to_html().encode() == before
    assert len(list((finished / "figures").iterdir())) == 8


def test_a_report_of_an_unfinished_run_says_how_to_finish_it(smoke, tmp_path):
    shutil.copy(smoke[0] / "config.json", tmp_path)
    with pytest.raises(InputError, match=r"is not finished; continue it with .*--resume") as error:
        report(tmp_path, Console(file=io.StringIO()))
    assert str(tmp_path) in str(error.value)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("damage", ["truncated", "altered"])
def test_a_report_of_damaged_results_is_refused(finished, no_figures, nothing_computes, damage):
    path = finished / "results-small.nc"
    results = results_of(finished)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content[:100] if damage == "truncated" else content)
    with pytest.raises(StorageError, match=r"are damaged.*--resume") as error:
        report(finished, Console(file=io.StringIO()))
    assert str(path) in str(error.value)
    run(finished, resume=True)
    xr.testing.assert_identical(results_of(finished), results)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"request": {"experiment": "fig3", "colour": "red"}},
        {"request": {"experiment": "fig9"}, "scale": {}},
        {"request": {"experiment": "fig3"}, "scale": {"name": "smoke", "accuracy": 3}},
    ],
)
def test_a_report_of_a_folder_that_is_not_a_reproduction_is_refused(smoke, tmp_path, config):
    record = json.loads((smoke[0] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**record, "config": config}))
    with pytest.raises(InputError, match=r"config\.json does not say which experiment was run"):
        report(tmp_path, Console(file=io.StringIO()))


@pytest.mark.parametrize("environments", [None, 3, [{}], [7]])
def test_a_damaged_record_of_environments_is_refused(smoke, tmp_path, environments):
    record = json.loads((smoke[0] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**record, "environments": environments}))
    with pytest.raises(InputError, match=r"config\.json is damaged"):
        report(tmp_path, Console(file=io.StringIO()))


def test_a_report_does_without_a_readable_duration(finished, no_figures, nothing_computes):
    (finished / "timing.json").write_text("{")
    assert "minutes" not in report(finished, Console(file=io.StringIO())).to_html()


def test_a_finished_run_is_not_overwritten_without_resume(finished, nothing_computes):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    with pytest.raises(InputError, match=r"is not empty; add --resume"):
        run(finished)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


@pytest.mark.parametrize(
    "other", [Request("fig3", scale="smoke", seed=1), Request("fig3", scale="smoke", seeds=3)]
)
def test_a_run_is_not_continued_under_another_request(finished, nothing_computes, other):
    with pytest.raises(InputError, match="holds a run of another configuration"):
        run(finished, other, resume=True)


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        (Request("fig99"), InputError, "unknown experiment 'fig99'; there are: fig2, fig3"),
        (Request("fig3", scale="huge"), InputError, "unknown scale 'huge'"),
        (Request("fig3", dataset="mnist"), DataError, "unknown data set 'mnist'"),
        (Request("fig3", scale="paper"), InputError, "the paper scale needs 50,000 images"),
        (Request("fig3", scale="smoke", seeds=0), InputError, "--seeds must be at least 1; got 0"),
        (
            Request("fig3", scale="smoke", seed=-1),
            InputError,
            "--seed must be from 0 to 4294967295",
        ),
        (Request("fig3", scale="smoke", seed=2**32), InputError, "--seed must be from 0 to"),
        (Request("fig3", scale="smoke", steps=0), InputError, "--steps must be at least 1; got 0"),
        (
            Request("fig2", scale="smoke", last_only=True),
            InputError,
            "--last-only changes nothing in fig2",
        ),
        (Request("fig9", scale="smoke", steps=5), InputError, "fig9, which takes no spectra"),
        (
            Request("validation", scale="smoke", block=2, steps=5),
            InputError,
            "--block and --steps change nothing in validation, .*; leave them out",
        ),
    ],
)
def test_a_request_that_cannot_be_met_leaves_no_folder_behind(tmp_path, request_, error, message):
    with pytest.raises(error, match=message):
        run(tmp_path / "run", request_)
    assert not (tmp_path / "run").exists()


def test_fewer_than_one_worker_is_refused_and_leaves_no_folder_behind(tmp_path):
    with pytest.raises(InputError, match="--workers must be at least 1; got 0"):
        run(tmp_path / "run", workers=0)
    assert not (tmp_path / "run").exists()


def test_every_experiment_has_a_name_and_a_summary():
    for name, experiment in EXPERIMENTS.items():
        assert experiment.name == name
        assert experiment.summary


@pytest.mark.slow
def test_the_same_request_gives_the_same_numbers_in_another_folder(smoke, tmp_path, no_figures):
    run(tmp_path / "again")
    xr.testing.assert_identical(results_of(tmp_path / "again"), results_of(smoke[0]))
    assert (tmp_path / "again" / "claims.json").read_bytes() == (
        smoke[0] / "claims.json"
    ).read_bytes()


@pytest.mark.slow
def test_another_seed_gives_other_networks(smoke, tmp_path, no_figures):
    run(tmp_path / "other", Request("fig3", scale="smoke", seed=1))
    assert "<title>title, seed 1</title>" in (tmp_path / "other" / "report.html").read_text()
    one, other = results_of(smoke[0]), results_of(tmp_path / "other")
    for name in ("loss", "degenerate", "norm"):
        assert not np.isclose(one[name], other[name], rtol=1e-6).any()
    # Network i of one run is no network of the other.
    assert not np.intersect1d(one["loss"].values, other["loss"].values).size


@pytest.mark.slow
def test_worker_processes_give_the_same_bits_as_this_process(finished, no_figures):
    names, results = [path.name for path in units_of(finished)], results_of(finished)
    # One architecture alone: each worker compiles for itself.
    for path in units_of(finished):
        if "small-plain-" in path.name:
            path.unlink()
    shutil.rmtree(finished / "checkpoints")
    run(finished, resume=True, workers=2)
    assert [path.name for path in units_of(finished)] == names
    xr.testing.assert_identical(results_of(finished), results)


def test_a_request_is_recorded_as_before_unless_it_changes_the_scale():
    assert "steps" not in REQUEST.to_json()
    changed = Request("fig4", steps=5, last_only=True)
    assert Request(**json.loads(json.dumps(changed.to_json()))) == changed
    assert "block" not in changed.to_json()


def test_of_all_experiments_each_is_told_what_concerns_it():
    asked = {"block": 3, "steps": 5, "last_only": True}
    assert Request("fig3", **asked).where_it_matters() == Request("fig3", **asked)
    assert Request("fig9", **asked).where_it_matters() == Request("fig9", block=3)
    assert Request("fig2", **asked).where_it_matters() == Request("fig2")


def test_time_is_that_of_the_units_whenever_they_were_done(finished):
    before = json.loads((finished / "timing.json").read_text())
    assert before["seconds_of_units"] > 1
    run(finished, resume=True)
    assert json.loads((finished / "timing.json").read_text()) == before
