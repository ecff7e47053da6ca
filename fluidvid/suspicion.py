"""Signs that a face may have been missed: long held stretches and tracks that vanish and reappear in place."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from fluidvid.tracktable import TrackTable
from fluidvid.unclaimed import FIRST_ID, OVERLAP, iou


def longest_held(table: TrackTable) -> int:
    """Longest stretch of frames that any track lived on predictions between two detections of it.

    The look-ahead before the first and after the last detection is held by design and does not count.
    """
    longest = 0
    for _, indices in table.tracks():
        seen = np.flatnonzero(table.rows(indices)["observed"])
        if len(seen) > 1:
            longest = max(longest, int(np.diff(seen).max()) - 1)
    return longest


def suspicious_gaps(table: TrackTable, cuts: Collection[int], limit: int) -> tuple[str, ...]:
    """Places where a track ends and another begins at much the same spot within `limit` frames, with uncovered
    frames and no scene cut in between: the same face, probably not found in those frames.
    """
    ends: list[tuple[int, int, NDArray[np.float32]]] = []
    begins: list[tuple[int, int, NDArray[np.float32]]] = []
    for track, indices in table.tracks():
        if track >= FIRST_ID:
            continue
        rows = table.rows(indices)
        begins.append((int(rows["frame"][0]), track, rows["box"][0]))
        ends.append((int(rows["frame"][-1]), track, rows["box"][-1]))
    begins.sort(key=lambda item: item[0])
    starts = np.array([frame for frame, _, _ in begins], dtype=np.int64)
    found = []
    for last, track, box in sorted(ends, key=lambda item: item[0]):
        low, high = np.searchsorted(starts, [last + 2, last + limit + 1])
        for first, other, place in begins[low:high]:
            if iou(box, place) >= OVERLAP and not any(last < cut <= first for cut in cuts):
                found.append(f"frames {last + 1} to {first - 1} between tracks {track} and {other}")
                break
    return tuple(found)
