"""People across runs: recognised with the key, strangers without it, and a broken store never breaks a run."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fluidvid.cache.keys import Secret
from fluidvid.cache.lasting import CacheMemory
from fluidvid.cache.records import Record
from fluidvid.cache.sqlite import SqliteStore
from fluidvid.engine.memory import RunMemory
from fluidvid.errors import CacheError
from tests.fluidvid.cache.people import BASIS, known, person, seen_again

SECRET = Secret(b"s" * 32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "people.cache"


def memory(path: Path, *, secret: Secret = SECRET, basis: str = BASIS) -> CacheMemory:
    return CacheMemory(SqliteStore(path, create=True), secret, basis)


def enrolled(path: Path, *seeds: int) -> list[str]:
    """A run that met these people; the ids of their entries."""
    run = memory(path)
    for seed in seeds:
        assert run.recall(seed, person(seed)).known is None
        run.remember(seed, person(seed), known(seed, run.basis))
    run.close()
    return [run.entries[seed] for seed in seeds]


def test_the_same_person_in_the_next_run(path: Path) -> None:
    ids = enrolled(path, 1, 2, 3)
    run = memory(path)
    answer = run.recall(77, seen_again(2, 0.85))
    assert answer.known is not None and answer.known.pseudonym == 2
    assert answer.known.provenance == known(2).provenance
    assert (run.entries, run.counts["known"]) == ({77: ids[1]}, 1)
    assert run.recall(78, person(50)).known is None
    assert set(run.pseudonyms()) == {1, 2, 3}
    assert [r.uses for r in SqliteStore(path, create=False).records()] == [1, 2, 1]


def test_nobody_is_two_people_at_once(path: Path) -> None:
    enrolled(path, 1)
    run = memory(path)
    assert run.recall(10, person(1)).known is not None
    second = run.recall(11, seen_again(1, 0.9))
    assert second.known is None and second.ambiguous and run.counts["ambiguous"] == 1


def test_between_two_known_people_is_somebody_new(path: Path) -> None:
    run, two = memory(path), (person(1), seen_again(1, 0.5))
    for number, identity in enumerate(two):
        assert run.recall(number, identity).known is None
        run.remember(number, identity, known(number))
    middle = sum(two)
    answer = memory(path).recall(5, np.asarray(middle / np.linalg.norm(middle), np.float32))
    assert answer.known is None and answer.ambiguous


def test_another_basis_or_another_key_knows_nobody(path: Path) -> None:
    enrolled(path, 1)
    other_model = memory(path, basis="cd" * 32)
    answer = other_model.recall(1, person(1))
    assert answer.known is None and not answer.ambiguous
    assert not other_model.pseudonyms() and not other_model.warnings
    other_key = memory(path, secret=Secret(b"t" * 32))
    assert other_key.recall(1, person(1)).known is None and not other_key.pseudonyms()
    assert other_key.counts["damaged"] == 1 and len(other_key.warnings) == 1


def test_an_entry_moved_to_another_basis_is_not_believed(path: Path) -> None:
    enrolled(path, 1)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE entries SET basis = ?", ("cd" * 32,))
    connection.close()
    run = memory(path, basis="cd" * 32)
    assert run.recall(1, person(1)).known is None and run.counts["damaged"] == 1


def test_renewed_direction_replaces_the_old_one_under_the_same_entry(path: Path) -> None:
    (entry,) = enrolled(path, 1)
    run = memory(path)
    assert run.recall(4, person(1)).known is not None
    run.remember(4, person(1), known(9))
    assert run.counts["renewed"] == 1 and run.entries == {4: entry}
    answer = memory(path).recall(1, person(1))
    assert answer.known is not None and answer.known.pseudonym == 9


def test_of_two_runs_that_meet_somebody_at_once_one_is_remembered(path: Path) -> None:
    one, two = memory(path), memory(path)
    for run in (one, two):
        assert run.recall(1, person(1)).known is None
    one.remember(1, person(1), known(1))
    two.remember(1, seen_again(1, 0.8), known(2))
    assert len(SqliteStore(path, create=False).records()) == 1
    assert two.counts["new"] == 0 and two.entries == {}
    answer = memory(path).recall(1, person(1))
    assert answer.known is not None and answer.known.pseudonym == 1


@pytest.mark.parametrize("column", ["template", "sealed"])
def test_a_damaged_entry_is_left_out_and_said_once(column: str, path: Path) -> None:
    enrolled(path, 1, 2)
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE entries SET {column} = zeroblob(300)")
    connection.close()
    run = memory(path)
    for seed in (1, 2):
        assert run.recall(seed, person(seed)).known is None
    assert run.counts["damaged"] == 2 and len(run.warnings) == 1 and "forget" in run.warnings[0]
    assert set(run.pseudonyms()) == ({1, 2} if column == "template" else set()), "not given to others while it is there"


def test_no_embedding_is_in_the_file(path: Path) -> None:
    enrolled(path, 1)
    content = b"".join(p.read_bytes() for p in path.parent.iterdir())
    identity = person(1)
    for dtype in (np.float16, np.float32, np.float64):
        raw = identity.astype(dtype).tobytes()
        assert not any(raw[i : i + 8] in content for i in range(0, len(raw) - 8, 8))
    assert b"coordinates" not in content and b"pseudonym" not in content, "safetensors only inside the encryption"


class _Broken(SqliteStore):
    """Fails from a certain call on."""

    fails = ""

    def _check(self, name: str) -> None:
        if self.fails == name:
            raise CacheError("cache x: database or disk is full; make room or name another place")

    def records(self) -> list[Record]:
        self._check("records")
        return super().records()

    def renew(self, record_id: str, sealed: bytes | None) -> None:
        self._check("renew")
        super().renew(record_id, sealed)

    def add(self, record: Record, *, unless: object) -> bool:
        self._check("add")
        return super().add(record, unless=lambda here: False)

    def remove(self, record_ids: Sequence[str]) -> int:
        return super().remove(record_ids)


@pytest.mark.parametrize("fails", ["records", "renew", "add"])
def test_trouble_of_the_store_is_one_warning_and_the_run_goes_on(fails: str, path: Path) -> None:
    enrolled(path, 1)
    store = _Broken(path, create=True)
    store.fails = fails
    lasting = CacheMemory(store, SECRET, BASIS)
    run = RunMemory(lasting)
    for seed in (1, 2, 3):
        if run.recall(seed, person(seed)).known is None:
            run.remember(seed, person(seed), known(seed))
    assert len(lasting.warnings) == 1 and "goes on without the cache" in lasting.warnings[0]
    run.release(3)
    assert run.recall(9, person(3)).known is not None, "the run's own memory still works"
    lasting.close()
