"""What a store of the cache keeps, and what is asked of it. It sees times, counts, sizes, the lock, sealed bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from fluidvid.cache.keys import Lock
from fluidvid.errors import CacheError

OVERHEAD = 256
"""Bytes an entry takes beside its blobs, for the size bound."""


@dataclass(frozen=True)
class Record:
    """One person as a store sees them.

    Attributes:
        id: random, eight hex digits; means nothing outside this cache.
        basis: digest of model and parameters.
        created: seconds since 1970.
        used: when it was last used, seconds since 1970.
        uses: runs it was used in.
        template: encrypted protected template.
        sealed: encrypted direction.
    """

    id: str
    basis: str
    created: float
    used: float
    uses: int
    template: bytes
    sealed: bytes

    @property
    def nbytes(self) -> int:
        """What counts for the size bound."""
        return len(self.template) + len(self.sealed) + OVERHEAD


def check_lock(known: Lock | None, present: Lock | None, cache: str) -> None:
    """Refuse a store whose lock is no longer the one it was opened with: what would be kept nobody could read.

    Raises:
        CacheError: there is another lock, or none any more.
    """
    if known is not None and present != known:
        raise CacheError(f"cache {cache} was rekeyed or removed meanwhile: the next run uses its new key")


class RecordStore(Protocol):
    """Where records live. Every method is one transaction, and raises CacheError if it fails.

    Once `lock` has told of a lock, `records`, `add` and `renew` raise CacheError if there is another one.
    """

    def lock(self, proposal: Lock | None = None) -> Lock | None:
        """The lock in force; an empty store takes the proposal, if two propose one of them wins."""

    def records(self) -> list[Record]:
        """All records that have not expired."""

    def add(self, record: Record, *, unless: Callable[[Sequence[Record]], bool]) -> bool:
        """Keep a record unless, in the same transaction, `unless(records)`; make room for it. False if not kept."""

    def renew(self, record_id: str, sealed: bytes | None) -> None:
        """Count a use, and replace the sealed direction if one is given; nothing happens if it is gone."""

    def remove(self, record_ids: Sequence[str]) -> int:
        """Remove records; how many were there."""

    def remove_expired(self) -> int:
        """Remove what has outlived its time; how many."""

    def restart(self, lock: Lock) -> int:
        """Remove all records and change the lock, in one; how many records there were."""

    def close(self) -> None:
        """Let go."""
