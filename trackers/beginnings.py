"""What a track was before it was sure: the unsure detections of the pictures before, gone through backwards.

Unsure detections go on with a track, but only a sure one begins it. Who comes nearer, turns towards the camera or steps
into the light was mostly found for a while before: where those pictures have not left yet, these faces are the track's.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from fluidvid.rate import USUAL_RATE
from fluidvid.trackers.detectors.base import boxes_of, iou_matrix
from fluidvid.trackers.tracking import MIN_OVERLAP_LOW, alike_in_size
from fluidvid.trackers.types import Detection, TrackedFace

REMEMBERED = 250
"""Pictures whose unsure detections are kept, of 25 a second; more where there are more."""
TAKEN = 0.3
"""Overlap with a tracked face from which an unsure detection is that face, or covered by it."""


class Beginnings:
    """Finds the unsure beginnings of new tracks, whatever tracker begins them, as long as its ids rise.

    Args:
        low_score: detections from here may be a face.
        high_score: detections from here are sure, and no concern of this.
        reach: frames between two detections of one face, at most; a gap that will be filled.
        rate: frames per second.
    """

    def __init__(
        self, *, low_score: float = 0.3, high_score: float = 0.5, reach: int = 30, rate: float = USUAL_RATE
    ) -> None:
        self._low, self._high, self._reach = low_score, high_score, reach
        remembered = math.ceil(REMEMBERED * max(1.0, rate / USUAL_RATE))
        self._loose: deque[tuple[int, list[Detection]]] = deque(maxlen=remembered)
        self._newest = -1

    def update(
        self, frame: int, detections: Sequence[Detection], faces: Sequence[TrackedFace], *, cut: bool = False
    ) -> list[TrackedFace]:
        """Take in one frame.

        Args:
            frame: its index.
            detections: faces found in it.
            faces: what the tracker made of them.
            cut: it begins a new shot: nothing before it belongs to it.

        Returns:
            faces of earlier frames that belong to tracks which begin in this one, the latest first for each.
        """
        if cut:
            self._loose.clear()
        begun = [face for face in faces if face.observed and face.track_id > self._newest]
        self._newest = max([self._newest, *(face.track_id for face in faces)])
        earlier = [before for face in begun for before in self._before(face)]
        unsure = [found for found in detections if self._low <= found.score < self._high]
        if unsure:
            overlap = iou_matrix(boxes_of(unsure), boxes_of(faces))
            free = [found for found, of_one in zip(unsure, overlap, strict=True) if not (of_one >= TAKEN).any()]
            if free:
                self._loose.append((frame, free))
        return earlier

    def _before(self, face: TrackedFace) -> list[TrackedFace]:
        """A face's unsure detections, taken out of those that are left."""
        found: list[TrackedFace] = []
        latest = face
        for frame, free in reversed(self._loose):
            if latest.frame - frame > self._reach + 1:
                break
            boxes = boxes_of(free)
            fitting = iou_matrix(latest.box[None], boxes)[0] * alike_in_size(latest.box[None], boxes)[0]
            if fitting.max(initial=0.0) < MIN_OVERLAP_LOW:
                continue
            own = free.pop(int(fitting.argmax()))
            latest = TrackedFace(face.track_id, frame, own.box, own.landmarks, own.score, True)
            found.append(latest)
        return found
