"""What a device rounds, and how large a network fits on it.

- ``precision``: a small trained network's Hessian with each precision of matrix products: its noise
  floor, and the share of eigenvalues within each ε of 0 beside that in float64. On a GPU
  ``default`` multiplies with TF32's 10 bits, on a TPU with bfloat16's 8; a CPU knows no difference.
- ``bandwidth``: bytes a second that the device's memory moves, and that orthogonalisation moves.
- ``largest``: one Hessian product of ever larger networks, each twice as wide as the last, until
  one does not fit or ``--max-parameters`` is reached.
- ``long``: fifty Lanczos steps on a network of 100 million parameters, in a fresh process.
- ``devices``: what one device holds of a Lanczos run on 1, 2, … of them (on a CPU, virtual ones).

    python benchmarks/limits.py --out limits.json
"""

from __future__ import annotations

import argparse
import json
import os

# Before JAX is used: a child has the accelerator's memory while this process lives.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from harness import kept, machine, seconds, write

from landscape.curvature import DiagonalOperator, hessian, noise_floor
from landscape.data import load
from landscape.errors import ResourceError
from landscape.models import MLP
from landscape.spectra import dense_spectrum, lanczos_run
from landscape.training import TrainConfig, fit, softmax_cross_entropy

PRECISIONS = ("highest", "high", "default")
EPSILONS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


def precision(options: argparse.Namespace) -> dict[str, Any]:
    """Noise floors and shares near 0."""
    data = load("digits").standardized()
    model = MLP(20, 12, 10, skip="identity")
    run = fit(model, data, TrainConfig(30, 100, 5e-4), jax.random.key(0))
    inputs, labels = (a[:500] for a in data.arrays())
    loss = softmax_cross_entropy(model)

    def operator(name: str) -> Any:
        return hessian(loss, run.params, (inputs, labels), state=run.state, precision=name)

    with jax.enable_x64(True):
        exact = dense_spectrum(operator("highest"), dtype=np.float64).nodes
    norm = float(np.abs(exact).max())

    def shares(values: np.ndarray) -> list[float]:
        return [float(np.mean(np.abs(values) <= epsilon * norm)) for epsilon in EPSILONS]

    rows = [{"precision": "float64", "noise_floor": None, "shares": shares(exact)}]
    for name in PRECISIONS:
        op = operator(name)
        floor = noise_floor(op, jax.random.key(1))
        values = dense_spectrum(op).nodes
        rows.append({"precision": name, "noise_floor": floor / norm, "shares": shares(values)})
        print(f"precision {name:8s} noise floor {floor / norm:.1e} of the norm", flush=True)
    return {"parameters": len(exact), "norm": norm, "epsilons": EPSILONS, "rows": rows}


def bandwidth(options: argparse.Namespace) -> dict[str, Any]:
    """Memory, and the orthogonalisation of a diagonal operator's Lanczos vectors."""
    # On an accelerator a launch takes as long as some megabytes, which its caches hold.
    size, steps = 2**23 if jax.default_backend() == "cpu" else 2**28, 40
    x, y = jnp.ones(size), jnp.ones(size)
    add = jax.jit(lambda x, y: x + 0.5 * y)
    _, times = seconds(lambda: add(x, y), 5 * options.repeats)
    moved = 3 * x.nbytes / min(times)
    op = DiagonalOperator(jax.random.normal(jax.random.key(0), (10**6,)))
    taken = {}
    for scheme in ("none", "full"):

        def walk(scheme: str = scheme) -> Any:
            run = lanczos_run(op, jax.random.key(1), reorthogonalize=scheme, capacity=steps)
            return run.advance(steps).state

        _, times = seconds(walk, options.repeats)
        taken[scheme], state = min(times), walk()
    read = float(state.rows_read) * op.shape[0] * op.dtype.itemsize
    rate = read / (taken["full"] - taken["none"])
    print(f"bandwidth {moved / 1e9:.1f} GB/s, orthogonalisation {rate / 1e9:.1f} GB/s", flush=True)
    return {
        "bytes_a_second": moved,
        "orthogonalisation_bytes": read,
        "orthogonalisation_bytes_a_second": rate,
        "steps": steps,
        "parameters": op.shape[0],
    }


