"""Kill training again and again, and see whether it ends with the same bits.

Trains a small network on digits in a process of its own, kills that process without warning
(SIGKILL) at random moments, starts it again until it is done, and compares parameters, history and
records bit by bit with those of an undisturbed run in another folder. Every fourth kill, beginning
with the first, comes while the process starts: before any checkpoint, or while one is read. The
others are spread over the epochs and often hit the writing of a checkpoint, because a small
network spends most of its time there. Prints one row per kill and the verdict; the exit code is 1
if anything differs. Run as ``python benchmarks/kill_and_resume.py --kills 5``; POSIX only.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np


def train(folder: Path, epochs: int, checkpoint_every: int) -> None:
    """Train with checkpoints in ``folder``, tell each epoch, write ``result.npz`` at the end."""
    import jax

    from landscape.data import load
    from landscape.models import MLP
    from landscape.training import Callback, TrainConfig, fit

    digits = load("digits").subset(300, seed=0).standardized()
    norms = Callback(
        "norms",
        range(0, epochs + 1, 5),
        lambda snapshot: {"squared": [(x**2).sum() for x in jax.tree.leaves(snapshot.params)]},
    )
    print("start", flush=True)
    run = fit(
        MLP(depth=4, width=12, num_classes=10, skip="hyper"),
        digits,
        TrainConfig(epochs, 64, 3e-3, checkpoint_every),
        jax.random.key(0),
        callbacks=[norms],
        checkpoint_dir=folder / "checkpoints",
        progress=lambda epoch, loss, accuracy: print("epoch", epoch, flush=True),
    )
    leaves = jax.tree_util.tree_leaves_with_path({"params": run.params, "state": run.state})
    named = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    np.savez(folder / "result.npz", loss=run.loss, accuracy=run.accuracy, **run.records, **named)


class Process:
    """A training process and what it has told so far."""

    def __init__(self, folder: Path, epochs: int, checkpoint_every: int) -> None:
        self._process = subprocess.Popen(
            [
                *(sys.executable, __file__, "--train", str(folder)),
                *("--epochs", str(epochs), "--checkpoint-every", str(checkpoint_every)),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )

    def told(self) -> Iterator[str]:
        """Lines as they come; ends with the process."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            yield line.strip()

    def kill(self) -> bool:
        """SIGKILL; whether it was still at work."""
        at_work = self._process.poll() is None
        self._process.kill()
        self._process.wait()
        return at_work

    def finish(self) -> None:
        """Wait until it is done."""
        for _ in self.told():
            pass
        if self._process.wait() != 0:
            sys.exit(f"the training process ended with exit code {self._process.returncode}")


def newest_checkpoint(folder: Path) -> str:
    """Epoch of the newest checkpoint, and whether a half-written one lies beside it."""
    checkpoints = folder / "checkpoints"
    epochs = sorted(int(path.name[6:]) for path in checkpoints.glob("epoch-*"))
    half = " + half-written" if list(checkpoints.glob(".writing-*")) else ""
    return (str(epochs[-1]) if epochs else "none") + half


def kill_at(
    process: Process, kind: str, target: int, fraction: float, undisturbed: dict[str, float]
) -> str | None:
    """Kill the process; when, or None if it had finished."""
    if kind == "starting":
        # Half of it: how long a start takes varies with what else the machine does.
        delay = fraction * undisturbed["startup"] / 2
        time.sleep(delay)
        return f"{delay:.3f} s after its start" if process.kill() else None
    for line in process.told():
        if line.startswith("epoch") and int(line.split()[1]) >= target:
            delay = fraction * undisturbed["interval"]
            time.sleep(delay)
            where = f"{1e3 * delay:.0f} ms after epoch {line.split()[1]}"
            return where if process.kill() else None
    process.finish()
    return None


def differences(first: Path, second: Path) -> tuple[int, list[str]]:
    """Number of arrays compared, and the names of those that differ in a bit."""
    with np.load(first) as one, np.load(second) as two:
        names = sorted({*one.files, *two.files})
        different = [
            name
            for name in names
            if name not in one
            or name not in two
            or one[name].dtype != two[name].dtype
            or one[name].shape != two[name].shape
            or one[name].tobytes() != two[name].tobytes()
        ]
    return len(names), different


def measure(folder: Path, epochs: int, checkpoint_every: int) -> dict[str, float]:
    """The undisturbed run; seconds of its start-up and between two of its checkpoints."""
    start = time.perf_counter()
    process = Process(folder, epochs, checkpoint_every)
    times = [time.perf_counter() - start for line in process.told() if line.startswith("epoch")]
    process.finish()
    interval = (times[-1] - times[0]) / max(1, epochs - 1) * checkpoint_every
    return {"startup": times[0], "interval": interval}


def main() -> None:
    """Kill, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--checkpoint-every", type=int, default=2)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train is not None:
        train(options.train, options.epochs, options.checkpoint_every)
        return
    settings = (options.epochs, options.checkpoint_every)
    generator = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as name:
        undisturbed, disturbed = Path(name, "undisturbed"), Path(name, "disturbed")
        undisturbed.mkdir()
        disturbed.mkdir()
        seconds = measure(undisturbed, *settings)
        print(
            f"undisturbed: first epoch told after {seconds['startup']:.2f} s, "
            f"{seconds['interval']:.3f} s from checkpoint to checkpoint"
        )
        kinds = ["starting" if kill % 4 == 0 else "training" for kill in range(options.kills)]
        # One in each of equal stretches of the run, the last of which keeps room for the end.
        spread = kinds.count("training")
        stretches = np.arange(spread) + generator.uniform(size=spread)
        last = options.epochs - options.checkpoint_every
        targets = iter((1 + last * stretches / max(1, spread)).astype(int))
        print(f"{'kill':>4}  {'moment':<26}  epoch found at restart")
        landed = 0
        for kill, kind in enumerate(kinds, 1):
            target = 0 if kind == "starting" else int(next(targets))
            process = Process(disturbed, *settings)
            moment = kill_at(process, kind, target, float(generator.uniform()), seconds)
            landed += moment is not None
            found = newest_checkpoint(disturbed)
            print(f"{kill:>4}  {moment or 'too late: it was done':<26}  {found}", flush=True)
        Process(disturbed, *settings).finish()
        total, different = differences(undisturbed / "result.npz", disturbed / "result.npz")
        left = sorted(path.name for path in (disturbed / "checkpoints").iterdir())
    if left != [f"epoch-{options.epochs:06d}"]:
        sys.exit(f"the checkpoint folder was left with {', '.join(left)}")
    if different:
        sys.exit(f"{len(different)} of {total} arrays differ: {', '.join(different)}")
    print(f"{landed} kills: all {total} arrays of the two runs are equal bit by bit")


if __name__ == "__main__":
    main()
