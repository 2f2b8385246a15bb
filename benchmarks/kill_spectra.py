"""Kill a batch job again and again, let several share a folder, and break its files.

Trials of ``landscape spectrum`` on checkpoints of small networks, each compared with an
undisturbed run in another folder:

- ``kills``: the job is killed without warning (SIGKILL, with its workers) at random moments while
  there is work left, so many times, and then finished;
- ``shared``: three processes work in one folder at once, and one of them is killed on its way: its
  unit is taken over, and the others both have a share;
- ``faults``: a result is truncated; a byte is changed of another, of the states of Lanczos runs, of
  finished parts of units, and of a checkpoint; the folder is made read-only; its configuration is
  cut short, and a hash that it keeps of a checkpoint is changed;
- ``disk``: the folder is on a file system that is full after a few results, and then made larger
  (root alone can make one);
- ``dask``: a worker of a Dask cluster is killed;
- ``hosts``: two processes joined by JAX do each unit together, and one of them is killed. Their
  numbers agree with those of one within rounding.

Else the results have to be identical, with no file left behind; the exit code is 1 if they are not.

    python benchmarks/kill_spectra.py kills --kills 50 --units 60
    python benchmarks/kill_spectra.py --out kill_spectra.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from harness import machine, write

PROBLEM = '''
import jax
import jax.numpy as jnp

from landscape.curvature import Problem
from landscape.models import MLP
from landscape.training import softmax_cross_entropy

MODEL = MLP(6, 12, 5, skip="identity")


def problem():
    """A residual network on random data."""
    x = jax.random.normal(jax.random.key(0), (300, 20))
    params = MODEL.init(jax.random.key(1), x)["params"]
    return Problem(softmax_cross_entropy(MODEL), params, (x, jnp.arange(300) % 5), {}, model=MODEL)
'''

# What the trials have said.
_SAID: list[str] = []


def say(line: str) -> None:
    """To whoever looks on, and for the record."""
    print(line, flush=True)
    _SAID.append(line)


def prepare(folder: Path, units: int) -> list[str]:
    """Write the problem and checkpoints near its parameters; the command's arguments."""
    (folder / "problem.py").write_text(PROBLEM)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import jax, numpy as np\n"
        "from flax.traverse_util import flatten_dict; from problem import problem\n"
        "leaves, structure = jax.tree.flatten(problem().params)\n"
        "rng = np.random.default_rng(0)\n"
        "for number in range(int(sys.argv[2])):\n"
        "    drawn = [l + 0.1 * rng.normal(size=l.shape).astype(l.dtype) for l in leaves]\n"
        "    tree = jax.tree.unflatten(structure, drawn)\n"
        "    flat = flatten_dict(tree, sep='/')\n"
        "    np.savez(f'{sys.argv[1]}/{number:03d}.npz', **flat)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(folder), str(units)], check=True)
    return [
        "spectrum", f"{folder}/problem.py:problem", "--checkpoint", f"{folder}/*.npz",
        "--num-steps", "120", "--layers",
    ]  # fmt: skip


def start(arguments: list[str], out: Path, workers: int, **more: Any) -> subprocess.Popen[bytes]:
    """A job in a process group of its own; what it complains of is in a file."""
    command = [sys.executable, "-m", "landscape", *arguments, "--out", str(out)]
    with _log(out).open("ab") as log:
        return subprocess.Popen(
            [*command, "--workers", str(workers)],
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
            **more,
        )


def _log(out: Path) -> Path:
    """Beside the problem: a folder may be on a disk that is full."""
    place = next(folder for folder in out.parents if (folder / "problem.py").exists())
    return place / f"{out.parent.name}-{out.name}.log"


def complaint(out: Path) -> str:
    """The last line of what a job has complained of."""
    lines = [line for line in _log(out).read_text().splitlines() if line]
    return lines[-1] if lines else ""


def expect(code: int | None, wanted: tuple[int, ...], what: str, out: Path) -> None:
    """Exit unless a job has ended as it should; else show what it said."""
    say(f"{what}: it ended with code {code}: {complaint(out)[:160]}")
    if code not in wanted:
        sys.exit(f"{what}: that code should be {' or '.join(map(str, wanted))}")


def kill(process: subprocess.Popen[bytes]) -> None:
    """The process and its workers, without warning."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def done(out: Path) -> int:
    """Units that are finished."""
    return len(list((out / "units").glob("*.nc")))


def opened(out: Path) -> xr.Dataset:
    """The results, in the order of the checkpoints' names."""
    import landscape

    return landscape.open_run(out).sortby("checkpoint")


