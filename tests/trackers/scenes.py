"""Synthetic faces whose truth is known, and textured pictures."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fluidvid.trackers.types import Detection, TrackedFace

FIVE = np.array([(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.78), (0.65, 0.78)])
"""Landmarks in fractions of the box."""


def box_at(x: float, y: float, width: float = 60, height: float = 75) -> NDArray[np.float32]:
    """`(4,)` box around a centre."""
    return np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2], np.float32)


def points_in(box: ArrayLike) -> NDArray[np.float32]:
    """`(5, 2)` landmarks at their usual places in a box."""
    b = np.asarray(box, dtype=np.float64)
    return (b[:2] + FIVE * (b[2:] - b[:2])).astype(np.float32)


def detection(x: float, y: float, width: float = 60, height: float = 75, score: float = 0.9) -> Detection:
    box = box_at(x, y, width, height)
    return Detection(box, score, points_in(box), "fake")


def observed(track: int, frame: int, x: float, y: float = 100, width: float = 60) -> TrackedFace:
    box = box_at(x, y, width, width * 1.25)
    return TrackedFace(track, frame, box, points_in(box), 0.9, True)


def centre(box: ArrayLike) -> NDArray[np.float64]:
    b = np.asarray(box, dtype=np.float64)
    return (b[:2] + b[2:]) / 2


def unit(rng: np.random.Generator, count: int, dims: int = 64) -> NDArray[np.float32]:
    """`(count, dims)` random unit vectors: next to orthogonal."""
    v = rng.standard_normal((count, dims))
    return np.asarray(v / np.linalg.norm(v, axis=1, keepdims=True), dtype=np.float32)


def noisy(rng: np.random.Generator, vectors: NDArray[np.float32], amount: float) -> NDArray[np.float32]:
    """Unit vectors near the given ones; `amount` is the noise's length, so cosines are about 1/sqrt(1 + amount^2)."""
    v = vectors + amount * unit(rng, len(vectors), vectors.shape[1])
    return np.asarray(v / np.linalg.norm(v, axis=1, keepdims=True), dtype=np.float32)


def texture(seed: int, height: int, width: int, blur: float = 8.0) -> NDArray[np.uint8]:
    """`(height, width, 3)` smooth random colours over the whole range."""
    rng = np.random.default_rng(seed)
    raw = rng.standard_normal((height, width, 3)).astype(np.float32)
    soft = np.asarray(cv2.GaussianBlur(raw, (0, 0), blur), dtype=np.float32)
    soft = (soft - soft.min()) / (soft.max() - soft.min())
    return np.asarray(soft * 255, dtype=np.uint8)
