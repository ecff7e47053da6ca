"""Complete a track once its whole life is known: fill gaps from both sides, extend both ends."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fluidvid.rate import USUAL_RATE
from fluidvid.trackers.tracking import carried
from fluidvid.trackers.types import TrackedFace

VELOCITY_SPAN = 5
"""Observed frames at an end from which its velocity is taken."""
DAMPING = 0.9
"""Velocity that is left per frame of 25 a second."""
GROWTH = 0.02
"""Growth of a held box in the same time, as a share of its side: the place is less and less sure."""


def complete_tracks(
    faces: Sequence[TrackedFace],
    *,
    frames: int,
    look_ahead: int,
    max_gap: int,
    cuts: Collection[int] = (),
    rate: float = USUAL_RATE,
) -> dict[int, list[TrackedFace]]:
    """Fill and extend the faces of one or several tracks.

    Args:
        faces: everything the online tracker said; held faces are judged again with both sides known.
        frames: frames of the video; nothing is put outside 0 .. frames - 1.
        look_ahead: frames a track is applied before its first and after its last observation, and after the last
            before and the first after a gap that is not filled.
        max_gap: longest gap, in frames, that is filled by interpolation.
        cuts: frames that begin a new shot; nothing is filled or extended across them.
        rate: frames per second: the more, the less a held box slows down and grows from one to the next.

    Returns:
        frame -> faces, in rising order of frames and tracks.

    Raises:
        ValueError: negative lengths, or one track observed twice in a frame.
    """
    if frames < 0 or look_ahead < 0 or max_gap < 0:
        raise ValueError(f"frames, look_ahead and max_gap must not be negative: {frames}, {look_ahead}, {max_gap}")
    tracks: dict[int, list[TrackedFace]] = {}
    for face in faces:
        if face.observed:
            tracks.setdefault(face.track_id, []).append(face)
    borders = sorted(cuts)
    found: dict[int, list[TrackedFace]] = {}
    for _, seen in sorted(tracks.items()):
        seen.sort(key=lambda f: f.frame)
        for face in _complete_one(seen, frames, look_ahead, max_gap, borders, min(1.0, USUAL_RATE / rate)):
            found.setdefault(face.frame, []).append(face)
    return dict(sorted(found.items()))


def _complete_one(
    seen: list[TrackedFace], frames: int, look_ahead: int, max_gap: int, cuts: list[int], pace: float
) -> list[TrackedFace]:
    pieces: list[list[TrackedFace]] = [[seen[0]]]
    for a, b in pairwise(seen):
        gap = b.frame - a.frame - 1
        if gap < 0:
            raise ValueError(f"track {a.track_id} is observed twice in frame {a.frame}")
        if gap <= max_gap and bisect_right(cuts, a.frame) == bisect_right(cuts, b.frame):
            pieces[-1] += [_between(a, b, frame, pace) for frame in range(a.frame + 1, b.frame)]
            pieces[-1].append(b)
        else:
            pieces.append([b])
    done: dict[int, TrackedFace] = {}
    away: dict[int, int] = {}  # frames from the end it was extended from: where two pieces reach, the nearer one tells
    for piece in pieces:
        first, last = piece[0].frame, piece[-1].frame
        before = cuts[bisect_right(cuts, first) - 1] if bisect_right(cuts, first) else 0
        after = cuts[bisect_right(cuts, last)] if bisect_right(cuts, last) < len(cuts) else frames
        done |= {face.frame: face for face in piece}
        away |= dict.fromkeys((face.frame for face in piece), 0)
        start, stop = max(before, first - look_ahead), min(after, last + look_ahead + 1)
        for face in [*_beyond(piece, -1, start, pace), *_beyond(piece, 1, stop - 1, pace)]:
            distance = max(first - face.frame, face.frame - last)
            if distance < away.get(face.frame, frames):
                done[face.frame], away[face.frame] = face, distance
    return [done[frame] for frame in sorted(done)]


def _between(a: TrackedFace, b: TrackedFace, frame: int, pace: float) -> TrackedFace:
    """A held face on the line between two; its box grows with the way to the nearer one, as beyond an end."""
    share = np.float32((frame - a.frame) / (b.frame - a.frame))
    box = (1 - share) * a.box + share * b.box
    landmarks = (1 - share) * a.landmarks + share * b.landmarks
    held = _grown(box, min(frame - a.frame, b.frame - frame) * pace)
    return TrackedFace(a.track_id, frame, held, landmarks.astype(np.float32), 0.0, False)


def _grown(box: NDArray[np.floating], steps: float) -> NDArray[np.float32]:
    """A `(4,)` box so many frames of 25 a second away from where it was seen."""
    grow = steps * GROWTH * float((box[2:] - box[:2]).max())
    return np.asarray(box + np.array([-grow, -grow, grow, grow]), dtype=np.float32)


def _beyond(piece: list[TrackedFace], sign: int, until: int, pace: float) -> list[TrackedFace]:
    """Held faces from an end of the piece to frame `until`, `pace` / 25 s each: damped motion, growing boxes."""
    ordered = piece if sign > 0 else piece[::-1]
    end = ordered[-1]
    speed = velocity(ordered[-VELOCITY_SPAN:])
    held = []
    shift = np.zeros(2)
    for step in range(1, abs(until - end.frame) + 1 if (until - end.frame) * sign > 0 else 1):
        speed = speed * DAMPING**pace
        shift = shift + speed
        moved = end.box + np.tile(shift, 2)
        landmarks = carried(end.landmarks, end.box, moved.astype(np.float32))
        box = _grown(moved, step * pace)
        held.append(TrackedFace(end.track_id, end.frame + sign * step, box, landmarks, 0.0, False))
    return held


def velocity(tail: list[TrackedFace]) -> NDArray[np.float64]:
    """`(2,)` pixels per frame by which the centre moves on at the end of `tail`, in the tail's own order."""
    steps = abs(tail[-1].frame - tail[0].frame)
    if steps == 0:
        return np.zeros(2)
    first, last = ((f.box[:2] + f.box[2:]) / 2 for f in (tail[0], tail[-1]))
    return np.asarray((last - first) / steps, dtype=np.float64)
