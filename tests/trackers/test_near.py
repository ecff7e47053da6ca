"""Windows: where they lie, what they share, and that the networks see in them what they see in the whole picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fluidvid.trackers.detectors.base import WINDOW
from fluidvid.trackers.detectors.near import NearDetector
from fluidvid.trackers.types import Detection, Image

SPOT = (250, 10, 20)


class Spots:
    """Finds the one bright spot of a window, as a refined detector would a face."""

    def __init__(self) -> None:
        self.windows: list[Image] = []

    def detect_roughly(self, images: NDArray[np.uint8]) -> list[list[Detection]]:
        assert images.shape[1:] == (WINDOW, WINDOW, 3) and images.dtype == np.uint8
        self.windows += list(images)
        return [self._spot(image) for image in images]

    def _spot(self, image: Image) -> list[Detection]:
        rows, columns = np.nonzero(image[..., 0] > 200)
        if not len(rows):
            return []
        box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32)
        return [Detection(box, 0.9, np.tile((box[:2] + box[2:]) / 2, (5, 1)))]

    def refine(self, images: Sequence[Image], found: Any, *, min_side: float) -> Any:
        return [list(faces) for faces in found]


def scene(box: tuple[int, int, int, int], size: tuple[int, int] = (720, 1280)) -> Image:
    picture = np.zeros((*size, 3), np.uint8)
    x1, y1, x2, y2 = box
    picture[max(0, y1) : y2, max(0, x1) : x2] = SPOT
    return picture


def look(picture: Image, *places: tuple[float, float, float, float]) -> tuple[list[Detection], int]:
    spots: Any = Spots()
    found = NearDetector(spots).detect([picture], [np.array(places, np.float32).reshape(-1, 4)])
    return found[0], len(spots.windows)


@pytest.mark.parametrize("box", [(400, 300, 440, 340), (2, 3, 42, 43), (1238, 678, 1278, 718), (401, 303, 460, 359)])
def test_a_small_face_comes_back_to_the_pixel_wherever_it_is(box: tuple[int, int, int, int]) -> None:
    found, windows = look(scene(box), (box[0] + 6.0, box[1] - 5.0, box[2] + 6.0, box[3] - 5.0))
    assert windows == 1 and [tuple(d.box) for d in found] == [box]


@pytest.mark.parametrize(("side", "size"), [(300, (720, 1280)), (80, (1080, 1920)), (500, (2160, 3840))])
def test_a_large_face_or_picture_is_scaled_and_its_place_is_right(side: int, size: tuple[int, int]) -> None:
    box = (100, 120, 100 + side, 120 + side)
    found, _ = look(scene(box, size), tuple(float(v) for v in box))  # type: ignore[arg-type]
    assert np.abs(found[0].box - box).max() <= 0.02 * side + 2


def test_a_face_beyond_the_edge_is_looked_at_in_a_padded_window() -> None:
    found, _ = look(scene((-20, 300, 20, 340)), (-20.0, 300.0, 20.0, 340.0))
    assert tuple(found[0].box) == (0, 300, 20, 340)


def test_places_close_together_share_a_window_and_distant_ones_do_not() -> None:
    assert look(scene((400, 300, 420, 320)), (400, 300, 420, 320), (430, 305, 450, 325))[1] == 1
    assert look(scene((400, 300, 420, 320)), (400, 300, 420, 320), (700, 305, 720, 325))[1] == 2


def test_one_face_seen_in_two_windows_is_one_face() -> None:
    found, windows = look(scene((400, 300, 450, 350)), (400, 300, 450, 350), (450, 300, 500, 350))
    assert windows == 2 and len(found) == 1


def test_a_face_that_the_window_cuts_is_left_to_its_own_window() -> None:
    """The spot reaches across the window's rim, away from its middle."""
    found, _ = look(scene((470, 300, 600, 340)), (400, 300, 440, 340))
    assert found == []


def test_no_places_cost_nothing() -> None:
    found, windows = look(scene((0, 0, 9, 9)))
    assert found == [] and windows == 0


class Pair(Spots):
    """Finds two faces that overlap by a third in every window, beside the spot."""

    def _spot(self, image: Image) -> list[Detection]:
        return [
            Detection(face.box + np.array([x, 0, x, 0], np.float32), 0.9 - x / 100, face.landmarks, "")
            for face in super()._spot(image)
            for x in (0, 20)
        ]


def test_two_people_who_overlap_stay_two() -> None:
    """As in a whole picture: or every picture between two whole ones would be looked at whole, too."""
    spots: Any = Pair()
    places = np.array([(400, 300, 440, 340), (420, 300, 460, 340)], np.float32)
    picture = scene((400, 300, 440, 340))
    found = NearDetector(spots).detect([picture], [places])[0]
    assert [tuple(d.box) for d in found] == [(400, 300, 440, 340), (420, 300, 460, 340)]
    found = NearDetector(spots).detect([picture], [np.append(places, [(600, 300, 640, 340)], axis=0)])[0]
    assert len(found) == 2, "nobody is two for being seen in two windows"
