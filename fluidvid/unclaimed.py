"""Confident detections that no track claims: covered all the same, whatever the tracker makes of them.

A tracker may wait for a second look before it confirms a face. Until then the detection becomes a track of its own,
with an id from `FIRST_ID` up; where a real track turns out to cover the place, the real one is kept alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from fluidvid.trackers.detectors.base import iou_matrix
from fluidvid.trackers.types import Detection, TrackedFace

FIRST_ID = 1_000_000_000
OVERLAP = 0.3


def with_unclaimed(
    faces: Sequence[TrackedFace], detections: Iterable[Detection], *, frame: int, score: float, next_id: int
) -> list[TrackedFace]:
    """The tracker's faces, and one new face per detection of at least `score` that overlaps none of them.

    Args:
        faces: what the tracker returned for this frame.
        detections: what it was given.
        frame: index of the frame.
        score: detections below it are only good for continuing a track.
        next_id: id of the first new track; the caller counts on from the number of faces added.
    """
    found = list(faces)
    sure = [detection for detection in detections if detection.score >= score]
    if not sure:
        return found
    boxes = np.array([*(face.box for face in faces), *(detection.box for detection in sure)], np.float32)
    apart = iou_matrix(boxes[len(faces) :], boxes) < OVERLAP
    rows = list(range(len(faces)))  # of `boxes`: those found
    for index, detection in enumerate(sure):
        if apart[index, rows].all():
            track = next_id + len(found) - len(faces)
            found.append(TrackedFace(track, frame, detection.box, detection.landmarks, detection.score, True))
            rows.append(len(faces) + index)
    return found


def duplicates(tracks: NDArray[np.int32], boxes: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which faces of one frame are unclaimed detections whose place another face already covers.

    Args:
        tracks: `(N,)` ids in rising order, so that real tracks come first.
        boxes: `(N, 4)`.

    Returns:
        `(N,)` bool.
    """
    dropped = np.zeros(len(tracks), dtype=bool)
    for i in np.flatnonzero(tracks >= FIRST_ID):
        dropped[i] = bool((iou_matrix(boxes[i : i + 1], boxes[:i][~dropped[:i]]) >= OVERLAP).any())
    return dropped
