"""Head pose and usefulness of a face from its five landmarks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fluidvid.trackers.types import Image

MODEL_MM = np.array(
    [(-31.5, -19.0, -4.0), (31.5, -19.0, -4.0), (0.0, 16.0, 29.0), (-27.0, 46.0, 2.0), (27.0, 46.0, 2.0)]
)
"""Five landmarks of a mean head in millimetres: x to the right as seen, y down, z towards the camera."""
FULL_SIDE = 160.0
SHARP = 60.0


@dataclass(frozen=True)
class FacePose:
    """Yaw (positive: nose to the right as seen), pitch and roll in degrees; usefulness as a key picture in [0, 1].

    All angles are NaN where the landmarks do not form a face.
    """

    yaw: float
    pitch: float
    roll: float
    quality: float


def face_pose(landmarks: ArrayLike, image: Image | None, box: ArrayLike) -> FacePose:
    """Pose by weak-perspective fit of a mean head, quality from size, turn and sharpness.

    Args:
        landmarks: `(5, 2)` pixels.
        image: `(H, W, 3)` uint8 for the sharpness, or None to leave that out.
        box: `(4,)` pixels.

    Returns:
        pose in degrees.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    b = np.asarray(box, dtype=np.float64)
    yaw, pitch, roll = head_angles(points)
    if not math.isfinite(yaw):
        return FacePose(math.nan, math.nan, math.nan, 0.0)
    size = min(1.0, float(min(b[2] - b[0], b[3] - b[1])) / FULL_SIDE)
    turn = math.cos(math.radians(min(abs(yaw), 90.0))) * math.cos(math.radians(min(abs(pitch), 90.0)))
    sharpness = 1.0 if image is None else _sharpness(image, b)
    return FacePose(yaw, pitch, roll, max(0.0, size) * max(0.0, turn) * sharpness)


def head_angles(points: NDArray[np.float64]) -> tuple[float, float, float]:
    """(yaw, pitch, roll) in degrees of `(5, 2)` landmarks; NaN where they coincide or are not finite.

    The head is nodded first, then turned, then tilted.
    """
    nothing = (math.nan, math.nan, math.nan)
    if points.shape != (5, 2) or not np.isfinite(points).all():
        return nothing
    model = MODEL_MM - MODEL_MM.mean(0)
    affine, *_ = np.linalg.lstsq(model, points - points.mean(0), rcond=None)
    rows = affine.T  # (2, 3): a scaled rotation's first two rows, were there no noise
    left, values, right = np.linalg.svd(rows, full_matrices=False)
    if values[1] < 1e-6 or np.ptp(points, axis=0).max() < 1e-3:
        return nothing
    rotation = left @ right
    forward = rotation[:, 2]
    roll = math.atan2(rotation[1, 0], rotation[0, 0])
    c, s = math.cos(-roll), math.sin(-roll)
    side, down = c * forward[0] - s * forward[1], s * forward[0] + c * forward[1]
    ahead = math.sqrt(max(0.0, 1.0 - side * side - down * down))
    yaw, pitch = math.atan2(side, ahead), math.atan2(-down, math.hypot(side, ahead))
    return math.degrees(yaw), math.degrees(pitch), math.degrees(roll)


def _sharpness(image: Image, box: NDArray[np.float64]) -> float:
    """In (0, 1]: contrast of the Laplacian over the face at a fixed size."""
    height, width = image.shape[:2]
    x1, y1 = np.clip(np.floor(box[:2]), 0, (width - 1, height - 1)).astype(int)
    x2, y2 = np.clip(np.ceil(box[2:]), (x1 + 1, y1 + 1), (width, height)).astype(int)
    grey = cv2.cvtColor(np.ascontiguousarray(image[y1:y2, x1:x2]), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (64, 64), interpolation=cv2.INTER_AREA)
    value = float(cv2.Laplacian(small, cv2.CV_32F).var())
    return max(0.05, value / (value + SHARP))
