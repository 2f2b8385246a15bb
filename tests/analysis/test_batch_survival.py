"""Batch jobs that are stopped, damaged, changed or short of memory."""

import dataclasses
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import xarray as xr

import landscape
from landscape.analysis import kept, measurement
from landscape.analysis.batch import Job, run_job
from landscape.analysis.measurement import Options, known_problem, measure
from landscape.cli import main
from landscape.errors import InputError, ResourceError, StoppedError
from landscape.runs.events import read_events
from landscape.spectra import extremal_eigenpairs, trace

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
    assert resumed[0] == 10 * after
    xr.testing.assert_identical(again, undisturbed)


@pytest.mark.parametrize("damage", ["other", "flip", "truncate", "empty", "shape"])
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
        broken = {"other": b"broken", "flip": content, "truncate": content[:-99], "empty": b""}
        state.write_bytes(bytes(broken[damage]))
    again = measure(problem, OPTIONS, tmp_path / "b", lambda: False)
    xr.testing.assert_identical(again, undisturbed)
    assert "its run begins anew" in caplog.text
    assert not state.exists()


def test_a_part_that_was_damaged_is_measured_anew(spec, tmp_path, caplog):
    problem, options = known_problem(spec), dataclasses.replace(OPTIONS, layers=True)
    undisturbed = measure(problem, options, tmp_path / "a", lambda: False)
    # Three looks at a part of thirty steps: stopped in the second part.
    with pytest.raises(StoppedError):
        measure(problem, options, tmp_path / "b", stopped_at(4))
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


def test_a_changed_checkpoint_takes_the_place_of_what_it_was(job, checkpoints, tmp_path):
    path = tmp_path / "c.npz"
    one = dataclasses.replace(job, checkpoints=(str(path),))
    shutil.copy(checkpoints[0], path)
    first = run_job(one, tmp_path / "run", executor=None)
    shutil.copy(checkpoints[1], path)
    os.utime(path, (1, 1))
    second = run_job(one, tmp_path / "run", executor=None)
    assert not np.array_equal(first["nodes"], second["nodes"])
    xr.testing.assert_identical(landscape.open_run(tmp_path / "run"), second)
    shutil.copy(checkpoints[0], path)
    os.utime(path, (2, 2))
    run_job(one, tmp_path / "run", executor=None)
    xr.testing.assert_identical(landscape.open_run(tmp_path / "run"), first)


def test_another_loss_is_refused_in_the_same_folder(spec, tmp_path):
    source = tmp_path / "changing.py"
    text = Path(spec.rpartition(":")[0]).read_text()
    source.write_text(text)
    one = Job(f"{source}:problem", options=OPTIONS)
    run_job(one, tmp_path / "run", executor=None)
    source.write_text(text.replace("MLP(3, 5, 3)", 'MLP(3, 5, 3, skip="identity")'))
    measurement.known_problem.cache_clear()
    with pytest.raises(InputError, match=r"its program, or a shape of its data, has changed"):
        run_job(one, tmp_path / "run", executor=None)
    source.write_text(f"{text}# A remark.\n")
    measurement.known_problem.cache_clear()
    run_job(one, tmp_path / "run", executor=None)


def test_less_memory_means_fewer_vectors_at_the_ends_and_in_the_trace(spec, tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr(
        measurement, "extremal_eigenpairs",
        lambda *a, **k: given.update(k) or extremal_eigenpairs(*a, **k),
    )  # fmt: skip
    monkeypatch.setattr(measurement, "trace", lambda *a, **k: given.update(k) or trace(*a, **k))
    tight = dataclasses.replace(OPTIONS, memory=10 * 113 * 4, trace_matvecs=30, num_steps=20)
    found = measure(known_problem(spec), tight, tmp_path, lambda: False)
    assert given["subspace"] == 8
    assert given["method"] == "hutchinson"
    values = np.linalg.eigvalsh(np.asarray(known_problem(spec).hessian().to_dense(), float))
    at = found.sel(part="all")
    np.testing.assert_allclose(at["eigenvalue"].sel(rank=1), values[-1], rtol=5e-3)


def test_less_memory_gives_the_same_in_smaller_chunks(spec, tmp_path, monkeypatch):
    problem = known_problem(spec)
    enough = measure(problem, OPTIONS, tmp_path, lambda: False)
    inner = measurement.operator

    def short(problem, options, part="all"):
        if (options.chunk_size or 40) > 12:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return inner(problem, options, part)

    monkeypatch.setattr(measurement, "operator", short)
    found = measure(problem, OPTIONS, tmp_path, lambda: False)
    assert int(found["chunk_size"][0]) == 10
    assert int(enough["chunk_size"][0]) == 0
    np.testing.assert_allclose(found["eigenvalue"], enough["eigenvalue"], rtol=1e-3)
    np.testing.assert_allclose(found["loss"], enough["loss"], rtol=1e-6)

    def never(*arguments):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(measurement, "operator", never)
    with pytest.raises(ResourceError, match="one example at a time"):
        measure(problem, OPTIONS, tmp_path, lambda: False)


def test_a_checkpoint_that_cannot_be_read_is_named_and_the_others_are_done(
    spec, checkpoints, tmp_path, capsys
):
    broken, link, spoiled = (tmp_path / name for name in ("0.npz", "1.npz", "2.npz"))
    broken.write_bytes(b"PK broken")
    link.symlink_to(tmp_path / "nowhere.npz")
    with np.load(checkpoints[0]) as file:
        np.savez(spoiled, **{name: np.full_like(array, np.nan) for name, array in file.items()})
    arguments = [
        "spectrum", spec, "--out", str(tmp_path / "run"), "--checkpoint", str(tmp_path / "*.npz"),
        *checkpoints[:2], "--num-steps", "20", "--workers", "1",
    ]  # fmt: skip
    assert main(arguments) == 3
    error = capsys.readouterr().err
    assert "3 of 5 units failed; the others are kept" in error
    assert f"the checkpoint {broken} cannot be read" in error
    assert f"{link}: " in error
    assert f"{spoiled}: the loss is nan" in error
    assert landscape.open_run(tmp_path / "run").sizes["checkpoint"] == 2
