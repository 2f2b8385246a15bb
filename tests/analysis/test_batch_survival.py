"""Batch jobs that are stopped or damaged."""

import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest
import xarray as xr

import landscape
from landscape.analysis import kept, measurement
from landscape.analysis.batch import count_done, make_units, run_job
from landscape.analysis.measurement import known_problem, measure
from landscape.analysis.options import Options
from landscape.cli import main
from landscape.errors import StoppedError, UnitsFailedError
from landscape.runs.events import read_events

# Whole runs and processes of their own.
pytestmark = pytest.mark.slow

OPTIONS = Options(num_steps=30, eps=(1e-2, 1e-1), largest=2, smallest=1)


def stopped_at(count):
    """True at the call of that number."""
    asked = []
    return lambda: asked.append(1) or len(asked) == count


@pytest.mark.parametrize("after", [1, 2])
def test_a_stop_inside_a_unit_goes_on_where_it_was(spec, tmp_path, after, monkeypatch):
    problem = known_problem(spec)
    options = dataclasses.replace(OPTIONS, layers=True)
    undisturbed = measure(problem, options, tmp_path / "a", lambda: False)
    steps, asked = [], []
    inner = measurement.lanczos_run

    def seen(*arguments, **named):
        run = inner(*arguments, **named)
        steps.append(run)
        return run

    def stop():
        asked.append(1)
        return len(asked) == after

    monkeypatch.setattr(measurement, "lanczos_run", seen)
    with pytest.raises(StoppedError):
        measure(problem, options, tmp_path / "b", stop)
    assert list((tmp_path / "b").glob("part-0.npz"))
    resumed = []
    real = kept._resumed

    def noted(run, path):
        found = real(run, path)
        resumed.append(found.num_steps)
        return found

    monkeypatch.setattr(kept, "_resumed", noted)
    again = measure(problem, options, tmp_path / "b", lambda: False)
    # A step that compiles, then ten at a time.
    assert resumed[0] == 1 + 10 * (after - 1)
    xr.testing.assert_identical(again, undisturbed)


@pytest.mark.parametrize("damage", ["other", "flip", "truncate", "empty", "shape", "method"])
def test_a_state_that_was_damaged_is_begun_anew(spec, tmp_path, damage, caplog):
    problem = known_problem(spec)
    undisturbed = measure(problem, OPTIONS, tmp_path / "a", lambda: False)
    with pytest.raises(StoppedError):
        measure(problem, OPTIONS, tmp_path / "b", stopped_at(1))
    state = tmp_path / "b" / "part-0.npz"
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "shape":
        np.savez(state, np.zeros(3))
    else:
        # A compression that zipfile does not know, in the last entry of the directory.
        method = bytearray(state.read_bytes())
        method[method.rfind(b"PK\1\2") + 10] ^= 64
        broken = {
            "other": b"broken", "flip": content, "truncate": content[:-99], "empty": b"",
            "method": method,
        }  # fmt: skip
        state.write_bytes(bytes(broken[damage]))
    again = measure(problem, OPTIONS, tmp_path / "b", lambda: False)
    xr.testing.assert_identical(again, undisturbed)
    assert "its run begins anew" in caplog.text
    assert not state.exists()


def test_a_part_that_was_damaged_is_measured_anew(spec, tmp_path, caplog):
    options = dataclasses.replace(OPTIONS, layers=True, largest=0, smallest=0)
    problem = known_problem(spec)
    undisturbed = measure(problem, options, tmp_path / "a", lambda: False)
    # Four looks at a part of thirty steps: stopped in the second part.
    with pytest.raises(StoppedError):
        measure(problem, options, tmp_path / "b", stopped_at(5))
    (part,) = (tmp_path / "b").glob("part-0.*.nc")
    content = bytearray(part.read_bytes())
    content[-8] ^= 1
    part.write_bytes(bytes(content))
    again = measure(problem, options, tmp_path / "b", lambda: False)
    xr.testing.assert_identical(again, undisturbed)
    assert "is not what was written" in caplog.text


