"""Between two whole looks: what is looked at closely, and when everything has to be looked at again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from fluidvid.trackers.sparse import Look, SparseDetector
from fluidvid.trackers.types import Detection, Image

NOTHING = np.zeros((0, 4), np.float32)
LANDMARKS = np.array([(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)], np.float32)


def face(x: float, y: float = 50.0, side: float = 40.0, score: float = 0.9) -> Detection:
    box = np.array([x, y, x + side, y + side], np.float32)
    return Detection(box, score, LANDMARKS * side + box[:2])


class Truth:
    """Detectors that know who is where: `people[frame]`; a picture's first pixel is its frame."""

    def __init__(self, people: dict[int, list[Detection]], blind: Sequence[int] = ()) -> None:
        self.people, self.blind = people, blind
        self.looked: list[int] = []
        self.hints = NOTHING
        self.windows: dict[int, int] = {}

    def picture(self, frame: int) -> Image:
        return np.full((1, 1, 3), frame, np.uint8)

    def pictures(self, *frames: int) -> list[Image]:
        return [self.picture(frame) for frame in frames]

    def whole(self, image: Image) -> tuple[list[Detection], NDArray[np.float32]]:
        frame = int(image[0, 0, 0])
        self.looked.append(frame)
        return self.people.get(frame, []), self.hints

    def detect(self, images: Sequence[Image], places: Sequence[NDArray[np.float32]]) -> list[list[Detection]]:
        found = []
        for image, boxes in zip(images, places, strict=True):
            frame = int(image[0, 0, 0])
            self.windows[frame] = len(boxes)
            centres = (boxes[:, :2] + boxes[:, 2:]) / 2
            found.append(
                []
                if frame in self.blind
                else [
                    d
                    for d in self.people.get(frame, [])
                    if len(centres) and np.abs(centres - (d.box[:2] + d.box[2:]) / 2).max(1).min() < 30
                ]
            )
        return found


def between(truth: Truth, first: int, last: int, also: Sequence[Detection] = ()) -> list[list[Detection]]:
    frames = range(first + 1, last)
    before, after = (Look(truth.people.get(frame, []), truth.hints) for frame in (first, last))
    return SparseDetector(truth).between(truth.pictures(*frames), before, after, also)


def test_a_face_that_both_ends_show_costs_no_whole_look_and_is_found_where_it_is() -> None:
    truth = Truth({i: [face(6.0 * i)] for i in range(6)})
    found = between(truth, 0, 5)
    assert [list(d.box) for frame in found for d in frame] == [list(face(6.0 * i).box) for i in range(1, 5)]
    assert truth.looked == [] and truth.windows == {1: 1, 2: 1, 3: 1, 4: 1}


def test_nobody_at_either_end_costs_nothing() -> None:
    truth = Truth({})
    assert between(truth, 0, 5) == [[], [], [], []]
    assert truth.looked == []


@pytest.mark.parametrize("enters", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("other", [False, True])
def test_an_entry_is_found_in_the_frame_in_which_it_happens(enters: int, other: bool) -> None:
    """Coverage of entries is what the run of whole looks would give, for fewer of them."""
    truth = Truth({i: [face(200)] * other + [face(10)] * (i >= enters) for i in range(6)})
    found = between(truth, 0, 5)
    assert [len(frame) for frame in found] == [other + (i >= enters) for i in range(1, 5)]
    assert len(truth.looked) <= 3


@pytest.mark.parametrize("leaves", [1, 2, 3, 4, 5])
def test_an_exit_is_followed_to_its_last_frame(leaves: int) -> None:
    truth = Truth({i: [face(10)] * (i < leaves) for i in range(6)})
    assert [len(frame) for frame in between(truth, 0, 5)] == [i < leaves for i in range(1, 5)]


def test_a_face_that_moves_too_far_to_be_sure_of_is_looked_for_in_whole_pictures() -> None:
    truth = Truth({i: [face(20.0 * i)] for i in range(6)})
    assert [frame[0].box[0] for frame in between(truth, 0, 5)] == [20, 40, 60, 80]
    assert truth.looked


def test_somebody_else_in_another_place_is_no_continuation() -> None:
    truth = Truth({i: [face(10)] if i < 3 else [face(300)] for i in range(6)})
    found = between(truth, 0, 5)
    assert [frame[0].box[0] for frame in found] == [10, 10, 300, 300]


def test_a_window_without_its_face_brings_the_whole_picture() -> None:
    truth = Truth({i: [face(10), face(200)] for i in range(6)}, blind=[2])
    assert [len(frame) for frame in between(truth, 0, 5)] == [2, 2, 2, 2]
    assert truth.looked == [2]


def test_one_face_in_two_windows_counts_once() -> None:
    """Two people close together: that one of them is there does not speak for the other."""
    truth = Truth({0: [face(10), face(45)], 1: [face(27)], 2: [face(10), face(45)]})
    between(truth, 0, 2)
    assert truth.looked == [1]


def test_an_unsure_face_is_looked_for_but_not_missed() -> None:
    truth = Truth({0: [face(10, score=0.4)], 1: [face(10, score=0.6)], 2: [], 3: []})
    found = between(truth, 0, 3)
    assert [len(frame) for frame in found] == [1, 0]
    assert truth.looked == []


def test_a_place_where_somebody_was_lost_is_looked_at() -> None:
    truth = Truth({1: [face(10)]})
    assert [len(frame) for frame in between(truth, 0, 3, also=[face(12)])] == [1, 0]


def test_a_hint_is_looked_at_in_the_pictures_between() -> None:
    """A face that is just below the score at both ends, and above it for one frame between them."""
    truth = Truth({2: [face(10, score=0.52)]})
    assert between(truth, 0, 4) == [[], [], []]
    truth.hints = face(12).box[None]
    assert [len(frame) for frame in between(truth, 0, 4)] == [0, 1, 0]
    assert truth.looked == []
