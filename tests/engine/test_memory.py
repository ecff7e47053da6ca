"""Who is who: clear matches return, doubtful ones become somebody new, two people are never one."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fluidvid.engine.cache import Known, Provenance
from fluidvid.engine.memory import MAX_PEOPLE, MIN_CONTRAST, Recall, RunMemory, _Person, best_match, recognisable

Identity = NDArray[np.float32]


def person(seed: int, dimension: int = 64) -> Identity:
    vector = np.random.default_rng(seed).normal(size=dimension)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def mixed(a: Identity, b: Identity, cosine: float) -> Identity:
    """A unit vector at that cosine to `a`, in the direction of `b`."""
    rest = b - (a @ b) * a
    return np.asarray(cosine * a + np.sqrt(1 - cosine**2) * rest / np.linalg.norm(rest), np.float32)


def known(row: int | None = None) -> Known:
    return Known(torch.zeros(2, 3), torch.zeros(4), row, Provenance("basis"))


@pytest.mark.parametrize(
    ("cosines", "taken", "answer"),
    [
        ([], [], (None, False)),
        ([0.2, 0.49], [0, 0], (None, False)),
        ([0.2, 0.6], [0, 0], (1, False)),
        ([0.55, 0.6], [0, 0], (None, True)),
        ([0.45, 0.52], [0, 0], (None, True)),
        ([0.2, 0.6], [0, 1], (None, True)),
        ([0.52, 0.9], [1, 0], (1, False)),
        ([0.9, 0.52], [1, 0], (None, True)),
        ([np.nan, 0.2], [0, 0], (None, False)),
    ],
)
def test_best_match(cosines: list[float], taken: list[int], answer: tuple[int | None, bool]) -> None:
    assert best_match(np.array(cosines), np.array(taken, bool), 0.5, 0.1) == answer


def test_nobody_is_taken_for_somebody_who_is_still_there() -> None:
    memory = RunMemory()
    a = person(0)
    assert memory.recall(1, a).known is None
    memory.remember(1, a, known(5))
    answer = memory.recall(2, a)
    assert answer.known is None and answer.ambiguous
    assert memory.counts["ambiguous"] == 1


def test_who_left_and_returns_has_the_same_pseudonym() -> None:
    memory = RunMemory()
    a = person(0)
    first = known(5)
    memory.recall(1, a)
    memory.remember(1, a, first)
    memory.release(1)
    again = memory.recall(2, mixed(a, person(1), 0.8))
    assert again.known is first and not again.ambiguous
    assert memory.recall(3, a).ambiguous, "2 wears it now"
    memory.release(2)
    assert memory.recall(4, a).known is first
    assert memory.counts["returned"] == 2


def test_between_two_people_is_somebody_new_and_is_not_kept() -> None:
    memory = RunMemory()
    a, b = person(0), person(1)
    for track, vector in ((1, a), (2, b)):
        memory.recall(track, vector)
        memory.remember(track, vector, known(track))
        memory.release(track)
    between = mixed(a, b, float(np.cos(np.pi / 4)))
    answer = memory.recall(3, between)
    assert answer.known is None and answer.ambiguous and memory.counts["ambiguous"] == 1
    memory.remember(3, between, known(3))
    assert set(memory.pseudonyms()) == {1, 2}


def test_a_face_of_which_nothing_is_seen_is_nobodys() -> None:
    memory = RunMemory()
    nothing = np.zeros(64, np.float32)
    assert memory.recall(1, nothing).known is None
    memory.remember(1, nothing, known(1))
    memory.release(1)
    assert memory.recall(2, nothing).known is None
    assert memory.counts["unrecognisable"] == 2 and not memory.pseudonyms()


class _Lasting:
    def __init__(self, answer: Recall) -> None:
        self.answer = answer
        self.asked: list[int] = []
        self.told: list[int] = []

    def recall(self, person_id: int, identity: Identity) -> Recall:
        self.asked.append(person_id)
        return self.answer

    def remember(self, person_id: int, identity: Identity, known: Known) -> None:
        self.told.append(person_id)

    def pseudonyms(self) -> Collection[int]:
        return {99}


def test_lasting_memory_is_asked_second_and_told_of_the_new() -> None:
    lasting = _Lasting(Recall())
    memory = RunMemory(lasting)
    a = person(0)
    assert memory.recall(1, a).known is None
    memory.remember(1, a, known(5))
    memory.release(1)
    assert memory.recall(2, a).known is not None
    assert lasting.asked == [1] and lasting.told == [1]
    assert set(memory.pseudonyms()) == {5, 99}


def test_doubt_of_the_lasting_memory_is_counted_and_the_person_not_kept() -> None:
    lasting = _Lasting(Recall(ambiguous=True))
    memory = RunMemory(lasting)
    assert memory.recall(1, person(0)).ambiguous
    memory.remember(1, person(0), known(5))
    assert memory.counts["ambiguous"] == 1 and lasting.told == [] and set(memory.pseudonyms()) == {99}


def test_memory_is_bounded_and_who_left_goes_first() -> None:
    memory = RunMemory()
    vectors = {track: person(track) for track in range(MAX_PEOPLE + 1)}
    for track, vector in vectors.items():
        memory._keep(_Person(vector, known(track), None if track == 3 else track))
    assert len(memory._people) == MAX_PEOPLE and 3 not in memory.pseudonyms()


def test_dark_and_flat_faces_are_not_recognisable() -> None:
    pattern = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32)).mean(1, True)
    pattern = (pattern / pattern.std()).expand(1, 3, 64, 64)
    crops = torch.cat([pattern * grey / 127.5 for grey in (0.0, MIN_CONTRAST * 0.8, MIN_CONTRAST * 1.2)])
    assert recognisable(crops).tolist() == [False, False, True]


def test_a_bright_hand_does_not_make_a_dark_face_recognisable() -> None:
    pattern = torch.from_numpy(np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)) / 127.5
    dark, lit = 3 * pattern - 0.8, 20 * pattern
    hand = dark.clone()
    hand[:, 40:] = 0.9 + 20 * pattern[:, 40:]
    crops = torch.stack([dark, hand, lit])[:, None].expand(3, 3, 64, 64)
    assert float((crops[1, 0, 20:50, 15:49] * 127.5).std()) > MIN_CONTRAST, "all in all it has contrast enough"
    assert recognisable(crops).tolist() == [False, False, True]
