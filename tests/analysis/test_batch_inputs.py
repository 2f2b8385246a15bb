"""Batch jobs whose checkpoints, problems and names change, or are not what they should be."""

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
from landscape.analysis import measurement
from landscape.analysis.batch import Job, make_units, run_job
from landscape.analysis.measurement import known_problem
from landscape.analysis.options import Options
from landscape.analysis.programs import _checksum, expect_same_loss
from landscape.cli import main
from landscape.errors import InputError, UnitsFailedError
from landscape.runs import open_run_folder, run_state

# Whole runs and processes of their own.
pytestmark = pytest.mark.slow

OPTIONS = Options(num_steps=30, eps=(1e-2, 1e-1), largest=2, smallest=1)


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
