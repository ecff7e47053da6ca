"""Signs that a face may have been missed: long held stretches, and faces that vanish and reappear in place."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np

from fluidvid.trackers.completion import VELOCITY_SPAN, velocity
from fluidvid.trackers.detectors.base import iou_matrix
from fluidvid.trackers.types import TrackedFace
from fluidvid.tracktable import TrackTable, face_of
from fluidvid.unclaimed import FIRST_ID, OVERLAP


def longest_held(table: TrackTable, cuts: Collection[int], limit: int) -> int:
    """Longest stretch of frames between two detections of any face, whether it is covered or not.

    The look-ahead before the first and after the last detection is held by design and does not count, unless another
    track takes the face up again within `limit` frames.
    """
    longest = 0
    for _, indices in table.tracks():
        rows = table.rows(indices)
        seen = rows["frame"][rows["observed"]]
        if len(seen) > 1:
            longest = max(longest, int(np.diff(seen).max()) - 1)
    for one, other in _taken_up(table, cuts, limit):
        longest = max(longest, other.begin[0].frame - one.end[-1].frame - 1)
    return longest


def suspicious_gaps(table: TrackTable, cuts: Collection[int], limit: int) -> tuple[str, ...]:
    """Places where a track ends and another takes its face up within `limit` frames, or where one and the same goes on,
    with uncovered frames and no scene cut in between: the same face, probably not found in those frames.
    """
    found: list[tuple[int, str]] = []

    def tell(last: int, first: int, where: str) -> None:
        found.append((last, f"frames {last + 1} to {first - 1} {where}"))

    for track, indices in table.tracks():
        if track >= FIRST_ID:
            continue
        frames = table.rows(indices)["frame"].astype(np.int64)
        for k in np.flatnonzero(np.diff(frames) > 1):
            last, first = int(frames[k]), int(frames[k + 1])
            if not _cut_between(cuts, last, first):
                tell(last, first, f"in track {track}")
    for one, other in _taken_up(table, cuts, limit):
        if other.covered_from - one.covered_to > 1:
            tell(one.covered_to, other.covered_from, f"between tracks {one.track} and {other.track}")
    return tuple(words for _, words in sorted(found))


@dataclass(frozen=True, eq=False)
class _Life:
    """A track, the first and the last frame it covers, and its first and last few detections."""

    track: int
    covered_from: int
    covered_to: int
    begin: list[TrackedFace]
    end: list[TrackedFace]


def _taken_up(table: TrackTable, cuts: Collection[int], limit: int) -> Iterator[tuple[_Life, _Life]]:
    """Tracks that end, each with the next one that seems to begin with their face: in the same place, or where one of
    them would be if it moved as it did where it was seen.
    """
    lives = sorted(_lives(table), key=lambda life: life.begin[0].frame)
    starts = np.array([life.begin[0].frame for life in lives], dtype=np.int64)
    for one in lives:
        last = one.end[-1]
        for other in lives[np.searchsorted(starts, last.frame + 2) :]:
            first = other.begin[0]
            if other.covered_from > one.covered_to + limit or _cut_between(cuts, last.frame, first.frame):
                break
            onward = last.box + np.tile(velocity(one.end) * (first.frame - last.frame), 2)
            back = first.box - np.tile(velocity(other.begin) * (first.frame - last.frame), 2)
            ends, begins = np.stack([last.box, onward, last.box]), np.stack([first.box, first.box, back])
            if iou_matrix(ends, begins).diagonal().max() >= OVERLAP:
                yield one, other
                break


def _lives(table: TrackTable) -> Iterator[_Life]:
    for track, indices in table.tracks():
        rows = table.rows(indices)
        seen = rows[rows["observed"]]
        if track < FIRST_ID and len(seen):
            begin, end = ([face_of(row) for row in part] for part in (seen[:VELOCITY_SPAN], seen[-VELOCITY_SPAN:]))
            yield _Life(track, int(rows["frame"][0]), int(rows["frame"][-1]), begin, end)


def _cut_between(cuts: Collection[int], last: int, first: int) -> bool:
    return any(last < cut <= first for cut in cuts)
