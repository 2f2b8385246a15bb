"""The documentation site: pages in MyST Markdown, notebooks as they are committed, docstrings."""

import importlib
import re
import shutil
import socket
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

import landscape

HERE = Path(__file__).parent
ROOT = HERE.parent

project = "landscape"
author = "The landscape developers"
copyright = author
release = version = landscape.__version__

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
]
exclude_patterns = ["_build", "slurm"]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
# Notebooks are executed by `make notebooks`, and shown with the outputs that are committed.
nb_execution_mode = "off"

html_theme = "furo"
html_title = f"landscape {version}"
templates_path = ["_templates"]
html_static_path = ["_static"]
html_favicon = "_static/favicon.svg"
html_css_files = ["narrow.css"]

autosummary_generate = True
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
# Each argument on a line of its own where they do not fit on one.
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
# Attributes of results are described in their docstrings, and not a second time.
autodoc_default_options = {"members": True}

INVENTORIES = {
    "python": "https://docs.python.org/3",
    "numpy": "https://numpy.org/doc/stable",
    "jax": "https://docs.jax.dev/en/latest",
    "xarray": "https://docs.xarray.dev/en/stable",
}


def reachable(address: str) -> bool:
    """Whether there is a network: without one, others' names stay plain text."""
    try:
        socket.create_connection((urlsplit(address).hostname, 443), timeout=3).close()
    except OSError:
        return False
    return True


intersphinx_mapping = {k: (v, None) for k, v in INVENTORIES.items() if reachable(v)}
intersphinx_timeout = 10

ROOMS = (
    "curvature",
    "spectra",
    "degeneracy",
    "analysis",
    "plots",
    "models",
    "training",
    "data",
    "theory",
    "runs",
    "report",
)


def comment_of(module: ModuleType, name: str) -> str:
    """What is said of a constant, in the lines that begin with ``#:`` above it."""
    for path in sorted(Path(str(module.__file__)).parent.glob("*.py")):
        found = re.search(rf"((?:^#: .*\n)+){name}\b", path.read_text(), re.MULTILINE)
        if found:
            return " ".join(line.removeprefix("#: ") for line in found[1].splitlines())
    raise LookupError(f"{module.__name__}.{name} is not described: put a line with #: above it")


def write_reference() -> None:
    """One page for each room: what it is, and its public names in a table."""
    for room in ROOMS:
        module = importlib.import_module(f"landscape.{room}")
        names = [n for n in module.__all__ if getattr(getattr(module, n), "__doc__", None)]
        documented = [n for n in names if callable(getattr(module, n))]
        values = [n for n in module.__all__ if n not in documented]
        lines = [f"landscape.{room}", "=" * (10 + len(room)), "", (module.__doc__ or "").strip()]
        lines += ["", f".. currentmodule:: landscape.{room}", "", ".. autosummary::"]
        lines += ["   :toctree: generated", "", *(f"   {name}" for name in documented), ""]
        for name in values:
            value = getattr(module, name)
            told = ", ".join(value) if isinstance(value, dict | tuple) else str(value)
            lines += [f".. data:: {name}", "", f"   {comment_of(module, name)}", ""]
            lines += [f"   ``{told}``", ""]
        (HERE / "api" / f"{room}.rst").write_text("\n".join(lines))


def write_package_page() -> None:
    """What is in no room: the package's own functions, and its errors."""
    errors = importlib.import_module("landscape.errors")
    names = errors.__all__
    lines = [
        "landscape",
        "=========",
        "",
        "The package's own functions, and the errors it raises.",
        "",
    ]
    for module, listed in (("landscape", ["load", "open_run"]), ("landscape.errors", names)):
        lines += [
            f".. currentmodule:: {module}",
            "",
            ".. autosummary::",
            "   :toctree: generated",
            "",
        ]
        lines += [*(f"   {name}" for name in listed), ""]
    (HERE / "api" / "package.rst").write_text("\n".join(lines))


def copy_notebooks() -> None:
    """Sphinx reads what is below this folder."""
    place = HERE / "tutorials"
    place.mkdir(exist_ok=True)
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        shutil.copy(notebook, place / notebook.name)


def escape(app, what, name, obj, options, lines) -> None:
    """Docstrings write (*batch, P) and |λ| as mathematics; to Sphinx that is markup."""
    for number, line in enumerate(lines):
        if line.lstrip().startswith((">>>", "...")):
            continue
        parts = line.split("``")
        parts[::2] = [
            re.sub(r"\*(?=(batch|shape)\b)", r"\\*", part).replace("|", r"\|")
            for part in parts[::2]
        ]
        lines[number] = "``".join(parts)


def setup(app) -> None:
    """Before numpydoc takes the sections apart."""
    app.connect("autodoc-process-docstring", escape, priority=100)


write_reference()
write_package_page()
copy_notebooks()
