"""Claims among processes: one holder each, renewed, taken over when stale, never by two."""

import json
import os
import threading
import time

import pytest

from landscape.errors import StorageError
from landscape.runs import claims as module
from landscape.runs.claims import STALE_SECONDS, Claims


@pytest.fixture
def place(tmp_path):
    return tmp_path / "claims"


def age(path, seconds):
    when = time.time() - seconds
    os.utime(path, (when, when))


def elsewhere(path):
    """A claim as if it were made on another machine, whose processes cannot be seen."""
    told = json.loads(path.read_text())
    kept = path.stat()
    path.write_text(json.dumps({**told, "machine": "another", "process": 1}))
    os.utime(path, (kept.st_atime, kept.st_mtime))


def test_a_unit_has_one_holder_until_it_is_given_back(place):
    first, second = Claims(place), Claims(place)
    assert first.take("unit") == "claimed"
    assert second.take("unit") == ""
    assert second.take("another") == "claimed"
    first.release("unit")
    assert second.take("unit") == "claimed"
    assert sorted(second.latest()) == ["another", "unit"]
    claim = second.latest()["unit"]
    assert (claim.process, claim.generation, claim.stale) == (os.getpid(), 0, False)


def test_what_is_not_renewed_is_taken_over_once(place):
    holder, second, third = Claims(place), Claims(place), Claims(place)
    holder.take("unit")
    path = place / "unit.0.json"
    elsewhere(path)
    age(path, STALE_SECONDS - 10)
    assert second.take("unit") == ""
    age(path, STALE_SECONDS + 10)
    # Both saw that it is stale; one of them has it.
    seen = third.latest()
    assert seen["unit"].stale
    assert second.take("unit") == "taken over"
    assert third.take("unit", seen) == ""
    assert third.take("unit") == ""
    assert second.latest()["unit"].generation == 1
    second.release("unit")
    assert not list(place.glob("*.json"))


def test_of_many_at_once_one_takes_a_unit(place):
    """Threads that start together: the file system decides."""
    for stale in (False, True):
        if stale:
            Claims(place).take("unit")
            elsewhere(place / "unit.0.json")
            age(place / "unit.0.json", STALE_SECONDS + 10)
        barrier, won = threading.Barrier(8), []

        def contend(barrier=barrier, won=won):
            mine = Claims(place)
            barrier.wait()
            won.append(mine.take("unit"))

        threads = [threading.Thread(target=contend) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(won)[:-1] == [""] * 7
        assert max(won) == ("taken over" if stale else "claimed")
        Claims(place).clear("unit")


def test_who_was_taken_over_leaves_the_others_claim(place):
    slow, second, third = Claims(place), Claims(place), Claims(place)
    slow.take("unit")
    path = place / "unit.0.json"
    elsewhere(path)
    age(path, STALE_SECONDS + 10)
    assert second.take("unit") == "taken over"
    slow.release("unit")
    assert [one.name for one in place.glob("*.json")] == ["unit.1.json"]
    assert third.take("unit") == ""
    second.release("unit")
    assert third.take("unit") == "claimed"


def test_what_is_held_is_renewed_and_given_back(place, monkeypatch):
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.02)
    mine = Claims(place)
    with mine.renewed():
        mine.take("unit")
        path = place / "unit.0.json"
        age(path, STALE_SECONDS + 10)
        end = time.monotonic() + 10
        while mine.latest()["unit"].age > 5 and time.monotonic() < end:
            time.sleep(0.02)
        assert mine.latest()["unit"].age < 5
    assert not list(place.glob("*.json"))


def test_a_claim_that_was_half_written_becomes_stale_by_its_age(place):
    place.mkdir()
    path = place / "unit.0.json"
    path.write_text("")
    assert Claims(place).take("unit") == ""
    age(path, STALE_SECONDS + 10)
    assert Claims(place).take("unit") == "taken over"


def test_ages_are_those_of_the_file_system(place, monkeypatch):
    Claims(place).take("unit")
    elsewhere(place / "unit.0.json")
    # A clock that is an hour fast here makes nothing stale.
    monkeypatch.setattr(time, "time", lambda: 3600 + time.monotonic())
    assert not Claims(place).latest()["unit"].stale


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path):
    (tmp_path / "claims").write_text("a file")
    with pytest.raises(StorageError, match="cannot write"):
        Claims(tmp_path / "claims").take("unit")


def test_a_slow_holder_leaves_what_others_have_claimed_anew(place):
    slow, second, third = Claims(place), Claims(place), Claims(place)
    slow.take("unit")
    elsewhere(place / "unit.0.json")
    age(place / "unit.0.json", STALE_SECONDS + 10)
    assert second.take("unit") == "taken over"
    second.release("unit")
    # The number of the slow one's claim is in use again.
    assert third.take("unit") == "claimed"
    assert third.latest()["unit"].generation == 0
    slow.release("unit")
    assert third.latest()["unit"].generation == 0
    third.release("unit")
    assert not third.latest()


def test_what_cannot_be_read_is_a_claim_until_it_is_old(place):
    (place / "unit.0.json").mkdir(parents=True)
    assert Claims(place).take("unit") == ""
    age(place / "unit.0.json", STALE_SECONDS + 10)
    assert Claims(place).take("unit") == "taken over"
