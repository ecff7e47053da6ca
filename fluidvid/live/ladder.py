"""What is given up when the machine is too slow for the latency budget, in a fixed order, and when it comes back.

Edit in every second picture, then in every fourth and eighth, with fewer levels if the backbone has several, mask
instead of edit, and last drop pictures. Never less than a mask. Each lower rung begins with the newest picture: judged
by what had piled up before it, a fast enough one would look too slow.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

PATIENCE = 8
"""Pictures in a row over the budget before a rung is taken: one late picture is nothing, nor is one edit in eight."""
STARTING = 25
"""Pictures at the beginning that are not judged: connections begin with what a server had kept."""
SETTLING = 10
"""Pictures after a change before the next judgement: those under way do not show its effect."""
RELIEF = 0.75
"""Share of the budget below which there is room to go back; half of it may be spent in waiting on purpose."""
PAUSE = 1.0
"""Seconds without a picture after which pictures are not in a row any more."""
ROOM = 3.0
"""Seconds of pictures in a row with room before a rung is given back."""
SOON = 60.0
"""Seconds: a step up that is undone within them, or within the wait before it, was too early."""
LONGEST_REST = 300.0
"""Seconds that a rung is kept at most after steps up that were too early; doubled from `ROOM` each time."""


@runtime_checkable
class LevelledEditor(Protocol):
    """An editor that can leave out edit levels at run time; others have no such rung."""

    @property
    def levels(self) -> int:
        """Levels it edits at when it has time."""
        ...

    def use_levels(self, *, fewer: bool) -> None:
        """Edit at fewer levels, or at all again; every edit is judged by the same limits."""
        ...


@dataclass(frozen=True)
class Rung:
    """One state: `name` for people, edit in every n-th picture, with fewer levels, edit at all, drop pictures."""

    name: str
    edit_every: int = 1
    fewer_levels: bool = False
    editing: bool = True
    dropping: bool = False


def rungs(*, edits: bool, levels: int) -> list[Rung]:
    """The ladder of a run.

    Args:
        edits: False in the classic modes.
        levels: edit levels of the backbone that can be switched off.
    """
    if not edits:
        return [Rung("full"), Rung("dropping pictures", dropping=True)]
    ladder = [Rung("full"), *(Rung(f"editing every {n}{'nd' if n == 2 else 'th'} picture", n) for n in (2, 4, 8))]
    if levels > 1:
        ladder.append(Rung("editing with fewer levels", 8, fewer_levels=True))
    ladder.append(Rung("masking", 8, levels > 1, editing=False))
    ladder.append(Rung("masking and dropping pictures", 8, levels > 1, editing=False, dropping=True))
    return ladder


class Ladder:
    """Goes down a rung when pictures are late, and back up when there is room again.

    A step up that soon has to be undone is tried less and less often. Each rung keeps its own wait: a machine at its
    limit between two of them still climbs quickly to the better one that it can hold.

    Args:
        steps: at least one, the best first.
        budget: seconds from arriving to leaving.
    """

    def __init__(self, steps: Sequence[Rung], budget: float) -> None:
        self._steps, self._budget = steps, budget
        self._at = 0
        self._late = 0
        self._easy_since: float | None = None
        self._seen = -math.inf
        self._settling = STARTING
        self._rests = [ROOM] * len(steps)  # seconds that a rung is kept before the one above is tried
        self._taken = [-math.inf] * len(steps)  # when it was last taken from above
        self._given_back = [-math.inf] * len(steps)  # when the one above was last tried
        self.pictures: Counter[str] = Counter()
        """Pictures that left on each rung."""

    @property
    def rung(self) -> Rung:
        """In force now."""
        return self._steps[self._at]

    @property
    def position(self) -> int:
        """0 is the best."""
        return self._at

    def observe(self, latency: float, *, at: float, dropped: bool) -> bool:
        """Take in a picture that left.

        Args:
            latency: seconds from its arriving to its leaving.
            at: when it left, in seconds of a steady clock.
            dropped: whether any was dropped before it.

        Returns:
            True if the rung changed.
        """
        self.pictures[self.rung.name] += 1
        apart, self._seen = at - self._seen, at
        if self._settling:
            self._settling -= 1
            return False
        self._late = self._late + 1 if latency > self._budget else 0
        if latency >= RELIEF * self._budget or dropped or apart > PAUSE:
            self._easy_since = None
        elif self._easy_since is None:
            self._easy_since = at
        if self._late >= PATIENCE and self._at + 1 < len(self._steps):
            self._down(at)
            return True
        easy = self._easy_since is not None and at - self._easy_since >= ROOM
        if easy and self._at and at - self._taken[self._at] >= self._rests[self._at]:
            self._up(at)
            return True
        return False

    def reconsider(self) -> None:
        """What made pictures late is over: the next rung comes back as soon as the first did."""
        self._rests = [ROOM] * len(self._steps)
        self._given_back = [-math.inf] * len(self._steps)

    def _down(self, at: float) -> None:
        self._move(1)
        rest, held = self._rests[self._at], at - self._given_back[self._at]
        self._rests[self._at] = min(LONGEST_REST, 2 * rest) if held < max(SOON, rest) else ROOM
        self._taken[self._at] = at

    def _up(self, at: float) -> None:
        self._given_back[self._at] = at
        self._move(-1)

    def _move(self, step: int) -> None:
        self._at += step
        self._late, self._easy_since = 0, None
        self._settling = SETTLING