def left_behind(out: Path) -> list[str]:
    """Files that no finished job should leave."""
    strays = [*out.rglob(".writing-*"), *(out / "claims").glob("*")]
    return [str(path.relative_to(out)) for path in [*strays, *(out / "checkpoints").glob("*")]]


def compare(undisturbed: Path, disturbed: Path, what: str) -> None:
    """Exit if the results differ in a bit, or something was left."""
    first, second = opened(undisturbed), opened(disturbed)
    if not first.identical(second):
        sys.exit(f"{what}: the results differ")
    if left := left_behind(disturbed):
        sys.exit(f"{what}: left behind: {', '.join(left)}")
    from landscape.runs import verify_run

    if wrong := verify_run(disturbed):
        sys.exit(f"{what}: {'; '.join(wrong)}")
    say(f"{what}: {first.sizes['checkpoint']} results, identical; nothing was left")


def kills(arguments: list[str], place: Path, options: argparse.Namespace) -> None:
    """Kill and start again."""
    rng, out = np.random.default_rng(options.seed), place / "killed"
    begun = time.perf_counter()
    process = start(arguments, place / "undisturbed", options.workers)
    process.wait()
    whole = time.perf_counter() - begun
    say(f"undisturbed: {done(place / 'undisturbed')} units in {whole:.1f} s")
    each = whole / options.units
    for number in range(1, options.kills + 1):
        # So that there is work left for every kill: the units that remain, shared among them.
        before = done(out)
        share = (options.units - before) / (options.kills - number + 2)
        wanted = before + int(share + rng.random())
        process, started = start(arguments, out, options.workers), time.perf_counter()
        # One in four comes before anything is done, in the seconds that starting takes; and every
        # one when a single unit is left, which would else be done before the last kill.
        last = options.units - 1
        early = rng.random() < 0.25 or before >= last
        delay = float(rng.uniform(0.2, (3.0 if before >= last else 6.0) if early else 2 * each))
        while not early and done(out) < wanted and process.poll() is None:
            time.sleep(0.01)
        end = time.perf_counter() + delay
        while time.perf_counter() < end and process.poll() is None:
            if not early and done(out) >= last:
                break
            time.sleep(0.01)
        if process.poll() is not None:
            code = process.returncode
            sys.exit(f"kills: start {number} ended by itself with code {code}: {complaint(out)}")
        kill(process)
        moment = f"after {time.perf_counter() - started:.1f} s"
        say(f"  kill {number:3d} {moment}: {done(out)} units done")
    process = start(arguments, out, options.workers)
    if process.wait():
        sys.exit(f"kills: the last start ended with code {process.returncode}")
    compare(place / "undisturbed", out, "kills")


def shared(arguments: list[str], place: Path, options: argparse.Namespace) -> None:
    """Three at once, one of them killed."""
    out = place / "shared"
    _undisturbed(arguments, place, options)
    processes = [start(arguments, out, 1) for _ in range(3)]
    while done(out) < options.units // 4 and any(p.poll() is None for p in processes):
        time.sleep(0.1)
    # While it has a unit, and not between two.
    while not _holds_one(out, processes[0].pid) and processes[0].poll() is None:
        time.sleep(0.01)
    kill(processes[0])
    codes = [process.wait() for process in processes[1:]]
    if any(codes):
        sys.exit(f"shared: the processes ended with codes {codes}")
    from landscape.runs.events import read_events

    events = read_events(out / "events")
    by_process: dict[int, int] = {}
    for event in events:
        if event["event"] == "finished":
            by_process[event["process"]] = by_process.get(event["process"], 0) + 1
    shares = ", ".join(f"{count}" for count in by_process.values())
    taken = sum(event["event"] == "taken over" for event in events)
    say(f"shared: units by process: {shares}; {taken} taken over from the killed one")
    if not taken or len(by_process) < 2:
        sys.exit("shared: nothing was taken over, or one process did everything")
    compare(place / "undisturbed", out, "shared")


def _holds_one(out: Path, process: int) -> bool:
    """Whether a process is at work on a unit that is not done."""
    from landscape.runs import read_run_folder

    folder = read_run_folder(out)
    mine = [one.stem for one in folder.claims.latest().values() if one.process == process]
    return any(stem not in folder.finished_units() for stem in mine)


