"""`CacheMemory`: the engine's memory of people over a record store; trouble ends the use of the store, not the run."""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from fluidvid.cache.keys import Secret
from fluidvid.cache.records import Record, RecordStore
from fluidvid.cache.sealing import from_bytes, seal, to_bytes, unseal
from fluidvid.cache.templates import Projection
from fluidvid.engine.cache import Known
from fluidvid.engine.memory import MARGIN, Recall, best_match
from fluidvid.errors import CacheError

log = logging.getLogger(__name__)

THRESHOLD = 0.75
"""Least estimated cosine of a match across runs. Stricter than inside a run: nobody has seen these people together,
there are more of them, and blurred faces of different people come to .74; from .70 to .80 all who return are found, and
nobody is taken for another (`benchmarks/cache.py`)."""


class CacheMemory:
    """People known from earlier runs, each by a protected template.

    An error of the store ends its use for this run, with one line in `warnings`; what was recalled before stays valid,
    because it was verified when it was recalled.

    Args:
        store: where records live.
        secret: of that cache.
        basis: digest of model and parameters; records of another one are not looked at.

    Attributes:
        counts: known, new, renewed, ambiguous, damaged.
        entries: person -> id of their record.
        warnings: at most one line for each kind of trouble.
    """

    def __init__(self, store: RecordStore, secret: Secret, basis: str) -> None:
        self._store: RecordStore | None = store
        self._seal_key, self._project_key = secret.derive("seal"), secret.derive("projection")
        self.basis = basis
        self._projection: Projection | None = None
        self._opened: dict[str, bytes] = {}
        self._rows: dict[str, tuple[bytes, int | None]] = {}
        self._damaged: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.entries: dict[int, str] = {}
        self.warnings: list[str] = []

    def recall(self, person_id: int, identity: NDArray[np.float32]) -> Recall:
        store = self._store
        if store is None:
            return Recall()
        try:
            records, cosines = self._compare(store.records(), identity)
            claimed = set(self.entries.values())
            taken = np.array([record.id in claimed for record in records], dtype=bool)
            index, doubtful = best_match(cosines, taken, THRESHOLD, MARGIN)
            if index is None:
                self.counts["ambiguous"] += doubtful
                return Recall(ambiguous=doubtful)
            known = self._opened_direction(records[index])
            if known is None:
                return Recall(ambiguous=True)
            store.renew(records[index].id, None)
        except CacheError as error:
            self._give_up(error)
            return Recall()
        self.entries[person_id] = records[index].id
        self.counts["known"] += 1
        return Recall(known)

    def remember(self, person_id: int, identity: NDArray[np.float32], known: Known) -> None:
        store = self._store
        if store is None:
            return
        try:
            if person_id in self.entries:  # recalled, but verified no longer: the renewed direction takes its place
                entry = self.entries[person_id]
                store.renew(entry, self._sealed(entry, known))
                self.counts["renewed"] += 1
                return
            now, entry = time.time(), secrets.token_hex(4)
            template = seal(self._seal_key, self._project(identity), f"{entry}|{self.basis}|template")
            record = Record(entry, self.basis, now, now, 1, template, self._sealed(entry, known))

            def somebody_was_quicker(records: Sequence[Record]) -> bool:
                cosines = self._compare(records, identity)[1]
                return bool(len(cosines)) and float(cosines.max()) >= THRESHOLD

            if store.add(record, unless=somebody_was_quicker):
                self.entries[person_id] = entry
                self.counts["new"] += 1
        except CacheError as error:
            self._give_up(error)

    def pseudonyms(self) -> Collection[int]:
        if self._store is None:
            return set()
        try:
            for record in self._store.records():
                if record.basis == self.basis and self._rows.get(record.id, (b"",))[0] != record.sealed:
                    known = self._opened_direction(record)
                    self._rows[record.id] = (record.sealed, None if known is None else known.pseudonym)
        except CacheError as error:
            self._give_up(error)
        return {row for _, row in self._rows.values() if row is not None}

    def close(self) -> None:
        """Let go of the store."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def _sealed(self, entry: str, known: Known) -> bytes:
        return seal(self._seal_key, to_bytes(known), f"{entry}|{self.basis}|direction")

    def _project(self, identity: NDArray[np.float32]) -> bytes:
        if self._projection is None:
            self._projection = Projection(self._project_key, len(identity))
        return self._projection.protect(identity)

    def _compare(
        self, records: Sequence[Record], identity: NDArray[np.float32]
    ) -> tuple[list[Record], NDArray[np.float64]]:
        """Records of this basis that can be read, and the estimated cosines of their templates to an identity."""
        template = self._project(identity)
        readable = [r for r in records if r.basis == self.basis and self._template(r) is not None]
        assert self._projection is not None
        return readable, self._projection.cosines(template, [self._opened[r.id] for r in readable])

    def _template(self, record: Record) -> bytes | None:
        if record.id not in self._opened:
            try:
                opened = unseal(self._seal_key, record.template, f"{record.id}|{record.basis}|template")
            except ValueError:
                self._note_damage(record)
                return None
            assert self._projection is not None
            if len(opened) * 8 != self._projection.bits:
                self._note_damage(record)
                return None
            self._opened[record.id] = opened
        return self._opened[record.id]

    def _opened_direction(self, record: Record) -> Known | None:
        try:
            known = from_bytes(unseal(self._seal_key, record.sealed, f"{record.id}|{record.basis}|direction"))
        except ValueError:
            self._note_damage(record)
            return None
        return known

    def _note_damage(self, record: Record) -> None:
        if record.id not in self._damaged:
            self._damaged.add(record.id)
            self.counts["damaged"] += 1
            if len(self._damaged) == 1:
                self.warnings.append(
                    f"cache entry {record.id} is damaged and was not used: remove it with fluidvid cache forget"
                )

    def _give_up(self, error: CacheError) -> None:
        log.debug("cache given up: %s", error)
        self.warnings.append(f"{error}; this run goes on without the cache")
        self.close()
