"""The first pass looks at every frame that it must, hands all of them out in order, and holds few of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fluidvid import inspection
from fluidvid.errors import DetectionError
from fluidvid.inspection import Inspected, inspect
from fluidvid.trackers.types import Detection
from tests.fluidvid.fakes import Rig

BOX = np.array([10, 10, 50, 50], np.float32)
FACE = Detection(BOX, 0.9, np.zeros((5, 2), np.float32))


@dataclasses.dataclass(eq=False)
class Numbered:
    """A frame whose picture says its number."""

    index: int
    rate: int = 25

    @property
    def pts(self) -> int:
        return self.index

    @property
    def time(self) -> Fraction:
        return Fraction(self.index, self.rate)

    def rgb(self) -> NDArray[np.uint8]:
        return np.full((64, 64, 3), self.index, np.uint8)


class Eyes:
    """Detector, near detector and cuts in one; remembers what was looked at."""

    def __init__(self, cuts: Sequence[int] = (), broken: int | None = None) -> None:
        self.cuts, self.broken = cuts, broken
        self.wholly: list[int] = []
        self.closely: list[int] = []

    def detect(self, image: Any, places: Any = None) -> Any:
        if places is None:
            index = int(image[0, 0, 0])
            if index == self.broken:
                raise RuntimeError("broken")
            self.wholly.append(index)
            return [FACE]
        self.closely += [int(picture[0, 0, 0]) for picture in image]
        return [[FACE] for _ in image]

    def whole(self, image: NDArray[np.uint8]) -> tuple[list[Detection], NDArray[np.float32]]:
        return self.detect(image), np.zeros((0, 4), np.float32)

    def update(self, image: NDArray[np.uint8]) -> bool:
        return int(image[0, 0, 0]) in self.cuts


def look(eyes: Eyes, count: int = 23, *, every: int = 5, workers: int = 1, rate: int = 25) -> list[Inspected]:
    stages = dataclasses.replace(Rig().stages(), detector=eyes, near=eyes, cuts=eyes, workers=workers)
    return list(inspect((Numbered(i, rate) for i in range(count)), stages, every=every, sure_score=0.5))


@pytest.mark.parametrize("workers", [1, 2])
def test_every_frame_comes_out_once_in_order_with_its_faces(workers: int) -> None:
    eyes = Eyes(cuts=[12])
    found = look(eyes, workers=workers)
    assert [item.frame.index for item in found] == list(range(23))
    assert [int(item.rgb[0, 0, 0]) for item in found] == list(range(23))
    assert all(len(item.detections) == 1 for item in found)
    assert [item.frame.index for item in found if item.cut] == [12]
    assert sorted(eyes.wholly + eyes.closely) == list(range(23))


@pytest.mark.parametrize("workers", [1, 2])
def test_first_and_last_frame_and_both_sides_of_a_cut_are_looked_at_as_a_whole(workers: int) -> None:
    eyes = Eyes(cuts=[12, 13])
    look(eyes, workers=workers)
    assert sorted(eyes.wholly) == [0, 5, 10, 11, 12, 13, 18, 22]


def test_every_1_looks_at_everything() -> None:
    eyes = Eyes()
    look(eyes, every=1)
    assert eyes.wholly == list(range(23)) and eyes.closely == []


def test_at_a_low_frame_rate_whole_looks_are_closer_together() -> None:
    eyes = Eyes()
    look(eyes, rate=10)
    assert eyes.wholly == list(range(0, 23, 2))


def test_large_pictures_are_held_in_smaller_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "BUDGET", 2 * 64 * 64 * 3 * 3 // 2)
    eyes = Eyes()
    look(eyes)
    assert eyes.wholly == list(range(0, 23, 2))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("broken", [0, 10, 22])
def test_a_detector_that_fails_stops_the_run_and_names_the_frame(broken: int, workers: int) -> None:
    with pytest.raises(DetectionError, match=f"frame {broken} "):
        look(Eyes(broken=broken), workers=workers)


def test_the_source_is_not_read_further_than_the_frames_under_inspection() -> None:
    read: list[int] = []

    def source() -> Iterator[Numbered]:
        for i in range(200):
            read.append(i)
            yield Numbered(i)

    eyes = Eyes()
    stages = dataclasses.replace(Rig().stages(), detector=eyes, near=eyes, cuts=None)
    ahead = [len(read) - done for done, _ in enumerate(inspect(source(), stages, every=5, sure_score=0.5))]
    assert len(ahead) == 200 and max(ahead) <= 6


def test_a_lost_face_is_looked_for_where_it_was() -> None:
    """Its place is handed to every window look of the next thirty frames, until it is found again."""
    places: dict[int, int] = {}

    class Loses(Eyes):
        def detect(self, image: Any, at: Any = None) -> Any:
            if at is None:
                return [FACE] if int(image[0, 0, 0]) < 8 else []
            for picture, boxes in zip(image, at, strict=True):
                places[int(picture[0, 0, 0])] = len(boxes)
            return [[] for _ in image]

    look(Loses(), count=60)
    assert {i for i, n in places.items() if n} >= {11, 12, 16, 37}
    assert all(n == 0 for i, n in places.items() if i > 41)
