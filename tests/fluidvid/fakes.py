"""Tiny parts with known truth, so that the whole pipeline runs in milliseconds and any part can be made to fail."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluidvid.geometry import FFHQ_112, similarity
from fluidvid.stages import Stages
from fluidvid.trackers.types import Detection, TrackedFace

HEIGHT, WIDTH = 144, 192
FACE = (200, 60, 30)
"""Colour of the fake face; nothing else in the picture has it."""


def box_at(index: int) -> tuple[float, float, float, float]:
    """Where the face is in frame `index`: it moves to the right."""
    x = 20.0 + 2 * index
    return (x, 40.0, x + 60, 110.0)


def landmarks_in(box: Sequence[float]) -> NDArray[np.float32]:
    x1, y1, x2, y2 = box
    points = (FFHQ_112 - 0.2) / 0.6
    return (points * (x2 - x1, y2 - y1) + (x1, y1)).astype(np.float32)


def picture(index: int) -> NDArray[np.uint8]:
    """A grey gradient with a checkered face in `FACE` and its half."""
    image = np.repeat(np.linspace(60, 120, WIDTH)[None], HEIGHT, 0).astype(np.uint8)[..., None].repeat(3, 2)
    x1, y1, x2, y2 = (int(v) for v in box_at(index))
    yy, xx = np.mgrid[y1:y2, x1:x2]
    checker = ((yy // 3 + xx // 3) % 2)[..., None]
    face = np.where(checker, np.array(FACE), np.array(FACE) // 2)
    image[y1:y2, x1:x2] = face[:, : max(0, WIDTH - x1)] if x2 > WIDTH else face
    return np.ascontiguousarray(image)


def raw_share(source: NDArray[np.uint8], result: NDArray[np.uint8], index: int) -> float:
    """Share of the face's pixels that are still the source's own."""
    x1, y1, x2, y2 = (int(v) for v in box_at(index))
    same = (source[y1:y2, x1:x2] == result[y1:y2, x1:x2]).all(axis=2)
    return float(same.mean())


@dataclass
class FakeFrame:
    index: int
    pts: int
    live: list[int]
    concealed: bool = False

    def __post_init__(self) -> None:
        self.live[0] += 1
        self.live[1] = max(self.live)

    def __del__(self) -> None:
        self.live[0] -= 1

    @property
    def time(self) -> Fraction:
        return Fraction(self.index, 25)

    def rgb(self) -> NDArray[np.uint8]:
        return picture(self.index)


@dataclass
class Boom:
    """Raises in the n-th call of a named stage."""

    stage: str = ""
    call: int = 0
    error: type[BaseException] = RuntimeError
    counts: dict[str, int] = field(default_factory=dict)

    def __call__(self, stage: str) -> None:
        self.counts[stage] = self.counts.get(stage, 0) + 1
        if stage == self.stage and self.counts[stage] > self.call:
            raise self.error(f"{stage} broke")


@dataclass
class FakeReader:
    boom: Boom
    count: int
    live: list[int]

    def __iter__(self) -> Iterator[FakeFrame]:
        for index in range(self.count):
            self.boom("reader")
            yield FakeFrame(index, 1000 * index, self.live)


@dataclass
class FakeWriter:
    """Keeps what would be in the file; `committed` only if its context was left normally."""

    boom: Boom
    frames: list[NDArray[np.uint8]] = field(default_factory=list)
    committed: bool = False

    def write(
        self,
        frame: Any,
        rgb: NDArray[np.uint8] | None = None,
        regions: Sequence[tuple[int, int, int, int]] = (),
    ) -> None:
        self.boom("writer")
        out = frame.rgb()
        if rgb is not None:
            for x1, y1, x2, y2 in regions:
                out[y1:y2, x1:x2] = rgb[y1:y2, x1:x2]
        self.frames.append(out)


class FakeDetector:
    """Reads the frame's index off the picture, so that pictures may be looked at in any order."""

    def __init__(self, boom: Boom, missing: Collection[int] = (), unsure: Collection[int] = ()) -> None:
        self._boom, self._missing, self._unsure = boom, missing, unsure

    def detect(self, image: NDArray[np.uint8]) -> list[Detection]:
        self._boom("detector")
        columns = np.flatnonzero((image[45, :, 0].astype(int) - image[45, :, 2]) > 30)
        index = (int(columns[0]) - 20) // 2 if len(columns) else 1000
        if index in self._missing:
            return []
        box = box_at(index)
        return [Detection(np.array(box, np.float32), 0.4 if index in self._unsure else 0.9, landmarks_in(box), "fake")]


