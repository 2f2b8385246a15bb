"""Batch jobs: the numbers are those of the routines; nothing is done twice or lost."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import xarray as xr

import landscape
from landscape.analysis import measurement
from landscape.analysis.batch import Job, make_units, run_job, shard_from
from landscape.analysis.measurement import at_checkpoint, known_problem, measure
from landscape.analysis.options import MATRICES, Options
from landscape.analysis.overview import summary
from landscape.analysis.planning import plan
from landscape.cli import main
from landscape.curvature.noise import FLOOR_VECTORS
from landscape.errors import InputError
from landscape.spectra import degenerate_fraction, dense_spectrum

# Whole runs and processes of their own.
pytestmark = pytest.mark.slow

OPTIONS = Options(num_steps=30, eps=(1e-2, 1e-1), largest=2, smallest=1)


def test_the_numbers_are_those_of_the_dense_matrix(job, whole):
    found, _ = whole
    assert list(found["checkpoint"].values) == list(job.checkpoints)
    for path in job.checkpoints:
        one = found.sel(checkpoint=path, part="all")
        problem = at_checkpoint(known_problem(job.problem), path)
        dense = dense_spectrum(problem.hessian())
        for eps in OPTIONS.eps:
            at = one.sel(eps=eps)
            truth = float(degenerate_fraction(dense, eps).estimate)
            # Of one probe; its interval covers what its bounds leave open.
            assert at["degenerate_lower"] <= at["degenerate"] <= at["degenerate_upper"]
            assert at["degenerate_low"] <= truth <= at["degenerate_high"]
        values = np.sort(dense.nodes)
        expected = [values[-1], values[-2], values[0]]
        np.testing.assert_allclose(one["eigenvalue"], expected, atol=2e-3 * abs(values).max())
        assert one["loss"] == pytest.approx(
            float(problem.loss(problem.params, {}, problem.batch)), rel=1e-5
        )


def test_open_run_gives_what_was_computed(job, whole):
    found, out = whole
    xr.testing.assert_identical(landscape.open_run(out), found)


def test_nothing_is_done_twice_and_more_checkpoints_can_come(job, tmp_path, monkeypatch):
    computed = []
    inner = measurement.measure

    def counted(*arguments, **named):
        computed.append(1)
        return inner(*arguments, **named)

    monkeypatch.setattr(measurement, "measure", counted)
    fewer = dataclasses.replace(job, checkpoints=job.checkpoints[:2])
    first = run_job(fewer, tmp_path / "run", executor=None)
    again = run_job(job, tmp_path / "run", executor=None)
    assert len(computed) == 4
    xr.testing.assert_identical(again.isel(checkpoint=slice(2)), first)
    run_job(job, tmp_path / "run", executor=None)
    assert len(computed) == 4
    other = dataclasses.replace(job, options=dataclasses.replace(OPTIONS, num_steps=31))
    with pytest.raises(InputError, match=r"another configuration .*num_steps was 30, now 31"):
        run_job(other, tmp_path / "run", executor=None)


def test_shards_share_the_work(job, tmp_path):
    parts = [run_job(job, tmp_path / "run", executor=None, shard=(i, 3)) for i in range(3)]
    assert [part.sizes["checkpoint"] for part in parts] == [2, 1, 1]
    assert landscape.open_run(tmp_path / "run").sizes["checkpoint"] == 4


def test_names_of_units_are_of_contents_and_not_of_places(job, checkpoints, tmp_path):
    copied = tmp_path / "copy.npz"
    shutil.copy(checkpoints[0], copied)
    (original, *_), (copy,) = (
        make_units(job),
        make_units(dataclasses.replace(job, checkpoints=(str(copied),))),
    )
    assert original.stem == copy.stem
    changed = dataclasses.replace(job, options=dataclasses.replace(OPTIONS, seed=1))
    assert make_units(changed)[0].inputs != original.inputs
    roomy = dataclasses.replace(job, options=dataclasses.replace(OPTIONS, memory=10**9))
    assert make_units(roomy)[0].inputs == original.inputs


def test_digests_are_kept_until_a_file_changes(job, checkpoints, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    mine = [str(shutil.copy(path, tmp_path)) for path in checkpoints]
    copied = dataclasses.replace(job, checkpoints=tuple(mine))
    make_units(copied, tmp_path / "run")
    calls = []
    inner = measurement.digest
    monkeypatch.setattr(measurement, "digest", lambda tree: calls.append(1) or inner(tree))
    make_units(copied, tmp_path / "run")
    assert not calls
    shutil.copy(checkpoints[1], mine[0])
    make_units(copied, tmp_path / "run")
    assert len(calls) == 1


def test_equal_checkpoints_are_measured_once_and_both_told(job, checkpoints, tmp_path):
    twin = shutil.copy(checkpoints[0], tmp_path / "twin.npz")
    two = dataclasses.replace(job, checkpoints=(checkpoints[0], str(twin)))
    found = run_job(two, tmp_path / "run", executor=None)
    assert len(list((tmp_path / "run" / "units").iterdir())) == 1
    assert list(found["checkpoint"].values) == list(two.checkpoints)
    xr.testing.assert_identical(landscape.open_run(tmp_path / "run"), found)


@pytest.mark.parametrize("matrix", ["ggn", "fisher", "empirical-fisher"])
def test_matrices_of_the_outputs_are_refused_for_another_loss(spec, matrix):
    problem = known_problem(spec)

    def penalized(params, state, batch):
        return problem.loss(params, state, batch) + 0.1

    other = dataclasses.replace(problem, loss=penalized)
    options = dataclasses.replace(OPTIONS, matrix=matrix)
    with pytest.raises(
        InputError, match=rf"--matrix {matrix} is of the mean softmax cross-entropy"
    ):
        measurement.operator(other, options)


def test_bounds_without_reorthogonalisation_are_not_called_certified(job, tmp_path, capsys):
    loose = dataclasses.replace(OPTIONS, reorthogonalize="none")
    one = dataclasses.replace(job, checkpoints=job.checkpoints[:1])
    found = run_job(dataclasses.replace(one, options=loose), tmp_path / "none", executor=None)
    assert not found["certified"].any()
    assert "empirical" in summary(found).parts[0].note
    found = run_job(one, tmp_path / "auto", executor=None)
    assert found["certified"].all()


@pytest.mark.parametrize("matrix", MATRICES)
def test_every_matrix_and_each_layers_block(spec, matrix, tmp_path):
    options = dataclasses.replace(
        OPTIONS, matrix=matrix, layers=True, rank=True, trace_matvecs=20, num_probes=2
    )
    problem = known_problem(spec)
    found = measure(problem, options, tmp_path, lambda: False)
    assert found["part"].values.tolist() == ["all", "hidden", "input", "output"]
    sizes = [35 + 60 + 18, 60, 35, 18]
    assert found["parameters"].values.tolist() == sizes
    for part in found["part"].values:
        op = measurement.operator(problem, options, str(part))
        values = np.linalg.eigvalsh(np.asarray(op.to_dense(), float))
        one = found.sel(part=part)
        scale = abs(values).max()
        np.testing.assert_allclose(
            float(one["eigenvalue"].sel(rank=1)), values[-1], atol=2e-3 * scale
        )
        error = abs(float(one["trace"]) - values.sum())
        assert error <= 5 * float(one["trace_stderr"]) + 1e-4 * scale
    assert found["jacobian_rank_lower"] == found["jacobian_rank_upper"]


def test_a_plan_tells_units_products_memory_and_time(job):
    units = make_units(job)
    found = plan(job, units, done=1, workers=2)
    assert (found.num_parameters, found.num_examples) == (113, 40)
    assert found.matvecs >= OPTIONS.num_steps
    assert found.seconds > 0
    text = " ".join(found.lines())
    assert "4 units, 1 done before, 3 to do" in text
    assert np.isnan(plan(job, units, done=4, workers=2).seconds)
    # Three vectors where a basis would not fit.
    tight = dataclasses.replace(job, options=dataclasses.replace(OPTIONS, memory=5_000))
    little = plan(tight, units, done=0, workers=1, timed=False)
    assert little.vector_bytes == 3 * 113 * 4
    # The noise floor takes more than Lanczos without a basis.
    assert little.memory >= FLOOR_VECTORS * 113 * 4
    assert little.stage_bytes >= 15 * 113 * 4 - little.product_bytes
    assert found.vector_bytes >= 30 * 113 * 4
    assert found.peak_bytes > 1e8
    untried = plan(job, units, done=0, workers=1, timed=False)
    assert (untried.peak_bytes, np.isnan(untried.seconds)) == (0, True)


def test_shards_come_from_the_option_or_from_slurm(monkeypatch):
    assert shard_from("2/5") == (2, 5)
    for name in ("ID", "COUNT", "MIN", "STEP"):
        monkeypatch.delenv(f"SLURM_ARRAY_TASK_{name}", raising=False)
    assert shard_from(None) == (0, 1)
    settings = {"ID": "7", "COUNT": "3", "MIN": "3", "STEP": "2"}
    for name, value in settings.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    assert shard_from(None) == (2, 3)
    for text in ("5/5", "1", "a/b", "-1/3"):
        with pytest.raises(InputError, match="--shard must be i/n"):
            shard_from(text)


def test_jobs_that_make_no_sense_are_refused(spec):
    for options, told in (
        (Options(matrix="jacobian"), "the matrix must be one of"),
        (Options(num_steps=0), "num_steps must be at least 1"),
        (Options(eps=(0.0,)), "eps must be positive"),
        (Options(largest=-1), "cannot be negative"),
    ):
        with pytest.raises(InputError, match=told):
            Job(spec, options=options)


def test_the_command_plans_measures_and_shows(spec, checkpoints, tmp_path, capsys):
    arguments = [
        "spectrum", spec, "--out", str(tmp_path / "run"), "--checkpoint", *checkpoints[:2],
        "--num-steps", "20", "--eps", "0.01", "0.1", "--workers", "1",
    ]  # fmt: skip
    # A repeated option takes all that it was given.
    arguments += ["--eps=0.2"]
    assert main([*arguments, "--dry-run"]) == 0
    assert "2 units, 0 done before" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "within 0.01 of 0" in out
    assert [float(eps) for eps in landscape.open_run(tmp_path / "run")["eps"]] == [0.01, 0.1, 0.2]
    assert main([*arguments]) == 0
    assert "2 units, 2 done before" in capsys.readouterr().out
    assert main(["runs", "list", str(tmp_path)]) == 0
    assert "done" in capsys.readouterr().out
    assert main(["runs", "show", str(tmp_path / "run")]) == 0
    assert "2 of 2 units" in capsys.readouterr().out
    assert main(["runs", "verify", str(tmp_path / "run")]) == 0
    unit = next((tmp_path / "run" / "units").glob("*.nc"))
    unit.write_bytes(unit.read_bytes()[:-1])
    assert main(["runs", "verify", str(tmp_path / "run")]) == 4
    capsys.readouterr()
    assert main(arguments) == 0
    assert main(["runs", "verify", str(tmp_path / "run")]) == 0
    assert main(["runs", "gc", str(tmp_path / "run")]) == 0
    assert "set aside" in capsys.readouterr().out
    events = (tmp_path / "run" / "events").glob("*.jsonl")
    assert all(json.loads(line) for file in events for line in file.read_text().splitlines())


def test_what_the_rank_needs_is_looked_at_before_any_work(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "import jax.numpy as jnp\n"
        "from landscape.curvature import Problem\n"
        "def problem():\n"
        "    return Problem(lambda w, x: ((x @ w) ** 2).mean(), jnp.ones(3), jnp.eye(6, 3))\n"
    )
    out = tmp_path / "run"
    asked = ["spectrum", f"{tmp_path}/mine.py:problem", "--num-steps", "3", "--out", str(out)]
    assert main([*asked, "--rank"]) == 2
    assert "the problem has to name its model" in capsys.readouterr().err
    assert not out.exists()
