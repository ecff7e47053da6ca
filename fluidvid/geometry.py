"""Similarity transforms between point sets, and templates of aligned faces: a leaf that trackers and engine share."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Five points in fractions of the side, order: left eye, right eye, nose, left mouth, right mouth as seen.
FFHQ_112 = np.array([(0.3622, 0.4197), (0.6376, 0.4203), (0.5014, 0.5816), (0.3803, 0.7072), (0.6246, 0.7066)])
# The same of insightface's 112-pixel crop.
ARCFACE_112 = (
    np.array([(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]) / 112
)


def similarity(source: ArrayLike, target: ArrayLike) -> NDArray[np.float64]:
    """Least-squares similarity that carries `source` onto `target` (Umeyama, 1991).

    Args:
        source: `(K, 2)` points, K >= 2, not all equal.
        target: `(K, 2)` points.

    Returns:
        `(2, 3)` float64 matrix M with `target ~ source @ M[:, :2].T + M[:, 2]`.

    Raises:
        ValueError: shapes differ, fewer than two points, non-finite values, or all source points coincide.
    """
    src, dst = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if src.shape != dst.shape or src.ndim != 2 or src.shape[1] != 2 or len(src) < 2:
        raise ValueError(f"two (K, 2) point sets with K >= 2 are needed, got {src.shape} and {dst.shape}")
    if not (np.isfinite(src).all() and np.isfinite(dst).all()):
        raise ValueError("points must be finite")
    src_mean, dst_mean = src.mean(0), dst.mean(0)
    a, b = src - src_mean, dst - dst_mean
    variance = float((a**2).sum())
    if variance < 1e-12:
        raise ValueError("all source points coincide")
    # In the plane the optimum is closed-form: a rotation-scaling (c, s).
    c = float((a * b).sum()) / variance
    s = float((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()) / variance
    linear = np.array([[c, -s], [s, c]])
    return np.hstack([linear, (dst_mean - linear @ src_mean)[:, None]])


def invert(matrix: ArrayLike) -> NDArray[np.float64]:
    """Inverse of a `(2, 3)` affine matrix; raises `numpy.linalg.LinAlgError` if it is singular."""
    m = np.asarray(matrix, dtype=np.float64)
    linear = np.linalg.inv(m[:, :2])
    return np.hstack([linear, -(linear @ m[:, 2:])])


def transform(matrix: ArrayLike, points: ArrayLike) -> NDArray[np.float64]:
    """Apply a `(2, 3)` affine matrix to `(..., 2)` points."""
    m, p = np.asarray(matrix, dtype=np.float64), np.asarray(points, dtype=np.float64)
    return np.asarray(p @ m[:, :2].T + m[:, 2])
