"""Checkpoints that are measured together: the numbers are those of each alone."""

import dataclasses
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import landscape
from landscape.analysis import batch, blocks, measurement
from landscape.analysis.batch import make_units, run_job
from landscape.analysis.measurement import at_checkpoint, known_problem, ritz_ends
from landscape.analysis.options import Options
from landscape.curvature import DiagonalOperator, stack
from landscape.errors import InputError, StoppedError, UnitsFailedError
from landscape.runs import read_run_folder
from landscape.spectra import slq
from landscape.spectra.schemes import lanczos_bytes


@pytest.fixture(scope="module")
def in_blocks(job, tmp_path_factory):
    out = tmp_path_factory.mktemp("blocks") / "run"
    return run_job(dataclasses.replace(job, together=3), out, executor=None), out


def test_blocks_give_what_each_checkpoint_gives_alone(job, whole, in_blocks):
    alone, (found, out) = whole[0], in_blocks
    assert len(read_run_folder(out).finished_units()) == 2
    assert list(found["checkpoint"].values) == list(job.checkpoints)
    assert found.sizes == alone.sizes
    assert set(found) == set(alone)
    shares = [
        f"{kind}{end}" for kind in ("degenerate", "negative") for end in ("", "_low", "_high")
    ]
    for name in shares:
        np.testing.assert_allclose(found[name], alone[name], atol=2e-3)
    np.testing.assert_allclose(found["loss"], alone["loss"], rtol=1e-5)
    # Thirty steps know the ends to their residuals.
    distance = np.abs(found["eigenvalue"] - alone["eigenvalue"])
    assert (distance <= found["eigenvalue_residual"] + alone["eigenvalue_residual"] + 1e-5).all()
    np.testing.assert_allclose(found["weights"].sum("node"), 1, rtol=1e-9)
    xr.testing.assert_identical(landscape.open_run(out), found)


def test_blocks_are_the_same_ones_when_a_job_is_continued(job, in_blocks, tmp_path):
    found, out = in_blocks
    shutil.copytree(out, tmp_path / "run")
    first = next(iter(read_run_folder(tmp_path / "run").finished_units().values()))
    first.unlink()
    again = run_job(dataclasses.replace(job, together=3), tmp_path / "run", executor=None)
    xr.testing.assert_identical(again, found)
    with pytest.raises(InputError, match="together was 3, now 1"):
        run_job(job, tmp_path / "run", executor=None)


def test_blocks_are_halved_where_memory_does_not_suffice(job, in_blocks, tmp_path, monkeypatch):
    sizes = []

    def scarce(problems, *arguments):
        sizes.append(len(problems))
        raise MemoryError

    monkeypatch.setattr(blocks, "_part", scarce)
    found = run_job(dataclasses.replace(job, together=3), tmp_path / "run", executor=None)
    assert sizes == [3, 2]
    np.testing.assert_allclose(found["degenerate"], in_blocks[0]["degenerate"], atol=1e-4)


@pytest.mark.parametrize("how", ["nan", "diverged", "curvature"])
def test_a_checkpoint_that_would_spoil_its_block_is_left_alone(job, tmp_path, how):
    broken = tmp_path / "broken.npz"
    with np.load(job.checkpoints[0]) as file:
        arrays = dict(file)
    if how == "nan":
        name = next(iter(arrays))
        np.savez(broken, **{**arrays, name: np.full_like(arrays[name], np.nan)})
    elif how == "curvature":
        # A finite loss, whose second derivative is not.
        source = Path(job.problem.rpartition(":")[0]).read_text()
        source += (
            "\n\ndef rooted():\n    made = problem()\n"
            "    def loss(params, state, batch):\n"
            "        size = jnp.sum(params['output']['kernel'] ** 2)\n"
            "        return made.loss(params, state, batch) + jnp.sqrt(size)\n"
            "    return dataclasses.replace(made, loss=loss)\n"
        )
        (tmp_path / "rooted.py").write_text("import dataclasses\n" + source)
        job = dataclasses.replace(job, problem=f"{tmp_path / 'rooted.py'}:rooted")
        name = "output/kernel"
        np.savez(broken, **{**arrays, name: np.zeros_like(arrays[name])})
    else:
        # Numbers that are finite, of a network that has diverged.
        np.savez(broken, **{name: 1e20 * array for name, array in arrays.items()})
    names = (*job.checkpoints[:2], str(broken), *job.checkpoints[2:])
    mixed = dataclasses.replace(job, checkpoints=names, together=4)
    assert [unit.name for unit in make_units(mixed)] == [
        f"{names[0]} and 1 more",
        str(broken),
        f"{names[3]} and 1 more",
    ]
    with pytest.raises(UnitsFailedError, match=r"1 of 3 units failed"):
        run_job(mixed, tmp_path / "run", executor=None)
    assert landscape.open_run(tmp_path / "run").sizes["checkpoint"] == 4


def test_an_accelerator_takes_as_many_together_as_its_memory_holds(job, monkeypatch):
    op = measurement.operator(known_problem(job.problem), job.options)
    assert batch.settled(job, None, together=True).together == 1
    monkeypatch.setattr(blocks.jax, "default_backend", lambda: "gpu")
    assert batch.settled(job, None, together=True).together == blocks.LARGEST
    assert batch.settled(job, None, together=False).together == 1
    one = lanczos_bytes(op.shape[0], 4, 1, 30) + blocks.product_bytes(op)
    few = dataclasses.replace(job, options=dataclasses.replace(job.options, memory=5 * one))
    assert batch.settled(few, None, together=True).together == 5


