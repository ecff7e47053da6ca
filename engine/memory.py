"""Recognise a person who returns: embeddings that live in memory only, a threshold, and a margin against doubt.

Two people must never share a pseudonym by mistake; one person with two pseudonyms is the lesser evil. So whoever is not
clearly one known person becomes somebody new, and doubtful cases are counted. A face of which too little is seen has no
identity, a row of zeros, and is nobody's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fluidvid.engine.cache import Known

IDENTIFIED_BY = ("faceplugin", "faceres", "dlib_resnet")
"""Recognisers whose embeddings side by side are a person's identity; the thresholds were measured with these."""
THRESHOLD = 0.5
"""Least cosine of two fused identities (`FluidEditor.identify`) that may be one person."""
MARGIN = 0.1
"""Lead over every other known person that a match needs."""
MAX_PEOPLE = 2048
MIN_CONTRAST = 12.0
"""Grey levels: faces whose brightness varies less in the middle are too dark or too flat to tell from each other; the
recognisers find all of them alike (measured: cosines of .6 to .94 between people in a dark audience)."""

MIN_QUARTER = 5.5
"""The same for each quarter of it: a hand in the light before a face in the dark says nothing of whose it is."""


@dataclass(frozen=True, eq=False)
class Recall:
    """Answer to "who is this?": `known` or None; `ambiguous` if somebody was near but not clearly the one."""

    known: Known | None = None
    ambiguous: bool = False


class LastingMemory(Protocol):
    """People known from before the run.

    Identities are `(D,)` float32 unit vectors of real people: never kept longer than the run as they are.
    """

    def recall(self, person_id: int, identity: NDArray[np.float32]) -> Recall:
        """Who is this? Whoever is returned is `person_id` for this run: nobody else is taken for them."""

    def remember(self, person_id: int, identity: NDArray[np.float32], known: Known) -> None:
        """Keep a verified direction, or the renewed one of a person who was recalled."""

    def pseudonyms(self) -> Collection[int]:
        """Rows of the bank that belong to known people."""


class PersonMemory(LastingMemory, Protocol):
    """What `FluidEditor` asks before it searches for a direction, and tells when it has found one."""

    def release(self, person_id: int) -> None:
        """The person has left the picture: who looks like them later may be them."""


def recognisable(crops: Tensor) -> Tensor:
    """Which of `(N, 3, S, S)` crops in [-1, 1] show enough of a face to tell whose it is, `(N,)` bool."""
    side = crops.shape[-1]
    rows, columns = slice(int(0.3 * side), int(0.8 * side)), slice(int(0.22 * side), int(0.78 * side))
    grey = crops[:, :, rows, columns].float().mean(1) * 127.5
    height, width = grey.shape[1] // 2, grey.shape[2] // 2
    quarters = [part.flatten(1).std(1) for row in grey.split(height, 1)[:2] for part in row.split(width, 2)[:2]]
    enough: Tensor = (grey.flatten(1).std(1) >= MIN_CONTRAST) & (torch.stack(quarters).amin(0) >= MIN_QUARTER)
    return enough


def best_match(
    similarities: NDArray[np.float64], taken: NDArray[np.bool_], threshold: float, margin: float
) -> tuple[int | None, bool]:
    """Index of the one clear match, and whether the answer is doubtful.

    Args:
        similarities: `(N,)` cosines to known people.
        taken: `(N,)` those who are somebody else in this run.
        threshold: least cosine of a match.
        margin: lead over every other.

    Returns:
        `(index, False)` for a clear match, `(None, False)` if nobody is near enough, `(None, True)` if the nearest is
        taken or another is as near.
    """
    if not len(similarities):
        return None, False
    order = np.argsort(-similarities)
    best = int(order[0])
    if not similarities[best] >= threshold:
        return None, False
    rival = similarities[order[1]] if len(order) > 1 else -np.inf
    if taken[best] or rival > similarities[best] - margin:
        return None, True
    return best, False


@dataclass(eq=False)
class _Person:
    identity: NDArray[np.float32]
    known: Known
    owner: int | None


class RunMemory:
    """`PersonMemory` of one run; what it does not know it asks `lasting`, if there is one.

    Args:
        lasting: people known from before, or None.
    """

    def __init__(self, lasting: LastingMemory | None = None) -> None:
        self.lasting = lasting
        self._people: list[_Person] = []
        self._doubtful: set[int] = set()
        self.counts: Counter[str] = Counter()

    def recall(self, person_id: int, identity: NDArray[np.float32]) -> Recall:
        if not identity.any():
            self.counts["unrecognisable"] += 1
            self._doubtful.add(person_id)
            return Recall()
        similarities = np.array([person.identity @ identity for person in self._people], dtype=np.float64)
        taken = np.array([person.owner is not None for person in self._people], dtype=bool)
        index, doubtful = best_match(similarities, taken, THRESHOLD, MARGIN)
        if index is not None:
            self._people[index].owner = person_id
            self.counts["returned"] += 1
            return Recall(self._people[index].known)
        answer = Recall(ambiguous=True) if doubtful else Recall()
        if not doubtful and self.lasting is not None:
            answer = self.lasting.recall(person_id, identity)
        if answer.ambiguous:
            self._doubtful.add(person_id)
            self.counts["ambiguous"] += 1
        elif answer.known is not None:
            self._keep(_Person(identity, answer.known, person_id))
        return answer

    def remember(self, person_id: int, identity: NDArray[np.float32], known: Known) -> None:
        if person_id in self._doubtful:
            return
        own = next((person for person in self._people if person.owner == person_id), None)
        if own is None:
            self._keep(_Person(identity, known, person_id))
        else:
            own.known, own.identity = known, identity
        if self.lasting is not None and not known.is_first:  # nobody is kept by the first few pictures
            self.lasting.remember(person_id, identity, known)

    def release(self, person_id: int) -> None:
        for person in self._people:
            if person.owner == person_id:
                person.owner = None
        self._doubtful.discard(person_id)

    def pseudonyms(self) -> Collection[int]:
        rows = {p.known.pseudonym for p in self._people if p.known.pseudonym is not None}
        return rows if self.lasting is None else rows | set(self.lasting.pseudonyms())

    def _keep(self, person: _Person) -> None:
        self._people.append(person)
        if len(self._people) > MAX_PEOPLE:
            gone = next((p for p in self._people if p.owner is None), self._people[0])
            self._people.remove(gone)
