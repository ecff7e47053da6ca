"""All faces of a run in few bytes: one packed row per face and frame, never pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from fluidvid.geometry import FFHQ_112
from fluidvid.masks import clip_region
from fluidvid.trackers.types import TrackedFace
from fluidvid.unclaimed import FIRST_ID, duplicates

ROW = np.dtype(
    [
        ("frame", "i4"),
        ("track", "i4"),
        ("box", "f4", (4,)),
        ("landmarks", "f4", (5, 2)),
        ("score", "f4"),
        ("observed", "?"),
        ("reason", "u1"),
        ("weight", "f4"),
        ("matrix", "f4", (2, 3)),
    ]
)
COMPACT = np.dtype([(name, ROW[name]) for name in ("frame", "track", "box", "score", "observed", "reason", "weight")])
"""Without what only an edit needs."""
_CHUNK = 4096

Completion = Callable[[list[TrackedFace]], Mapping[int, list[TrackedFace]]]
"""Fills the gaps of one track: all its faces, by frame."""


class TrackTable:
    """Rows are appended in any order, then `finish` completes the tracks and sorts them for reading.

    Args:
        compact: leave out landmarks and transforms (the classic modes need neither; completion then sees landmarks
            at the template's places in the box).
    """

    def __init__(self, *, compact: bool = False) -> None:
        self._dtype = COMPACT if compact else ROW
        self._chunks: list[NDArray[np.void]] = []
        self._used = 0
        self._rows: NDArray[np.void] = np.zeros(0, dtype=self._dtype)
        self._starts: NDArray[np.int64] = np.zeros(1, dtype=np.int64)

    def append(self, faces: Iterable[TrackedFace]) -> None:
        """Store faces."""
        for face in faces:
            if not self._chunks or self._used == _CHUNK:
                self._chunks.append(np.zeros(_CHUNK, dtype=self._dtype))
                self._used = 0
            _fill(self._chunks[-1][self._used], face)
            self._used += 1

    def finish(self, frames: int, shape: tuple[int, int], complete: Completion) -> None:
        """Complete each track and make rows readable by frame.

        Args:
            frames: frames of the run; rows outside are dropped.
            shape: (H, W) of the picture; faces wholly outside are not present in it and are dropped.
            complete: fills the gaps of one track.
        """
        # Copies are dropped as soon as they are done with: this is the run's peak of memory.
        raw = self._gathered()
        self._chunks = []
        done: list[NDArray[np.void]] = []
        order = np.argsort(raw["track"], kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(raw["track"][order])) + 1):
            if len(part) == 0:
                continue
            completed = complete([face_of(row) for row in raw[part]])
            present = [
                face
                for frame, faces in sorted(completed.items())
                for face in faces
                if 0 <= frame < frames and clip_region(face.box, shape) is not None
            ]
            rows = np.zeros(len(present), dtype=self._dtype)
            for row, face in zip(rows, present, strict=True):
                _fill(row, face)
            done.append(rows)
        del raw, order
        rows = np.concatenate(done) if done else np.zeros(0, dtype=self._dtype)
        done.clear()
        rows = rows[np.lexsort((rows["track"], rows["frame"]))]
        if len(rows) and rows["track"].max() >= FIRST_ID:
            rows = rows[~_duplicates(rows)]
        self._rows = rows
        self._starts = np.searchsorted(rows["frame"], np.arange(frames + 1))

    def _gathered(self) -> NDArray[np.void]:
        if not self._chunks:
            return np.zeros(0, dtype=self._dtype)
        return np.concatenate([*self._chunks[:-1], self._chunks[-1][: self._used]])

    def __len__(self) -> int:
        return len(self._rows)

    def at(self, frame: int) -> NDArray[np.void]:
        """Rows of one frame (a view)."""
        return self._rows[self._starts[frame] : self._starts[frame + 1]]

    def tracks(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Track ids with the indices of their rows in frame order."""
        order = np.argsort(self._rows["track"], kind="stable")
        ids = self._rows["track"][order]
        for part in np.split(order, np.flatnonzero(np.diff(ids)) + 1):
            if len(part):
                yield int(self._rows["track"][part[0]]), part

    def rows(self, indices: NDArray[np.int64]) -> NDArray[np.void]:
        """A copy of the rows at `indices`."""
        return self._rows[indices]

    def set(self, indices: NDArray[np.int64], field: str, values: NDArray[np.generic]) -> None:
        """Write one field of the rows at `indices`."""
        self._rows[field][indices] = values


def _duplicates(rows: NDArray[np.void]) -> NDArray[np.bool_]:
    """Rows of unclaimed detections whose place another face of the same frame covers."""
    dropped = np.zeros(len(rows), dtype=bool)
    for frame in np.unique(rows["frame"][rows["track"] >= FIRST_ID]):
        low, high = np.searchsorted(rows["frame"], [frame, frame + 1])
        dropped[low:high] = duplicates(rows["track"][low:high], rows["box"][low:high])
    return dropped


def _fill(row: np.void, face: TrackedFace) -> None:
    row["frame"], row["track"] = face.frame, face.track_id
    row["box"] = face.box
    if "landmarks" in (row.dtype.names or ()):
        row["landmarks"] = face.landmarks
    row["score"], row["observed"] = face.score, face.observed


def landmarks_of(row: np.void) -> NDArray[np.float32]:
    """`(5, 2)` landmarks of a row; a compact row has only those of the template."""
    if "landmarks" in (row.dtype.names or ()):
        return np.array(row["landmarks"])
    x1, y1, x2, y2 = (float(v) for v in row["box"])
    return (FFHQ_112 * (x2 - x1, y2 - y1) + (x1, y1)).astype(np.float32)


def face_of(row: np.void) -> TrackedFace:
    """The exchange type of one row."""
    return TrackedFace(
        track_id=int(row["track"]),
        frame=int(row["frame"]),
        box=np.array(row["box"]),
        landmarks=landmarks_of(row),
        score=float(row["score"]),
        observed=bool(row["observed"]),
    )
