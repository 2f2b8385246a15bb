"""The suite runs every public function under jaxtyping's checks, with strict promotion of ranks."""

import atexit
import os
import shutil
import sys
import tempfile
from importlib import metadata

os.environ.setdefault("MPLBACKEND", "agg")

# Processes side by side, each with a BLAS thread for every core, wait for one another at every
# small decomposition: forty times as long for a budget of a network of 103 parameters.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Compilation takes most of the time. All processes of a run share what has been compiled.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="landscape-tests-")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

# Most of that is optimisation; the demo runs with it. Before jaxlib 0.11 there are two ways to
# write the code of fused operations, and without optimisation the older one takes half the time.
if "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
    flags = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
    if metadata.version("jaxlib").startswith("0.10."):
        flags.append("--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags]).strip()

from jaxtyping import install_import_hook

# All rooms but data and theory, whose doors refuse by themselves what does not fit.
ROOMS = (
    "models",
    "training",
    "curvature",
    "spectra",
    "degeneracy",
    "runs",
    "plots",
    "report",
    "analysis",
    "experiments",
)
install_import_hook([f"landscape.{room}" for room in ROOMS], "beartype.beartype")

import jax
import jaxtyping
import pytest

# Before JAX is used: it chooses flags for the compiler.
import landscape  # noqa: F401

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def unchecked(monkeypatch):
    """Run a test as users run the package: without checks of types."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def x64():
    """Run a test in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True)
def the_path_of_imports_is_put_back(monkeypatch):
    """A problem's file puts its folder there, and processes that are started later inherit it."""
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture(scope="module", autouse=True)
def compiled_programs_are_freed():
    """A process keeps every program it compiles, in some memory maps each; their number is limited.

    On Linux that is vm.max_map_count: beyond it, compilation ends the process.
    """
    yield
    jax.clear_caches()
