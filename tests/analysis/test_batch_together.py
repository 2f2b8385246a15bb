"""Batch jobs on several workers, devices, hosts and clusters."""

import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

import landscape
from landscape.analysis.batch import make_units
from landscape.analysis.options import Options
from landscape.analysis.planning import plan
from landscape.cli import main
from landscape.runs import worker_pool
from landscape.runs.executors import executor

OPTIONS = Options(num_steps=30, eps=(1e-2, 1e-1), largest=2, smallest=1)


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


@pytest.mark.slow
def test_workers_of_a_local_dask_cluster_ignore_the_terminals_interrupt():
    with executor("dask", 1) as pool:
        heard = pool._client.run(lambda: signal.getsignal(signal.SIGINT) is signal.SIG_IGN)
    assert list(heard.values()) == [True]


TOGETHER = """
import sys

import jax

number, port, spec, out, *checkpoints = sys.argv[1:]
if port != "0":
    jax.distributed.initialize(f"localhost:{port}", 2, int(number))
from pathlib import Path

from landscape.analysis.batch import Job, run_job
from landscape.analysis.options import Options
from landscape.errors import UnitsFailedError

options = Options(num_steps=30, eps=(1e-2, 1e-1), largest=2, smallest=1)
job = Job(spec, tuple(checkpoints), options=options, across=True)
spoilt = [path for path in checkpoints if path.endswith("nan.npz")]
try:
    found = run_job(job, Path(out), executor=None)
except UnitsFailedError as error:
    assert spoilt and "1 of 3 units failed" in str(error) and "NaN" in str(error), error
else:
    assert not spoilt
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
    with np.load(job.checkpoints[0]) as whole_one:
        np.savez(tmp_path / "nan.npz", **{name: x * np.nan for name, x in whole_one.items()})
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    for time_ in range(2):
        # The second time one result is damaged, the other is done before, and a checkpoint has NaN.
        named = list(job.checkpoints[:2])
        if time_:
            named.insert(0, str(tmp_path / "nan.npz"))
            damaged = min((tmp_path / "run" / "units").glob("*.nc"))
            damaged.write_bytes(damaged.read_bytes()[:-1])
        processes = [
            subprocess.Popen(
                [
                    *(sys.executable, "-c", TOGETHER, str(number), str(port)),
                    *(job.problem, str(tmp_path / "run"), *named),
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


def test_hosts_are_not_joined_without_being_asked_to(spec, tmp_path, capsys):
    command = ["spectrum", spec, "--out", str(tmp_path / "run"), "--host", "1"]
    assert main(command) == 2
    assert "add --distributed" in capsys.readouterr().err


@pytest.mark.slow
def test_a_plan_is_tried_out_by_all_workers_at_once(job):
    with worker_pool(2) as pool:
        found = plan(job, make_units(job), done=0, workers=2, pool=pool)
    assert 0 < found.seconds < 60
    assert found.peak_bytes > 1e8
