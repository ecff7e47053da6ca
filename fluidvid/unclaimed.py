"""Confident detections that no track claims: covered all the same, whatever the tracker makes of them.

A tracker may wait for a second look before it confirms a face. Until then the detection becomes a track of its own,
with an id from `FIRST_ID` up; where a real track turns out to cover the place, the real one is kept alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from fluidvid.trackers.types import Detection, TrackedFace

FIRST_ID = 1_000_000_000
OVERLAP = 0.3


def iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Intersection over union of two `(4,)` boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    inter = float(width * height)
    return inter / float((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


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
    for detection in detections:
        if detection.score >= score and all(iou(detection.box, face.box) < OVERLAP for face in found):
            track = next_id + len(found) - len(faces)
            found.append(TrackedFace(track, frame, detection.box, detection.landmarks, detection.score, True))
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
        dropped[i] = any(not dropped[j] and iou(boxes[i], boxes[j]) >= OVERLAP for j in range(i))
    return dropped
