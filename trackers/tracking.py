"""Follow faces from frame to frame: Kalman prediction and two-stage association, after ByteTrack (arXiv 2110.06864).

First the sure detections are matched by overlap and appearance, then the unsure ones by overlap alone with the tracks
that are left. A sure detection that fits no track starts one at once: in this house a false face costs a mask, a
missed one costs a person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from fluidvid.rate import USUAL_RATE
from fluidvid.trackers.detectors.base import iou_matrix
from fluidvid.trackers.motion import BoxMotion
from fluidvid.trackers.types import Detection, TrackedFace

APPEARANCE_MEMORY = 0.9
APPEARANCE_WEIGHT = 0.5
MIN_OVERLAP = 0.15
MIN_OVERLAP_LOW = 0.2
"""A young track knows no speed yet: a face lost for three frames may be half a width away when it is seen again."""
NEAR = 1.0
"""A face further than this many of its sides from where it is expected in the next frame is another one, whatever it
looks like."""
STRAYING = 0.25
"""By how many of its sides more a face may be away for each further frame in which nobody saw it: a walker's pace."""
LIKENESS = 0.56
"""Cosine from which an appearance counts as the same without overlap (fast motion, long gap)."""
UNLIKE, SMALL_UNLIKE = 0.4, 0.15
"""Cosine below which two faces are two people, wherever they are: who steps in front of another, or takes their place
in a dissolve, is not them. By `identity_student_3` others on a street have .19 in the median and .57 in one of a
hundred cases, the same large face ten frames later .42 at least; on a face smaller than `LARGE`, which changes with
every blur, less has to do."""
LARGE = 80.0
"""Shorter side of a box in pixels."""
MIN_SIZE_RATIO = 0.5
CLEAR_OVERLAP = 0.5
"""A detection that overlaps one track by this and no other by `TOUCHING` is that track's, whatever it looks like."""
TOUCHING = 0.05
YOUNG = 5
"""Appearances that a track gathers in its first frames, one per frame."""
RENEWED = 10
"""Frames after which a track's appearance is renewed."""


@dataclass(eq=False)
class _Track:
    id: int
    motion: BoxMotion
    landmarks: NDArray[np.float32]  # in the last observed box
    anchor: NDArray[np.float32]
    appearance: NDArray[np.float32] | None
    missed: int = 0
    looks: int = 0
    unlooked: int = 0

    def face(self, frame: int, detection: Detection | None) -> TrackedFace:
        if detection is not None:
            return TrackedFace(self.id, frame, detection.box, detection.landmarks, detection.score, True)
        box = self.motion.box
        return TrackedFace(self.id, frame, box, carried(self.landmarks, self.anchor, box), 0.0, False)