def test_a_folder_keeps_how_it_was_begun_on_another_machine(job, in_blocks, monkeypatch):
    monkeypatch.setattr(blocks.jax, "default_backend", lambda: "gpu")
    assert batch.settled(job, in_blocks[1], together=True).together == 3
    tight = dataclasses.replace(job, options=dataclasses.replace(job.options, memory=5_000))
    assert batch.settled(tight, None, together=False).options.reorthogonalize == "none"
    assert batch.settled(tight, in_blocks[1], together=False).options.reorthogonalize == "partial"


def test_blocks_that_are_done_stay_when_more_checkpoints_come(job, tmp_path, monkeypatch):
    fewer = dataclasses.replace(job, checkpoints=job.checkpoints[1:3], together=2)
    first = run_job(fewer, tmp_path / "run", executor=None)
    measured = []
    inner = blocks._part
    monkeypatch.setattr(
        blocks,
        "_part",
        lambda problems, *more: measured.append(len(problems)) or inner(problems, *more),
    )
    found = run_job(dataclasses.replace(job, together=2), tmp_path / "run", executor=None)
    # The first and the last checkpoint, around those that were there.
    assert measured == [2]
    opened = landscape.open_run(tmp_path / "run")
    assert sorted(opened["checkpoint"].values) == sorted(job.checkpoints)
    xr.testing.assert_identical(opened.sel(checkpoint=list(fewer.checkpoints)), first)
    xr.testing.assert_identical(found.sel(checkpoint=list(fewer.checkpoints)), first)


def test_equal_checkpoints_in_a_block_stay_apart_when_it_is_continued(job, tmp_path):
    twin = str(shutil.copy(job.checkpoints[0], tmp_path / "twin.npz"))
    two = dataclasses.replace(job, checkpoints=(job.checkpoints[0], twin), together=2)
    found = run_job(two, tmp_path / "run", executor=None)
    again = run_job(two, tmp_path / "run", executor=None)
    assert list(again["checkpoint"].values) == list(two.checkpoints)
    xr.testing.assert_identical(again, found)


def test_checkpoints_of_a_block_may_be_moved(job, in_blocks, tmp_path):
    found, out = in_blocks
    shutil.copytree(out, tmp_path / "run")
    moved = [shutil.copy(path, tmp_path) for path in job.checkpoints]
    again = dataclasses.replace(job, checkpoints=tuple(map(str, moved)), together=3)
    before = set((tmp_path / "run" / "units").iterdir())
    theirs = run_job(again, tmp_path / "run", executor=None)
    assert set((tmp_path / "run" / "units").iterdir()) == before
    assert list(theirs["checkpoint"].values) == moved
    np.testing.assert_array_equal(theirs["degenerate"], found["degenerate"])


def test_ends_are_counted_from_the_largest_and_from_the_smallest():
    values = jnp.array([-3.0, -1.0, 0.5, 2.0, 5.0])
    family = stack([DiagonalOperator(values), DiagonalOperator(2 * values)])
    spectrum = slq(family, jax.random.key(0), num_steps=5)
    for index, expected in enumerate([[5, 2, -1, -3], [10, 4, -2, -6]]):
        found, errors = ritz_ends(spectrum, (index, 0), Options(largest=2, smallest=2))
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert (errors < 1e-3).all()


def test_what_is_kept_changes_no_block_that_it_takes_nothing_from():
    assert list(blocks.blocks_of("aabbaa", 4)) == [(0, 1), (2, 3), (4, 5)]
    assert list(blocks.blocks_of("aabbaa", 4, [(2, 3)])) == [(0, 1), (2, 3), (4, 5)]
    assert list(blocks.blocks_of("aaaaaa", 2, [(1, 2)])) == [(0, 3), (1, 2), (4, 5)]
    assert list(blocks.blocks_of(["a", "", "", "a"], 2, [(0, 3)])) == [(0, 3), (1,), (2,)]


def test_parts_that_are_done_are_kept_when_a_block_is_stopped(job, tmp_path, monkeypatch):
    options = dataclasses.replace(job.options, layers=True)
    problems = [at_checkpoint(known_problem(job.problem), path) for path in job.checkpoints[:2]]
    measured = []
    inner = blocks._part

    def counted(problems, options, part, *more):
        measured.append(part)
        if len(measured) == 3:
            raise StoppedError("stopped")
        return inner(problems, options, part, *more)

    monkeypatch.setattr(blocks, "_part", counted)
    with pytest.raises(StoppedError):
        blocks.measure_together(problems, options, tmp_path / "a", lambda: False)
    found = blocks.measure_together(problems, options, tmp_path / "a", lambda: False)
    assert measured == ["all", "hidden", "input", "input", "output"]
    whole = blocks.measure_together(problems, options, tmp_path / "b", lambda: False)
    xr.testing.assert_identical(found, whole)


def test_a_checkpoint_that_cannot_be_looked_at_is_left_alone_until_it_can(
    job, tmp_path, monkeypatch
):
    def failing(problem, options):
        raise TypeError("shapes")

    together = dataclasses.replace(job, together=4)
    with monkeypatch.context() as patched:
        patched.setattr(batch, "kind", failing)
        units = make_units(together, tmp_path)
    assert [unit.name for unit in units] == list(job.checkpoints)
    (unit,) = make_units(together, tmp_path)
    assert unit.parts == job.checkpoints


def test_a_device_without_memory_is_not_taken_for_a_broken_checkpoint(job, monkeypatch):
    def short(problem):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(batch, "content", short)
    with pytest.raises(jax.errors.JaxRuntimeError):
        make_units(job)
