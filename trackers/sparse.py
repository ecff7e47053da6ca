"""Detection in a run of pictures without looking at all of every one, and without losing a face by it.

Whole pictures are looked at every few frames. In between, windows are laid around the places of the faces that both
whole pictures show. Wherever that could miss something, a whole picture is looked at instead: where the two do not show
the same faces (somebody came or went: the run is halved), and in any picture in which a window does not find its face.
What can be missed is a face that appears and is gone again between two whole pictures of one shot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from fluidvid.trackers.detectors.base import boxes_of
from fluidvid.trackers.types import Detection, Image

NEAR = 1.0
"""Distance of centres, in sides of the larger box, within which two detections may be one face."""
FOUND = 0.6
"""The same for a face found in a window and its expected place."""
SIZE_RATIO = 0.5
"""Least ratio of the sides of two detections of one face."""


class Look(NamedTuple):
    """What a whole picture shows: faces, and `(M, 4)` boxes of places that were not quite enough for one."""

    faces: Sequence[Detection]
    hints: NDArray[np.float32]


class Eyes(Protocol):
    """Looks at whole pictures and near places; see `NearDetector`."""

    def whole(self, image: Image) -> tuple[list[Detection], NDArray[np.float32]]: ...

    def detect(self, images: Sequence[Image], places: Sequence[NDArray[np.float32]]) -> list[list[Detection]]: ...


class SparseDetector:
    """Fills the pictures between two that were looked at as a whole. Holds no state: safe to call from several threads.

    Args:
        eyes: look at whole pictures and at windows of pictures.
        sure_score: score of a face that must not be missed; less sure ones are looked for, but not missed.
    """

    def __init__(self, eyes: Eyes, *, sure_score: float = 0.5) -> None:
        self._eyes, self._sure = eyes, sure_score

    def whole(self, image: Image) -> Look:
        """One picture, looked at as a whole."""
        return Look(*self._eyes.whole(image))

    def between(
        self, images: Sequence[Image], first: Look, last: Look, also: Sequence[Detection] = ()
    ) -> list[list[Detection]]:
        """Faces of the pictures between two.

        Args:
            images: `(H, W, 3)` uint8 RGB each, of one shot.
            first: what the picture before them shows.
            last: what the picture behind them shows.
            also: further places where a face may be, for instance where one was lost not long ago.

        Returns:
            one list of faces per picture.
        """
        if not images:
            return []
        before, after = first.faces, last.faces
        pairs = paired(before, after)
        ends = {i for i, _ in pairs}, {j for _, j in pairs}
        alone = [
            face
            for faces, known in zip((before, after), ends, strict=True)
            for i, face in enumerate(faces)
            if i not in known
        ]
        if any(face.score >= self._sure for face in alone):
            half = len(images) // 2
            middle = self.whole(images[half])
            begun = self.between(images[:half], first, middle, also)
            return [*begun, list(middle.faces), *self.between(images[half + 1 :], middle, last, also)]
        couples = [(before[i], after[j]) for i, j in pairs]
        due = np.array([max(a.score, b.score) >= self._sure for a, b in couples], dtype=bool)
        extra = np.concatenate([boxes_of([*alone, *also]), first.hints, last.hints])
        expected = [
            np.stack([(1 - share) * a.box + share * b.box for a, b in couples]).astype(np.float32)
            if couples
            else np.zeros((0, 4), np.float32)
            for share in (np.arange(1, len(images) + 1) / (len(images) + 1)).tolist()
        ]
        places = [np.concatenate([boxes, extra]) for boxes in expected]
        found = self._eyes.detect(images, places)
        for i, image in enumerate(images):
            if not _all_there(expected[i][due], found[i]):
                found[i] = list(self.whole(image).faces)
        return found


def paired(before: Sequence[Detection], after: Sequence[Detection]) -> list[tuple[int, int]]:
    """Which detections of two pictures may be the same face, nearest first over all; indices of either."""
    return _matched(boxes_of(before), boxes_of(after), NEAR)


def _all_there(expected: NDArray[np.float32], found: Sequence[Detection]) -> bool:
    """Every expected box has a face of its own among those found."""
    return len(_matched(expected, boxes_of(found), FOUND)) == len(expected)


def _matched(a: NDArray[np.float32], b: NDArray[np.float32], limit: float) -> list[tuple[int, int]]:
    """One-to-one pairs of `(N, 4)` and `(M, 4)` boxes with centres within `limit` of the larger side."""
    if not len(a) or not len(b):
        return []
    centres = [(x[:, :2] + x[:, 2:]) / 2 for x in (a, b)]
    sides = [np.maximum((x[:, 2:] - x[:, :2]).max(1), 1.0) for x in (a, b)]
    distance = np.linalg.norm(centres[0][:, None] - centres[1][None], axis=2)
    distance = distance / np.maximum(sides[0][:, None], sides[1][None])
    ratio = np.minimum(sides[0][:, None] / sides[1][None], sides[1][None] / sides[0][:, None])
    allowed = (distance <= limit) & (ratio >= SIZE_RATIO)
    rows, columns = linear_sum_assignment(np.where(allowed, distance, 1e3))
    return [(int(r), int(c)) for r, c in zip(rows, columns, strict=True) if allowed[r, c]]
