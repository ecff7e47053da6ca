"""How long to wait before the next attempt, and when to give up."""

from __future__ import annotations

import time

FIRST = 0.5
LONGEST = 30.0
STEADY = 10.0
"""Seconds of success after which a failure counts as the first one again."""


class Backoff:
    """Doubling waits between attempts that fail in a row.

    Args:
        retries: failures in a row that are forgiven; 0: any number.
    """

    def __init__(self, retries: int) -> None:
        self._retries = retries
        self._since: float | None = None
        self.failures = 0

    def succeeded(self) -> None:
        """It works at the moment; call it as often as you like."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since >= STEADY:
            self.failures = 0

    def failed(self) -> float | None:
        """Seconds to wait before the next attempt; None: give up."""
        if self._since is not None and time.monotonic() - self._since >= STEADY:
            self.failures = 0
        self._since = None
        self.failures += 1
        if self._retries and self.failures > self._retries:
            return None
        return min(LONGEST, FIRST * 2.0 ** min(self.failures - 1, 10))
