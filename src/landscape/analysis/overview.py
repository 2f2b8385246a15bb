"""A batch job's results at a glance."""

from __future__ import annotations

import os

import numpy as np
import xarray as xr

from landscape.report import Page, Table

# Rows of a summary.
_SHOWN = 60


def summary(found: xr.Dataset) -> Page:
    """A table of all checkpoints."""
    rows, names = [], [str(name) for name in found["checkpoint"].values]
    folder = _common_folder(names)
    eps = [float(e) for e in found["eps"].values] if "eps" in found else []
    for name in found["checkpoint"].values:
        one = found.sel(checkpoint=name)
        for part in one["part"].values:
            at = one.sel(part=part)
            if not np.isfinite(at["parameters"]):
                continue
            shares = [_share(at.sel(eps=e)) for e in eps]
            ends = [_value(at["eigenvalue"].sel(rank=r)) for r in found.get("rank", np.zeros(0))]
            row = [
                str(name)[len(folder) :],
                str(part),
                f"{int(at['parameters']):,}",
                *shares,
                *ends,
            ]
            if "trace" in at:
                row.append(f"{float(at['trace']):.4g} ± {float(at['trace_stderr']):.1g}")
            rows.append(row)
    head = ["checkpoint", "part", "P", *(f"within {e:g} of 0" for e in eps)]
    if "rank" in found:
        head += [f"eigenvalue {rank}".replace("-", "−") for rank in found["rank"].values]
    head += ["trace"] * ("trace" in found)
    table = Table(
        "Spectra",
        head,
        rows[:_SHOWN],
        f"Shares with their {_kind_of_bounds(found)} bounds; — where ε is below the noise floor."
        + _of_memory(found)
        + (f" {len(rows) - _SHOWN:,} more rows are in the run folder." * (len(rows) > _SHOWN)),
    )
    return Page(
        "Spectra of checkpoints",
        [f"{len(names):,} checkpoints" + (f" in {folder.rstrip(os.sep)}." if folder else ".")],
        [table],
        [],
    )


def _common_folder(names: list[str]) -> str:
    """Where all of several checkpoints lie, if that is one place."""
    shared = {os.path.dirname(name) for name in names}
    if len(shared) != 1 or len(names) == 1:
        return ""
    (folder,) = shared
    return os.path.join(folder, "") if folder else ""


def _of_memory(found: xr.Dataset) -> str:
    """Which rows were measured by smaller pieces than was asked for."""
    if "short_of_memory" not in found:
        return ""
    short = (found["short_of_memory"] == 1).any("part")
    if not bool(short.any()):
        return ""
    return (
        f" Memory was short for {int(short.sum()):,} of them, which were taken by smaller chunks: "
        "these agree with others to about 10⁻⁶ relative, not to the bit."
    )


def _kind_of_bounds(found: xr.Dataset) -> str:
    if "certified" not in found:
        # Of a shard without a checkpoint.
        return "certified"
    certified = bool(np.nan_to_num(found["certified"].astype(float), nan=1.0).all())
    return "certified" if certified else "empirical (without reorthogonalisation)"


def _share(at: xr.Dataset) -> str:
    if not np.isfinite(at["degenerate"]):
        return "—"
    low, high = float(at["degenerate_lower"]), float(at["degenerate_upper"])
    return f"{float(at['degenerate']):.4f} [{low:.4f}, {high:.4f}]"


def _value(value: xr.DataArray) -> str:
    return f"{float(value):.4g}" if np.isfinite(value) else ""