class FakeTracker:
    """One track; what is missing is held at the last place."""

    def __init__(self, boom: Boom) -> None:
        self._boom = boom
        self._last: Detection | None = None

    def update(
        self,
        frame_index: int,
        detections: Sequence[Detection],
        embeddings: Any = None,
        scene_cut: bool = False,
    ) -> list[TrackedFace]:
        self._boom("tracker")
        seen = bool(detections)
        self._last = detections[0] if seen else self._last
        if self._last is None:
            return []
        score = self._last.score if seen else 0.0
        return [TrackedFace(1, frame_index, self._last.box, self._last.landmarks, score, seen)]


@dataclass(frozen=True)
class FakePreparation:
    ok: bool = True
    reason: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class FakeEdited:
    residual: NDArray[np.float32]
    mask: NDArray[np.float32]
    ok: bool = True
    reason: str = ""


class FakeEditor:
    """Adds 40 to the blue channel of the whole crop."""

    crop_size = 64
    template = FFHQ_112

    def __init__(self, boom: Boom, *, gain: float = 40.0, ok: bool = True, prepared: bool = True) -> None:
        self._boom, self._gain, self._ok, self._prepared = boom, gain, ok, prepared
        self.prepared_with: dict[int, int] = {}
        self.prepared_from: list[int] = []
        self.released: list[int] = []

    def prepare(self, person_id: int, crops: NDArray[np.uint8], *, frames: Sequence[int] = ()) -> FakePreparation:
        self._boom("prepare")
        assert crops.dtype == np.uint8 and crops.shape[1:] == (64, 64, 3)
        assert len(frames) == len(crops)
        self.prepared_with[person_id] = len(crops)
        self.prepared_from += frames
        return FakePreparation(self._prepared, "" if self._prepared else "verification failed")

    def begin(self, person_id: int, crops: NDArray[np.uint8], *, frames: Sequence[int] = ()) -> FakePreparation:
        return FakePreparation(False, "the bank has no ready direction")

    def release(self, person_id: int) -> None:
        self.released.append(person_id)

    def edit(
        self, person_ids: Sequence[int], crops: NDArray[np.uint8], strengths: NDArray[np.float32]
    ) -> list[FakeEdited]:
        self._boom("edit")
        assert len(person_ids) == len(crops) == len(strengths)
        mask = np.ones((64, 64), np.float32)
        residual = np.zeros((64, 64, 3), np.float32)
        residual[..., 2] = self._gain
        return [FakeEdited(residual, mask, self._ok, "" if self._ok else "out of domain")] * len(crops)

    def recognised(
        self, person_ids: Sequence[int], crops: NDArray[np.uint8], edited: NDArray[np.uint8]
    ) -> NDArray[np.bool_]:
        assert edited.dtype == np.uint8 and edited.shape == crops.shape
        return np.zeros(len(crops), bool)


@dataclass(frozen=True)
class FakePose:
    yaw: float = 0.0
    quality: float = 1.0


@dataclass
class Rig:
    """Stages made of fakes, and what to look at afterwards."""

    boom: Boom = field(default_factory=Boom)
    count: int = 40
    classic: bool = False
    missing: Collection[int] = ()
    unsure: Collection[int] = ()
    yaw: float = 0.0
    gain: float = 40.0
    ok: bool = True
    prepared: bool = True
    workers: int = 1
    live: list[int] = field(default_factory=lambda: [0, 0])
    writers: list[FakeWriter] = field(default_factory=list)
    editor: FakeEditor | None = None

    def stages(self) -> Stages:
        self.editor = (
            None if self.classic else FakeEditor(self.boom, gain=self.gain, ok=self.ok, prepared=self.prepared)
        )

        @contextmanager
        def open_reader() -> Iterator[FakeReader]:
            self.boom("open_reader")
            yield FakeReader(self.boom, self.count, self.live)

        @contextmanager
        def open_writer(reader: Any) -> Iterator[FakeWriter]:
            self.boom("open_writer")
            writer = FakeWriter(self.boom)
            self.writers.append(writer)
            yield writer
            self.boom("commit")
            writer.committed = True

        def complete(faces: list[TrackedFace], frames: int, cuts: Collection[int]) -> dict[int, list[TrackedFace]]:
            self.boom("complete")
            return {face.frame: [face] for face in faces}

        def smooth(landmarks: NDArray[np.float32], template: NDArray[np.float64]) -> NDArray[np.float64]:
            self.boom("smooth")
            return np.stack([similarity(points, template) for points in landmarks])

        def pose(landmarks: Any, image: Any, box: Any) -> FakePose:
            self.boom("pose")
            return FakePose(self.yaw)

        return Stages(
            open_reader=open_reader,
            open_writer=open_writer,
            detector=FakeDetector(self.boom, self.missing, self.unsure),
            tracker=FakeTracker(self.boom),
            complete=complete,
            smooth=smooth,
            pose=pose,
            editor=self.editor,
            workers=self.workers,
        )
