"""Batch jobs that are stopped, damaged, changed or short of memory."""

import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import xarray as xr

import landscape
from landscape.analysis import kept, measurement, planning
from landscape.analysis.batch import Job, count_done, make_units, run_job
from landscape.analysis.measurement import known_problem, measure
from landscape.analysis.options import Options
from landscape.analysis.overview import summary
from landscape.analysis.programs import _checksum, expect_same_loss
from landscape.cli import main
from landscape.errors import InputError, ResourceError, StoppedError, UnitsFailedError
from landscape.runs import open_run_folder, run_state
from landscape.runs.events import read_events
from landscape.spectra import extremal_run, trace

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
    with pytest.raises(
        InputError, match=r"its program, .* or a shape of its state or data has changed"
    ):
        run_job(one, tmp_path / "run", executor=None)
    source.write_text(f"{text}# A remark.\n")
    measurement.known_problem.cache_clear()
    run_job(one, tmp_path / "run", executor=None)


def test_less_memory_means_fewer_vectors_at_the_ends_and_in_the_trace(spec, tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr(
        measurement, "extremal_run", lambda *a, **k: given.update(k) or extremal_run(*a, **k)
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
    enough = measure(problem, OPTIONS, tmp_path / "enough", lambda: False)
    inner = measurement.operator

    def short(problem, options, part="all"):
        if (options.chunk_size or 40) > 12:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return inner(problem, options, part)

    monkeypatch.setattr(measurement, "operator", short)
    found = measure(problem, OPTIONS, tmp_path / "short", lambda: False)
    assert bool(found["short_of_memory"].all())
    assert not bool(enough["short_of_memory"].any())
    named = found.expand_dims(checkpoint=["a"])
    assert "Memory was short for 1 of them" in summary(named).parts[0].note
    assert int(found["chunk_size"][0]) == 10
    assert int(enough["chunk_size"][0]) == 0
    np.testing.assert_allclose(found["eigenvalue"], enough["eigenvalue"], rtol=1e-3)
    np.testing.assert_allclose(found["loss"], enough["loss"], rtol=1e-6)

    def never(*arguments):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(measurement, "operator", never)
    with pytest.raises(ResourceError, match="one example at a time"):
        measure(problem, OPTIONS, tmp_path / "never", lambda: False)


def test_memory_that_does_not_suffice_for_the_plan_does_not_end_the_job(
    spec, tmp_path, monkeypatch, caplog
):
    inner = measurement.operator

    def short(problem, options, part="all"):
        if (options.chunk_size or 40) > 12:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return inner(problem, options, part)

    for module in (measurement, planning):
        monkeypatch.setattr(module, "operator", short)
    command = ["spectrum", spec, "--out", str(tmp_path), "--num-steps", "5", "--workers", "1"]
    assert main(command) == 0
    assert "out of memory with 40 examples at a time; going on with 20" in caplog.text
    assert landscape.open_run(tmp_path)["chunk_size"].values.tolist() == [[10]]


def test_a_checkpoint_that_is_overwritten_meanwhile_is_not_stored_as_what_it_was(
    job, checkpoints, tmp_path
):
    path = tmp_path / "last.npz"
    one = dataclasses.replace(job, checkpoints=(str(path), checkpoints[2]))
    for together in (1, 2):
        out = tmp_path / f"run-{together}"
        shutil.copy(checkpoints[0], path)
        shared = dataclasses.replace(one, together=together)
        units = make_units(shared)
        shutil.copy(checkpoints[1], path)
        with pytest.raises(UnitsFailedError, match="has other parameters than when the job was"):
            run_job(shared, out, executor=None, units=units)
        again = run_job(shared, out, executor=None)
        assert again.sizes["checkpoint"] == 2


CHANGING = """
import jax
import jax.numpy as jnp
import numpy as np

from helping import scaled
from landscape.curvature import Problem

WEIGHTS = jnp.array([1.0, 2.0, 3.0])


@jax.jit
def act(h):
    return jnp.tanh(h * WEIGHTS[None])


def loss(w, x):
    return jnp.mean(act(x @ w) ** 2)


def load(path):
    with np.load(path) as file:
        return scaled(jnp.asarray(file["w"])), None


def problem():
    x = jax.random.normal(jax.random.key(0), (8, 4))
    return Problem(loss, jnp.ones((4, 3)), x, load=load)
"""


def test_numbers_in_the_loss_and_what_load_gives_are_looked_at_too(tmp_path, monkeypatch):
    helper, source = tmp_path / "helping.py", tmp_path / "changing.py"
    helper.write_text("def scaled(w):\n    return w\n")
    source.write_text(CHANGING)
    np.savez(tmp_path / "0.npz", w=np.ones((4, 3), np.float32))
    options = Options(num_steps=5, largest=0, smallest=0)
    one = Job(f"{source}:problem", (str(tmp_path / "0.npz"),), options=options)

    def run():
        known_problem.cache_clear()
        sys.modules.pop("helping", None)
        return run_job(one, tmp_path / "run", executor=None)

    first = run()
    # Another name of a function inside changes no number.
    source.write_text(CHANGING.replace("act", "activation"))
    xr.testing.assert_identical(run(), first)
    source.write_text(CHANGING.replace("3.0]", "5.0]"))
    with pytest.raises(InputError, match="a number in it"):
        run()
    source.write_text(CHANGING)
    helper.write_text("def scaled(w):\n    return -2 * w\n")
    second = run()
    assert not np.allclose(second["nodes"], first["nodes"], equal_nan=True)
    assert len(list((tmp_path / "run" / "units").iterdir())) == 2


STREAMED = """
import jax
import jax.numpy as jnp

from landscape.curvature import Problem


def loss(w, x):
    return jnp.mean(jnp.tanh(x @ w) ** 2)


X = jax.random.normal(jax.random.key(0), (12, 4))


class Stream:
    def __iter__(self):
        return iter([X[:8], X[8:]])


def problem():
    return Problem(loss, jnp.ones((4, 3)), Stream())


def whole():
    return Problem(loss, jnp.ones((4, 3)), X)
"""


def test_a_stream_of_batches_gives_what_the_whole_batch_gives(tmp_path):
    source = tmp_path / "streamed.py"
    source.write_text(STREAMED)
    found = []
    for name in ("problem", "whole"):
        out = tmp_path / name
        command = ["spectrum", f"{source}:{name}", "--out", str(out), "--num-steps", "12"]
        assert main([*command, "--trace-matvecs", "12"]) == 0
        found.append(landscape.open_run(out))
    for name in ("loss", "trace", "eigenvalue", "degenerate"):
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=1e-3, atol=1e-5)


def test_memory_decides_once_how_a_trace_is_taken(job, tmp_path):
    options = dataclasses.replace(OPTIONS, trace_matvecs=30, num_steps=10)
    one = dataclasses.replace(job, checkpoints=job.checkpoints[:1], options=options)
    first = run_job(one, tmp_path / "run", executor=None)
    tight = dataclasses.replace(options, memory=10 * 113 * 4)
    other = dataclasses.replace(one, options=tight)
    xr.testing.assert_identical(run_job(other, tmp_path / "run", executor=None), first)
    assert first["trace_method"].values.tolist() == [["hutch++"]]
    anew = run_job(other, tmp_path / "anew", executor=None)
    assert anew["trace_method"].values.tolist() == [["hutchinson"]]


def test_other_ways_of_writing_a_path_and_a_problem_are_the_same(
    job, checkpoints, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for number in range(2):
        shutil.copy(checkpoints[number], f"{number}.npz")
    source = Path(job.problem.rpartition(":")[0])
    shutil.copy(source, "mine.py")
    one = dataclasses.replace(job, problem="mine.py:problem", checkpoints=("0.npz", "1.npz"))
    run_job(one, tmp_path / "run", executor=None)
    paths = (str(tmp_path / "0.npz"), str(tmp_path / "1.npz"))
    for problem in ("./mine.py:problem", f"{tmp_path}/mine.py:problem"):
        again = dataclasses.replace(one, problem=problem, checkpoints=paths)
        run_job(again, tmp_path / "run", executor=None)
    assert len(list((tmp_path / "run" / "units").iterdir())) == 2
    assert list(landscape.open_run("run")["checkpoint"].values) == list(paths)


def test_a_job_goes_on_from_another_folder_and_after_its_problem_has_moved(
    job, checkpoints, tmp_path, monkeypatch
):
    (tmp_path / "old" / "deeper").mkdir(parents=True)
    shutil.copy(Path(job.problem.rpartition(":")[0]), tmp_path / "old" / "p.py")
    monkeypatch.chdir(tmp_path / "old")
    one = dataclasses.replace(job, problem="p.py:problem", checkpoints=checkpoints[:1])
    run_job(one, tmp_path / "run", executor=None)
    monkeypatch.chdir("deeper")
    two = dataclasses.replace(one, problem="../p.py:problem", checkpoints=checkpoints[:2])
    assert run_job(two, tmp_path / "run", executor=None).sizes["checkpoint"] == 2
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").rename(tmp_path / "new")
    moved = dataclasses.replace(one, problem="new/p.py:problem")
    run_job(moved, tmp_path / "run", executor=None)
    assert len(list((tmp_path / "run" / "units").iterdir())) == 2


def test_equal_checkpoints_of_one_name_in_two_folders_are_both_there(job, checkpoints, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        shutil.copy(checkpoints[0], tmp_path / name / "step.npz")
        path = str(tmp_path / name / "step.npz")
        run_job(dataclasses.replace(job, checkpoints=(path,)), tmp_path / "run", executor=None)
    found = landscape.open_run(tmp_path / "run")
    assert list(found["checkpoint"].values) == [str(tmp_path / n / "step.npz") for n in "ab"]


def test_relative_names_mean_the_same_from_everywhere(job, checkpoints, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        (tmp_path / name).mkdir()
        shutil.copy(checkpoints[0], tmp_path / name / "step.npz")
        relative = dataclasses.replace(job, checkpoints=(f"{name}/step.npz",))
        run_job(relative, tmp_path / "run", executor=None)
    (tmp_path / "bad.npz").write_bytes(b"bad")
    with pytest.raises(UnitsFailedError):
        run_job(dataclasses.replace(job, checkpoints=("bad.npz",)), tmp_path / "run", executor=None)
    run_job(relative, tmp_path / "run", executor=None)
    monkeypatch.chdir("/")
    assert list(landscape.open_run(tmp_path / "run")["checkpoint"].values) == [
        "a/step.npz",
        "b/step.npz",
    ]
    assert run_state(tmp_path / "run").word == "failed"


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


def test_a_checkpoint_of_a_type_without_a_spectrum_is_named_wherever_it_stands(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import jax.numpy as jnp\n"
        "from landscape.curvature import Problem\n"
        "def load(path):\n"
        "    return jnp.ones(3, jnp.float16 if 'half' in path else jnp.float32), None\n"
        "def problem():\n"
        "    loss = lambda w, x: ((x @ w) ** 2).mean() / 2\n"
        "    return Problem(loss, jnp.ones(3), jnp.eye(3), load=load)\n"
    )
    for name in ("half", "one", "two"):
        (tmp_path / name).write_text(name)
    command = ["spectrum", f"{tmp_path}/mine.py:problem", "--out", str(tmp_path / "run")]
    command += ["--num-steps", "3", "--workers", "1", "--checkpoint"]
    assert main([*command, *(str(tmp_path / name) for name in ("half", "one", "two"))]) == 3
    found = landscape.open_run(tmp_path / "run")
    assert [Path(name).name for name in found["checkpoint"].values] == ["one", "two"]


def test_a_checkpoint_that_is_other_parameters_now_shows_no_old_ones(job, checkpoints, tmp_path):
    path = tmp_path / "c.npz"
    shutil.copy(checkpoints[0], path)
    one = dataclasses.replace(job, checkpoints=(str(path),))
    run_job(one, tmp_path / "run", executor=None)
    kept_time = path.stat()
    with np.load(checkpoints[0]) as file:
        np.savez(path, **{name: np.full_like(array, np.nan) for name, array in file.items()})
    # As large as before, and the time set back.
    assert path.stat().st_size == kept_time.st_size
    os.utime(path, ns=(kept_time.st_atime_ns, kept_time.st_mtime_ns))
    with pytest.raises(UnitsFailedError, match="the loss is nan"):
        run_job(one, tmp_path / "run", executor=None)
    assert landscape.open_run(tmp_path / "run").sizes["checkpoint"] == 0


def test_a_checkpoint_that_has_become_unreadable_hides_no_result(job, checkpoints, tmp_path):
    path = tmp_path / "c.npz"
    shutil.copy(checkpoints[0], path)
    one = dataclasses.replace(job, checkpoints=(str(path), checkpoints[1]))
    run_job(one, tmp_path / "run", executor=None)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UnitsFailedError):
        run_job(one, tmp_path / "run", executor=None)
    assert landscape.open_run(tmp_path / "run").sizes["checkpoint"] == 2


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


def test_an_unchanged_loss_with_another_template_is_the_same(tmp_path):
    source = tmp_path / "state.py"
    source.write_text(
        "import jax.numpy as jnp\nimport numpy as np\n"
        "from landscape.curvature import Problem\n"
        "def loss(w, state, x):\n    return jnp.mean(jnp.tanh(x @ w + state) ** 2)\n"
        "def problem():\n"
        f"    shift = float(open({str(tmp_path / 'shift')!r}).read())\n"
        "    return Problem(loss, jnp.ones(3), jnp.eye(3), jnp.asarray(shift))\n"
    )
    one = Job(f"{source}:problem", options=dataclasses.replace(OPTIONS, num_steps=3))
    for shift in ("1.0", "2.0"):
        (tmp_path / "shift").write_text(shift)
        known_problem.cache_clear()
        run_job(one, tmp_path / "run", executor=None)
    assert len(list((tmp_path / "run" / "units").iterdir())) == 2
    text = source.read_text()
    source.write_text(text.replace("jnp.eye(3)", "2 * jnp.eye(3)"))
    known_problem.cache_clear()
    with pytest.raises(InputError, match="are not those that the results in"):
        run_job(one, tmp_path / "run", executor=None)
    source.write_text(text.replace("** 2", "** 4"))
    known_problem.cache_clear()
    with pytest.raises(InputError, match="is not the one that the results"):
        run_job(one, tmp_path / "run", executor=None)


def test_all_devices_on_one_matrix_are_a_job_of_its_own(job, checkpoints, tmp_path):
    one = dataclasses.replace(job, checkpoints=checkpoints[:1])
    run_job(one, tmp_path / "run", executor=None)
    with pytest.raises(InputError, match="across_devices was null, now true"):
        run_job(dataclasses.replace(one, across=True), tmp_path / "run", executor=None)


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


def test_a_layer_called_all_is_refused(tmp_path):
    source = tmp_path / "named.py"
    source.write_text(
        "import jax.numpy as jnp\n"
        "from landscape.curvature import Problem\n"
        "def loss(p, x):\n    return jnp.mean((x @ p['all']['w'] + p['z']['w']) ** 2)\n"
        "def problem():\n"
        "    params = {'all': {'w': jnp.ones(3)}, 'z': {'w': jnp.ones(())}}\n"
        "    return Problem(loss, params, jnp.eye(3))\n"
    )
    one = Job(f"{source}:problem", options=dataclasses.replace(OPTIONS, layers=True))
    with pytest.raises(InputError, match=r"a layer of .* is called 'all'"):
        make_units(one)


def test_a_checkpoint_that_cannot_be_read_is_named_and_the_others_are_done(
    spec, checkpoints, tmp_path, capsys
):
    broken, link, spoiled, complex_ = (tmp_path / f"{number}.npz" for number in range(4))
    broken.write_bytes(b"PK broken")
    link.symlink_to(tmp_path / "nowhere.npz")
    with np.load(checkpoints[0]) as file:
        np.savez(spoiled, **{name: np.full_like(array, np.nan) for name, array in file.items()})
        np.savez(complex_, **{name: array + 1j for name, array in file.items()})
    arguments = [
        "spectrum", spec, "--out", str(tmp_path / "run"), "--checkpoint", str(tmp_path / "*.npz"),
        *checkpoints[:2], "--num-steps", "20", "--workers", "1",
    ]  # fmt: skip
    assert main(arguments) == 3
    out, error = capsys.readouterr()
    # What is done is shown all the same.
    assert "2 checkpoints" in out
    assert "4 of 6 units failed; the others are kept" in error
    assert "has the type complex64, which cannot stand for the problem's float32" in error
    assert f"the checkpoint {broken} cannot be read" in error
    assert f"{link}: " in error
    assert f"{spoiled}: the loss is nan" in error
    assert landscape.open_run(tmp_path / "run").sizes["checkpoint"] == 2


def test_what_was_kept_by_other_chunks_is_told(spec, tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "_LONG_SECONDS", 0.0)
    problem = known_problem(spec)
    inner = measurement.operator

    def short(problem, options, part="all"):
        if (options.chunk_size or 40) > 12:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return inner(problem, options, part)

    monkeypatch.setattr(measurement, "operator", short)
    with pytest.raises(StoppedError):
        # After the spectrum, at the ends.
        measure(problem, OPTIONS, tmp_path, stopped_at(5))
    assert list(tmp_path.glob("part-0-spectrum.*.nc"))
    monkeypatch.setattr(measurement, "operator", inner)
    found = measure(problem, OPTIONS, tmp_path, lambda: False)
    assert found["chunk_size"].values.tolist() == [10]
    assert found["short_of_memory"].values.tolist() == [True]


def test_another_kind_of_device_does_not_make_another_loss(spec, tmp_path, monkeypatch, caplog):
    folder = open_run_folder(tmp_path / "run", {"command": "spectrum"}, resume=True)
    expect_same_loss(spec, OPTIONS, folder)
    programs = json.loads((folder.path / "loss.json").read_text())
    programs = {k: v for k, v in programs.items() if k not in ("data", "checksum")}
    (mine,) = programs.values()
    assert len(mine) == 16
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    expect_same_loss(spec, OPTIONS, folder, keep=False)
    assert len(json.loads((folder.path / "loss.json").read_text())) == 3
    expect_same_loss(spec, OPTIONS, folder)
    known = json.loads((folder.path / "loss.json").read_text())
    assert set(known) == {"data", "checksum", *programs} | {k for k in known if "gpu" in k}
    assert len(known) == 4
    another = {name: "another" for name in known if name not in ("data", "checksum")}
    another["data"] = known["data"]
    another["checksum"] = _checksum(another)
    (folder.path / "loss.json").write_text(json.dumps(another))
    with pytest.raises(InputError, match="is not the one"):
        expect_same_loss(spec, OPTIONS, folder)
    # One hexadecimal digit, or no JSON: it is not what was written.
    for damaged in (json.dumps({**known, "data": known["data"][::-1]}), "{"):
        (folder.path / "loss.json").write_text(damaged)
        caplog.clear()
        expect_same_loss(spec, OPTIONS, folder)
        assert "the loss is not compared" in caplog.text
        assert len(json.loads((folder.path / "loss.json").read_text())) == 3


def test_a_problem_that_is_another_each_time_says_so(tmp_path):
    source = tmp_path / "drawn.py"
    source.write_text(
        "import jax.numpy as jnp\nimport numpy as np\n"
        "from landscape.curvature import Problem\n"
        "def loss(w, x):\n    return jnp.mean(jnp.tanh(x @ w) ** 2)\n"
        "def problem():\n"
        "    w = jnp.asarray(np.random.default_rng().normal(size=3))\n"
        "    return Problem(loss, w, jnp.eye(3))\n"
    )
    one = Job(f"{source}:problem", options=dataclasses.replace(OPTIONS, num_steps=3))
    run_job(one, tmp_path / "run", executor=None)
    units = make_units(one)
    known_problem.cache_clear()
    with pytest.raises(UnitsFailedError, match="gives other parameters each time"):
        run_job(one, tmp_path / "again", executor=None, units=units)
