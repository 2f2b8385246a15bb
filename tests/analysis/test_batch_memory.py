"""Batch jobs that are short of memory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import landscape
from landscape.analysis import kept, measurement, planning
from landscape.analysis.batch import run_job
from landscape.analysis.measurement import known_problem, measure
from landscape.analysis.options import Options
from landscape.analysis.overview import summary
from landscape.cli import main
from landscape.errors import ResourceError, StoppedError
from landscape.spectra import extremal_run, trace

# Whole runs and processes of their own.
pytestmark = pytest.mark.slow

OPTIONS = Options(num_steps=30, eps=(1e-2, 1e-1), largest=2, smallest=1)


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


def test_what_was_kept_by_other_chunks_is_told(spec, tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "_LONG_SECONDS", 0.0)
    problem = known_problem(spec)
    inner = measurement.operator

    def short(problem, options, part="all"):
        if (options.chunk_size or 40) > 12:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return inner(problem, options, part)

    monkeypatch.setattr(measurement, "operator", short)
    asked = []
    with pytest.raises(StoppedError):
        # After the spectrum, at the ends.
        measure(problem, OPTIONS, tmp_path, lambda: asked.append(1) or len(asked) == 5)
    assert list(tmp_path.glob("part-0-spectrum.*.nc"))
    monkeypatch.setattr(measurement, "operator", inner)
    found = measure(problem, OPTIONS, tmp_path, lambda: False)
    assert found["chunk_size"].values.tolist() == [10]
    assert found["short_of_memory"].values.tolist() == [True]


@pytest.mark.parametrize("error", [MemoryError, jax.errors.JaxRuntimeError])
def test_a_state_that_finds_no_memory_when_it_is_read_is_kept(tmp_path, monkeypatch, error):
    state, path = {"basis": jnp.arange(4.0)}, tmp_path / "part-0.npz"
    kept._save(state, path)
    with monkeypatch.context() as patched:

        def short(*arguments):
            raise error("RESOURCE_EXHAUSTED: out of memory")

        patched.setattr(jax, "device_put", short)
        with pytest.raises(error):
            kept._read_state(state, path)
    np.testing.assert_array_equal(kept._read_state(state, path)["basis"], state["basis"])
