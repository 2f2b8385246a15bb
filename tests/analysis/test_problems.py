"""What can be typed for a problem, and what cannot."""

import io
import sys
import textwrap

import jax
import numpy as np
import pytest
from rich.console import Console

from landscape.analysis import load_problem
from landscape.cli import main
from landscape.errors import InputError, StoppedError
from landscape.experiments.reproduce import Request, reproduce
from landscape.experiments.scales import make_scale

SOURCE = """
import dataclasses
import jax.numpy as jnp
from landscape.curvature import Problem
from landscape.errors import StoppedError
import beside

@dataclasses.dataclass
class Settings:
    scale: float = 2.0

def problem():
    scale = Settings().scale * beside.FACTOR
    return Problem(lambda w, x: scale * ((x @ w) ** 2).mean(), jnp.ones(2), jnp.eye(2))

def nothing():
    return None

def stopped():
    raise StoppedError("stopped by SIGTERM")

def failing():
    raise RuntimeError("no such checkpoint")

number = 3
"""


@pytest.fixture
def source(tmp_path, monkeypatch):
    for name in ("my_problem", "beside"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "beside.py").write_text("FACTOR = 1.5\n")
    path = tmp_path / "my_problem.py"
    path.write_text(textwrap.dedent(SOURCE))
    return path


def test_a_function_of_a_file_is_called_with_what_lies_beside_it(source):
    problem = load_problem(f"{source}:problem")
    np.testing.assert_allclose(problem.hessian().to_dense(), 3.0 * np.eye(2), atol=1e-6)


def test_a_function_of_a_module_is_found_from_the_working_folder(source, monkeypatch):
    monkeypatch.chdir(source.parent)
    assert load_problem("my_problem:problem").params.shape == (2,)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "returned NoneType, not a landscape.curvature.Problem"),
        ("failing", r"failed in .*my_problem.py, line \d+: RuntimeError: no such checkpoint"),
        ("number", "has no function 'number'; it has .*problem"),
        ("missing", "has no function 'missing'"),
    ],
)
def test_functions_that_give_no_problem_are_refused(source, name, message):
    with pytest.raises(InputError, match=message):
        load_problem(f"{source}:{name}")


def test_signals_and_other_errors_of_this_package_come_through(source):
    with pytest.raises(StoppedError, match="SIGTERM"):
        load_problem(f"{source}:stopped")


def test_a_file_may_have_the_name_of_another_module(source, tmp_path):
    import random

    path = tmp_path / "random.py"
    path.write_text(source.read_text())
    assert load_problem(f"{path}:problem").params.shape == (2,)
    assert sys.modules["random"] is random


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere", "neither a run folder nor"),
        ("nowhere:", "neither a run folder nor"),
        ("nowhere.py:problem", "there is no file nowhere.py"),
        ("no_such_module:problem", "module 'no_such_module' cannot be loaded"),
    ],
)
def test_what_is_not_there_is_refused(spec, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        load_problem(spec)


def test_files_that_cannot_be_run_and_networks_of_no_run(source):
    source.write_text("import no_such_package_at_all")
    with pytest.raises(InputError, match="cannot be loaded: ModuleNotFoundError"):
        load_problem(f"{source}:problem")
    with pytest.raises(InputError, match="chooses a network of a run folder"):
        load_problem(f"{source}:problem", "small/plain/0")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "smoke"
    console = Console(file=io.StringIO(), width=120)
    reproduce(Request("fig3", scale="smoke"), folder, resume=False, console=console, workers=1)
    return folder


@pytest.mark.slow
def test_networks_of_a_run_are_those_that_were_trained(run):
    from landscape.runs import read_run_folder

    group = make_scale("smoke", "digits", None).fractions
    results = read_run_folder(run).read_dataset(f"results-{group.name}.nc")
    for network, architecture, number, epoch in (
        (None, "plain", 0, group.epochs),
        ("small/residual/1", "residual", 1, group.epochs),
        ("small/hyper-residual/0@0", "hyper-residual", 0, 0),
    ):
        problem = load_problem(str(run), network)
        recorded = results["loss"].sel(architecture=architecture, seed=number, epoch=epoch)
        found = problem.loss(problem.params, problem.state, problem.batch)
        assert float(found) == pytest.approx(float(recorded), rel=1e-5)
        assert f"{architecture} {number} of smoke, epoch {epoch}" == problem.name
        assert problem.model is not None
    assert len(jax.tree.leaves(problem.params)) == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("plain", "GROUP/ARCHITECTURE/NUMBER"),
        ("small/plain", "GROUP/ARCHITECTURE/NUMBER"),
        ("large/plain/0", "GROUP of small"),
        ("small/odd/0", "ARCHITECTURE of plain"),
        ("small/plain/x", "GROUP/ARCHITECTURE/NUMBER"),
        ("small/plain/7", "no trained network small/plain/7"),
        ("small/plain/0@11", "10, not 11"),
    ],
)
def test_networks_that_a_run_does_not_have_are_refused(run, network, message):
    with pytest.raises(InputError, match=message):
        load_problem(str(run), network)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError):
        load_problem(str(tmp_path))


@pytest.mark.parametrize("command", ["analyze", "spectrum"])
def test_a_mistake_in_the_loss_is_not_called_one_of_this_package(command, tmp_path, capsys):
    source = tmp_path / "wrong.py"
    source.write_text(
        "import jax.numpy as jnp\n"
        "from landscape.curvature import Problem\n"
        "def loss(w, x):\n    return jnp.mean(x @ w)\n"
        "def problem():\n    return Problem(loss, jnp.ones(3), jnp.eye(3), {})\n"
        "def shapes():\n    return Problem(loss, jnp.ones(4), jnp.eye(3))\n"
    )
    for name, told in (
        ("problem", "called with (params, state, batch), fails"),
        ("shapes", "line 4"),
    ):
        arguments = [command, f"{source}:{name}", "--out", str(tmp_path / name)]
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert told in error
        assert "bug" not in error
