"""Faces across the picture's edges, by fixed detectors and on a real face."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from fluidvid.assembly import make_detector
from fluidvid.config import Config
from fluidvid.models import ModelStore
from fluidvid.trackers import Detection, FaceDetector, MirroredDetector, Tracker
from fluidvid.trackers.detectors.mirrored import MARGIN
from fluidvid.trackers.types import Image
from tests.trackers.scenes import box_at, detection, points_in, texture

WHOLE = (400, 300)
"""Width and height of a picture; mirrored, at half its scale, it has another shape."""


class _Two(FaceDetector):
    """Finds these faces in the whole picture and those in the mirrored one, where they are given in its pixels."""

    name = "two"

    def __init__(
        self, plain: list[Detection], mirrored: list[Detection], hint: NDArray[np.float32] | None = None
    ) -> None:
        self._plain, self._mirrored, self._hint = plain, mirrored, hint

    @property
    def providers(self) -> tuple[str, ...]:
        return ("CPU",)

    def detect(self, image: Image) -> list[Detection]:
        return self._plain if image.shape[1::-1] == WHOLE else self._mirrored

    def detect_and_hint(self, image: Image) -> tuple[list[Detection], NDArray[np.float32]]:
        hints = [self._hint] if self._hint is not None and image.shape[1::-1] != WHOLE else []
        return self.detect(image), np.array(hints, np.float32).reshape(-1, 4)


def _look(plain: list[Detection], mirrored: list[Detection]) -> list[Detection]:
    """What is found where the mirrored look finds faces at these places of the picture."""
    placed = [
        Detection(
            (d.box / 2 + MARGIN).astype(np.float32), d.score, (d.landmarks / 2 + MARGIN).astype(np.float32), "two"
        )
        for d in mirrored
    ]
    return MirroredDetector(_Two(plain, placed)).detect(np.zeros((*WHOLE[::-1], 3), np.uint8))


def test_a_face_across_the_edge_is_added_at_its_place() -> None:
    (face,) = _look([], [detection(0, 150, score=0.8)])
    assert np.allclose(face.box, box_at(0, 150)) and face.score == 0.8
    assert np.allclose(face.landmarks, points_in(box_at(0, 150)), atol=1e-3)


def test_faces_inside_are_left_to_the_first_look_and_mirror_images_to_nobody() -> None:
    known = detection(150, 150, score=0.7)
    assert _look([known], [detection(60, 150), detection(-25, 150), detection(200, 340)]) == [known]


def test_a_face_that_both_looks_see_is_one_covered_whole_and_as_sure_as_the_surer_look() -> None:
    eyes, face = detection(15, 140, 30, 30, score=0.4), detection(0, 150, score=0.8)
    (found,) = _look([eyes], [face])
    assert np.allclose(found.box, face.box) and found.score == 0.8
    assert np.array_equal(found.landmarks, eyes.landmarks)
    sure = detection(15, 150, 30, score=0.9)
    assert _look([sure], [face]) == [sure]


def test_somebody_else_at_the_edge_is_one_more() -> None:
    assert len(_look([detection(50, 150, 60)], [detection(0, 150)])) == 2


def _traces(plain: list[Detection], trace: NDArray[np.float32], score: float = 0.3) -> list[Detection]:
    """What is found where the mirrored look has a trace of a face at `trace`, in the picture's pixels."""
    detector = _Two(plain, [], (trace / 2 + MARGIN).astype(np.float32))
    return MirroredDetector(detector, trace_score=score).detect(np.zeros((*WHOLE[::-1], 3), np.uint8))


def test_a_trace_of_a_face_across_the_edge_goes_on_with_a_track_and_begins_none() -> None:
    trace = box_at(150, 5)
    (found,) = _traces([], trace)
    assert np.allclose(found.box, trace) and found.score == 0.3
    assert np.isnan(found.landmarks).all(), "nobody saw any"
    tracker = Tracker()
    assert tracker.update(0, [found]) == []
    (begun,) = tracker.update(1, [detection(150, 15, score=0.9)])
    for frame in range(2, 200, 3):
        (face,) = tracker.update(frame, [found])
        tracker.update(frame + 1, []), tracker.update(frame + 2, [])
        assert face.track_id == begun.track_id and face.observed


def test_traces_are_none_inside_the_picture_on_known_faces_or_where_they_are_not_wanted() -> None:
    known = detection(150, 15, score=0.7)
    assert _traces([known], box_at(150, 5)) == [known]
    assert _traces([], box_at(150, 150)) == [] == _traces([], box_at(150, -25))
    assert _traces([], box_at(150, 5), score=0.0) == []


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (2, 200), (400, 1)])
def test_tiny_pictures(size: tuple[int, int]) -> None:
    detector = make_detector(Config(), ModelStore(), threads=1)
    assert detector.detect(np.full((*size, 3), 90, np.uint8)) == []


@pytest.mark.parametrize("side", ["left", "right", "bottom"])
def test_a_third_of_a_face_at_the_edge_is_a_face(clip: Path, side: str) -> None:
    """Of a face of 190 pixels; its middle lies beyond the edge."""
    with av.open(str(clip)) as container:
        picture = next(container.decode(video=0)).to_ndarray(format="rgb24")
    large = cv2.resize(picture, None, fx=3, fy=3)
    x1, y1, x2, y2 = (3 * v for v in (64.6, 35.2, 113.3, 98.9))
    scene = texture(3, 540, 960)
    if side == "left":
        part = large[:, int(x1 + 0.7 * (x2 - x1)) :]
        scene[: part.shape[0], : part.shape[1]] = part
    elif side == "right":
        part = large[:, : int(x2 - 0.7 * (x2 - x1))]
        scene[: part.shape[0], -part.shape[1] :] = part
    else:
        part = large[: int(y2 - 0.7 * (y2 - y1))]
        scene[-part.shape[0] :, 100 : 100 + part.shape[1]] = part
    (face,) = [d for d in make_detector(Config(), ModelStore(), threads=1).detect(scene) if d.score >= 0.5]
    assert face.box[0] < 5 or face.box[2] > 955 or face.box[3] > 535


@pytest.mark.shared
def test_a_mouth_whose_eyes_have_left_the_picture_stays_in_its_track(shared: Path) -> None:
    """The last 40 pictures of a cook behind her own arm, every third looked at, as files are."""
    with av.open(str(shared / "clips" / "decord_pancake.mkv")) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)][240:]
    detector, tracker = make_detector(Config(), ModelStore(), threads=1), Tracker()
    for index, picture in enumerate(pictures):
        faces = tracker.update(index, detector.detect(picture) if index % 3 == 0 else [])
        if index >= 30:
            upon = [face for face in faces if face.box[0] < 240 < face.box[2] and face.box[1] < 15 < face.box[3]]
            assert upon, f"nobody at picture {240 + index}"
