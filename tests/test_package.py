import ast
import dataclasses
import importlib
import inspect
import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import landscape
from landscape import _version

SOURCES = Path(landscape.__file__).parent
MODULES = sorted(SOURCES.rglob("*.py"))
# The command line is a folder, and no room of the library.
ROOMS = sorted(
    path.parent.name for path in SOURCES.glob("*/__init__.py") if path.parent.name != "cli"
)
PROJECT = Path(__file__).parents[1] / "pyproject.toml"
HEAVY = ("jax", "numpy", "scipy", "flax", "optax", "matplotlib", "xarray", "sklearn", "orbax")


def named(path):
    return path.relative_to(SOURCES).as_posix()


def loaded_by(code):
    """Names of all modules that are loaded after some code ran in a new process."""
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def public_names():
    for room in ROOMS:
        module = importlib.import_module(f"landscape.{room}")
        for name in module.__all__:
            yield room, name


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_says_what_it_is(room):
    module = importlib.import_module(f"landscape.{room}")
    assert inspect.getdoc(module)
    assert getattr(landscape, room) is module


@pytest.mark.parametrize(("room", "name"), list(public_names()))
def test_every_public_name_resolves_and_is_documented(room, name):
    value = getattr(importlib.import_module(f"landscape.{room}"), name)
    if callable(value):
        documentation = inspect.getdoc(value) or ""
        assert documentation
        # A dataclass without a docstring is given its signature for one.
        assert not (dataclasses.is_dataclass(value) and documentation.startswith(f"{name}("))
        assert documentation.split("\n")[0].rstrip().endswith((".", ":", "?"))
    else:
        # A constant is described above it.
        room_of_it = Path(importlib.import_module(f"landscape.{room}").__file__).parent
        described = rf"^#: .*\.\n{name}\b"
        sources = [path.read_text() for path in room_of_it.glob("*.py")]
        assert any(re.search(described, source, re.MULTILINE) for source in sources)


@pytest.mark.parametrize(("room", "name"), list(public_names()))
def test_every_public_callable_documents_its_parameters(room, name):
    value = getattr(importlib.import_module(f"landscape.{room}"), name)
    if inspect.isfunction(value):
        documentation = inspect.getdoc(value) or ""
        parameters = [p for p in inspect.signature(value).parameters if p not in ("self", "args")]
        if "Parameters\n" not in documentation:
            # One line is enough where there is nothing, or next to nothing, to explain.
            assert len(parameters) <= 2
            return
        section = documentation.split("Parameters\n")[1]
        for parameter in parameters:
            told = rf"^(.*, )?\*{{0,2}}{parameter}( :|,|$)"
            assert re.search(told, section, re.MULTILINE), parameter


def test_public_names_are_listed_once():
    for room in ROOMS:
        listed = importlib.import_module(f"landscape.{room}").__all__
        assert len(listed) == len(set(listed))
        assert all(hasattr(importlib.import_module(f"landscape.{room}"), name) for name in listed)


def test_importing_the_package_loads_none_of_what_it_uses():
    loaded = loaded_by("import landscape; landscape.__version__; dir(landscape)")
    assert not loaded & set(HEAVY)
    assert not {name for name in loaded if name.startswith("landscape.")} - {
        "landscape._version",
        "landscape._xla",
    }


def test_rooms_are_loaded_when_they_are_first_used():
    loaded = loaded_by("import landscape; landscape.data.names()")
    assert "landscape.data" in loaded
    assert not loaded & {"jax", "flax", "matplotlib", "sklearn"}


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing"):
        landscape.nothing  # noqa: B018
    assert set(dir(landscape)) >= set(ROOMS)


def test_the_version_is_written_once():
    project = tomllib.loads(PROJECT.read_text())
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["hatch"]["version"]["path"] == "src/landscape/_version.py"
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?", _version.__version__)
    assert landscape.__version__ == _version.__version__


def test_the_version_is_that_of_the_installed_package():
    try:
        installed = metadata.version("landscape-jax")
    except metadata.PackageNotFoundError:
        pytest.skip("not installed")
    assert installed == _version.__version__


def test_the_package_says_that_it_is_typed():
    assert (SOURCES / "py.typed").exists()


def calls(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node.lineno


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_no_module_changes_jaxs_settings(path):
    settings = [line for name, line in calls(path) if name.endswith("config.update")]
    assert not settings
    assignments = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assign)
        for target in node.targets
        if ast.unparse(target).startswith("jax.config.")
    ]
    assert not assignments


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_only_the_command_line_prints(path):
    prints = [line for name, line in calls(path) if name in ("print", "sys.stdout.write")]
    assert not prints or named(path) == "cli/__init__.py"


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_every_module_has_a_docstring(path):
    assert ast.get_docstring(ast.parse(path.read_text()))
