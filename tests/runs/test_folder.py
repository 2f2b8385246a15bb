import dataclasses
import json
import os
import re
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xarray as xr

from landscape._temporary import machine, temporary_prefix
from landscape.errors import InputError, StorageError
from landscape.runs import (
    environment,
    netcdf_bytes,
    open_run_folder,
    read_run_folder,
    write_atomically,
)
from landscape.runs import folder as folder_module
from landscape.runs.events import EventLog, read_events
from landscape.runs.files import from_netcdf_bytes


def contents(path):
    return {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def rewrite_record(path, **changes):
    record = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(record | changes))


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("state", ["missing", "empty", "killed at once"])
def test_a_folder_without_a_run_starts_fresh(tmp_path, settings, resume, state):
    path = tmp_path / "deep" / "run"
    if state != "missing":
        path.mkdir(parents=True)
    if state == "killed at once":
        (path / ".writing-abc").write_text("half a configuration")
    folder = open_run_folder(path, settings, resume=resume)
    assert folder.path == path
    assert folder.config == settings
    assert (path / "units").is_dir()
    assert (path / "checkpoints").is_dir()
    record = json.loads((path / "config.json").read_text())
    assert record["config"] == settings
    assert record["environments"] == [environment()]


def test_a_folder_with_something_in_it_is_refused_without_resume(tmp_path, settings):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="is not empty; add --resume"):
        open_run_folder(tmp_path, settings, resume=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_is_continued_only_when_asked(folder, settings):
    with pytest.raises(InputError, match="add --resume"):
        open_run_folder(folder.path, settings, resume=False)
    before = contents(folder.path)
    assert open_run_folder(folder.path, settings, resume=True).config == settings
    assert contents(folder.path) == before, "config.json stays that of the start"


def test_a_folder_that_is_no_run_folder_is_not_continued(tmp_path, settings):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="is not a run folder"):
        open_run_folder(tmp_path, settings, resume=True)
    with pytest.raises(InputError, match="is not a run folder"):
        read_run_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_another_format_is_refused(folder, settings):
    rewrite_record(folder.path, format=7)
    with pytest.raises(InputError, match="in run format 7; this version reads format 3"):
        open_run_folder(folder.path, settings, resume=True)


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "{}", '{"format": 3}', '"x"', "\udcff"], ids=ascii
)
def test_a_damaged_configuration_is_named(folder, settings, text):
    path = folder.path / "config.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=re.escape(f"{path} is damaged")):
        read_run_folder(folder.path)


def test_a_damaged_configuration_is_made_anew_and_costs_no_result(folder, settings, result, caplog):
    folder.write_unit("one", {"x": 1}, result(2.0))
    damaged = (folder.path / "config.json").read_bytes()[:-20]
    (folder.path / "config.json").write_bytes(damaged)
    again = open_run_folder(folder.path, settings, resume=True)
    assert "made anew" in caplog.text
    assert (folder.path / "set-aside" / "config.json").read_bytes() == damaged
    assert read_run_folder(folder.path).config == settings
    path = again.unit_path("one", {"x": 1})
    assert path is not None
    xr.testing.assert_equal(again.read_unit(path), result(2.0))
    # What is not known to be a run's is left.
    foreign = folder.path.parent / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        open_run_folder(foreign, settings, resume=True)
    assert [one.name for one in foreign.iterdir()] == ["config.json"]


def test_another_configuration_is_refused_with_the_differences(folder, settings):
    other = settings | {"seeds": 3, "scale": {"name": "quick", "depths": [10]}, "extra": True}
    before = contents(folder.path)
    with pytest.raises(InputError, match="another configuration") as caught:
        open_run_folder(folder.path, other, resume=True)
    message = str(caught.value)
    assert "seeds was 2, now 3" in message
    assert "extra was null, now true" in message
    assert "scale.depths was [10, 20], now [10]" in message
    assert "experiment" not in message
    # What did not exist then cannot be asked for.
    assert "use the same options" not in message
    with pytest.raises(InputError, match="use the same options"):
        open_run_folder(folder.path, settings | {"seeds": 3}, resume=True)
    assert contents(folder.path) == before


def test_configurations_are_compared_as_json(folder, settings):
    as_tuple = settings | {"scale": {"name": "quick", "depths": (10, 20)}}
    assert open_run_folder(folder.path, as_tuple, resume=True).config == settings


def test_reading_a_run_folder_gives_its_configuration(folder, settings):
    assert read_run_folder(folder.path).config == settings


def test_a_file_in_place_of_the_folder_is_a_storage_error(tmp_path, settings):
    path = tmp_path / "occupied"
    path.write_text("mine")
    for wrong in (path, path / "below"):
        with pytest.raises(StorageError, match=re.escape(str(wrong))) as caught:
            open_run_folder(wrong, settings, resume=True)
        assert caught.value.exit_code == 4
    assert path.read_text() == "mine"


