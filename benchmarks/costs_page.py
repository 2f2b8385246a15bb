"""Sections of ``docs/benchmarks.md`` on whole jobs and experiments; see ``report``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tables import table, time_in_words


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


def paper_scale(record: dict[str, Any], _: Path) -> list[str]:
    """Hours of the experiments at the paper's scale."""
    rate, other = record["rate"] / 1e9, record["accelerator_rate"] / 1e12
    kinds = {(row["depth"], kind["kind"]): kind for row in record["rows"] for kind in row["kinds"]}
    return [
        "One epoch on all 50,000 images of CIFAR-100 and one Lanczos step over all of them were "
        "run for every kind of network of every experiment; hours are from these. Those at "
        f"{other:.0f} TFLOP/s (the H100's rate in float32 by its data sheet) are an estimate: the "
        f"same share of that rate as here of the {rate:.0f} GFLOP/s that a product of matrices "
        "has. They have not been measured.",
        "",
        *table(
            ["experiment", "networks", "epochs", "training", "search", "spectra", "in all",
             f"at {other:.0f} TFLOP/s"],
            [
                (
                    row["experiment"],
                    row["networks"],
                    row["epochs"],
                    *(f"{row[f'{part}_seconds'] / 3600:.0f} h"
                      for part in ("training", "search", "spectra")),
                    f"{row['hours']:.0f} h",
                    f"{row['accelerator_hours']:.1f} h",
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