def test_a_folder_that_is_there_already_is_begun_in_and_a_dry_run_leaves_it(spec, tmp_path, capsys):
    command = ["spectrum", spec, "--out", str(tmp_path), "--num-steps", "5", "--workers", "1"]
    assert main([*command, "--dry-run"]) == 0
    assert not list(tmp_path.iterdir())
    assert main(command) == 0
    assert main(command) == 0
    assert "1 units, 1 done before" in capsys.readouterr().out
    first, second = (
        event for event in read_events(tmp_path / "events") if event["event"] == "estimated"
    )
    assert (first["left"], second["left"], second["seconds"]) == (1, 0, None)
    assert first["seconds"] > 0
    assert first["memory"] > 1e7


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_configuration_costs_a_job_nothing(job, whole, tmp_path, damage, capsys):
    found, out = whole
    shutil.copytree(out, tmp_path / "run")
    config = tmp_path / "run" / "config.json"
    before = json.loads(config.read_text())["config"]
    if damage == "cut":
        config.write_bytes(config.read_bytes()[:-40])
    else:
        config.unlink()
    again = run_job(job, tmp_path / "run", executor=None)
    xr.testing.assert_identical(again, found)
    assert json.loads(config.read_text())["config"] == before
    assert len(list((tmp_path / "run" / "units").iterdir())) == 4
    config.write_bytes(b"{")
    options = ["--num-steps", "30", "--eps", "0.01", "0.1", "--largest", "2", "--workers", "1"]
    command = ["spectrum", job.problem, "--out", str(tmp_path / "run"), *options]
    assert main([*command, "--checkpoint", *job.checkpoints]) == 0
    assert "4 units, 4 done before" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_configuration_costs_no_job_that_has_no_result_yet(job, tmp_path, damage):
    alone, out = dataclasses.replace(job, checkpoints=job.checkpoints[:1]), tmp_path / "run"
    asked = []
    with pytest.raises(StoppedError):
        run_job(alone, out, executor=None, should_stop=lambda: len(asked) > 2 or asked.append(1))
    config = out / "config.json"
    before = config.read_bytes()
    assert not list((out / "units").iterdir())
    config.unlink() if damage == "gone" else config.write_bytes(before[:-40])
    assert run_job(alone, out, executor=None).sizes["checkpoint"] == 1
    assert config.read_bytes() == before


def test_what_is_left_of_a_job_for_several_processes_has_the_same_bits(job, tmp_path):
    # Where a process has threads of its own, it adds in another order than one of several.
    options = ["--num-steps", "12", "--eps", "0.1", "--workers", "2", "--out", str(tmp_path)]
    command = ["spectrum", job.problem, *options, "--checkpoint", *job.checkpoints[:2]]
    assert main(command) == 0
    results = sorted(path.name for path in (tmp_path / "units").iterdir())
    (tmp_path / "units" / results[0]).unlink()
    assert main(command) == 0
    assert sorted(path.name for path in (tmp_path / "units").iterdir()) == results


def test_a_hash_that_is_wrong_costs_one_more_run(job, checkpoints, tmp_path):
    one = dataclasses.replace(job, checkpoints=checkpoints[:2])
    found = run_job(one, tmp_path / "run", executor=None)
    kept_in = tmp_path / "run" / "digests.json"
    known = json.loads(kept_in.read_text())
    first = next(key for key in known if key.startswith(checkpoints[0]))
    kept_in.write_text(json.dumps({**known, first: known[first][::-1]}))
    with pytest.raises(UnitsFailedError, match="has other parameters than when the job was plan"):
        run_job(one, tmp_path / "run", executor=None)
    xr.testing.assert_identical(run_job(one, tmp_path / "run", executor=None), found)
    assert landscape.open_run(tmp_path / "run").sizes["checkpoint"] == 2


def test_a_damaged_result_is_left_out_of_what_is_opened(whole, tmp_path):
    shutil.copytree(whole[1], tmp_path / "run")
    damaged = min((tmp_path / "run" / "units").glob("*.nc"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="it is left out until the job is run again"):
        found = landscape.open_run(tmp_path / "run")
    assert found.sizes["checkpoint"] == 3


def test_a_damaged_result_is_not_counted_as_done(job, whole, tmp_path):
    shutil.copytree(whole[1], tmp_path / "run")
    units = make_units(job, tmp_path / "run")
    assert count_done(tmp_path / "run", units) == 4
    damaged = min((tmp_path / "run" / "units").glob("*.nc"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert count_done(tmp_path / "run", units) == 3


@pytest.mark.parametrize("stage", ["ends", "trace"])
def test_ends_go_on_after_a_stop_and_traces_begin_anew(spec, tmp_path, stage, monkeypatch):
    monkeypatch.setattr(kept, "_LONG_SECONDS", 0.0)
    monkeypatch.setitem(sys.modules["landscape.spectra.trace"]._BLOCK_COLUMNS, "cpu", 1)
    problem = known_problem(spec)
    options = dataclasses.replace(OPTIONS, num_steps=10, trace_matvecs=9)
    looks = []
    undisturbed = measure(problem, options, tmp_path / "a", lambda: bool(looks.append(1)))
    # One look in Lanczos, then some at the ends, then one for each product.
    last = {"ends": 3, "trace": len(looks) - 2}[stage]
    with pytest.raises(StoppedError):
        measure(problem, options, tmp_path / "b", stopped_at(last))
    names = {path.name.partition(".")[0] for path in (tmp_path / "b").iterdir()}
    assert (
        names
        == {
            "ends": {"part-0-spectrum", "part-0-ends"},
            "trace": {"part-0-spectrum", "part-0-ends"},
        }[stage]
    )
    assert len(list((tmp_path / "b").glob("part-0-ends.*.nc"))) == (stage == "trace")
    begun = []
    inner = measurement.extremal_run
    monkeypatch.setattr(
        measurement, "extremal_run", lambda *a, **k: begun.append(inner(*a, **k)) or begun[-1]
    )
    again = measure(problem, options, tmp_path / "b", lambda: False)
    assert len(begun) == (stage == "ends")
    # One basis at a time.
    assert all(run.state.space.block.is_deleted() for run in begun)
    xr.testing.assert_identical(again, undisturbed)