def largest(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One product each."""
    rows: list[dict[str, Any]] = []
    width, examples = 256, 100
    while True:
        model = MLP(20, width, 20, skip="identity")
        x = jax.random.normal(jax.random.key(0), (examples, 3072))
        shapes = jax.eval_shape(model.init, jax.random.key(1), x)["params"]
        parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        if parameters > options.max_parameters:
            return rows
        row: dict[str, Any] = {"width": width, "parameters": parameters, "examples": examples}
        try:
            params = jax.jit(model.init)(jax.random.key(1), x)["params"]
            batch = (x, jnp.arange(examples) % 20)
            op = hessian(softmax_cross_entropy(model), params, batch, state={}, check=False)
            v = jax.random.normal(jax.random.key(2), (parameters,))
            row["first_seconds"], row["seconds"] = seconds(lambda op=op, v=v: op.matvec(v), 3)
        except (ResourceError, jax.errors.JaxRuntimeError, MemoryError) as error:
            rows.append({**row, "error": str(error).splitlines()[0][:200]})
            print(f"largest   P = {parameters:11,d}  does not fit", flush=True)
            return rows
        used = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
        rows.append({**row, "peak_bytes": used})
        print(f"largest   P = {parameters:11,d}  {min(row['seconds']):.2f} s a product", flush=True)
        width *= 2


# A residual network of depth 20, random images of 3,072 numbers.
_RUN = """
import json, sys, time
import jax, jax.numpy as jnp, numpy as np
from landscape.curvature import data_mesh, hessian, place
from landscape.models import MLP
from landscape.spectra import degenerate_fraction, lanczos, lanczos_run
from landscape.training import softmax_cross_entropy

width, examples, steps, devices = map(int, sys.argv[1:])
model = MLP(20, width, 20, skip="identity")
x = jax.random.normal(jax.random.key(0), (examples, 3072))
params = jax.jit(model.init)(jax.random.key(1), x)["params"]
batch = (x, jnp.arange(examples) % 20)
op = hessian(softmax_cross_entropy(model), params, batch, state={}, check=False)
if devices > 1:
    op = place(op, data_mesh(jax.devices()[:devices]))
del x, params, batch
run = lanczos_run(op, jax.random.key(2), capacity=steps)
mine = jax.devices()[0]
held = sum(
    shard.data.nbytes for array in jax.live_arrays() for shard in array.addressable_shards
    if shard.device == mine
)
compiled = lanczos.advance_compiled.lower(run.op, run.state, steps).compile()
temporary = compiled.memory_analysis().temp_size_in_bytes
scheme = run.reorthogonalize
begun = time.perf_counter()
spectrum = run.advance(steps).spectrum(noise_floor=0.0)
seconds = time.perf_counter() - begun
share = degenerate_fraction(spectrum, 1e-3, force=True)
stats = mine.memory_stats() or {}
peak = stats.get("peak_bytes_in_use")
if peak is None and devices == 1:
    lines = open("/proc/self/status").read().splitlines()
    peak = 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
print(json.dumps({
    "parameters": op.shape[0], "examples": examples, "steps": steps, "devices": devices,
    "scheme": scheme, "held_bytes": held, "temporary_bytes": temporary, "peak_bytes": peak,
    "seconds": seconds, "nodes": np.sort(spectrum.nodes)[[0, -1]].tolist(),
    "share": [float(share.lower), float(share.estimate), float(share.upper)],
}))
"""


def _run(width: int, examples: int, steps: int, devices: int) -> dict[str, Any]:
    environment = dict(os.environ)
    if jax.default_backend() == "cpu" and devices > 1:
        flag = f"--xla_force_host_platform_device_count={devices}"
        environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {flag}"
    numbers = [str(number) for number in (width, examples, steps, devices)]
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *numbers],
        env=environment, check=False, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise ResourceError((done.stderr.strip().splitlines() or ["no message"])[-1][:200])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def long(options: argparse.Namespace) -> dict[str, Any]:
    """Fifty steps."""
    found = _run(2240, 8, 50, 1)
    print(
        f"long      P = {found['parameters']:,}, {found['scheme']}: {found['seconds']:.0f} s, "
        f"{(found['peak_bytes'] or 0) / 1e9:.1f} GB",
        flush=True,
    )
    return found


def devices(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One, two, four, eight."""
    available = 8 if jax.default_backend() == "cpu" else jax.local_device_count()
    rows = []
    for count in (1, 2, 4, 8):
        if count > available:
            break
        rows.append(_run(256, 256, 60, count))
        print(
            f"devices   {count}: {rows[-1]['held_bytes'] / 1e6:.0f} MB held by one, "
            f"{rows[-1]['temporary_bytes'] / 1e6:.0f} MB in work",
            flush=True,
        )
    return rows


TABLES: dict[str, Any] = {
    "precision": precision, "bandwidth": bandwidth, "largest": largest, "long": long,
    "devices": devices,
}  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], help="default all")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--max-parameters", type=float, help="default 1.2e8 on a CPU, else 4e9")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.max_parameters is None:
        options.max_parameters = 1.2e8 if jax.default_backend() == "cpu" else 4e9
    # Tables that are not measured now stay as they are.
    record = kept(options.out)
    failed = []
    for name in options.tables or TABLES:
        try:
            record[name] = TABLES[name](options)
        except ResourceError as error:
            print(f"{name:9s} does not fit: {error}", flush=True)
            failed.append(name)
            continue
        record.setdefault("measured", {})[name] = machine()
        write(options.out, record)
    if failed:
        sys.exit(f"not measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()