def test_a_folder_that_may_not_be_written_is_a_storage_error(tmp_path, settings, monkeypatch):
    # Root may write anywhere, so the system's answer is given here.
    monkeypatch.setattr(folder_module.os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(StorageError, match="permission denied; choose another --out"):
        open_run_folder(tmp_path, settings, resume=False)
    assert list(tmp_path.iterdir()) == []


def test_resuming_clears_what_a_killed_process_left(folder, settings):
    strays = [folder.path / ".writing-a", folder.path / "units" / ".writing-b"]
    for stray in strays:
        stray.write_text("half")
    open_run_folder(folder.path, settings, resume=True)
    assert not any(stray.exists() for stray in strays)


def test_a_unit_is_named_by_its_name_its_inputs_and_its_content(folder, result):
    inputs = {"seed": 3, "depth": 10}
    assert folder.unit_path("hyper 10×16, seed 3", inputs) is None
    path = folder.write_unit("hyper 10×16, seed 3", inputs, result(1.0))
    assert re.fullmatch(r"hyper-10-16-seed-3\.[0-9a-f]{16}\.[0-9a-f]{16}\.nc", path.name)
    assert path.parent == folder.path / "units"
    assert folder.unit_path("hyper 10×16, seed 3", inputs) == path
    reordered = dict(reversed(inputs.items()))
    assert folder.unit_path("hyper 10×16, seed 3", reordered) == path
    assert folder.unit_path("hyper 10×16, seed 3", inputs | {"seed": 4}) is None
    assert folder.checkpoint_path("hyper 10×16, seed 3", inputs).name == path.name[:-20]


def test_numerics_of_another_version_are_other_units(folder, result, monkeypatch):
    folder.write_unit("a", {}, result(1.0))
    monkeypatch.setattr(folder_module, "NUMERICS_VERSION", folder_module.NUMERICS_VERSION + 1)
    assert folder.unit_path("a", {}) is None


def test_a_unit_comes_back_as_it_was_written(folder, result):
    path = folder.write_unit("a", {}, result(1.5))
    xr.testing.assert_identical(folder.read_unit(path), result(1.5))
    assert path.stat().st_mode & 0o777 == 0o644
    assert [p.name for p in (folder.path / "units").iterdir()] == [path.name]


WIDE, FLAGS = 2**40, np.array([True, False])


@pytest.mark.parametrize(
    ("dataset", "start"),
    [
        (xr.Dataset({"a": ("part", [1.5, np.nan])}, {"part": ["all", "layer"]}), b"CDF"),
        (xr.Dataset({"a": ("x", np.float32([1e-30, 3]))}, {"x": [-1, 2]}), b"CDF"),
        (xr.Dataset({"certified": ("x", FLAGS), "count": ((), 7)}), b"CDF"),
        # What the classic format does not hold.
        (xr.Dataset({"count": ("x", np.array([WIDE]))}), b"\x89HDF"),
        (xr.Dataset({"a": ("x", np.zeros(0))}), b"\x89HDF"),
        (xr.Dataset({"a": ("x", np.zeros(2**18))}), b"\x89HDF"),
        (xr.Dataset({"a": ((), 1.0)}, attrs={"names": ["x", "y"]}), b"\x89HDF"),
    ],
)
def test_units_come_back_in_either_format(folder, dataset, start):
    path = folder.write_unit("one", {"x": 1}, dataset)
    assert path.read_bytes().startswith(start)
    found = folder.read_unit(path)
    xr.testing.assert_equal(found, dataset)
    for name, variable in dataset.data_vars.items():
        assert found[name].dtype.kind == variable.dtype.kind
        assert variable.dtype.kind not in "fi" or found[name].dtype == variable.dtype
    with xr.open_dataset(path) as seen:
        xr.testing.assert_equal(seen.load(), dataset)


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_damaged_unit_is_named_and_refused(folder, result, damage):
    path = folder.write_unit("a", {}, result(1.5))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"flip": content, "truncate": content[:-9], "empty": b""}[damage])
    with pytest.raises(StorageError, match="is damaged: it does not match") as caught:
        folder.read_unit(path)
    assert str(path) in str(caught.value)
    assert path.exists()


def test_a_result_under_another_units_name_is_refused(folder, result):
    path, other = (folder.write_unit(name, {"name": name}, result(1.5)) for name in "ab")
    renamed = other.with_name(f"{path.name.rsplit('.', 2)[0]}.{other.name.split('.')[-2]}.nc")
    other.rename(renamed)
    with pytest.raises(StorageError, match="it is another unit's than its name says"):
        folder.read_unit(renamed)
    assert folder.inputs_of(path) == {"name": "a"}