def faults(arguments: list[str], place: Path, options: argparse.Namespace) -> None:
    """Break files of a job that is half done."""
    out = place / "broken"
    _undisturbed(arguments, place, options)
    process = start(arguments, out, options.workers)
    # Until some are done, and others have parts that are.
    while process.poll() is None:
        if done(out) >= max(2, options.units // 3) and [*(out / "checkpoints").glob("*/*.nc")]:
            break
        time.sleep(0.01)
    kill(process)
    first, second, *_ = sorted((out / "units").glob("*.nc"))
    first.write_bytes(first.read_bytes()[: first.stat().st_size // 2])
    second.write_bytes(_changed(second.read_bytes()))
    states = [*(out / "checkpoints").glob("*/*.npz"), *(out / "checkpoints").glob("*/*.nc")]
    for state in states:
        state.write_bytes(_changed(state.read_bytes()))
    say(f"faults: a byte was changed of {len(states)} states and parts of units")
    with read_only(out):
        process = start(arguments, out, 1)
        expect(process.wait(), (4,), "faults: a folder that cannot be written", out)
    checkpoint = place / "000.npz"
    good = checkpoint.read_bytes()
    checkpoint.write_bytes(_changed(good))
    process = start(arguments, place / "other", options.workers)
    expect(process.wait(), (3,), "faults: a byte of a checkpoint", place / "other")
    if done(place / "other") != options.units - 1:
        sys.exit(f"faults: {done(place / 'other')} of the others are done")
    checkpoint.write_bytes(good)
    compare_after(start(arguments, place / "other", options.workers), place, "other", "faults")
    config, digests = out / "config.json", out / "digests.json"
    config.write_bytes(config.read_bytes()[:-20])
    known = json.loads(digests.read_text())
    # Of one that is done.
    key = next(key for key in known if "/001.npz " in key)
    digests.write_text(json.dumps({**known, key: known[key][::-1]}))
    process = start(arguments, out, options.workers)
    expect(process.wait(), (3,), "faults: a hash that is kept, with a configuration cut short", out)
    process = start(arguments, out, options.workers)
    if process.wait():
        sys.exit(f"faults: it ended with code {process.returncode}")
    aside = sorted(path.name for path in (out / "set-aside").glob("*"))
    if aside != sorted([first.name, second.name, "config.json"]):
        sys.exit(f"faults: set aside were {aside}")
    compare(place / "undisturbed", out, "faults")


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder that cannot be written: for root, who may write everything, by its mount."""
    if os.getuid():
        os.chmod(folder / "units", 0o555)
        try:
            yield
        finally:
            os.chmod(folder / "units", 0o755)
        return
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _changed(content: bytes) -> bytes:
    """One bit in the middle is another."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def compare_after(process: subprocess.Popen[bytes], place: Path, name: str, what: str) -> None:
    """Wait for a job, which has to end well, and compare."""
    if process.wait():
        sys.exit(f"{what}: it ended with code {process.returncode}: {complaint(place / name)}")
    compare(place / "undisturbed", place / name, what)


def disk(arguments: list[str], place: Path, options: argparse.Namespace) -> None:
    """Fill a small file system."""
    if os.getuid():
        say("disk: only root can make a small file system; left out")
        return
    _undisturbed(arguments, place, options)
    one = max(path.stat().st_size for path in (place / "undisturbed" / "units").glob("*.nc"))
    small, out = place / "small", place / "small" / "run"
    small.mkdir()
    # Those in work, two at a time, need room for their parts too.
    size = f"size={(options.units // 2 + 6) * one}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(small)], check=True)
    try:
        process = start(arguments, out, options.workers)
        expect(process.wait(), (4,), "disk: full", out)
        kept = done(out)
        subprocess.run(["mount", "-o", "remount,size=1g", str(small)], check=True)
        say(f"disk: {kept} units were kept; it is made larger")
        if not kept:
            sys.exit("disk: nothing was kept")
        process = start(arguments, out, options.workers)
        if process.wait():
            sys.exit(f"disk: it ended with code {process.returncode}: {complaint(out)}")
        compare(place / "undisturbed", out, "disk")
    finally:
        subprocess.run(["umount", str(small)], check=True)


def dask(arguments: list[str], place: Path, options: argparse.Namespace) -> None:
    """Kill a worker of a local Dask cluster."""
    import psutil

    _undisturbed(arguments, place, options)
    out = place / "dask"
    process = start([*arguments, "--executor", "dask"], out, max(2, options.workers))
    while done(out) < max(2, options.units // 4) and process.poll() is None:
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    # The workers hold JAX; what watches over them does not.
    victim = max(children, key=lambda child: child.memory_info().rss)
    victim.kill()
    say(f"dask: a worker was killed after {done(out)} units")
    compare_after(process, place, "dask", "dask")


def hosts(arguments: list[str], place: Path, options: argparse.Namespace) -> None:
    """Kill one of two processes that do each unit together."""
    _undisturbed(arguments, place, options)
    out = place / "hosts"

    def both() -> list[subprocess.Popen[bytes]]:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        joined = ["--distributed", "--coordinator", f"localhost:{port}", "--num-hosts", "2"]
        return [start([*arguments, *joined, "--host", str(n)], out, 1) for n in range(2)]

    first, second = both()
    while done(out) < max(2, options.units // 4) and first.poll() is None:
        time.sleep(0.05)
    kill(second)
    begun = time.perf_counter()
    code = first.wait(timeout=600)
    # Told of the loss by a product, or ended by JAX's own watch over the others.
    expect(code, (5, -6), f"hosts: after {time.perf_counter() - begun:.0f} s", out)
    codes = [process.wait() for process in both()]
    if any(codes):
        sys.exit(f"hosts: they ended with codes {codes}: {complaint(out)}")
    if left := left_behind(out):
        sys.exit(f"hosts: left behind: {', '.join(left)}")
    _expect_agreement(opened(out), opened(place / "undisturbed"))


def _expect_agreement(theirs: xr.Dataset, ours: xr.Dataset, rtol: float = 1e-5) -> None:
    """Exit unless two jobs that add in different orders agree.

    A fraction jumps by the weight of a node that crosses ε: it has to lie between the masses within
    ε − δ and ε + δ, where δ is how far nodes may move. Weights move by more: by the rounding of T
    over the distance of their node to the next. Where a Krylov space is exhausted, rounding decides
    at which step: there are more nodes in one run than in the other, and each is compared with the
    nearest one.
    """
    counts = [one["nodes"].notnull().sum("node") for one in (theirs, ours)]
    if bool((counts[0] != counts[1]).any()):
        other = int((counts[0] != counts[1]).sum())
        say(f"hosts: {other} of {counts[0].size} Lanczos runs broke down at another step")
    move = rtol * float(abs(ours["nodes"]).max())
    inner, outer = (
        ours["weights"].where(abs(ours["nodes"]) <= ours["eps"] + shift).sum("node")
        for shift in (-move, move)
    )
    beyond = np.maximum(inner - theirs["degenerate"], theirs["degenerate"] - outer)
    for name, distance, allowed in (
        ("nodes", _apart(theirs["nodes"], ours["nodes"]), move),
        ("loss", abs(theirs["loss"] - ours["loss"]), rtol),
        ("degenerate, of nodes so moved,", beyond.where(theirs["degenerate"].notnull(), 0), 1e-4),
    ):
        found = float(distance.max())
        place = {k: int(v) for k, v in distance.fillna(-1).argmax(...).items()}
        say(f"hosts: {name} differs by at most {found:.1e}, at {place}")
        if not found <= allowed:
            sys.exit(f"hosts: {name} should differ by {allowed:.1e} at most")


def _apart(theirs: xr.DataArray, ours: xr.DataArray) -> xr.DataArray:
    """How far nodes are apart: by position if there are as many, else each from the nearest."""

    def largest(a: np.ndarray, b: np.ndarray) -> float:
        a, b = (x[np.isfinite(x)] for x in (a, b))
        if not a.size and not b.size:
            return 0.0
        if len(a) == len(b):
            return float(abs(a - b).max())
        between = abs(a[:, None] - b[None, :])
        return float(max(between.min(0).max(), between.min(1).max()))

    # Blocks of both have as many places for nodes only by chance.
    return xr.apply_ufunc(
        largest, theirs.rename(node="their_node"), ours,
        input_core_dims=[["their_node"], ["node"]], vectorize=True,
    )  # fmt: skip


def _undisturbed(arguments: list[str], place: Path, options: argparse.Namespace) -> None:
    if not (place / "undisturbed").exists():
        start(arguments, place / "undisturbed", options.workers).wait()


TRIALS: dict[str, Any] = {
    "kills": kills, "shared": shared, "faults": faults, "disk": disk, "dask": dask, "hosts": hosts,
}  # fmt: skip


def main() -> None:
    """Run the trials."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trials", nargs="*", choices=[*TRIALS, []], help="default all")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--units", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="file of what was seen")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        # A start then takes seconds, and the kills come upon work.
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(place / "compiled")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
        arguments = prepare(place, options.units)
        asked = {name: getattr(options, name) for name in ("units", "kills", "workers", "seed")}
        # Trials that were made before stay.
        before = options.out is not None and options.out.exists()
        rows = json.loads(options.out.read_text())["trials"] if before else []
        for trial in options.trials or TRIALS:
            begun, first = time.perf_counter(), len(_SAID)
            TRIALS[trial](arguments, place, options)
            # Paths are of this machine alone.
            said = [line.strip().replace(str(place), "DIR") for line in _SAID[first:]]
            here, passed = machine(), time.perf_counter() - begun
            row = {"trial": trial, "seconds": passed, "revision": here["revision"], "said": said}
            rows = [*(one for one in rows if one["trial"] != trial), row]
            write(options.out, {"environment": here, **asked, "trials": rows})


if __name__ == "__main__":
    main()
