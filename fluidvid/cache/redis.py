"""The cache on a Redis server, for several machines with one key. The server sees times, numbers of uses,
sizes, the lock and encrypted bytes.

One hash holds the records, one string the lock. Changes are optimistic transactions (WATCH, MULTI): of two writers that
collide one begins again.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fluidvid.cache.keys import Lock
from fluidvid.cache.records import Record, check_lock
from fluidvid.errors import CacheError

TIMEOUT = 5.0
_ANY_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/", re.IGNORECASE)
_ADDRESS = re.compile(r"(redis|rediss|unix)://(?:[^/?#]*@)?([^/?#]*)([^?#@]*)(?:\?[^#@]*)?(?:#([^@]*))?")
"""Scheme, host, path and name, without the login. An @ further on ends a password that is not coded."""
_FORM = (
    "give redis://:PASSWORD@HOST:PORT/DB#NAME, rediss://... or unix:///SOCKET#NAME, and in the password "
    "%40 %23 %2F %3F for @ # / ?"
)


def is_url(path: str) -> bool:
    """True if `cache.path` names a server, rightly or not."""
    return _ANY_ADDRESS.match(path) is not None


def shown(path: str) -> str:
    """`cache.path` without a login: messages reach reports and logs."""
    if found := _ADDRESS.fullmatch(path):
        scheme, host, place, name = found.groups("")
        return f"{scheme}://{host}{place}#{name or 'people'}"
    wrong = _ANY_ADDRESS.match(path)
    return path if wrong is None else f"{wrong.group(1)}:***"


class RedisStore:
    """A `RecordStore` on a Redis server.

    Args:
        url: `redis://HOST:PORT/DB#NAME`, `rediss://...` or `unix:///SOCKET#NAME`; NAME tells caches apart.
        create: False: it must be there.
        ttl: seconds a record lives after its last use; the server drops all of it so long after the last change.
        max_bytes: of all records together; the longest unused go first.
        clock: seconds since 1970.

    Raises:
        CacheError: the address is wrong, the client is not installed, the server does not answer, or there is no such
            cache.
    """

    def __init__(
        self,
        url: str,
        *,
        create: bool,
        ttl: float = float("inf"),
        max_bytes: int = 1 << 40,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._shown = shown(url)
        self._known: Lock | None = None
        found = _ADDRESS.fullmatch(url)
        if found is None:
            raise CacheError(f"cache {self._shown}: {_FORM}")
        try:
            import redis
        except ImportError as error:
            raise CacheError("a cache on a Redis server needs the client: pip install 'fluidvid[redis]'") from error
        self._error: type[Exception] = redis.RedisError
        self.ttl, self.max_bytes, self._clock = ttl, max_bytes, clock
        base = f"fluidvid:cache:{found.group(4) or 'people'}"
        self._lock_key, self._entries_key = f"{base}:lock", f"{base}:entries"
        try:
            self._client: Any = redis.Redis.from_url(
                url.partition("#")[0], socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT
            )
        except ValueError:  # its words may name the login
            raise CacheError(f"cache {self._shown}: {_FORM}") from None
        with self._errors():
            try:
                there = self._client.exists(self._lock_key)
            except (TypeError, LookupError):  # options of the query that the client does not know
                raise CacheError(f"cache {self._shown}: unknown option behind the ?; {_FORM}") from None
            if not there and not create:
                raise CacheError(f"there is no cache {self._shown}: name one that anonymize --cache has made")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (self._error, ValueError) as error:
            raise CacheError(f"cache {self._shown}: {error}; check address and server") from error

    def lock(self, proposal: Lock | None = None) -> Lock | None:
        with self._errors():
            if proposal is not None:
                self._client.set(self._lock_key, json.dumps(proposal.to_dict()), nx=True)
            self._known = self._present_lock(self._client)
        return self._known

    def _present_lock(self, client: Any) -> Lock | None:
        content = client.get(self._lock_key)
        try:
            return None if content is None else Lock.from_dict(json.loads(content))
        except (ValueError, KeyError, TypeError) as error:
            raise CacheError(
                f"cache {self._shown} is damaged (its lock): begin anew with fluidvid cache purge"
            ) from error

    def _check_lock(self, client: Any) -> None:
        check_lock(self._known, self._present_lock(client), self._shown)

    def records(self) -> list[Record]:
        with self._errors():
            found = self._living(self._client.hgetall(self._entries_key))
            self._check_lock(self._client)  # behind it: what was read then is of this lock, or gone
            return found

    def _living(self, entries: dict[bytes, bytes]) -> list[Record]:
        oldest = self._clock() - self.ttl
        found = [record for record in map(_unpack, entries.values()) if record is not None and record.used > oldest]
        return sorted(found, key=lambda record: (record.created, record.id))

    def add(self, record: Record, *, unless: Callable[[Sequence[Record]], bool]) -> bool:
        kept: list[bool] = []

        def change(pipe: Any) -> None:
            self._check_lock(pipe)
            entries = pipe.hgetall(self._entries_key)
            here = self._living(entries)
            kept[:] = [not unless(here) and record.nbytes <= self.max_bytes]
            pipe.multi()
            if not kept[0]:
                return
            gone = set(entries) - {r.id.encode() for r in here}
            excess = sum(r.nbytes for r in here) + record.nbytes - self.max_bytes
            for old in sorted(here, key=lambda r: r.used):
                if excess <= 0:
                    break
                gone.add(old.id.encode())
                excess -= old.nbytes
            if gone:
                pipe.hdel(self._entries_key, *gone)
            pipe.hset(self._entries_key, record.id, _pack(record))
            self._keep_alive(pipe)

        with self._errors():
            self._client.transaction(change, self._entries_key, self._lock_key)
        return kept[0]

    def renew(self, record_id: str, sealed: bytes | None) -> None:
        def change(pipe: Any) -> None:
            self._check_lock(pipe)
            content = pipe.hget(self._entries_key, record_id)
            old = None if content is None else _unpack(content)
            pipe.multi()
            if old is not None:
                new = sealed if sealed is not None else old.sealed
                renewed = Record(old.id, old.basis, old.created, self._clock(), old.uses + 1, old.template, new)
                pipe.hset(self._entries_key, record_id, _pack(renewed))
                self._keep_alive(pipe)

        with self._errors():
            self._client.transaction(change, self._entries_key, self._lock_key)

    def _keep_alive(self, pipe: Any) -> None:
        if self.ttl != float("inf"):
            for key in (self._entries_key, self._lock_key):
                pipe.expire(key, max(1, int(self.ttl) + 1))

    def remove(self, record_ids: Sequence[str]) -> int:
        with self._errors():
            return int(self._client.hdel(self._entries_key, *record_ids)) if record_ids else 0

    def remove_expired(self) -> int:
        with self._errors():
            entries = self._client.hgetall(self._entries_key)
            living = {record.id for record in self._living(entries)}
            return self.remove([key.decode() for key in entries if key.decode() not in living])

    def restart(self, lock: Lock) -> int:
        with self._errors(), self._client.pipeline() as pipe:
            pipe.hlen(self._entries_key)
            pipe.delete(self._entries_key)
            pipe.set(self._lock_key, json.dumps(lock.to_dict()))
            removed = int(pipe.execute()[0])
        self._known = lock
        return removed

    def delete(self) -> None:
        """Remove the cache, lock and all."""
        with self._errors():
            self._client.delete(self._entries_key, self._lock_key)

    def close(self) -> None:
        self._client.close()


def _pack(record: Record) -> bytes:
    head = json.dumps([record.id, record.basis, record.created, record.used, record.uses, len(record.template)])
    return head.encode() + b"\n" + record.template + record.sealed


def _unpack(content: bytes) -> Record | None:
    """The reverse of `_pack`; None for anything else, which is as good as gone."""
    head, _, blobs = content.partition(b"\n")
    try:
        name, basis, created, used, uses, cut = json.loads(head)
        return Record(str(name), str(basis), float(created), float(used), int(uses), blobs[:cut], blobs[cut:])
    except (ValueError, TypeError):
        return None
