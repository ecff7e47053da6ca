"""Steady alignment: smooth the similarity transforms of a track over time, with no lag."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.signal import savgol_filter

from fluidvid.geometry import similarity

WINDOW = 9
ORDER = 2
JUMP = 1.3
"""A move by more than this many eye distances from one frame to the next is a jump, not to be smoothed over."""
SMALLEST = 1e-3
"""Picture pixels per crop pixel below which landmarks coincide (or are mirrored): no face has this shape."""


def smooth_transforms(landmarks: NDArray[np.float32], template: ArrayLike) -> NDArray[np.float64]:
    """Similarity transforms that carry landmarks onto the template, smoothed along the track.

    Local quadratic fits (Savitzky and Golay, 1964) over nine frames follow a nod without lag or flattening, and take
    out two thirds of the detector's jitter. What is smoothed is the inverse: where the crop lies in the picture.

    Args:
        landmarks: `(T, 5, 2)` pixels, in frame order; of a face that was not observed, the interpolated ones.
        template: `(5, 2)` landmarks in crop pixels.

    Returns:
        `(T, 2, 3)` float64 from picture to crop pixels; NaN where the landmarks coincide or are not finite.
    """
    target = np.asarray(template, dtype=np.float64)
    centre = target.mean(0)
    count = len(landmarks)
    # Per frame: log size and angle of the crop in the picture, and where the template's middle lies.
    states = np.full((count, 4), np.nan)
    for i, points in enumerate(np.asarray(landmarks, dtype=np.float64)):
        try:
            matrix = similarity(target, points)
        except ValueError:
            continue
        linear = matrix[:, :2]
        size = float(np.hypot(linear[0, 0], linear[1, 0]))
        if size < SMALLEST:
            continue
        states[i] = (
            np.log(size),
            np.arctan2(linear[1, 0], linear[0, 0]),
            *(linear @ centre + matrix[:, 2]),
        )
    result = np.full((count, 2, 3), np.nan)
    for begin, end in _steady_stretches(states, float(np.linalg.norm(target[1] - target[0]))):
        part = states[begin:end].copy()
        part[:, 1] = np.unwrap(part[:, 1])
        window = min(WINDOW, (end - begin - 1) // 2 * 2 + 1)
        if window > ORDER + 1:
            part = savgol_filter(part, window, ORDER, axis=0, mode="interp")
        result[begin:end] = [_matrix(state, centre) for state in part]
    return result


def _steady_stretches(states: NDArray[np.float64], eye_distance: float) -> list[tuple[int, int]]:
    """Half-open runs without missing rows and without jumps."""
    good: NDArray[np.bool_] = np.asarray(np.isfinite(states).all(axis=1))
    stretches: list[tuple[int, int]] = []
    begin: int | None = None
    for i in range(len(states) + 1):
        inside = i < len(states) and good[i]
        broken = inside and begin is not None and i > begin and _jumps(states[i - 1], states[i], eye_distance)
        if begin is not None and (not inside or broken):
            stretches.append((begin, i))
            begin = None
        if inside and begin is None:
            begin = i
    return stretches


def _jumps(a: NDArray[np.float64], b: NDArray[np.float64], eye_distance: float) -> bool:
    turned = abs((b[1] - a[1] + np.pi) % (2 * np.pi) - np.pi)
    moved = float(np.hypot(*(b[2:] - a[2:]))) / (eye_distance * np.exp(a[0]))
    return bool(moved > JUMP or abs(b[0] - a[0]) > 0.3 or turned > 0.5)


def _matrix(state: NDArray[np.float64], centre: NDArray[np.float64]) -> NDArray[np.float64]:
    """The transform from picture to crop of one state."""
    scale, angle = np.exp(-state[0]), -state[1]
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[c, -s], [s, c]])
    return np.hstack([linear, (centre - linear @ state[2:])[:, None]])
