"""Directions found in the background, within a budget of CPU time, while pictures go on with masks."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fluidvid.editing import FaceEditor, Preparation
from fluidvid.keyframes import KeyCrop

_log = logging.getLogger(__name__)

NICE = 19
"""Priority of the background thread: pictures that must leave go first."""
FIRST_RETRY = 10.0
LONGEST_RETRY = 600.0
"""Seconds before a track whose direction could not be verified is tried again on newer pictures; doubled each time."""
MAX_WAITING = 32
LONGEST_HOLD = 5.0
"""Seconds that a search waits for pictures to be in time again."""
REST = 1.0
"""Times as long as a step took that a search then rests between its steps while pictures are late."""
LONGEST_STEP = 20.0
"""Seconds that the end of a run waits for the step under way of a search."""


@dataclass(frozen=True, eq=False)
class _Job:
    """What is to be done for a track; no crops: it has left."""

    track: int
    keys: Sequence[KeyCrop] | None = None
    search: bool = True
    since: float = field(default_factory=time.monotonic)


class BackgroundDirections:
    """One thread that prepares tracks one after another.

    First directions from the bank of ready ones come before searches, which better them, and between their steps; the
    engine knows people who return. The thread runs at low priority, on at most `cores` CPU threads; where `cores` is
    below one, searches rest between their steps.

    Args:
        editor: called from the thread; its `edit` meanwhile goes on in another.
        cores: share of CPU cores it may take.

    Attributes:
        busy: pictures are late: searches for tracks with a first direction that serves them wait, also between two
            steps, for `LONGEST_HOLD` at most; then they go on slowly.
    """

    def __init__(self, editor: FaceEditor, *, cores: float) -> None:
        self._editor, self._cores = editor, cores
        self.busy = False
        self._change = threading.Condition()
        self._quick: deque[_Job] = deque()
        self._searches: deque[_Job] = deque()
        self._closed = False
        self._ready: set[int] = set()
        self._final: set[int] = set()
        self._tried: set[int] = set()  # tracks for which a first direction was asked for, once
        self._pending: set[int] = set()  # tracks with a search that waits or is under way
        self._failing: frozenset[int] = frozenset()
        self._again: dict[int, tuple[float, float]] = {}  # track -> when to try again, and the wait after that
        self.begun = self.found = self.failed = 0
        store = getattr(editor, "store", None)
        if store is not None:
            editor.store = _LockedStore(store)  # type: ignore[attr-defined]
        pace = getattr(editor, "pace", None)
        if pace is not None:
            pace(self._pace)
        self._searched: _Job | None = None  # the search under way
        self._stepped = 0.0  # when the search under way was last let go on
        self._worked = 0.0  # CPU seconds of the thread that rests have made up for
        self._rested = 0.0  # when a search may begin
        self._thread = threading.Thread(target=self._run, name="directions", daemon=True)
        self._thread.start()

    def wanted(self, track: int) -> bool:
        with self._change:
            if track in self._final or track in self._pending or len(self._pending) >= MAX_WAITING:
                return False
            return time.monotonic() >= self._again.get(track, (0.0, 0.0))[0]

    @property
    def idle(self) -> bool:
        """No search waits or is under way."""
        return not self._pending

    def begin(self, track: int, keys: Sequence[KeyCrop]) -> None:
        with self._change:
            if track not in self._tried and len(self._quick) < MAX_WAITING:
                self._tried.add(track)
                self._quick.append(_Job(track, keys, search=False))
                self._change.notify()

    def find(self, track: int, keys: Sequence[KeyCrop]) -> None:
        with self._change:
            self._pending.add(track)
            self._searches.append(_Job(track, keys))
            self._change.notify()

    def ready(self, track: int) -> bool:
        return track in self._ready

    def failing(self, tracks: Collection[int]) -> None:
        self._failing = frozenset(tracks)

    def left(self, tracks: Collection[int]) -> None:
        if not tracks:
            return
        gone = set(tracks)
        with self._change:
            # What waits for them is not worth a search, and must not claim a person once they are released.
            self._quick = deque(job for job in self._quick if job.keys is None or job.track not in gone)
            self._pending -= {job.track for job in self._searches if job.track in gone}
            self._searches = deque(job for job in self._searches if job.track not in gone)
            self._quick += [_Job(track) for track in tracks]
            self._change.notify()

    def forget(self, alive: Collection[int]) -> None:
        with self._change:
            over = (self._ready | self._tried | set(self._again)) - set(alive)
            self._ready -= over
            self._tried -= over
            self._final -= over
            for track in over:
                self._again.pop(track, None)
        drop = getattr(self._editor, "forget", None)
        if drop is not None:
            for track in over:
                drop(track)

    def close(self) -> None:
        """Take no more searches and stop one under way: a thread that computes must not outlive the process."""
        with self._change:
            self._closed = True
            self._change.notify()
        stop = getattr(self._editor, "stop", None)
        if stop is not None:
            stop()
        self._thread.join(LONGEST_STEP)

    def _run(self) -> None:
        _lower_priority(max(1, round(self._cores)))
        while True:
            with self._change:
                while not self._closed and (job := self._next()) is None:
                    rest = self._rested - time.monotonic()
                    self._change.wait((rest if rest > 0 else 0.5) if self._searches else None)
                if self._closed:
                    return
            assert job is not None
            if job.search and job.keys is not None:
                self._searched, self._stepped = job, time.monotonic()
            self._do(job)
            self._searched = None
            self._rested = time.monotonic() + self._owed()

    def _owed(self) -> float:
        """Seconds to rest for what the thread has worked since it was last asked, to stay within the budget."""
        worked, self._worked = time.thread_time() - self._worked, time.thread_time()
        return worked * max(0.0, 1 / self._cores - 1)

    def _do(self, job: _Job) -> None:
        if job.keys is None:
            self._editor.release(job.track)
            return
        prepared = self._prepare(job.track, job.keys, job.search)
        with self._change:
            if prepared is not None and prepared.ok:
                self._ready.add(job.track)
                if job.search or not prepared.figures.get("first"):
                    self._final.add(job.track)
            elif job.search:
                wait = self._again.get(job.track, (0.0, FIRST_RETRY))[1]
                self._again[job.track] = time.monotonic() + wait, min(LONGEST_RETRY, 2 * wait)
            if job.search:
                self._pending.discard(job.track)

    def _next(self) -> _Job | None:
        """What is to be done now, taken out of its queue; None: wait."""
        if self._quick:
            return self._quick.popleft()
        if time.monotonic() < self._rested:
            return None
        urgent = sorted(self._searches, key=self._is_served)
        if urgent and not self._held(urgent[0]):
            self._searches.remove(urgent[0])
            return urgent[0]
        return None

    def _is_served(self, job: _Job) -> bool:
        """True while its track is edited as it is."""
        return job.track in self._ready and job.track not in self._failing

    def _held(self, job: _Job) -> bool:
        """True while it is to wait for pictures to be in time."""
        return self.busy and self._is_served(job) and time.monotonic() - job.since < LONGEST_HOLD

    def _pace(self) -> None:
        """Between the steps of a search: keep to the budget, wait while pictures are late, and at last go on slowly."""
        search = self._searched
        if search is None:
            return
        now = time.monotonic()
        paid, rested = now + self._owed(), now + REST * (now - self._stepped)
        while not self._closed:
            with self._change:
                job = self._quick[0] if self._quick else None
                if job is not None and job.track == search.track:
                    break  # it has left: what comes after its release may ask for its person, so be quick
                if job is not None:
                    self._quick.popleft()
                elif (owed := paid - time.monotonic()) > 0:
                    self._change.wait(owed)
                elif not all(self._is_served(other) for other in self._searches):
                    break  # somebody behind it is masked
                elif self._held(search):
                    self._change.wait(0.2)
                elif self.busy and self._is_served(search) and time.monotonic() < rested:
                    self._change.wait(0.05)
                else:
                    break
            if job is not None:
                self._do(job)
        self._stepped = time.monotonic()

    def _prepare(self, track: int, keys: Sequence[KeyCrop], search: bool) -> Preparation | None:
        seek = self._editor.prepare if search else self._editor.begin
        try:
            prepared = seek(track, np.stack([c.crop for c in keys]), frames=[c.frame for c in keys])
        except Exception as error:  # noqa: BLE001 - the track stays as it is: masked, or with its first direction
            if self._closed:  # stopped on purpose
                return None
            _log.warning("no direction for track %d: %s: %s", track, type(error).__name__, error)
            self.failed += search
            return None
        if search:
            self.found += prepared.ok
            self.failed += not prepared.ok
        else:
            self.begun += prepared.ok
        return prepared


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


def leave_room(cores: float) -> None:
    """Keep the calling thread's computations off the cores that searches may take: two that share one wait in turn."""
    _use_threads(max(1, len(os.sched_getaffinity(0)) - round(cores)) if hasattr(os, "sched_getaffinity") else 1)


def _use_threads(count: int) -> None:
    """Of the calling thread: torch counts its threads by caller."""
    torch = sys.modules.get("torch")  # the engine has imported it
    if torch is not None:
        torch.set_num_threads(count)


def _lower_priority(threads: int) -> None:
    """Of the calling thread: on Linux each has a priority of its own."""
    _use_threads(threads)
    if hasattr(os, "setpriority"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
