"""Signs that a face may have been missed: long held stretches, and faces that vanish and reappear in place."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from fluidvid.tracktable import TrackTable
from fluidvid.unclaimed import FIRST_ID, OVERLAP, iou


def longest_held(table: TrackTable) -> int:
    """Longest stretch of frames between two detections of any track, whether it is covered or not.

    The look-ahead before the first and after the last detection is held by design and does not count.
    """
    longest = 0
    for _, indices in table.tracks():
        rows = table.rows(indices)
        seen = rows["frame"][rows["observed"]]
        if len(seen) > 1:
            longest = max(longest, int(np.diff(seen).max()) - 1)
    return longest


def suspicious_gaps(table: TrackTable, cuts: Collection[int], limit: int) -> tuple[str, ...]:
    """Places where a track ends and another begins at much the same spot within `limit` frames, or where one and the
    same goes on, with uncovered frames and no scene cut in between: the same face, probably not found in those frames.
    """
    found: list[tuple[int, str]] = []
    ends: list[tuple[int, int, NDArray[np.float32]]] = []
    begins: list[tuple[int, int, NDArray[np.float32]]] = []
    borders = np.array(sorted(cuts), dtype=np.int64)

    def look(last: int, first: int, where: str) -> bool:
        cut = np.searchsorted(borders, first, "right") > np.searchsorted(borders, last, "right")
        if not cut:
            found.append((last, f"frames {last + 1} to {first - 1} {where}"))
        return not cut

    for track, indices in table.tracks():
        if track >= FIRST_ID:
            continue
        rows = table.rows(indices)
        frames = rows["frame"].astype(np.int64)
        for k in np.flatnonzero(np.diff(frames) > 1):
            look(int(frames[k]), int(frames[k + 1]), f"in track {track}")
        begins.append((int(frames[0]), track, rows["box"][0]))
        ends.append((int(frames[-1]), track, rows["box"][-1]))
    begins.sort(key=lambda item: item[0])
    starts = np.array([frame for frame, _, _ in begins], dtype=np.int64)
    for last, track, box in ends:
        low, high = np.searchsorted(starts, [last + 2, last + limit + 1])
        for first, other, place in begins[low:high]:
            if iou(box, place) >= OVERLAP and look(last, first, f"between tracks {track} and {other}"):
                break
    return tuple(words for _, words in sorted(found))
