"""Pictures that wait a little, so that a track also covers the pictures just before its first detection.

Inspected pictures go in, treated ones come out, in order. Mask first: a face is masked until its direction is ready,
and the change from mask to face is a cross-fade.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fluidvid.config import Config
from fluidvid.coverage import Coverage, Reason
from fluidvid.editing import FaceEditor
from fluidvid.errors import detection_errors
from fluidvid.following import Follower
from fluidvid.gating import CausalGate, GateLimits
from fluidvid.keyframes import KeyCrop, KeyCrops, key_crop, presentable
from fluidvid.masks import clip_region
from fluidvid.stages import Stages
from fluidvid.trackers.detectors.base import boxes_of
from fluidvid.trackers.types import Detection, TrackedFace
from fluidvid.treatment import FrameTreatment, PlannedFace, TreatedFrame
from fluidvid.unclaimed import duplicates

_log = logging.getLogger(__name__)

Image = NDArray[np.uint8]
FIRST_KEYS = 2
"""Key crops of a track on which a first direction is taken from the bank, long before there are enough for a search."""
NEAR = 8
"""Pictures on either side, as far as they are known, over which a face's transform is smoothed."""


class Directions(Protocol):
    """Finds directions for tracks, at once or in the background."""

    def wanted(self, track: int) -> bool:
        """True if key crops of this track are of use."""
        ...

    def begin(self, track: int, keys: Sequence[KeyCrop]) -> None:
        """Take a first direction for the track from these few crops, best first, if that costs little time."""
        ...

    def find(self, track: int, keys: Sequence[KeyCrop]) -> None:
        """Find the track's direction on these crops, best first."""
        ...

    def ready(self, track: int) -> bool:
        """True if the track's direction may be applied."""
        ...

    def failing(self, tracks: Collection[int]) -> None:
        """Edits of these tracks failed lately, those of all others did not."""
        ...

    def left(self, tracks: Collection[int]) -> None:
        """These tracks are not in the picture any more."""
        ...

    def forget(self, alive: Collection[int]) -> None:
        """Drop what is known of all other tracks."""
        ...


class DirectionsAtOnce:
    """Finds each direction in the caller's thread, as soon as there are enough key crops."""

    def __init__(self, editor: FaceEditor) -> None:
        self._editor = editor
        self._ready: dict[int, bool] = {}

    def wanted(self, track: int) -> bool:
        return track not in self._ready

    def begin(self, track: int, keys: Sequence[KeyCrop]) -> None:
        """The search follows in the same thread: nothing would be gained."""

    def find(self, track: int, keys: Sequence[KeyCrop]) -> None:
        self._ready[track] = False
        self._ready[track] = self._editor.prepare(
            track, np.stack([c.crop for c in keys]), frames=[c.frame for c in keys]
        ).ok

    def ready(self, track: int) -> bool:
        return self._ready.get(track, False)

    def failing(self, tracks: Collection[int]) -> None:
        """There is nothing better to come."""

    def left(self, tracks: Collection[int]) -> None:
        for track in tracks:
            self._editor.release(track)

    def forget(self, alive: Collection[int]) -> None:
        self._ready = {k: v for k, v in self._ready.items() if k in alive}


def check_picture(image: Image) -> None:
    """Raise ValueError unless `image` is `(H, W, 3)` uint8 RGB with pixels in it."""
    if not isinstance(image, np.ndarray):
        raise ValueError(f"a picture is a numpy array, (H, W, 3) uint8 RGB, got {type(image).__name__}")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"a picture is (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")


@dataclass(frozen=True, eq=False)
class Waiting:
    """A picture in the window: `image` `(H, W, 3)` uint8 RGB, and what the caller wants back with it."""

    image: Image
    tag: Any = None