class Tracker:
    """Online tracker of faces.

    Args:
        high_score: detections from here are sure: they start tracks.
        low_score: detections from here continue tracks.
        max_missed: frames a track lives on predictions before it ends, of 25 a second; more where there are more.
        appearance_weight: share of appearance in the matching cost where embeddings are given.
        rate: frames per second: the fewer, the further a face moves between two of them; may be set later.
    """

    def __init__(
        self,
        *,
        high_score: float = 0.5,
        low_score: float = 0.3,
        max_missed: int = 30,
        appearance_weight: float = APPEARANCE_WEIGHT,
        rate: float = USUAL_RATE,
    ) -> None:
        self._high, self._low, self._max_missed = high_score, low_score, max_missed
        self._weight = appearance_weight
        self.rate = rate
        self._tracks: list[_Track] = []
        self._next = 1

    def update(
        self,
        frame_index: int,
        detections: Sequence[Detection],
        embeddings: NDArray[np.float32] | None = None,
        scene_cut: bool = False,
    ) -> list[TrackedFace]:
        """Take in one frame.

        Args:
            frame_index: index of the frame.
            detections: faces found in it; empty also where the detector did not look.
            embeddings: `(N, D)` unit float32 of the detections, or None.
            scene_cut: all tracks end before this frame.

        Returns:
            one face per living track: observed, or held at the predicted place.
        """
        if scene_cut:
            self._tracks = []
        for track in self._tracks:
            track.motion.predict()
            track.missed += 1
            track.unlooked += 1
        sure = [i for i, d in enumerate(detections) if d.score >= self._high]
        unsure = [i for i, d in enumerate(detections) if self._low <= d.score < self._high]
        taken: dict[int, int] = {}  # index of track -> index of detection
        self._match(taken, detections, sure, embeddings, MIN_OVERLAP, self._weight)
        claimed = set(taken.values())
        self._match(taken, detections, unsure, embeddings, MIN_OVERLAP_LOW, 0.0)
        for index, chosen in taken.items():
            self._observe(self._tracks[index], detections[chosen], None if embeddings is None else embeddings[chosen])
        seen = {id(self._tracks[index]): detections[chosen] for index, chosen in taken.items()}
        longest = self._max_missed * max(1.0, self.rate / USUAL_RATE)
        self._tracks = [t for t in self._tracks if t.missed <= longest]
        for i in sure:
            if i not in claimed:
                track = self._start(detections[i], None if embeddings is None else embeddings[i])
                seen[id(track)] = detections[i]
        return [track.face(frame_index, seen.get(id(track))) for track in self._tracks]

    def uncertain(self, detections: Sequence[Detection]) -> NDArray[np.bool_]:
        """Which detections of the frame that comes next need an embedding, `(N,)` bool.

        Those of young tracks and of tracks not looked at for long, those that fit no track well, and those that touch
        several: where places alone do not say who is who.
        """
        wanted = np.array([d.score >= self._high for d in detections], dtype=bool)
        if not self._tracks or not wanted.any():
            return wanted
        boxes = np.stack([d.box for d in detections])
        overlap = iou_matrix(np.stack([t.motion.ahead for t in self._tracks]), boxes)
        rested = np.array([t.looks >= YOUNG and t.unlooked < RENEWED for t in self._tracks])
        own = overlap.argmax(0)
        clear = (overlap.max(0) >= CLEAR_OVERLAP) & ((overlap >= TOUCHING).sum(0) == 1)
        crowded = (iou_matrix(boxes, boxes) >= TOUCHING).sum(0) > 1
        return np.asarray(wanted & ~(clear & rested[own] & ~crowded), dtype=bool)

    def _match(
        self,
        taken: dict[int, int],
        detections: Sequence[Detection],
        candidates: list[int],
        embeddings: NDArray[np.float32] | None,
        min_overlap: float,
        weight: float,
    ) -> None:
        free = [t for t in range(len(self._tracks)) if t not in taken]
        if not free or not candidates:
            return
        predicted = np.stack([self._tracks[t].motion.box for t in free])
        boxes = np.stack([detections[d].box for d in candidates])
        overlap = iou_matrix(predicted, boxes)
        cost = 1.0 - overlap
        allowed = overlap >= min_overlap
        if embeddings is not None and weight > 0:
            likeness, known = self._likeness(free, embeddings[candidates])
            cost = np.where(known, (1 - weight) * cost + weight * (1 - likeness) / 2, cost)
            near = NEAR * max(1.0, USUAL_RATE / self.rate)
            reach = near * np.array([1 + STRAYING * (self._tracks[t].missed - 1) for t in free])
            allowed |= known & (likeness >= LIKENESS) & _near(predicted, boxes, reach)
            large = (boxes[:, 2:] - boxes[:, :2]).min(1) >= LARGE
            allowed &= ~known | (likeness >= np.where(large, UNLIKE, SMALL_UNLIKE))
        allowed &= alike_in_size(predicted, boxes)
        rows, columns = linear_sum_assignment(np.where(allowed, cost, 1e3))
        for row, column in zip(rows, columns, strict=True):
            if allowed[row, column]:
                taken[free[row]] = candidates[column]

    def _likeness(
        self, free: list[int], embeddings: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Cosines `(T, N)` and where both sides have an embedding."""
        cosines = np.zeros((len(free), len(embeddings)), np.float32)
        known = np.zeros(cosines.shape, dtype=bool)
        usable = np.linalg.norm(embeddings, axis=1) > 0.5
        for row, index in enumerate(free):
            appearance = self._tracks[index].appearance
            if appearance is not None:
                cosines[row] = embeddings @ appearance
                known[row] = usable
        return cosines, known

    def _observe(self, track: _Track, detection: Detection, embedding: NDArray[np.float32] | None) -> None:
        track.motion.update(detection.box)
        track.landmarks, track.anchor, track.missed = detection.landmarks, detection.box, 0
        if embedding is not None and detection.score >= self._high and np.linalg.norm(embedding) > 0.5:
            old = track.appearance if track.appearance is not None else embedding
            mixed = APPEARANCE_MEMORY * old + (1 - APPEARANCE_MEMORY) * embedding
            track.looks, track.unlooked = track.looks + 1, 0
            track.appearance = (mixed / max(1e-9, float(np.linalg.norm(mixed)))).astype(np.float32)

    def _start(self, detection: Detection, embedding: NDArray[np.float32] | None) -> _Track:
        track = _Track(self._next, BoxMotion(detection.box), detection.landmarks, detection.box, None)
        self._next += 1
        self._observe(track, detection, embedding)
        self._tracks.append(track)
        return track


def carried(
    landmarks: NDArray[np.float32], source: NDArray[np.float32], target: NDArray[np.float32]
) -> NDArray[np.float32]:
    """`(5, 2)` landmarks of box `source` moved to the same places of box `target`."""
    size = np.maximum(source[2:] - source[:2], 1e-6)
    placed = (landmarks - source[:2]) / size * (target[2:] - target[:2]) + target[:2]
    return np.asarray(placed, dtype=np.float32)


def _near(a: NDArray[np.float32], b: NDArray[np.float32], reach: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Centres of `(T, 4)` and `(N, 4)` boxes within `reach` `(T,)` times the larger side, `(T, N)`."""
    centres = [(x[:, :2] + x[:, 2:]) / 2 for x in (a, b)]
    sides = [(x[:, 2:] - x[:, :2]).max(1) for x in (a, b)]
    distance = np.linalg.norm(centres[0][:, None] - centres[1][None], axis=2)
    return np.asarray(distance <= reach[:, None] * np.maximum(sides[0][:, None], sides[1][None]))


def alike_in_size(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Neither box has less than a quarter of the other's area, `(T, N)`."""
    sides = [np.sqrt(np.maximum((x[:, 2:] - x[:, :2]).prod(1), 1e-6)) for x in (a, b)]
    ratio = sides[0][:, None] / sides[1][None]
    return np.asarray(np.minimum(ratio, 1 / ratio) >= MIN_SIZE_RATIO)
