"""Aligned crops: how a picture is sampled into one."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

SOFT, SOFTENED = 0.08, 0.06
"""What lies outside the picture is blurred by a Gaussian of this standard deviation, entirely so from this distance to
the edge on, both in sides of the crop: a mirrored face must not look like a second one. FFHQ's crops are made so."""

BLUR, BLURRED_BELOW = 0.45, 0.75
"""Standard deviation, in crop pixels, of the Gaussian that keeps a larger picture from aliasing, and crop pixels per
picture pixel below which it is applied."""


def crop(image: NDArray[np.uint8], matrix: ArrayLike, size: int) -> NDArray[np.uint8]:
    """Sample an aligned square crop without aliasing.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        matrix: `(2, 3)` similarity from picture pixels to crop pixels.
        size: side of the crop in pixels.

    Returns:
        `(size, size, 3)` uint8; what lies outside the picture is mirrored from inside and blurred.

    Raises:
        ValueError: the matrix is not finite or flattens the picture.
    """
    m = np.asarray(matrix, dtype=np.float64)
    scale = float(np.hypot(m[0, 0], m[0, 1]))
    if not np.isfinite(m).all() or scale < 1e-9:
        raise ValueError(f"an aligned crop needs a finite, invertible transform, got {m.tolist()}")
    part, moved = _around(image, m, size, scale)
    if scale < BLURRED_BELOW:
        part = np.asarray(cv2.GaussianBlur(part, (0, 0), BLUR / scale), dtype=np.uint8)
    how = cv2.INTER_LINEAR if scale < 1 else cv2.INTER_CUBIC
    sampled = np.asarray(cv2.warpAffine(part, moved, (size, size), flags=how, borderMode=cv2.BORDER_REFLECT), np.uint8)
    return _softened_outside(sampled, part.shape[:2], moved)


def _softened_outside(
    sampled: NDArray[np.uint8], shape: tuple[int, ...], matrix: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """A crop with what lies outside a picture of `shape` blurred."""
    size, (height, width) = sampled.shape[0], shape
    corners = _corners(matrix, size)
    if (corners >= -1).all() and (corners <= (width, height)).all():
        return sampled
    inside = cv2.warpAffine(np.ones((height, width), np.uint8), matrix, (size, size), flags=cv2.INTER_NEAREST)
    far = cv2.distanceTransform(1 - inside, cv2.DIST_L2, 3)
    share = np.clip(far / (SOFTENED * size), 0, 1)[..., None]
    soft = cv2.GaussianBlur(sampled, (0, 0), SOFT * size, borderType=cv2.BORDER_REFLECT).astype(np.float32)
    return np.asarray(np.rint(sampled + share * (soft - sampled)), np.uint8)


def _around(
    image: NDArray[np.uint8], matrix: NDArray[np.float64], size: int, scale: float
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The part of the picture that the crop can see, and the matrix for it: the blur then costs what a face costs."""
    sides = np.array([image.shape[1], image.shape[0]])
    corners = _corners(matrix, size)
    margin = 4 + 2.0 / scale
    low, high = corners.min(0) - margin, corners.max(0) + margin
    # What the crop sees beyond an edge is mirrored from as far inside.
    low, high = np.minimum(low, 2 * sides - high), np.maximum(high, -low)
    low = np.clip(np.floor(low), 0, sides - 1).astype(int)
    high = np.clip(np.ceil(high), low + 1, sides).astype(int)
    moved = matrix.copy()
    moved[:, 2] += matrix[:, :2] @ low
    return np.ascontiguousarray(image[low[1] : high[1], low[0] : high[0]]), moved


def _corners(matrix: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """`(4, 2)` where a crop's corners lie in the picture."""
    square = np.array([(0, 0), (size, 0), (0, size), (size, size)])
    return np.asarray((square - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T)
