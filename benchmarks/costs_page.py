"""Sections of ``docs/benchmarks.md`` on whole jobs and experiments; see ``report``."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

from tables import table, time_in_words

HERE = Path(__file__).parent


def jobs(record: dict[str, Any], _: Path) -> list[str]:
    """A batch job against the steps that it is made of."""
    steady, whole = record["ratios"]["steps"]
    with_floor, _whole = record["ratios"]["with the noise floor"]
    return [
        f"`landscape spectrum` on {record['checkpoints']} checkpoints of plain networks of 20 "
        f"layers of 32 units on the digits, {record['steps']} Lanczos steps each, "
        f"{record['workers']} workers: {record['seconds_a_unit']:.2f} s for a checkpoint and a "
        f"worker, which is {steady:.2f} times its Lanczos steps alone and {with_floor:.2f} times "
        "these with the noise floor, timed in as many processes at once before and after. With "
        f"starting, compiling and hashing all checkpoints it is {whole:.2f} times the steps; "
        f"{record['cores_busy']:.2f} of {record['environment']['cores']} cores were busy.",
        "",
        f"The plan foretold {time_in_words(record['planned_seconds'])} and "
        f"{record['planned_bytes'] / 1e6:.0f} MB a worker; it took "
        f"{time_in_words(record['seconds_after_the_plan'])} and "
        f"{record['peak_bytes'] / 1e6:.0f} MB.",
        "",
    ]


def survival(record: dict[str, Any], _: Path) -> list[str]:
    """What was done to a batch job, and what became of it."""
    return [
        f"A job of {record['units']} checkpoints with {record['workers']} workers, killed "
        f"{record['kills']} times, shared by three processes, and broken in the ways below; each "
        "ends with a comparison to an undisturbed run, in which every number is the same to the "
        "bit, but where hosts add in another order. `benchmarks/kill_spectra.py` stops where one "
        "is not. What it said:",
        "",
        *table(
            ["trial", "revision", "minutes", "what was seen"],
            [
                (row["trial"], row["revision"], f"{row['seconds'] / 60:.1f}", line)
                for row in record["trials"]
                for line in _without_each_kill(row["said"])
            ],
        ),
    ]


def _without_each_kill(said: list[str]) -> list[str]:
    """Of many kills how many units each found done, in a line."""
    marks = [line.rpartition(": ")[2].split()[0] for line in said if line.startswith("kill ")]
    rest = [line for line in said if not line.startswith("kill ")]
    return [f"units done at each kill: {', '.join(marks)}", *rest] if marks else rest


# What is measured on an accelerator: this kind of network.
_MEASURED = (30, "plain")


def paper_scale(record: dict[str, Any], _: Path) -> list[str]:
    """Hours of the experiments at the paper's scale, and on accelerators whose rates are known."""
    # Where spectra are taken too last, so that these stay.
    kinds = {
        (depth, kind["kind"]): kind
        for depth, kind in sorted(
            ((row["depth"], kind) for row in record["rows"] for kind in row["kinds"]),
            key=lambda one: "step_seconds" in one[1],
        )
    }
    rates = (
        {
            path.parent.name: json.loads(path.read_text())
            for path in sorted((HERE / "results").glob("*/paper_rates.json"))
        }
        if _MEASURED in kinds
        else {}
    )
    known = kinds.get(_MEASURED, {})
    epochs = [[kind["epoch_seconds"] for kind in row["kinds"]] for row in record["rows"]]
    spread = max(max(times) / min(times) - 1 for times in epochs)
    lines = [
        "One epoch on all 50,000 images of CIFAR-100 and one Lanczos step over all of them were "
        "run for every kind of network of every experiment; hours are from these. fig2 and "
        "validation are the same at every scale, and take minutes. Each is a single epoch and a "
        f"single step: within an experiment the kinds' epochs lie up to {spread:.0%} apart, and "
        "hours are no better than that.",
    ]
    gains = {}
    for name, other in rates.items():
        training, step = other["training"], other["steps"][0]["step_seconds"]
        each = (training["epoch_seconds"] + training["evaluation_seconds"]) / training["networks"]
        gains[name] = (known["epoch_seconds"] / each, known["step_seconds"] / step)
        lines[0] += (
            f" Those on {name} are estimates: measured there is a plain network of 30 layers, of "
            f"{training['networks']} trained side by side {1e3 * each:.1f} ms an epoch with its "
            f"evaluation ({gains[name][0]:,.0f} times as fast as here) and {1e3 * step:.1f} ms a "
            f"step ({gains[name][1]:,.0f} times), and every other kind is taken to gain as much. "
            "Fewer networks side by side gain less, but take no longer than a hundred: the hours "
            "lie between those if every network gained as much and those if every block of "
            "networks took as long as a hundred."
        )

    def there(row: dict[str, Any], gain: tuple[float, float], most: int) -> str:
        """From as if all gained as much to as if each block were a full one."""
        trained, spectra = row["training_seconds"], row["spectra_seconds"] / gain[1]
        low = (trained + row["search_seconds"]) / gain[0]
        high = (trained / row["networks"] * row["blocks"] + row["search_seconds"]) * most / gain[0]
        return f"{(low + spectra) / 3600:.1f} to {(max(low, high) + spectra) / 3600:.1f} h"

    return [
        *lines,
        "",
        *table(
            ["experiment", "networks", "epochs", "training", "search", "spectra", "in all",
             *(f"on {name}, about" for name in gains)],
            [
                (
                    row["experiment"],
                    row["networks"],
                    row["epochs"],
                    *(f"{row[f'{part}_seconds'] / 3600:.0f} h"
                      for part in ("training", "search", "spectra")),
                    f"{row['hours']:.0f} h",
                    *(
                        there(row, gain, rates[name]["training"]["networks"])
                        for name, gain in gains.items()
                    ),
                )
                for row in record["rows"]
            ],
        ),
        *table(
            ["layers", "kind", "an epoch", "a step over 50,000 images"],
            [
                (
                    depth,
                    name,
                    f"{kind['epoch_seconds']:.1f} s",
                    f"{kind['step_seconds']:.1f} s" if "step_seconds" in kind else "",
                )
                for (depth, name), kind in kinds.items()
            ],
        ),
    ]  # fmt: skip