def test_a_result_that_is_there_and_whole_stays(folder, result):
    path = folder.write_unit("a", {}, result(1.5))
    assert folder.write_unit("a", {}, result(2.5)) == path
    path.write_bytes(path.read_bytes()[:-1])
    assert folder.write_unit("a", {}, result(2.5)) != path


def test_a_unit_that_cannot_be_read_is_named(folder):
    path = folder.path / "units" / "a.0.1.nc"
    with pytest.raises(StorageError, match=re.escape(f"cannot read {path}")):
        folder.read_unit(path)


def test_two_writers_of_one_unit_leave_one_whole_file(folder, result):
    with ThreadPoolExecutor(2) as pool:
        paths = set(pool.map(lambda _: folder.write_unit("a", {}, result(2.0)), range(6)))
    assert len(paths) == 1
    xr.testing.assert_identical(folder.read_unit(paths.pop()), result(2.0))


def test_results_and_json_are_written_beside_the_configuration(folder, result):
    path = folder.write_dataset("results-10.nc", result(1.0))
    with xr.open_dataset(path) as found:
        xr.testing.assert_identical(found.load(), result(1.0))
    assert json.loads(folder.write_json("claims.json", {"holds": True}).read_text()) == {
        "holds": True
    }
    names = sorted(entry.name for entry in folder.path.iterdir())
    assert names == [
        "checkpoints",
        "claims.json",
        "config.json",
        "results-10.nc",
        "results-10.sha256",
        "units",
    ]


def test_writing_replaces_a_file_whole_and_makes_its_folder(tmp_path):
    path = tmp_path / "new" / "file"
    for content in (b"long enough", b"short"):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("call", ["replace", "fsync", "chmod"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_module.os, call, fail)
    with pytest.raises(StorageError, match=r"cannot write .*file: No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_folder_in_place_of_the_file_is_a_storage_error(tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(StorageError, match="cannot write"):
        write_atomically(tmp_path / "file", b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_environment_is_json_and_names_what_numbers_depend_on():
    found = json.loads(json.dumps(environment()))
    assert {"landscape", "python", "jax", "jaxlib", "numpy", "devices", "platform"} <= set(found)


def test_a_dataclass_makes_a_configuration(tmp_path):
    @dataclasses.dataclass
    class Request:
        seeds: int = 2

    folder = open_run_folder(tmp_path / "run", dataclasses.asdict(Request()), resume=False)
    assert folder.config == {"seeds": 2}


def test_every_environment_a_run_was_continued_in_is_recorded_once(folder, settings, monkeypatch):
    open_run_folder(folder.path, settings, resume=True)
    other = {**environment(), "jax": "0.0.1"}
    monkeypatch.setattr(folder_module, "environment", lambda: other)
    for _ in range(2):
        open_run_folder(folder.path, settings, resume=True)
    expected = json.loads(json.dumps([environment(), other]))
    assert read_run_folder(folder.path).environments == expected


def test_what_a_living_process_writes_is_left_alone(folder, settings):
    mine = folder.path / f"{temporary_prefix()}abc"
    # A process number that is never in use: the largest possible is smaller on every system.
    theirs = folder.path / f".writing-{machine()}-99999999-abc"
    elsewhere = folder.path / ".writing-another-machine-1-abc"
    old = folder.path / ".writing-another-machine-1-old"
    for path in (mine, theirs, elsewhere, old):
        path.write_text("half")
    os.utime(old, (0, 0))
    open_run_folder(folder.path, settings, resume=True)
    assert [path.exists() for path in (mine, theirs, elsewhere, old)] == [True, False, True, False]


def test_results_are_checked_when_read(folder, result):
    path = folder.write_dataset("results.nc", result(1.0))
    xr.testing.assert_identical(folder.read_dataset("results.nc"), result(1.0))
    assert folder.read_dataset("other.nc") is None
    path.with_suffix(".sha256").unlink()
    with pytest.raises(StorageError, match=r"cannot read .*results\.sha256"):
        folder.read_dataset("results.nc")


def test_events_are_ordered_by_the_file_systems_clock(tmp_path, monkeypatch):
    # Of a machine whose clock is an hour ahead, and of one whose clock is right.
    with monkeypatch.context() as ahead:
        real = time.time
        ahead.setattr(time, "time", lambda: real() + 3600)
        EventLog(tmp_path).add("first")
    EventLog(tmp_path).add("second")
    assert [event["event"] for event in read_events(tmp_path)] == ["first", "second"]
    assert abs(EventLog(tmp_path).now() - time.time()) < 60


def test_large_results_need_no_temporary_folder(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    large = xr.Dataset({"a": ("x", np.arange(400_000.0))}, attrs={"names": ["one", "two"]})
    again = from_netcdf_bytes(netcdf_bytes(large))
    xr.testing.assert_identical(again["a"], large["a"])
