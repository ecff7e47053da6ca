"""The cache in one SQLite file: WAL, short immediate transactions, 0600, bounded in age and bytes.

A record is one row, blobs and all, so that a process killed at any moment leaves either all of it or nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from fluidvid.cache.keys import Lock
from fluidvid.cache.records import OVERHEAD, Record, check_lock
from fluidvid.errors import CacheError

APPLICATION_ID = 0x464C5644
"""`FLVD`: in SQLite's header, so that a foreign database is never touched."""
SCHEMA = 1
MAGIC = b"SQLite format 3\0"
BUSY_SECONDS = 10.0
_HEADER = 72
"""Bytes of SQLite's header up to and with the application id, its last four."""
_NAME_ONE = "name one that anonymize --cache has made"

_TABLES = (
    "CREATE TABLE lock (one INTEGER PRIMARY KEY CHECK (one = 1), content TEXT NOT NULL)",
    "CREATE TABLE entries (id TEXT PRIMARY KEY, basis TEXT NOT NULL, created REAL NOT NULL, used REAL NOT NULL, "
    "uses INTEGER NOT NULL, template BLOB NOT NULL, sealed BLOB NOT NULL)",
    "CREATE INDEX entries_by_use ON entries (used)",
)
_COLUMNS = "id, basis, created, used, uses, template, sealed"


