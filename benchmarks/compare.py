"""Two result files side by side, with a verdict for each number that allows for its noise.

    python benchmarks/compare.py before.json after.json

Where a row carries ratios to a reference of its own run, those are compared (x): seconds of
different runs are those of different machines, or of one machine at different times. "Slower" then
means more times as long as the reference, whichever of the two has changed. A row has changed if
its repeats differ by the rank test of H. B. Mann and D. R. Whitney (*On a test of whether one of
two random variables is stochastically larger than the other*, Ann. Math. Stat. 18, 1947) at 1 % and
their medians by more than 5 %; fewer than five repeats give no verdict. Repeats of one process are
no independent samples: what differs by less than a fifth may differ the other way next time.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from scipy.stats import mannwhitneyu

FEWEST, LEVEL, LEAST = 5, 0.01, 1.05


def timed_rows(record: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every part of a record that holds seconds, repeated or not, and the names that lead there."""
    if isinstance(record, dict):
        found = record.get("seconds")
        if isinstance(found, list | float) and found:
            yield path, record
            return
        for name, part in record.items():
            yield from timed_rows(part, (*path, name))
    elif isinstance(record, list):
        names = [_name(part, number) for number, part in enumerate(record)]
        if len(set(names)) < len(names):
            names = [_name(part, number, steps=True) for number, part in enumerate(record)]
        for name, part in zip(names, record, strict=True):
            yield from timed_rows(part, (*path, name))


def _name(part: Any, number: int, *, steps: bool = False) -> str:
    """What a row of a list is known by: its label, or everything it says that is no measurement.

    Numbers of steps are mostly found out, and count only where rows would have one name else.
    """
    if not isinstance(part, dict):
        return str(number)
    if "label" in part:
        return str(part["label"])
    told = {
        k: v
        for k, v in part.items()
        if (isinstance(v, str | int) or k == "eps")
        and (steps or k != "steps")
        and k not in ("peak_bytes", "temporary_bytes")
    }
    return ", ".join(f"{k} {v}" for k, v in told.items()) or str(number)


def measured(row: dict[str, Any]) -> tuple[list[float], str]:
    """What is compared, and its unit: ratios to a reference, unless the row is that."""
    ratios = row.get("ratios", [])
    if ratios and not all(math.isclose(ratio, 1) for ratio in ratios):
        return ratios, "x"
    found = row["seconds"]
    return (found if isinstance(found, list) else [found]), "s"


def verdict(before: dict[str, Any], after: dict[str, Any]) -> tuple[str, float]:
    """``"faster"``, ``"slower"``, ``"within noise"`` or why not, and after over before."""
    (old, unit), (new, other) = measured(before), measured(after)
    if unit != other:
        return "not comparable", math.nan
    ratio = median(new) / median(old)
    if min(len(old), len(new)) < FEWEST:
        return "too few repeats", ratio
    changed = mannwhitneyu(old, new, method="exact").pvalue < LEVEL and abs(
        math.log(ratio)
    ) > math.log(LEAST)
    return ("within noise" if not changed else "faster" if ratio < 1 else "slower"), ratio


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    options = parser.parse_args()
    records = [json.loads(path.read_text()) for path in (options.before, options.after)]
    for path, record in zip((options.before, options.after), records, strict=True):
        where = record.get("environment", {})
        told = (where.get(k, "?") for k in ("processor", "jax", "revision", "time"))
        print(f"{path}: {', '.join(map(str, told))}")
    wheres = [record.get("environment", {}) for record in records]
    for what in ("processor", "cores", "devices", "flags"):
        if wheres[0].get(what) != wheres[1].get(what):
            print(f"not the same {what}: seconds cannot be compared, ratios (x) with care")
    old, new = (dict(timed_rows(record)) for record in records)
    counts: dict[str, int] = {}
    for path in [p for p in old if p in new]:
        word, ratio = verdict(old[path], new[path])
        counts[word] = counts.get(word, 0) + 1
        numbers = []
        for row in (old[path], new[path]):
            values, unit = measured(row)
            spread = f"[{min(values):.4g}, {max(values):.4g}]"
            numbers.append(f"{median(values):.4g} {spread} {unit}, n = {len(values)}")
        name = " / ".join(path)
        print(f"{name:64s} {numbers[0]:36s} {numbers[1]:36s} {ratio:6.2f}  {word}")
    for name, rows, others in (("before", old, new), ("after", new, old)):
        for path in [p for p in rows if p not in others]:
            print(f"{' / '.join(path):64s} only {name}")
    print(
        ", ".join(f"{count} {word}" for word, count in sorted(counts.items())) or "nothing shared"
    )


if __name__ == "__main__":
    main()
