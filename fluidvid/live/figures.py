"""What a live run counts and measures, in bounded memory; the source of status line, metrics and report."""

from __future__ import annotations

import threading
import time
from collections import deque

import numpy as np

RECENT = 500
"""Pictures over which percentiles are taken."""


class Latencies:
    """Seconds from the arrival of a picture to its leaving: percentiles of the latest, and of a sample of all."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._all: list[float] = []
        self._every, self._count = 1, 0
        self._lock = threading.Lock()

    def add(self, seconds: float) -> None:
        """Take in one picture; from any thread."""
        with self._lock:
            self._recent.append(seconds)
            if self._count % self._every == 0:
                self._all.append(seconds)
                if len(self._all) >= 20_000:  # every second one is enough, from now on
                    self._all = self._all[::2]
                    self._every *= 2
            self._count += 1

    def recent(self) -> tuple[float, float] | None:
        """Median and 95th percentile of the latest pictures; None before the first."""
        with self._lock:
            return _percentiles(list(self._recent))

    def overall(self) -> tuple[float, float] | None:
        """Median and 95th percentile of the whole run."""
        with self._lock:
            return _percentiles(self._all)


def _percentiles(values: list[float]) -> tuple[float, float] | None:
    if not values:
        return None
    median, high = np.percentile(values, [50, 95]).tolist()
    return median, high


class Rate:
    """Events per second over the last seconds."""

    def __init__(self, span: float = 5.0) -> None:
        self._span = span
        self._times: deque[float] = deque()

    def add(self) -> None:
        """One event, now."""
        now = time.monotonic()
        self._times.append(now)
        while self._times[0] < now - self._span:
            self._times.popleft()

    def per_second(self) -> float:
        """Present rate."""
        now = time.monotonic()
        times = [t for t in list(self._times) if t >= now - self._span]
        return len(times) / max(1.0, min(self._span, now - times[0])) if times else 0.0
