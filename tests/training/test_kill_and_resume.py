import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kill_and_resume.py"


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_training_killed_twice_ends_with_the_same_bits():
    result = subprocess.run(
        [sys.executable, str(SCRIPT), "--kills", "2", "--epochs", "30"],
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    rows = result.stdout.splitlines()[2:-1]
    assert re.fullmatch(r" +1 +\d+\.\d+ s after its start +none", rows[0])
    assert re.fullmatch(r" +2 +\d+ ms after epoch \d+ +\d+( \+ half-written)?", rows[1])
    assert re.search("2 kills: all .* equal bit by bit", result.stdout)


def test_the_comparison_sees_one_bit(tmp_path):
    spec = importlib.util.spec_from_file_location("kill_and_resume", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    kernel = np.arange(4.0)
    other = kernel.copy()
    other[2] = np.nextafter(other[2], 3)
    arrays = {"kernel": kernel, "loss": np.ones(2), "zero": np.zeros(1)}
    np.savez(tmp_path / "one.npz", **arrays)
    np.savez(tmp_path / "same.npz", **arrays)
    changed = arrays | {"kernel": other, "zero": np.array([-0.0]), "extra": np.ones(1)}
    np.savez(tmp_path / "other.npz", **changed)
    assert module.differences(tmp_path / "one.npz", tmp_path / "same.npz") == (3, [])
    found = module.differences(tmp_path / "one.npz", tmp_path / "other.npz")
    assert found == (4, ["extra", "kernel", "zero"])
