"""The benchmark suite's own tools: pages from results, comparisons, workers."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """Import a script as it is run: with its own folder on the path."""

    def load(name):
        path = BENCHMARKS / f"{name}.py"
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in ("harness", "peers", "peers.workers", "peers.requirements"):
        sys.modules.pop(name, None)


def row(*seconds):
    return {"label": "a", "seconds": list(seconds)}


def test_a_change_counts_only_if_the_repeats_tell_it_apart(script):
    verdict = script("compare").verdict
    before = row(1.0, 1.05, 1.1, 1.15, 1.2)
    faster = row(0.8, 0.82, 0.85, 0.88, 0.9)
    assert verdict(before, faster) == ("faster", pytest.approx(0.85 / 1.1))
    assert verdict(faster, before)[0] == "slower"
    assert verdict(before, row(1.0, 1.1, 1.12, 1.2, 1.3))[0] == "within noise"
    # However well it is known, a change of 2 % is none.
    assert verdict(row(*[1.0] * 9), row(*[1.02] * 9))[0] == "within noise"
    assert verdict(before, row(0.1, 0.1, 0.1, 0.1))[0] == "too few repeats"
    # Twice the seconds on another machine, and the same ratios to the reference beside it.
    ratios = [1.9, 1.95, 2.0, 2.05, 2.1]
    there = {**row(*[2.0] * 5), "ratios": ratios}
    assert verdict({**before, "ratios": ratios}, there) == ("within noise", 1.0)
    assert verdict({**before, "ratios": ratios}, row(*[2.0] * 5))[0] == "not comparable"
    # The reference itself has nothing but seconds.
    assert verdict({**before, "ratios": [1.0] * 5}, {**faster, "ratios": [1.0] * 5})[0] == "faster"


def test_rows_are_found_wherever_they_are(script):
    record = {
        "environment": {"cores": 2},
        "table": {"100 steps": [row(1.0), {"label": "b", "error": "no"}]},
        "sweep": [{"depth": 5, "seconds": [1.0]}],
    }
    found = dict(script("compare").timed_rows(record))
    assert set(found) == {("table", "100 steps", "a"), ("sweep", "depth 5")}


def test_rows_that_differ_in_their_steps_alone_are_kept_apart(script):
    looks = [{"network": "plain", "steps": steps, "seconds": 1.0} for steps in (50, 100)]
    found = dict(script("compare").timed_rows({"looks": looks, "alone": looks[:1]}))
    assert set(found) == {
        ("looks", "network plain, steps 50"), ("looks", "network plain, steps 100"),
        ("alone", "network plain"),
    }  # fmt: skip


def test_a_second_run_is_told_by_its_medians(script, tmp_path):
    again = script("peers_page").again
    spread = [0.9, 0.95, 1.0, 1.05, 1.1]

    def record(*medians):
        rows = [
            {"label": label, "seconds": spread, "ratios": [median * s for s in spread]}
            for label, median in zip("ab", medians, strict=True)
        ]
        return {
            "matvec": {"small": [{"label": "ours", "seconds": spread, "ratios": [1] * 5}, *rows]}
        }

    path = tmp_path / "peers-again.json"
    (tmp_path / "peers.json").write_text(json.dumps(record(2.0, 3.0)))
    text = "\n".join(again(record(2.1, 2.9), path))
    assert "Of 2 median ratios to the reference 2 are within 15%" in text
    assert "The others" not in text
    text = "\n".join(again(record(2.1, 6.0), path))
    assert "Of 2 median ratios to the reference 1 are within 15%" in text
    assert "| matvec / small / b | 3x [2.7, 3.3] | 6x [5.4, 6.6] | 2.00 |" in text


def test_numbers_of_two_machines_are_not_mixed(script, tmp_path):
    harness = script("harness")
    path = tmp_path / "limits.json"
    assert harness.kept(path).keys() == {"environment"}
    harness.write(path, {**harness.kept(path), "table": [1]})
    assert harness.kept(path)["table"] == [1]
    other = {"environment": {**harness.machine(), "processor": "another"}}
    harness.write(path, other)
    with pytest.raises(SystemExit, match="is of another machine"):
        harness.kept(path)


def test_the_page_is_made_from_the_committed_results(script, monkeypatch, tmp_path):
    report = script("report")
    monkeypatch.setattr(report, "DOCS", tmp_path)
    report.main()
    committed = (ROOT / "docs" / "benchmarks.md").read_text()
    assert (tmp_path / "benchmarks.md").read_text() == committed
    for path in (BENCHMARKS / "results").glob("*/*.json"):
        if path.stem in report.SECTIONS:
            assert f"results/{path.parent.name}/{path.name}" in committed


@pytest.mark.slow
def test_a_worker_does_the_same_work_as_it_was_given(script, tmp_path):
    workers = script("peers/workers")
    run = script("side_by_side")
    rng = np.random.default_rng(0)
    shapes = {
        "input": {"kernel": (5, 4), "bias": (4,)},
        "hidden": {"kernel": (2, 4, 4), "bias": (2, 4)},
        "output": {"kernel": (4, 3), "bias": (3,)},
    }
    params = {
        layer: {name: rng.normal(size=shape).astype(np.float32) for name, shape in leaves.items()}
        for layer, leaves in shapes.items()
    }
    inputs = rng.normal(size=(20, 5)).astype(np.float32)
    problem = run.export(
        tmp_path / "p.npz", params, (inputs, np.arange(20) % 3), 2, skip="identity"
    )
    options = {"steps": 8, "probes": 2}
    who = [
        workers.Contender(scheme, "landscape", "density", scheme=scheme, **options)
        for scheme in ("full", "partial")
    ]
    found = {}
    rows = workers.interleaved(
        who, problem, 2, lambda tool: sys.executable, lambda c, r: found.update({c.label: r}) or {}
    )
    assert [row["label"] for row in rows] == ["full", "full, once more", "partial"]
    assert [len(row["seconds"]) for row in rows] == [2, 2, 2]
    assert rows[0]["ratio"] == {"median": 1.0, "lowest": 1.0, "highest": 1.0}
    np.testing.assert_allclose(found["full"]["nodes"], found["partial"]["nodes"], atol=1e-4)
    full = np.stack([found["full"]["nodes"], found["full"]["weights"]])
    assert run.distance(run.quadrature(found["partial"]), full, slack=1e-4) < 1e-4
    assert run.distance((full[0] + 1, full[1]), full) > 0.05
    # Nodes that are lost count, with what they weigh.
    lost = (np.where(full[0] == full[0].max(), np.nan, full[0]), full[1])
    assert run.distance(lost, full) == pytest.approx(full[1][full[0].argmax()] / full[1].sum())
    json.dumps(rows)
    worker = workers.Worker("landscape", sys.executable)
    with pytest.raises(RuntimeError, match="KeyError"):
        worker.ask(prepare="nothing", problem=str(problem), options={})
    worker.close()
