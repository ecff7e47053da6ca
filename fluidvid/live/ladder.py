"""What is given up when the machine is too slow for the latency budget, in a fixed order, and when it comes back.

Edit in every second picture, then in every fourth and eighth, with fewer levels if the backbone has several, mask
instead of edit, and last drop pictures. Never less than a mask. Each lower rung begins with the newest picture: judged
by what had piled up before it, a fast enough one would look too slow.
"""

from __future__ import annotations

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
FIRST_REST = 75
LONGEST_REST = 1500
"""Pictures in a row with room before a rung is given back; doubled each time that was too early."""


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

    Args:
        steps: at least one, the best first.
        budget: seconds from arriving to leaving.
    """

    def __init__(self, steps: Sequence[Rung], budget: float) -> None:
        self._steps, self._budget = steps, budget
        self._at = 0
        self._late = self._easy = 0
        self._settling = STARTING
        self._rest = FIRST_REST
        self._since_relief = LONGEST_REST
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

    def observe(self, latency: float, *, dropped: bool) -> bool:
        """Take in a picture that left: its latency in seconds, and whether any was dropped before it.

        Returns:
            True if the rung changed.
        """
        self.pictures[self.rung.name] += 1
        self._since_relief += 1
        if self._settling:
            self._settling -= 1
            return False
        self._late = self._late + 1 if latency > self._budget else 0
        self._easy = self._easy + 1 if latency < RELIEF * self._budget and not dropped else 0
        if self._late >= PATIENCE and self._at + 1 < len(self._steps):
            if self._since_relief < 2 * self._rest:
                self._rest = min(LONGEST_REST, 2 * self._rest)
            return self._move(1)
        if self._easy >= self._rest and self._at:
            self._since_relief = 0
            return self._move(-1)
        if self._since_relief > LONGEST_REST:
            self._rest = FIRST_REST
        return False

    def reconsider(self) -> None:
        """What made pictures late is over: the next rung comes back as soon as the first did."""
        self._rest, self._since_relief = FIRST_REST, LONGEST_REST

    def _move(self, step: int) -> bool:
        self._at += step
        self._late = self._easy = 0
        self._settling = SETTLING
        return True