def paper_rates(record: dict[str, Any], _: Path) -> list[str]:
    """Of an accelerator, on the work of the paper."""
    training, exact = record["training"], record["matrix_rates"]["float32"]
    return [
        f"Plain networks of {record['depth']} layers of {record['width']} units. Products of "
        f"float32 matrices run at {exact / 1e12:.1f} TFLOP/s there, and at "
        f"{record['matrix_rates']['default'] / 1e12:.0f} as JAX takes them by default (TF32). An "
        f"epoch of {training['networks']} networks side by side, float32, takes "
        f"{training['epoch_seconds']:.2f} s, and their evaluation on all images "
        f"{training['evaluation_seconds']:.2f} s; the first epoch, compilation included, "
        f"{training['first_epoch_seconds']:.0f} s.",
        "",
        *table(
            ["images", "at once", "a Lanczos step"],
            [
                (
                    f"{row['images']:,}",
                    "all, linearised" if row["chunk_size"] is None else f"{row['chunk_size']:,}",
                    f"{1e3 * row['step_seconds']:.1f} ms",
                )
                for row in record["steps"]
            ],
        ),
    ]


def blocks(record: dict[str, Any], _: Path) -> list[str]:
    """Checkpoints side by side."""
    return [
        "Spectra of plain networks of 20 layers of 32 units on the digits, "
        f"{record['steps']} steps with noise floors, compiled before; so many checkpoints in one "
        "program.",
        "",
        *table(
            ["checkpoints together", "a checkpoint", "as fast as one after the other"],
            [
                (
                    row["block"],
                    f"{1e3 * median(row['seconds_a_checkpoint']):.1f} ms",
                    f"{row['gain']['median']:.1f}× ({row['gain']['lowest']:.1f} to "
                    f"{row['gain']['highest']:.1f})",
                )
                for row in record["rows"]
            ],
        ),
    ]
