"""All faces of a run in few bytes: one packed row per face and frame, never pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from fluidvid.masks import clip_region
from fluidvid.trackers.types import TrackedFace

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
_CHUNK = 4096

Completion = Callable[[list[TrackedFace]], Mapping[int, list[TrackedFace]]]
"""Fills the gaps of one track: all its faces, by frame."""


class TrackTable:
    """Rows are appended in frame order, then `finish` completes the tracks and sorts them for reading."""

    def __init__(self) -> None:
        self._chunks: list[NDArray[np.void]] = []
        self._used = 0
        self._rows: NDArray[np.void] = np.zeros(0, dtype=ROW)
        self._starts: NDArray[np.int64] = np.zeros(1, dtype=np.int64)

    def append(self, faces: Iterable[TrackedFace]) -> None:
        """Store the faces of one frame."""
        for face in faces:
            if not self._chunks or self._used == _CHUNK:
                self._chunks.append(np.zeros(_CHUNK, dtype=ROW))
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
        raw = self._gathered()
        done: list[NDArray[np.void]] = []
        order = np.argsort(raw["track"], kind="stable")
        raw = raw[order]
        bounds = np.flatnonzero(np.diff(raw["track"])) + 1
        for part in np.split(raw, bounds):
            if len(part) == 0:
                continue
            completed = complete([face_of(row) for row in part])
            present = [
                face
                for frame, faces in sorted(completed.items())
                for face in faces
                if 0 <= frame < frames and clip_region(face.box, shape) is not None
            ]
            rows = np.zeros(len(present), dtype=ROW)
            for row, face in zip(rows, present, strict=True):
                _fill(row, face)
            done.append(rows)
        self._chunks = []
        rows = np.concatenate(done) if done else np.zeros(0, dtype=ROW)
        self._rows = rows[np.lexsort((rows["track"], rows["frame"]))]
        self._starts = np.searchsorted(self._rows["frame"], np.arange(frames + 1))

    def _gathered(self) -> NDArray[np.void]:
        if not self._chunks:
            return np.zeros(0, dtype=ROW)
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


def _fill(row: np.void, face: TrackedFace) -> None:
    row["frame"], row["track"] = face.frame, face.track_id
    row["box"], row["landmarks"] = face.box, face.landmarks
    row["score"], row["observed"] = face.score, face.observed


def face_of(row: np.void) -> TrackedFace:
    """The exchange type of one row."""
    return TrackedFace(
        track_id=int(row["track"]),
        frame=int(row["frame"]),
        box=np.array(row["box"]),
        landmarks=np.array(row["landmarks"]),
        score=float(row["score"]),
        observed=bool(row["observed"]),
    )
