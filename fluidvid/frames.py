"""The Python API for frames: an iterator in, an iterator out, a bounded look-ahead in between."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fluidvid.config import Config
from fluidvid.coverage import Coverage, Reason
from fluidvid.errors import DetectionError, FluidvidError
from fluidvid.gating import CausalGate, GateLimits
from fluidvid.geometry import similarity, transform
from fluidvid.keyframes import KeyCrop, KeyCrops
from fluidvid.masks import clip_region
from fluidvid.pipeline import appearances
from fluidvid.stages import Stages
from fluidvid.trackers.align import crop as aligned_crop
from fluidvid.trackers.types import TrackedFace
from fluidvid.treatment import FrameTreatment, PlannedFace
from fluidvid.unclaimed import FIRST_ID, duplicates, with_unclaimed

_log = logging.getLogger(__name__)

Image = NDArray[np.uint8]


def anonymize_frames(
    frames: Iterable[Image],
    *,
    config: Config | None = None,
    coverage: Coverage | None = None,
) -> Iterator[Image]:
    """Pseudonymise faces in a stream of pictures.

    A picture leaves `config.track.look_ahead` pictures later than it came, so that a track also covers the pictures
    just before its first detection. Mask first: a face is masked until its direction is ready, and the change from
    mask to face is a cross-fade. The direction is searched for in the caller's thread as soon as the track has shown
    enough key pictures; that call takes as long as `edit.iterations` make it.

    Args:
        frames: `(H, W, 3)` uint8 RGB pictures of one size, upright, in order. Not modified; do not modify them
            while they are waiting inside.
        config: default: the preset `live`.
        coverage: filled with the account if given.

    Yields:
        As many pictures as came in, in order, `(H, W, 3)` uint8 RGB; those without a face are passed through.

    Raises:
        DetectionError: faces could not be looked for; nothing more is yielded, waiting pictures are lost.
        ModelError: a model is missing or altered.
        ValueError: a picture is of another shape or type.
    """
    from fluidvid.assembly import frame_stages
    from fluidvid.config import load

    chosen = config or load("live")
    stages = frame_stages(chosen)
    with closing(stages.memory) if stages.memory is not None else nullcontext():
        yield from process(stages, chosen, frames, coverage if coverage is not None else Coverage())


def process(stages: Stages, config: Config, frames: Iterable[Image], coverage: Coverage) -> Iterator[Image]:
    """`anonymize_frames` over given parts."""
    window = _Window(stages, config)
    for image in frames:
        window.push(image)
        if len(window.waiting) > config.track.look_ahead:
            yield window.pop(coverage)
    while window.waiting:
        yield window.pop(coverage)


@dataclass
class _Window:
    """The pictures that wait, and the faces of a bounded stretch around them."""

    stages: Stages
    config: Config
    waiting: deque[Image] = field(default_factory=deque)
    _faces: dict[int, list[TrackedFace]] = field(default_factory=dict)
    _cuts: set[int] = field(default_factory=set)
    _keys: dict[int, KeyCrops] = field(default_factory=dict)
    _ready: dict[int, bool] = field(default_factory=dict)
    _arrived: int = 0
    _left: int = 0
    _unclaimed: int = 0
    _present: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        edit = self.config.edit
        self._gate = CausalGate(GateLimits(edit.min_face, edit.max_yaw, edit.max_held, edit.fade_frames))
        self._treatment = FrameTreatment(
            self.config.mask,
            self.config.mask_kind,
            self.stages.editor,
            batch=edit.batch,
            fade_frames=edit.fade_frames,
        )
        self._history = max(self.config.track.look_ahead, self.config.track.max_gap)
        self._shape: tuple[int, ...] | None = None

    def push(self, image: Image) -> None:
        """Inspect one picture and let it wait."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"a picture is (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
        if self._shape is not None and image.shape != self._shape:
            raise ValueError(f"pictures must be of one size: {self._shape} came first, now {image.shape}")
        self._shape = image.shape
        index = self._arrived
        try:
            cut = self.stages.cuts.update(image) if self.stages.cuts else False
            detections = self.stages.detector.detect(image)
            embeddings = appearances(self.stages, image, detections)
            tracked = self.stages.tracker.update(index, detections, embeddings, scene_cut=cut)
            faces = with_unclaimed(
                tracked, detections, frame=index, score=self.config.detect.score, next_id=FIRST_ID + self._unclaimed
            )
            self._unclaimed += len(faces) - len(tracked)
        except FluidvidError:
            raise
        except Exception as error:
            raise DetectionError(
                f"face detection failed in picture {index}: {type(error).__name__}: {error}"
            ) from error
        if cut:
            self._cuts.add(index)
        self._release({face.track_id for face in faces})
        self._faces[index] = faces
        self._collect(image, faces)
        self.waiting.append(image)
        self._arrived += 1

    def _release(self, present: set[int]) -> None:
        """Tell the editor who has left, so that they are known when they return."""
        if self.stages.editor is not None:
            for track in self._present - present:
                self.stages.editor.release(track)
        self._present = present

    def _collect(self, image: Image, faces: list[TrackedFace]) -> None:
        editor, edit = self.stages.editor, self.config.edit
        if editor is None:
            return
        for face in faces:
            sides = face.box[2] - face.box[0], face.box[3] - face.box[1]
            if face.track_id in self._ready or not face.observed or min(sides) < edit.min_face:
                continue
            keys = self._keys.setdefault(face.track_id, KeyCrops(edit.key_frames))
            try:
                pose = self.stages.pose(face.landmarks, image, face.box)
                if not abs(pose.yaw) <= edit.max_yaw or not keys.wants(face.frame, pose.quality, pose.yaw):
                    continue
                matrix = similarity(face.landmarks, editor.template * editor.crop_size)
                crop = aligned_crop(image, matrix, editor.crop_size)
                placed = transform(matrix, face.landmarks).astype(np.float32)
                keys.offer(KeyCrop(crop, placed, face.frame, pose.quality, pose.yaw))
                if len(keys) >= edit.key_frames:
                    self._prepare(face.track_id, keys)
            except Exception as error:  # noqa: BLE001 - the track stays masked
                _log.warning("track %d stays masked: %s: %s", face.track_id, type(error).__name__, error)
                self._ready[face.track_id] = False

    def _prepare(self, track: int, keys: KeyCrops) -> None:
        editor = self.stages.editor
        assert editor is not None
        chosen = keys.best()
        self._ready[track] = False
        prepared = editor.prepare(
            track,
            np.stack([c.crop for c in chosen]),
            np.stack([c.landmarks for c in chosen]),
            frames=[c.frame for c in chosen],
        )
        self._ready[track] = prepared.ok
        self._keys.pop(track, None)

    def pop(self, coverage: Coverage) -> Image:
        """Treat the picture that waited longest."""
        index = self._left
        image = self.waiting.popleft()
        faces = [self._planned(face) for face in self._completed(index) if clip_region(face.box, image.shape)]
        treated = self._treatment.apply(image, faces)
        coverage.add(index, len(faces), treated.outcomes)
        self._left += 1
        self._forget()
        return treated.rgb

    def _completed(self, index: int) -> list[TrackedFace]:
        tracks: dict[int, list[TrackedFace]] = {}
        for frame in sorted(self._faces):
            for face in self._faces[frame]:
                tracks.setdefault(face.track_id, []).append(face)
        found: list[TrackedFace] = []
        for members in tracks.values():
            found += self.stages.complete(members, self._arrived, self._cuts).get(index, [])
        found.sort(key=lambda face: face.track_id)
        ids = np.array([face.track_id for face in found], dtype=np.int32)
        dropped = duplicates(ids, np.array([face.box for face in found], dtype=np.float32).reshape(-1, 4))
        return [face for face, drop in zip(found, dropped, strict=True) if not drop]

    def _planned(self, face: TrackedFace) -> PlannedFace:
        editor = self.stages.editor
        weight, reason, matrix = 0.0, Reason.MODE if editor is None else Reason.NOT_PREPARED, None
        if editor is not None and self._ready.get(face.track_id):
            try:
                yaw = self.stages.pose(face.landmarks, None, face.box).yaw
                side = float(min(face.box[2] - face.box[0], face.box[3] - face.box[1]))
                matrix = similarity(face.landmarks, editor.template * editor.crop_size)
            except ValueError:
                return PlannedFace(
                    face.track_id,
                    face.track_id,
                    face.box,
                    face.landmarks,
                    face.observed,
                    reason=Reason.NO_LANDMARKS,
                )
            weight, why = self._gate.decide(face.track_id, side, yaw, face.observed)
            reason = why or reason
        return PlannedFace(
            face.track_id,
            face.track_id,
            face.box,
            face.landmarks,
            face.observed,
            matrix,
            weight,
            None if weight >= 1 else reason,
        )

    def _forget(self) -> None:
        """Keep `history` frames behind the one that left; state of tracks that ended goes with them."""
        oldest = self._left - self._history
        for frame in [f for f in self._faces if f < oldest]:
            del self._faces[frame]
        self._cuts = {cut for cut in self._cuts if cut >= oldest}
        alive = {face.track_id for faces in self._faces.values() for face in faces}
        self._keys = {k: v for k, v in self._keys.items() if k in alive}
        self._ready = {k: v for k, v in self._ready.items() if k in alive}
        self._gate.forget(alive)
        self._treatment.forget(alive)
