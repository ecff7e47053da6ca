"""One steady clock for what is published, whatever the times of the input do: restart, jump, or run backwards."""

from __future__ import annotations

import time
from fractions import Fraction

TIME_BASE = Fraction(1, 90_000)
"""Seconds per tick of the published clock."""
STEP = 100
"""Least ticks between two times: a little over the millisecond that some containers round to."""
LONGEST_GAP = 2.0
"""Seconds between two pictures, or two chunks of sound, from which their times have been moved, unless so much time
did pass; and between sound and picture that jumped together.
"""
_BACK = 0.5
"""Seconds that times may go back by before they count as moved: some decoders begin with pictures out of order."""
_APART = 10.0
"""Seconds between the first sound and its picture: badly interleaved streams. Beyond, they have not one clock."""


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

    def follow(self, pictures: Timeline, seconds: Fraction) -> None:
        """Be in step with the pictures of the same input where the next time, of sound, belongs to one of them.

        So both have one offset again when they have jumped together, whichever of them was the first.
        """
        if pictures._offset is None or self._offset == pictures._offset:
            return
        apart = seconds + pictures._offset - pictures._last * TIME_BASE
        if abs(apart) < (_APART if self._offset is None else LONGEST_GAP):
            self.restart(pictures._offset)

    def tick(self, seconds: Fraction) -> int:
        """Published tick of an input time; always larger than the one before."""
        if self._jumped(seconds):
            self._offset = None
            self.moved += 1
        if self._offset is None:
            self._offset = max(self._now(), (self._last + STEP) * TIME_BASE) - seconds
        self._before = seconds
        self._last = max(self._last + STEP, round((seconds + self._offset) / TIME_BASE))
        return self._last

    def _jumped(self, seconds: Fraction) -> bool:
        if self._before is None or self._offset is None or -_BACK < seconds - self._before < LONGEST_GAP:
            return False
        return seconds < self._before or abs(seconds + self._offset - self._now()) >= LONGEST_GAP

    def _now(self) -> Fraction:
        """Published seconds of the present."""
        return Fraction(time.monotonic() - self._began).limit_denominator(90_000)
