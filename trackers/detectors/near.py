"""Looks for faces in small windows around places where they should be: a fraction of the cost of a whole picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fluidvid.trackers.detectors.base import LARGEST, STRIDE, WINDOW, boxes_of, fitting_scale, iou_matrix
from fluidvid.trackers.detectors.refined import MIN_SIDE, RefinedDetector
from fluidvid.trackers.types import Detection, Image

ROOM = 1.0
"""Room around a face, in its sides, with which another face's window shows it well enough."""
OVERLAP = 0.3
"""From which faces of two windows are one. Those of one window are as many as the detector says."""
BATCH = 8
"""Windows that go through the network at once."""


@dataclass(frozen=True)
class _Window:
    picture: int
    x: int
    y: int
    side: int
    """All in pixels of the picture."""


class NearDetector:
    """The same networks as a whole picture's, on windows of one size that all go through them in batches.

    A window shows its face at the scale of the whole picture and on the same grid of the networks, so that the scores
    are alike; only faces that are large at that scale are scaled down.

    Args:
        detector: the one that looks at whole pictures.
        long_side: to which it scales them down.
        min_refined: faces with a shorter side below it, in pixels, keep the detector's landmarks, see
            `RefinedDetector.refine`.
    """

    def __init__(self, detector: RefinedDetector, *, long_side: int = 1280, min_refined: float = MIN_SIDE) -> None:
        self._detector, self._long_side = detector, long_side
        self._min_refined = max(MIN_SIDE, min_refined)

    def whole(self, image: Image) -> tuple[list[Detection], NDArray[np.float32]]:
        """Faces of a whole picture, and `(M, 4)` boxes of places worth a look in the pictures around it."""
        return self._detector.detect_and_hint(image)

    def detect(self, images: Sequence[Image], places: Sequence[NDArray[np.float32]]) -> list[list[Detection]]:
        """Faces near the given places of several pictures.

        Args:
            images: pictures `(H, W, 3)` uint8 RGB.
            places: for each picture `(N, 4)` boxes where faces should be, pixels, possibly beyond the edges.

        Returns:
            for each picture its faces, best first. Faces that a window cuts through are left out unless they are at
            its middle.
        """
        windows: list[_Window] = []
        for picture, (image, boxes) in enumerate(zip(images, places, strict=True)):
            scale = fitting_scale(image, self._long_side)
            own: list[_Window] = []
            for box in boxes:
                window = _window(picture, box, scale)
                if not any(_shows(other, window, box) for other in own):
                    own.append(window)
            windows += own
        found: list[list[list[Detection]]] = [[] for _ in images]
        for begin in range(0, len(windows), BATCH):
            group = windows[begin : begin + BATCH]
            cut = np.stack([_cut(images[window.picture], window) for window in group])
            for window, faces in zip(group, self._detector.detect_roughly(cut), strict=True):
                found[window.picture].append([_placed(face, window) for face in faces if _whole(face)])
        return self._detector.refine(images, [_joined(of_one) for of_one in found], min_side=self._min_refined)


def _window(picture: int, box: NDArray[np.float32], whole: float) -> _Window:
    """The window around a face, for pictures that are scaled by `whole` when they are looked at as a whole."""
    scale = min(whole, LARGEST / float((box[2:] - box[:2]).max()))
    step = STRIDE / scale  # the networks' grid in pixels of the picture
    side = WINDOW / scale
    x, y = np.rint(np.rint(((box[:2] + box[2:] - side) / 2) / step) * step).astype(int)
    return _Window(picture, int(x), int(y), round(side))


def _shows(other: _Window, own: _Window, box: NDArray[np.float32]) -> bool:
    """Whether another window shows a place as its own one would: at the same scale, with room around it."""
    room = ROOM * float((box[2:] - box[:2]).max())
    corner = np.array([other.x, other.y])
    inside = bool((box[:2] - room >= corner).all() and (box[2:] + room <= corner + other.side).all())
    return other.side == own.side and inside


def _cut(image: Image, window: _Window) -> Image:
    """`(WINDOW, WINDOW, 3)`; what lies outside the picture is black, as the padding of a whole picture is."""
    height, width = image.shape[:2]
    x, y, side = window.x, window.y, window.side
    left, top, right, bottom = max(0, x), max(0, y), min(width, x + side), min(height, y + side)
    part = np.zeros((side, side, 3), dtype=np.uint8)
    if left < right and top < bottom:
        part[top - y : bottom - y, left - x : right - x] = image[top:bottom, left:right]
    if side == WINDOW:
        return part
    how = cv2.INTER_AREA if side > WINDOW else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(part, (WINDOW, WINDOW), interpolation=how), dtype=np.uint8)


def _whole(face: Detection) -> bool:
    """Inside the window, in its pixels; a face at its middle counts even if it is larger than expected."""
    x1, y1, x2, y2 = (float(v) for v in face.box)
    inside = min(x1, y1) > 0 and max(x2, y2) < WINDOW
    middle = WINDOW / 2
    return inside or (x1 < middle < x2 and y1 < middle < y2)


def _joined(found: Sequence[Sequence[Detection]]) -> list[Detection]:
    """Faces of several windows of one picture, best first, without those that another window shows better."""
    faces = [(face, window) for window, of_one in enumerate(found) for face in of_one]
    faces.sort(key=lambda pair: -pair[0].score)
    boxes = boxes_of([face for face, _ in faces])
    windows = np.array([window for _, window in faces])
    same = (iou_matrix(boxes, boxes) > OVERLAP) & (windows[:, None] != windows[None])
    kept: list[int] = []
    for index in range(len(faces)):
        if not same[index, kept].any():
            kept.append(index)
    return [faces[index][0] for index in kept]


def _placed(face: Detection, window: _Window) -> Detection:
    """From the window's pixels to the picture's."""
    scale = np.float32(window.side / WINDOW)
    corner = np.array([window.x, window.y], np.float32)
    box = face.box * scale + np.tile(corner, 2)
    return Detection(box, face.score, face.landmarks * scale + corner, face.source)