@dataclass
class Window:
    """The pictures that wait, and the faces of a bounded stretch around them.

    Args:
        stages: tracker, `complete`, `pose`, editor and so on; nothing is detected here.
        config: `edit`, `mask`, `track` and `detect.score` matter here.
        directions: None in the classic modes.
        editing: False masks every face, as when the machine is too slow to edit.
    """

    stages: Stages
    config: Config
    directions: Directions | None
    editing: bool = True
    waiting: deque[Waiting] = field(default_factory=deque)
    _faces: dict[int, list[TrackedFace]] = field(default_factory=dict)
    _cuts: set[int] = field(default_factory=set)
    _keys: dict[int, KeyCrops] = field(default_factory=dict)
    _arrived: int = 0
    _left: int = 0
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
        self._follower = Follower(self.stages, self.config)
        self._history = max(self.config.track.look_ahead, self.config.track.max_gap)
        self._shape: tuple[int, ...] | None = None

    @property
    def tracks(self) -> Collection[int]:
        """Tracks in the newest picture."""
        return self._present

    def push(self, image: Image, detections: Sequence[Detection], *, cut: bool, tag: Any = None) -> None:
        """Follow the faces of one inspected picture and let it wait.

        Args:
            image: `(H, W, 3)` uint8 RGB, of the same size as the first; not to be modified while it waits.
            detections: all faces found in it.
            cut: it begins a new shot: tracks end before it.
            tag: comes back with the picture.

        Raises:
            DetectionError: the faces could not be followed.
            ValueError: another shape or type.
        """
        check_picture(image)
        if self._shape is not None and image.shape != self._shape:
            raise ValueError(f"pictures must be of one size: {self._shape} came first, now {image.shape}")
        self._shape = image.shape
        index = self._arrived
        with detection_errors(f"picture {index}"):
            faces, earlier = self._follower.follow(index, image, detections, cut=cut)
        if cut:
            self._cuts.add(index)
        present = {face.track_id for face in faces}
        if self.directions is not None:
            self.directions.left(self._present - present)
        self._present = present
        self._faces[index] = faces
        for face in earlier:
            if face.frame >= self._left:
                self._faces[face.frame].append(face)
        self._collect(image, faces)
        self.waiting.append(Waiting(image, tag))
        self._arrived += 1

    def _collect(self, image: Image, faces: list[TrackedFace]) -> None:
        editor, edit, directions = self.stages.editor, self.config.edit, self.directions
        if editor is None or directions is None:
            return
        for face in faces:
            if not presentable(face, self.config) or not directions.wanted(face.track_id):
                continue
            keys = self._keys.setdefault(face.track_id, KeyCrops(edit.key_frames))
            try:
                pose = self.stages.pose(face.landmarks, image, face.box)
                if not abs(pose.yaw) <= edit.max_yaw or not keys.wants(face.frame, pose.quality, pose.yaw):
                    continue
                keys.offer(key_crop(face, image, pose, editor))
                if len(keys) == FIRST_KEYS < edit.key_frames:
                    directions.begin(face.track_id, keys.best())
                if len(keys) >= edit.key_frames:
                    del self._keys[face.track_id]
                    directions.find(face.track_id, keys.best())
            except Exception as error:  # noqa: BLE001 - the track stays masked
                _log.warning("track %d stays masked: %s: %s", face.track_id, type(error).__name__, error)

    def pop(self, coverage: Coverage) -> tuple[TreatedFrame, Any]:
        """Treat the picture that waited longest; it comes back with its tag."""
        index = self._left
        waiting = self.waiting.popleft()
        image = waiting.image
        completed = self._completed(index)
        faces = [self._planned(face, near) for face, near in completed if clip_region(face.box, image.shape)]
        treated = self._treatment.apply(image, faces)
        if self.directions is not None:
            self.directions.failing(self._treatment.failing)
        coverage.add(index, len(faces), treated.outcomes)
        self._left += 1
        self._forget()
        return treated, waiting.tag

    def _completed(self, index: int) -> list[tuple[TrackedFace, list[TrackedFace]]]:
        """The faces of a picture, each with its track's faces in the pictures around it, in order."""
        tracks: dict[int, list[TrackedFace]] = {}
        for frame in sorted(self._faces):
            for face in self._faces[frame]:
                tracks.setdefault(face.track_id, []).append(face)
        found: list[tuple[TrackedFace, list[TrackedFace]]] = []
        for members in tracks.values():
            whole = self.stages.complete(members, self._arrived, self._cuts)
            near = [face for frame in range(index - NEAR, index + NEAR + 1) for face in whole.get(frame, [])]
            found += [(face, near) for face in whole.get(index, [])]
        # Nobody is let go before the tracker does, however short the look-ahead: it may have to find them again.
        told = {face.track_id for face, _ in found}
        found += [(face, [face]) for face in self._faces.get(index, []) if face.track_id not in told]
        found.sort(key=lambda entry: entry[0].track_id)
        ids = np.array([face.track_id for face, _ in found], dtype=np.int32)
        dropped = duplicates(ids, boxes_of([face for face, _ in found]))
        return [entry for entry, drop in zip(found, dropped, strict=True) if not drop]

    def _planned(self, face: TrackedFace, near: list[TrackedFace]) -> PlannedFace:
        editor, track = self.stages.editor, face.track_id
        plain = PlannedFace(track, track, face.box, face.observed)

        def masked(reason: Reason) -> PlannedFace:
            self._gate.close(track)
            return replace(plain, reason=reason)

        if editor is None or self.directions is None:
            return masked(Reason.MODE)
        if not self.editing:
            return masked(Reason.TOO_SLOW)
        if not self.directions.ready(track):
            return masked(Reason.NOT_PREPARED)
        try:
            yaw = self.stages.pose(face.landmarks, None, face.box).yaw
            side = float(min(face.box[2] - face.box[0], face.box[3] - face.box[1]))
            matrix = self.stages.smooth(
                np.stack([other.landmarks for other in near]), editor.template * editor.crop_size
            )[next(i for i, other in enumerate(near) if other is face)]
        except ValueError:
            return masked(Reason.NO_LANDMARKS)
        if not np.isfinite(matrix).all():
            return masked(Reason.NO_LANDMARKS)
        weight, reason = self._gate.decide(track, side, yaw, face.observed)
        return replace(plain, matrix=matrix, weight=weight, reason=reason)

    def _forget(self) -> None:
        """Keep `history` frames behind the one that left; state of tracks that ended goes with them."""
        oldest = self._left - self._history
        for frame in [f for f in self._faces if f < oldest]:
            del self._faces[frame]
        self._cuts = {cut for cut in self._cuts if cut >= oldest}
        alive = {face.track_id for faces in self._faces.values() for face in faces}
        self._keys = {k: v for k, v in self._keys.items() if k in alive}
        if self.directions is not None:
            self.directions.forget(alive)
        self._gate.forget(alive)
        self._treatment.forget(alive)
