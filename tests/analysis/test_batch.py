"""Batch jobs: the numbers are those of the routines; nothing is done twice or lost."""

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import xarray as xr

import landscape
from landscape.analysis import batch, kept, measurement
from landscape.analysis.batch import Job, make_units, run_job, shard_from
from landscape.analysis.measurement import Options, at_checkpoint, known_problem, measure
from landscape.analysis.overview import summary
from landscape.analysis.planning import plan
from landscape.cli import main
from landscape.errors import InputError, ResourceError, StoppedError
from landscape.runs import worker_pool
from landscape.runs.events import read_events
from landscape.spectra import degenerate_fraction, dense_spectrum, extremal_eigenpairs, trace

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
    make_units(job, tmp_path / "run")
    calls = []
    inner = batch.digest
    monkeypatch.setattr(batch, "digest", lambda tree: calls.append(1) or inner(tree))
    make_units(job, tmp_path / "run")
    assert len(calls) == 1  # the data's


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


def stopped_at(count):
    """True at the call of that number."""
    asked = []
    return lambda: asked.append(1) or len(asked) == count


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


def test_equal_checkpoints_are_measured_once_and_both_told(job, checkpoints, tmp_path):
    twin = shutil.copy(checkpoints[0], tmp_path / "twin.npz")
    two = dataclasses.replace(job, checkpoints=(checkpoints[0], str(twin)))
    found = run_job(two, tmp_path / "run", executor=None)
    assert len(list((tmp_path / "run" / "units").iterdir())) == 1
    assert list(found["checkpoint"].values) == list(two.checkpoints)
    xr.testing.assert_identical(landscape.open_run(tmp_path / "run"), found)


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


@pytest.mark.parametrize("matrix", measurement.MATRICES)
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
    assert plan(tight, units, done=0, workers=1).vector_bytes == 3 * 113 * 4
    assert found.vector_bytes >= 30 * 113 * 4
    assert found.peak_bytes > 1e8
    untried = plan(job, units, done=0, workers=1, timed=False)
    assert (untried.peak_bytes, np.isnan(untried.seconds)) == (0, True)


@pytest.mark.slow
def test_a_plan_is_tried_out_by_all_workers_at_once(job):
    with worker_pool(2) as pool:
        found = plan(job, make_units(job), done=0, workers=2, pool=pool)
    assert 0 < found.seconds < 60
    assert found.peak_bytes > 1e8


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


def test_hosts_are_not_joined_without_being_asked_to(spec, tmp_path, capsys):
    command = ["spectrum", spec, "--out", str(tmp_path / "run"), "--host", "1"]
    assert main(command) == 2
    assert "add --distributed" in capsys.readouterr().err


def test_the_command_plans_measures_and_shows(spec, checkpoints, tmp_path, capsys):
    arguments = [
        "spectrum", spec, "--out", str(tmp_path / "run"), "--checkpoint", *checkpoints[:2],
        "--num-steps", "20", "--eps", "0.01", "0.1", "--workers", "1",
    ]  # fmt: skip
    assert main([*arguments, "--dry-run"]) == 0
    assert "2 units, 0 done before" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "within 0.01 of 0" in out
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


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same(job, whole, tmp_path, capsys):
    found, _ = whole
    arguments = [
        "spectrum", job.problem, "--out", str(tmp_path / "run"), "--checkpoint",
        *job.checkpoints, "--num-steps", "30", "--eps", "0.01", "0.1", "--largest", "2",
        "--executor", "dask", "--workers", "2",
    ]  # fmt: skip
    assert main(arguments) == 0
    capsys.readouterr()
    theirs = landscape.open_run(tmp_path / "run")
    for name in ("degenerate", "eigenvalue", "loss"):
        np.testing.assert_allclose(theirs[name], found[name], rtol=1e-4, atol=1e-5)


TOGETHER = """
import sys

import jax

number, port, spec, out, *checkpoints = sys.argv[1:]
if port != "0":
    jax.distributed.initialize(f"localhost:{port}", 2, int(number))
from pathlib import Path

from landscape.analysis.batch import Job, run_job
from landscape.analysis.measurement import Options

options = Options(num_steps=30, eps=(1e-2, 1e-1), largest=2, smallest=1)
found = run_job(
    Job(spec, tuple(checkpoints), options=options, across=True), Path(out), executor=None
)
assert found.sizes["checkpoint"] == len(checkpoints)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("hosts", "devices"), [(1, 8), (2, 2)])
def test_devices_and_hosts_do_a_unit_together(hosts, devices, job, whole, tmp_path):
    port = 0
    if hosts > 1:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
    flags = f"--xla_force_host_platform_device_count={devices}"
    for time_ in range(2):
        # The second time one result is damaged, and the other is done before.
        if time_:
            damaged = min((tmp_path / "run" / "units").glob("*.nc"))
            damaged.write_bytes(damaged.read_bytes()[:-1])
        processes = [
            subprocess.Popen(
                [
                    *(sys.executable, "-c", TOGETHER, str(number), str(port)),
                    *(job.problem, str(tmp_path / "run"), *job.checkpoints[:2]),
                ],
                env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(hosts)
        ]
        errors = [process.communicate(timeout=300)[1] for process in processes]
        assert [process.returncode for process in processes] == [0] * hosts, errors
    assert len(list((tmp_path / "run" / "units").glob("*.nc"))) == 2
    assert [path.name for path in (tmp_path / "run" / "set-aside").iterdir()] == [damaged.name]
    theirs = landscape.open_run(tmp_path / "run")
    ours = whole[0].isel(checkpoint=slice(2))
    assert list(theirs["checkpoint"].values) == list(ours["checkpoint"].values)
    for name in ("degenerate", "degenerate_lower", "degenerate_upper", "loss"):
        np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-5, atol=1e-5, err_msg=name)
    scale = float(abs(ours["nodes"]).max())
    np.testing.assert_allclose(theirs["nodes"], ours["nodes"], atol=1e-5 * scale)
