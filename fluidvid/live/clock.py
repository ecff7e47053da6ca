"""One steady clock for what is published, whatever the times of the input do: restart, jump, or run backwards."""

from __future__ import annotations

import time
from fractions import Fraction

TIME_BASE = Fraction(1, 90_000)
"""Seconds per tick of the published clock."""
STEP = 100
"""Least ticks between two times: a little over the millisecond that some containers round to."""
LONGEST_GAP = 2.0
"""Seconds between two pictures, or two chunks of sound, from which their times have been moved."""

LONGEST_BACK = 0.1
"""Seconds back from which their times have been moved, too; by less they are merely unsteady."""


class Timeline:
    """Maps the times of one input stream, picture or sound, to ticks that only rise.

    Times are carried over with a constant offset. Where they jump, and after a reconnect, the offset is chosen anew so
    that the next time is the present one; picture and sound are then in step as nearly as they arrive.

    Args:
        began: `time.monotonic()` of tick zero; shared by all streams of a run.
    """

    def __init__(self, began: float) -> None:
        self._began = began
        self._offset: Fraction | None = None
        self._before: Fraction | None = None
        self._last = -STEP
        self.moved = 0

    def restart(self, offset: Fraction | None = None) -> None:
        """The input begins anew; `offset` is that of another stream of the same input, to stay in step with."""
        self._offset, self._before = offset, None

    @property
    def offset(self) -> Fraction | None:
        """Seconds added to the input's times; None before the first."""
        return self._offset

    def tick(self, seconds: Fraction) -> int:
        """Published tick of an input time; always larger than the one before."""
        if self._before is not None and not -LONGEST_BACK < seconds - self._before < LONGEST_GAP:
            self._offset = None
            self.moved += 1
        if self._offset is None:
            now = Fraction(time.monotonic() - self._began).limit_denominator(90_000)
            self._offset = max(now, (self._last + STEP) * TIME_BASE) - seconds
        self._before = seconds
        self._last = max(self._last + STEP, round((seconds + self._offset) / TIME_BASE))
        return self._last
