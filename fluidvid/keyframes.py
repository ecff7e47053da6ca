"""Choose a few good and varied pictures per track, online and in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fluidvid.config import Config
from fluidvid.editing import FaceEditor
from fluidvid.geometry import similarity
from fluidvid.stages import Pose
from fluidvid.trackers.align import crop as aligned_crop
from fluidvid.trackers.types import TrackedFace

YAW_BIN = 15.0
MIN_SPACING = 5


@dataclass(frozen=True, eq=False)
class KeyCrop:
    """One candidate: `crop` `(S, S, 3)` uint8 aligned, frame index, `quality` (higher is better), `yaw` in degrees."""

    crop: NDArray[np.uint8]
    frame: int
    quality: float
    yaw: float


def presentable(face: TrackedFace, config: Config) -> bool:
    """Whether a face may stand for its track: a sure detection, and large enough to be edited.

    Places alone tell whose an unsure detection is: it may be somebody else, with the tracked person gone.
    """
    sides = face.box[2] - face.box[0], face.box[3] - face.box[1]
    return face.observed and face.score >= config.detect.score and min(sides) >= config.edit.min_face


def key_crop(face: TrackedFace, image: NDArray[np.uint8], pose: Pose, editor: FaceEditor) -> KeyCrop:
    """The face in a `(H, W, 3)` picture as the editor wants it.

    Raises:
        ValueError: the landmarks coincide.
    """
    matrix = similarity(face.landmarks, editor.template * editor.crop_size)
    return KeyCrop(aligned_crop(image, matrix, editor.crop_size), face.frame, pose.quality, pose.yaw)


class KeyCrops:
    """The best at most `limit` crops of one track, spread over yaw.

    When full, the pose bin with most members gives up its poorest crop, so that rare poses survive.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        self._limit = limit
        self._crops: list[KeyCrop] = []

    def __len__(self) -> int:
        return len(self._crops)

    def wants(self, frame: int, quality: float, yaw: float) -> bool:
        """True if a crop of that quality and pose would be kept; cheap, so that crops are cut only when needed."""
        near = [c for c in self._crops if abs(c.frame - frame) < MIN_SPACING]
        if any(c.quality >= quality for c in near):
            return False
        if near or len(self._crops) < self._limit:
            return True
        victim = self._victim(_bin(yaw))
        return _bin(victim.yaw) != _bin(yaw) or victim.quality < quality

    def offer(self, candidate: KeyCrop) -> bool:
        """Keep `candidate` if it is wanted; True if it was kept."""
        if not self.wants(candidate.frame, candidate.quality, candidate.yaw):
            return False
        near = [c for c in self._crops if abs(c.frame - candidate.frame) < MIN_SPACING]
        if near:
            self._crops = [c for c in self._crops if c not in near]
        elif len(self._crops) >= self._limit:
            self._crops.remove(self._victim(_bin(candidate.yaw)))
        self._crops.append(candidate)
        return True

    def best(self) -> list[KeyCrop]:
        """Crops kept, best first."""
        return sorted(self._crops, key=lambda c: -c.quality)

    def _victim(self, arriving: int) -> KeyCrop:
        members: dict[int, list[KeyCrop]] = {}
        for crop in self._crops:
            members.setdefault(_bin(crop.yaw), []).append(crop)
        # The arriving crop counts for its bin: at a tie it competes with its own kind.
        crowded = max(members, key=lambda b: (len(members[b]) + (b == arriving), b == arriving))
        return min(members[crowded], key=lambda c: c.quality)


def _bin(yaw: float) -> int:
    return round(yaw / YAW_BIN)


def merge(groups: list[KeyCrops], limit: int) -> list[KeyCrop]:
    """Key crops of one person from several tracks: in turn the best of each, up to `limit`."""
    ranked = [group.best() for group in groups]
    chosen: list[KeyCrop] = []
    for rank in range(max((len(r) for r in ranked), default=0)):
        chosen += sorted((r[rank] for r in ranked if rank < len(r)), key=lambda c: -c.quality)
    return chosen[:limit]
