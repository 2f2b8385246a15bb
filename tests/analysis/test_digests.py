"""Hashes of checkpoints are read out once, whoever does it."""

import json

from landscape.analysis import digests
from landscape.analysis.digests import Digests


def counted(calls, value="hash"):
    def compute():
        calls.append(value)
        return value

    return compute


def test_processes_that_begin_together_read_each_file_once(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "_TELL_SECONDS", -1.0)
    files = [tmp_path / name for name in "abc"]
    for file in files:
        file.write_text(file.name)
    kept = tmp_path / "digests.json"
    first, second = Digests(kept, "module:problem"), Digests(kept, "module:problem")
    calls = []
    # Each begins elsewhere.
    assert first.of(str(files[0]), counted(calls, "A")) == "A"
    assert second.of(str(files[2]), counted(calls, "C")) == "C"
    assert second.of(str(files[0]), counted(calls, "never")) == "A"
    assert first.of(str(files[2]), counted(calls, "never")) == "C"
    assert first.of(str(files[1]), counted(calls, "B")) == "B"
    assert calls == ["A", "C", "B"]
    assert sorted(json.loads(kept.read_text()).values()) == ["A", "B", "C"]
    files[1].write_text("longer")
    assert second.of(str(files[1]), counted(calls, "new")) == "new"


def test_what_was_wrong_is_read_again(tmp_path):
    files = [tmp_path / name for name in ("a", "ab")]
    for file in files:
        file.write_text(file.name)
    kept = tmp_path / "digests.json"
    first, calls = Digests(kept, "module:problem"), []
    for file in files:
        first.of(str(file), counted(calls, f"wrong {file.name}"))
        first.of(str(file), counted(calls, "kind"), " kind")
    first.write()
    Digests(kept, "module:problem").forget([str(files[0]), ""])
    second = Digests(kept, "module:problem")
    assert second.of(str(files[0]), counted(calls, "right")) == "right"
    assert second.of(str(files[1]), counted(calls, "never")) == "wrong ab"
    assert len(json.loads(kept.read_text())) == 2
    # A plan looks, and leaves what is there.
    before = kept.read_bytes()
    files[1].write_text("longer")
    look = Digests(kept, "module:problem", keep=False)
    assert look.of(str(files[1]), counted(calls, "new")) == "new"
    look.write()
    assert kept.read_bytes() == before


def test_what_is_not_told_at_once_is_told_at_the_end_and_a_broken_file_is_none(tmp_path):
    (tmp_path / "a").write_text("a")
    kept = tmp_path / "digests.json"
    kept.write_text("{broken")
    calls, mine = [], Digests(kept, "module:problem")
    assert mine.of(str(tmp_path / "a"), counted(calls)) == "hash"
    assert mine.of(str(tmp_path / "a"), counted(calls)) == "hash"
    assert mine.of("", counted(calls)) == "hash"
    assert kept.read_text() == "{broken"
    mine.write()
    assert list(json.loads(kept.read_text()).values()) == ["hash"]
    assert len(calls) == 2
