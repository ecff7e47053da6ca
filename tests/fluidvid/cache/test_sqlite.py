"""The file: private, bounded, whole after any kill, and never in the way of what it does not own."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import sqlite3
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fluidvid.cache.keys import new_lock
from fluidvid.cache.records import OVERHEAD, Record, RecordStore
from fluidvid.cache.sqlite import APPLICATION_ID, SCHEMA, SqliteStore, delete_files
from fluidvid.errors import CacheError
from tests.fluidvid.full_disk import no_file_larger_than

FORK = multiprocessing.get_context("fork")


def record(number: int, *, used: float = 100.0, size: int = 1000) -> Record:
    """A record whose blobs follow from its id, so that half of one would show."""
    name = f"{number:08x}"
    digest = hashlib.sha256(name.encode()).digest()
    return Record(name, "basis", used, used, 1, digest, digest * (size // 32))


def whole(found: Record) -> bool:
    digest = hashlib.sha256(found.id.encode()).digest()
    blocks = {found.sealed[i : i + 32] for i in range(0, len(found.sealed), 32)}
    return found.template == digest and blocks == {digest}


def keep(store: RecordStore, *records: Record) -> None:
    for one in records:
        assert store.add(one, unless=lambda here: False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "people.cache"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path, create=True, clock=lambda: 100.0)
    yield store
    store.close()


@pytest.mark.parametrize("again", [False, True])
def test_who_uses_a_purged_cache_is_told(store: SqliteStore, path: Path, again: bool) -> None:
    """What it went on to write nobody would find, or a new cache of this name would be taken for it."""
    keep(store, record(1))
    assert delete_files(path) >= 1 and not list(path.parent.iterdir())
    other = SqliteStore(path, create=True, clock=lambda: 100.0) if again else None
    for use in (
        store.records,
        lambda: store.renew("00000001", None),
        lambda: store.add(record(2), unless=lambda here: False),
    ):
        with pytest.raises(CacheError, match=r"people\.cache was purged or replaced meanwhile: the next run begins"):
            use()
    store.close()
    if other is not None:
        keep(other, record(3))
        other.close()
        assert [r.id for r in SqliteStore(path, create=False, clock=lambda: 100.0).records()] == [record(3).id]


def test_a_purge_deletes_nothing_of_a_cache_that_is_made_meanwhile(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, gone, unlink = path.with_name("people.cache.key"), list[str](), Path.unlink
    key.write_bytes(b"k" * 32)
    keep(store, record(1))

    def seen(self: Path, missing_ok: bool = False) -> None:
        gone.append(self.name)
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", seen)
    delete_files(path, key)
    assert gone[0] == key.name and gone[-1] == path.name and f"{path.name}-wal" in gone


def test_another_thread_may_use_it(store: SqliteStore) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(keep, store, record(1)).result()
    assert store.records() == [record(1)]


def test_records_come_back(store: SqliteStore, path: Path) -> None:
    keep(store, record(1), record(2))
    store.close()
    again = SqliteStore(path, create=False, clock=lambda: 200.0)
    assert again.records() == [record(1), record(2)]
    again.renew("00000001", None)
    again.renew("00000002", b"new")
    again.renew("nobody", b"new")
    one, two = again.records()
    assert (one.used, one.uses, one.sealed) == (200.0, 2, record(1).sealed)
    assert (two.used, two.uses, two.sealed, two.created) == (200.0, 2, b"new", 100.0)
    assert again.remove(["00000001", "nobody"]) == 1
    assert [r.id for r in again.records()] == ["00000002"]


def test_nobody_else_may_read_it(store: SqliteStore, path: Path) -> None:
    keep(store, record(1))
    assert {stat.S_IMODE(p.stat().st_mode) for p in path.parent.iterdir()} == {0o600}
    path.chmod(0o644)
    assert SqliteStore(path, create=False).loose
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_writer_may_be_too_late(store: SqliteStore) -> None:
    keep(store, record(1))
    assert not store.add(record(2), unless=lambda here: [r.id for r in here] == ["00000001"])
    assert len(store.records()) == 1


def test_time_runs_out(path: Path) -> None:
    now = [100.0]
    store = SqliteStore(path, create=True, ttl=50, clock=lambda: now[0])
    keep(store, record(1))
    now[0] = 140.0
    keep(store, record(2, used=140.0))
    assert len(store.records()) == 2
    now[0] = 151.0
    assert [r.id for r in store.records()] == ["00000002"]
    assert store.remove_expired() == 1 and store.remove_expired() == 0


def test_size_is_bounded_and_the_longest_unused_go(path: Path) -> None:
    one = record(1).nbytes
    assert one == len(record(1).template) + len(record(1).sealed) + OVERHEAD
    store = SqliteStore(path, create=True, max_bytes=3 * one, clock=lambda: 100.0)
    keep(store, record(1, used=10), record(2, used=5), record(3, used=20), record(4, used=30))
    assert {r.id for r in store.records()} == {"00000001", "00000003", "00000004"}
    assert not store.add(record(5, size=10 * one), unless=lambda here: False), "larger than all of it"
    assert len(store.records()) == 3
    for number in range(100, 400):
        keep(store, record(number, used=40))
    store.close()
    assert path.stat().st_size <= 8 * 4096, "room is used again"


def test_what_is_forgotten_is_not_in_the_file(store: SqliteStore, path: Path) -> None:
    keep(store, record(1), record(2))
    store.remove(["00000001"])
    content = b"".join(p.read_bytes() for p in path.parent.iterdir())
    assert record(2).template in content and record(1).template not in content and b"00000001" not in content


def test_one_lock_wins_and_restart_changes_it(store: SqliteStore, path: Path) -> None:
    assert store.lock() is None
    first, second = new_lock("file", b"a" * 32), new_lock("file", b"b" * 32)
    assert store.lock(first) == first
    assert SqliteStore(path, create=False).lock(second) == first
    keep(store, record(1))
    assert store.restart(second) == 1
    assert store.lock() == second and store.records() == []


def test_missing_folder_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="folder"):
        SqliteStore(tmp_path / "none" / "people.cache", create=True)
    with pytest.raises(CacheError, match="no cache"):
        SqliteStore(tmp_path / "people.cache", create=False)
    with pytest.raises(CacheError, match="not a file"):
        SqliteStore(tmp_path, create=True)
    assert list(tmp_path.iterdir()) == []


def test_foreign_files_are_not_touched(tmp_path: Path) -> None:
    text = tmp_path / "letter.txt"
    text.write_text("Dear cache,")
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.close()
    for path, words in ((text, "not a fluidvid cache"), (other, "another program")):
        path.chmod(0o644)
        before = path.read_bytes()
        with pytest.raises(CacheError, match=words):
            SqliteStore(path, create=True)
        assert path.read_bytes() == before and stat.S_IMODE(path.stat().st_mode) == 0o644
        with pytest.raises(CacheError, match="delete it yourself"):
            delete_files(path)
        assert path.exists()


def test_an_empty_file_becomes_a_cache_only_where_one_is_made(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch(0o644)
    with pytest.raises(CacheError, match="is empty"):
        SqliteStore(empty, create=False)
    with pytest.raises(CacheError, match="delete it yourself"):
        delete_files(empty)
    assert empty.stat().st_size == 0 and stat.S_IMODE(empty.stat().st_mode) == 0o644
    SqliteStore(empty, create=True).close()
    assert SqliteStore(empty, create=False).records() == []


def test_newer_schema_is_refused(store: SqliteStore, path: Path) -> None:
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    connection.close()
    with pytest.raises(CacheError, match="newer"):
        SqliteStore(path, create=True)


@pytest.mark.parametrize("damage", ["head", "middle", "cut"])
def test_damage_is_an_error_never_a_wrong_record(damage: str, store: SqliteStore, path: Path) -> None:
    keep(store, *(record(number) for number in range(60)))
    store._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store.close()
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    else:
        begin = 0 if damage == "head" else 8192
        content[begin : begin + 4096] = os.urandom(4096)
    path.write_bytes(content)
    try:
        found = SqliteStore(path, create=True).records()
    except CacheError as error:
        assert "purge" in str(error) or "not touched" in str(error)
    else:
        assert damage == "middle" and sum(not whole(r) for r in found) <= 4, "blobs are authenticated one level up"
    if damage != "head":
        assert delete_files(path) >= 1 and not path.exists()


@pytest.mark.parametrize("room", [0, 6000])
def test_a_full_disk_leaves_no_empty_file(path: Path, room: int) -> None:
    """`cache list` and `purge` would take it for somebody else's. A user's own empty file stays."""
    for mine in (False, True):
        with no_file_larger_than(room), pytest.raises(CacheError, match="make room"):
            SqliteStore(path, create=True)
        assert [p.name for p in path.parent.iterdir()] == [path.name] * mine
        path.touch()
    SqliteStore(path, create=True).close()


def test_full_disk(store: SqliteStore, path: Path) -> None:
    keep(store, record(1))
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(CacheError, match="full; make room"):
        keep(store, *(record(number) for number in range(2, 50)))
    assert all(whole(r) for r in store.records())
    with pytest.raises(CacheError, match="make room") as caught, store._errors():
        raise sqlite3.OperationalError("disk I/O error")  # what opening it says where there is no room for its log
    assert "purge" not in str(caught.value), "nothing is wrong with the cache"


def _grow(path: Path, limit: int) -> None:
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store = SqliteStore(path, create=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        for number in range(10_000):
            keep(store, record(number))
    except CacheError:
        os._exit(7)
    os._exit(0)


def test_writes_that_the_system_refuses_leave_whole_records(path: Path) -> None:
    process = FORK.Process(target=_grow, args=(path, 200_000))
    process.start()
    process.join(60)
    assert process.exitcode == 7
    found = SqliteStore(path, create=False).records()
    assert len(found) > 10 and all(whole(r) for r in found)


def _write_forever(path: Path, begin: int, pipe: Any) -> None:
    store = SqliteStore(path, create=True, clock=lambda: 100.0)
    number = begin
    while True:
        store.add(record(number, size=16_000), unless=lambda here: False)
        os.write(pipe, f"{number:08x}\n".encode())
        number += 1


def _killed_writers(path: Path, times: int) -> int:
    """Kill a writer `times` times in mid-write; every acknowledged record must be there, and whole. How many are."""
    acknowledged: set[str] = set()
    total = 0
    for turn in range(times):
        reading, writing = os.pipe()
        process = FORK.Process(target=_write_forever, args=(path, turn * 1000, writing))
        process.start()
        os.close(writing)
        first = os.read(reading, 9)  # it has begun
        time.sleep(0.001 * (turn % 13))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        with os.fdopen(reading, "rb") as rest:
            told = {line.decode() for line in (first + rest.read()).split(b"\n") if len(line) == 8}
        acknowledged |= told
        total += len(told)
        store = SqliteStore(path, create=False, clock=lambda: 100.0)
        found = store.records()
        assert all(whole(r) for r in found)
        assert acknowledged <= {r.id for r in found}
        if len(found) > 200:
            store.remove(sorted(r.id for r in found))
            acknowledged.clear()
        store.close()
    return total


def test_kill_in_mid_write_ten_times(path: Path) -> None:
    assert _killed_writers(path, 10) >= 10


@pytest.mark.slow
def test_kill_in_mid_write_a_hundred_times(path: Path) -> None:
    _killed_writers(path, 100)


def _write_some(path: Path, begin: int, count: int) -> None:
    store = SqliteStore(path, create=True, clock=lambda: 100.0)
    for number in range(begin, begin + count):
        keep(store, record(number))
        store.renew(f"{number:08x}", None)


def test_many_writers_at_once(path: Path) -> None:
    processes = [FORK.Process(target=_write_some, args=(path, 1000 * i, 20)) for i in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [p.exitcode for p in processes] == [0] * 6
    found = SqliteStore(path, create=False).records()
    assert len(found) == 120 and all(whole(r) and r.uses == 2 for r in found)


def test_application_id_is_in_the_header(store: SqliteStore, path: Path) -> None:
    store.close()
    assert int.from_bytes(path.read_bytes()[68:72], "big") == APPLICATION_ID
