"""A jaxlib that computes sums wrongly is used so that it does not, or warned of."""

import os
import subprocess
import sys
from importlib import metadata

import pytest

from landscape import _xla

OPERATOR = """
import numpy as np
from landscape.curvature import empirical_fisher, hessian
x = np.linspace(-1, 1, 12, dtype="float32").reshape(6, 2)
op = hessian(lambda p, b: ((b["x"] @ p) ** 2).mean(), np.ones(2, "float32"), {"x": x})
"""


def run(program, **environment):
    return subprocess.run(
        [sys.executable, "-W", "always::UserWarning", "-c", program],
        env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | environment,
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.mark.parametrize(
    ("version", "before", "after"),
    [
        ("0.10.2", None, f"{_xla.FLAG}="),
        ("0.10.2", "--a=1", f"--a=1 {_xla.FLAG}="),
        ("0.10.2", f"{_xla.FLAG}=dot", f"{_xla.FLAG}=dot"),
        ("0.12.0", None, None),
    ],
)
def test_the_flag_is_set_where_it_is_needed(version, before, after, monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: version)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    if before is not None:
        monkeypatch.setenv("XLA_FLAGS", before)
    _xla.switch_wrong_sums_off()
    assert os.environ.get("XLA_FLAGS") == after


def test_no_warning_where_the_package_comes_first():
    assert "wrongly" not in run(OPERATOR).stderr


@pytest.mark.skipif(not _xla.computes_sums_wrongly(), reason="this jaxlib computes sums right")
def test_a_warning_where_jax_was_used_before():
    found = run("import jax; jax.devices()" + OPERATOR).stderr
    assert "jaxlib 0.10.2 computes some sums wrongly" in found
    assert found.count("Import landscape before JAX") == 1
