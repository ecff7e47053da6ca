"""Directions found in the background, within a budget of CPU time, while pictures go on with masks."""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from fluidvid.editing import FaceEditor
from fluidvid.keyframes import KeyCrop

_log = logging.getLogger(__name__)

NICE = 5
"""Priority of the background thread: pictures that must leave go first."""
FIRST_RETRY = 10.0
LONGEST_RETRY = 600.0
"""Seconds before a track whose direction could not be verified is tried again on newer pictures; doubled each time."""
MAX_WAITING = 32


class BackgroundDirections:
    """One thread that prepares tracks one after another.

    The engine starts each search from its bank of ready directions and knows people who return. The thread runs at low
    priority, on at most `cores` CPU threads, and rests between searches where `cores` is below one.

    Args:
        editor: called from the thread; its `edit` meanwhile goes on in another.
        cores: share of CPU cores it may take.
    """

    def __init__(self, editor: FaceEditor, *, cores: float) -> None:
        self._editor, self._cores = editor, cores
        self._jobs: queue.Queue[tuple[int, Sequence[KeyCrop] | None] | None] = queue.Queue()
        self._lock = threading.Lock()
        self._ready: set[int] = set()
        self._pending: set[int] = set()
        self._again: dict[int, tuple[float, float]] = {}  # track -> when to try again, and the wait after that
        self._gone: set[int] = set()
        self.found = self.failed = 0
        store = getattr(editor, "store", None)
        if store is not None:
            editor.store = _LockedStore(store)  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._run, name="directions", daemon=True)
        self._thread.start()

    def wanted(self, track: int) -> bool:
        with self._lock:
            if track in self._ready or track in self._pending or len(self._pending) >= MAX_WAITING:
                return False
            return time.monotonic() >= self._again.get(track, (0.0, 0.0))[0]

    def find(self, track: int, keys: Sequence[KeyCrop]) -> None:
        with self._lock:
            self._pending.add(track)
        self._jobs.put((track, keys))

    def ready(self, track: int) -> bool:
        return track in self._ready

    def left(self, tracks: Collection[int]) -> None:
        # In the order of the searches: a search that is under way must not claim a person for a track that has left.
        with self._lock:
            self._gone |= set(tracks)
        for track in tracks:
            self._jobs.put((track, None))

    def forget(self, alive: Collection[int]) -> None:
        with self._lock:
            over = (self._ready | set(self._again)) - set(alive)
            self._ready -= over
            for track in over:
                self._again.pop(track, None)
        drop = getattr(self._editor, "forget", None)
        if drop is not None:
            for track in over:
                drop(track)

    def close(self) -> None:
        """Take no more searches; one under way is not waited for."""
        self._jobs.put(None)

    def _run(self) -> None:
        _lower_priority(max(1, round(self._cores)))
        while True:
            job = self._jobs.get()
            if job is None:
                return
            track, keys = job
            if keys is None:
                self._editor.release(track)
                with self._lock:
                    self._gone.discard(track)
                continue
            began = time.thread_time()
            ok = False
            if track not in self._gone:
                ok = self._prepare(track, keys)
            with self._lock:
                self._pending.discard(track)
                if ok:
                    self._ready.add(track)
                else:
                    wait = self._again.get(track, (0.0, FIRST_RETRY))[1]
                    self._again[track] = time.monotonic() + wait, min(LONGEST_RETRY, 2 * wait)
            if self._cores < 1:
                time.sleep((time.thread_time() - began) * (1 / self._cores - 1))

    def _prepare(self, track: int, keys: Sequence[KeyCrop]) -> bool:
        try:
            prepared = self._editor.prepare(
                track,
                np.stack([c.crop for c in keys]),
                np.stack([c.landmarks for c in keys]),
                frames=[c.frame for c in keys],
            )
        except Exception as error:  # noqa: BLE001 - the track stays masked
            _log.warning("track %d stays masked: %s: %s", track, type(error).__name__, error)
            self.failed += 1
            return False
        self.found += prepared.ok
        self.failed += not prepared.ok
        return prepared.ok


class _LockedStore:
    """The editor's store of directions, for two threads."""

    def __init__(self, store: Any) -> None:
        self._store, self._lock = store, threading.Lock()

    def get(self, person_id: int) -> Any:
        with self._lock:
            return self._store.get(person_id)

    def put(self, person_id: int, state: Any) -> None:
        with self._lock:
            self._store.put(person_id, state)

    def forget(self, person_id: int) -> None:
        with self._lock:
            self._store.forget(person_id)


def _lower_priority(threads: int) -> None:
    """Of the calling thread: on Linux each has a priority of its own, and torch counts its threads by caller."""
    torch = sys.modules.get("torch")  # the engine has imported it
    if torch is not None:
        torch.set_num_threads(threads)
    if hasattr(os, "setpriority"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