class SqliteStore:
    """A `RecordStore` in a file.

    Args:
        path: the file.
        create: make it if it is not there.
        ttl: seconds a record lives after its last use.
        max_bytes: of all records together; the longest unused go first.
        clock: seconds since 1970.

    Raises:
        CacheError: not there, not writable, foreign, damaged, or of a newer fluidvid.
    """

    def __init__(
        self,
        path: Path,
        *,
        create: bool,
        ttl: float = float("inf"),
        max_bytes: int = 1 << 40,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path, self.ttl, self.max_bytes, self._clock = path, ttl, max_bytes, clock
        self.loose = False
        self._known: Lock | None = None
        with self._errors():
            made = self._prepare_file(create)
            self._file = _identity(path)
            try:
                # Opened by one thread, used by another: live streams look for directions in the background.
                self._connection = sqlite3.connect(
                    path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
                )
                try:
                    self._open()
                except BaseException:
                    self._connection.close()
                    raise
            except BaseException:
                if made and _identity(path) == self._file and not _header(path):  # a full disk
                    path.unlink()
                raise

    def _prepare_file(self, create: bool) -> bool:
        """See to it that there is a file that may be opened; whether it was made, and is empty."""
        made = False
        if not self.path.exists():
            if not create:
                raise CacheError(f"there is no cache {self.path}: {_NAME_ONE}")
            with contextlib.suppress(FileExistsError):
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
                made = True
        if not self.path.is_file():
            raise CacheError(f"{self.path} is not a file: give the cache a file name")
        header = _header(self.path)
        if not header and not create:
            raise CacheError(f"{self.path} is empty, not a cache: {_NAME_ONE}; it was not touched")
        if header and not _is_ours(header):
            what = "another program's database" if header.startswith(MAGIC) else "not a fluidvid cache (or is damaged)"
            raise CacheError(f"{self.path} is {what}: name another file; it was not touched")
        if self.path.stat().st_mode & 0o077:
            self.path.chmod(0o600)
            self.loose = True
        return made

    def _open(self) -> None:
        run = self._connection.execute
        run("PRAGMA trusted_schema = OFF")
        with self._transaction():
            schema = int(run("PRAGMA user_version").fetchone()[0])
            tables = int(run("SELECT count(*) FROM sqlite_master").fetchone()[0])
            if schema > SCHEMA:
                raise CacheError(
                    f"{self.path} was made by a newer fluidvid (schema {schema}): update, or name another file"
                )
            if not tables:
                run(f"PRAGMA application_id = {APPLICATION_ID}")
                run(f"PRAGMA user_version = {SCHEMA}")
                for statement in _TABLES:
                    run(statement)
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = NORMAL")
        run("PRAGMA secure_delete = ON")
        verdict = run("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise CacheError(
                f"{self.path} is damaged ({verdict}): remove it with fluidvid cache purge; only continuity is lost"
            )

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise CacheError(f"cache {self.path}: {error}; {_remedy(error)}") from error
        except OSError as error:
            raise CacheError(f"cache {self.path}: {error.strerror}; check folder, rights and space") from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """BEGIN IMMEDIATE: the only writer until the end, so that what was read still holds when it is written."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def lock(self, proposal: Lock | None = None) -> Lock | None:
        with self._errors(), self._transaction():
            if proposal is not None:
                text = json.dumps(proposal.to_dict())
                self._connection.execute("INSERT OR IGNORE INTO lock VALUES (1, ?)", (text,))
            self._known = self._present_lock()
        return self._known

    def _present_lock(self) -> Lock | None:
        row = self._connection.execute("SELECT content FROM lock").fetchone()
        try:
            return None if row is None else Lock.from_dict(json.loads(row[0]))
        except (ValueError, KeyError, TypeError) as error:
            raise CacheError(f"{self.path} is damaged (its lock): remove it with fluidvid cache purge") from error

    def _check_lock(self) -> None:
        if _identity(self.path) != self._file:  # what is open here has no name any more, and ends with this process
            raise CacheError(f"cache {self.path} was purged or replaced meanwhile: the next run begins anew")
        check_lock(self._known, self._present_lock(), str(self.path))

    def records(self) -> list[Record]:
        with self._errors():
            found = self._read()
            self._check_lock()  # behind it: what was read then is of this lock, or gone
            return found

    def _read(self) -> list[Record]:
        rows = self._connection.execute(
            f"SELECT {_COLUMNS} FROM entries WHERE used > ? ORDER BY created, id", (self._clock() - self.ttl,)
        )
        return [Record(*row) for row in rows]

    def add(self, record: Record, *, unless: Callable[[Sequence[Record]], bool]) -> bool:
        with self._errors(), self._transaction():
            self._check_lock()
            self._remove_expired()
            here = self._read()
            if unless(here) or record.nbytes > self.max_bytes:
                return False
            excess = sum(r.nbytes for r in here) + record.nbytes - self.max_bytes
            for old in sorted(here, key=lambda r: r.used):
                if excess <= 0:
                    break
                self._connection.execute("DELETE FROM entries WHERE id = ?", (old.id,))
                excess -= old.nbytes
            values = (record.id, record.basis, record.created, record.used, record.uses, record.template, record.sealed)
            self._connection.execute(f"INSERT INTO entries ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", values)
        return True

    def renew(self, record_id: str, sealed: bytes | None) -> None:
        with self._errors(), self._transaction():
            self._check_lock()
            self._connection.execute(
                "UPDATE entries SET used = ?, uses = uses + 1, sealed = coalesce(?, sealed) WHERE id = ?",
                (self._clock(), sealed, record_id),
            )

    def remove(self, record_ids: Sequence[str]) -> int:
        with self._errors():
            with self._transaction():
                removed = sum(
                    self._connection.execute("DELETE FROM entries WHERE id = ?", (one,)).rowcount for one in record_ids
                )
            self._wipe()
        return removed

    def remove_expired(self) -> int:
        with self._errors():
            with self._transaction():
                removed = self._remove_expired()
            if removed:
                self._wipe()
        return removed

    def _remove_expired(self) -> int:
        return self._connection.execute("DELETE FROM entries WHERE used <= ?", (self._clock() - self.ttl,)).rowcount

    def restart(self, lock: Lock) -> int:
        with self._errors():
            with self._transaction():
                removed = self._connection.execute("DELETE FROM entries").rowcount
                self._connection.execute("INSERT OR REPLACE INTO lock VALUES (1, ?)", (json.dumps(lock.to_dict()),))
            self._known = lock
            self._wipe()
        return removed

    def _wipe(self) -> None:
        """Give back the room of what was removed; secure_delete has overwritten it, the log is cut off."""
        try:
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):  # in use by another process, which checkpoints later
                raise

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()


def _remedy(error: sqlite3.Error) -> str:
    text = str(error)
    for words, remedy in (
        ("full", "make room or name another place"),
        ("disk I/O", "make room, or check the disk"),  # also of a full one
        ("readonly", "make file and folder writable or name another place"),
        ("unable to open", "check that the folder exists and is writable"),
        ("malformed", "it is damaged: remove it with fluidvid cache purge"),
        ("not a database", "it is damaged or foreign: name another file"),
        ("locked", "another process holds it: try again"),
    ):
        if words in text:
            return remedy
    return "name another file, or remove it with fluidvid cache purge"


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and number of a file, None if it is not there: whether it is still the one that was opened."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEADER)


def _is_ours(header: bytes) -> bool:
    """Whether a database begins like a cache, damaged or not: the id is written together with the tables."""
    return header.startswith(MAGIC) and int.from_bytes(header[_HEADER - 4 :], "big") == APPLICATION_ID


def delete_files(path: Path, key: Path | None = None) -> int:
    """Delete a cache's database with its log files, even if it is damaged, but never a foreign file; files deleted.

    Runs that use it notice, and go on without it. The key goes first and the database last: a run that begins
    meanwhile either finds a cache it cannot open, or makes its own, of which nothing is deleted.

    Args:
        path: the database; of a link the file it leads to is deleted.
        key: its own key file.

    Raises:
        CacheError: it is not a cache, or cannot be deleted.
    """
    path = Path(os.path.realpath(path))
    try:
        if path.exists() and not path.is_file():
            raise CacheError(f"{path} is not a file: name the cache's file")
        if not _is_ours(_header(path)):
            raise CacheError(f"{path} does not look like a fluidvid cache: delete it yourself if it is one")
        members = [path.with_name(path.name + ending) for ending in ("-journal", "-wal", "-shm", "")]
        found = [member for member in (key, *members) if member is not None and member.exists()]
        for member in found:
            member.unlink()
    except OSError as error:
        raise CacheError(f"cache {path} cannot be deleted ({error.strerror}): check its name and rights") from error
    return len(found)


__all__ = ["APPLICATION_ID", "OVERHEAD", "SCHEMA", "SqliteStore", "delete_files"]
