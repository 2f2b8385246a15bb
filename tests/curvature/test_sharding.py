"""Several devices give the numbers of one, and hold less each."""

import json
import os
import socket
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape.curvature import DiagonalOperator, data_mesh, hessian, place
from landscape.errors import InputError

# What is measured, alone and on the mesh: in processes of their own, since the number of devices is
# fixed when JAX starts.
SCRIPT = """
import json, sys
import jax
import jax.numpy as jnp
import numpy as np
if len(sys.argv) > 1:
    number, count, port = map(int, sys.argv[1:4])
    jax.distributed.initialize(f"localhost:{port}", count, number)
from landscape.curvature import data_mesh, hessian, place
from landscape.models import MLP
from landscape.spectra import degenerate_fraction, lanczos_run, trace
from landscape.training import softmax_cross_entropy

model = MLP(3, 64, 4, skip="identity")
x = np.random.default_rng(0).normal(size=(64, 200)).astype(np.float32)
batch = (x, np.arange(64) % 4)
variables = jax.jit(model.init)(jax.random.key(1), x[:1])
params = jax.tree.map(np.asarray, variables["params"])
found = {}
op = place(hessian(softmax_cross_entropy(model), params, batch, state={}), data_mesh())
key = jax.random.key(0)
for scheme in ("full", "partial"):
    run = lanczos_run(op, key, num_probes=2, reorthogonalize=scheme, capacity=40)
    if scheme == "full":
        block = run.state.basis[0]
        held = max(shard.data.nbytes for shard in block.addressable_shards)
        found["share held"] = held / block.nbytes
        found["bytes held"] = sum(
            shard.data.nbytes
            for array in (*jax.tree.leaves(op), *jax.tree.leaves(run.state))
            for shard in jnp.asarray(array).addressable_shards[:1]
        )
    spectrum = run.advance(20).advance(40).spectrum(noise_floor=0.0)
    share = degenerate_fraction(spectrum, 1e-2)
    ends = np.sort(spectrum.nodes)[[0, -2, -1]].tolist()
    found[scheme] = [*ends, float(share.estimate), float(share.lower), float(share.upper)]
rows = min(2, len(jax.devices()))
alone = hessian(softmax_cross_entropy(model), params, batch, state={})
shared = place(alone, data_mesh(probes=rows))
run = lanczos_run(shared, key, num_probes=2, reorthogonalize="full", capacity=20)
run = run.advance(20).advance(40)
current, block = run.state.current, run.state.basis[-1]
found["lanes held"] = [x.addressable_shards[0].data.nbytes / x.nbytes for x in (current, block)]
spectrum = run.spectrum(noise_floor=0.0)
share = degenerate_fraction(spectrum, 1e-2)
ends = np.sort(spectrum.nodes)[[0, -2, -1]].tolist()
found["probes shared out"] = [*ends, float(share.estimate), float(share.lower), float(share.upper)]
found["trace"] = [float(trace(op, key, num_matvecs=30).value)]
found["devices"] = len(jax.devices())
if jax.process_index() == 0:
    print(json.dumps(found))
"""


REFUSED = """
import json
import jax
import jax.numpy as jnp
from landscape.curvature import DiagonalOperator, data_mesh, hessian, place
from landscape.errors import InputError
from landscape.spectra import slq

op = hessian(lambda w, x: ((x @ w) ** 2).mean() / 2, jnp.arange(3.0), jnp.eye(5, 3))
told = []
try:
    place(op, data_mesh())
except InputError as error:
    told.append(str(error))
op = place(DiagonalOperator(jnp.arange(9.0)), data_mesh(probes=4))
try:
    slq(op, jax.random.key(0), num_steps=3, num_probes=6)
except InputError as error:
    told.append(str(error))
print(json.dumps({"messages": told}))
"""


def started(devices, *arguments, code=SCRIPT):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(process):
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err[-3000:]
    # Collectives between processes tell of their connections, too.
    told = [line for line in out.splitlines() if line.startswith("{")]
    return json.loads(told[-1]) if told else None


@pytest.fixture(scope="module")
def alone():
    return outcome(started(1))


def compare(found, alone):
    for name, values in alone.items():
        if name in ("devices", "share held", "bytes held", "lanes held"):
            continue
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_eight_devices_give_the_numbers_of_one(alone):
    found = outcome(started(8))
    assert (alone["devices"], found["devices"]) == (1, 8)
    compare(found, alone)
    # Each device holds an eighth of the basis.
    assert found["share held"] == pytest.approx(1 / 8)
    assert alone["share held"] == 1
    # With two rows of devices half of the vectors are in each, and an eighth of the basis.
    assert found["lanes held"] == pytest.approx([1 / 2, 1 / 8])
    # The parameters and three vectors a probe are on each.
    assert found["bytes held"] < 0.4 * alone["bytes held"]


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(alone):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [started(2, number, 2, port) for number in range(2)]
    found, _ = [outcome(process) for process in processes]
    assert found["devices"] == 4
    compare(found, alone)
    assert found["share held"] == pytest.approx(1 / 4)


def test_a_placed_operator_is_the_same_on_one_device():
    op = hessian(lambda w, x: ((x @ w) ** 2).mean() / 2, jnp.arange(3.0), jnp.eye(4, 3))
    v = jnp.ones(3)
    np.testing.assert_array_equal(place(op, data_mesh()).matvec(v), op.matvec(v))
    assert data_mesh().shape == {"probes": 1, "data": 1}
    with pytest.raises(InputError, match="1 devices cannot be split into 2 equal rows"):
        data_mesh(probes=2)
    diagonal = DiagonalOperator(jnp.arange(3.0))
    np.testing.assert_array_equal(place(diagonal, data_mesh()).matvec(v), [0, 1, 2])


def test_what_cannot_be_split_is_refused():
    op = hessian(lambda w, x: ((x @ w) ** 2).mean() / 2, jnp.arange(3.0), jnp.eye(5, 3))
    with pytest.raises(InputError, match="axis 'data'; it has"):
        place(op, jax.sharding.Mesh(np.asarray(jax.devices()[:1]), ("x",)))
    first, second = outcome(started(8, code=REFUSED))["messages"]
    assert "5 examples cannot be split among 8 devices" in first
    assert "6 probes cannot be split among 4 rows of devices" in second
