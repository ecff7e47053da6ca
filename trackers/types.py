"""The exchange types of the package: what detectors return and what tracks consist of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""`(H, W, 3)` uint8 RGB, upright."""
Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Detection:
    """One face in one picture.

    Attributes:
        box: `(4,)` float32 `(x1, y1, x2, y2)` pixels; may reach beyond the picture's edges.
        score: detector's confidence in [0, 1].
        landmarks: `(5, 2)` float32 pixels: left eye, right eye, nose, left mouth, right mouth as seen; NaN where only
            the place of a face is known.
        source: name of the detector.
    """

    box: Array
    score: float
    landmarks: Array
    source: str = ""


@dataclass(frozen=True, eq=False)
class TrackedFace:
    """One face of one track in one frame.

    Attributes:
        track_id: stable over the track's life, never reused within a run.
        frame: frame index in decoding order, from 0.
        box: `(4,)` float32 pixels, may reach beyond the edges.
        landmarks: `(5, 2)` float32 pixels; NaN as in a `Detection`.
        score: detector's confidence; 0 where nothing was detected.
        observed: True where a detection supports it, False where it is held (predicted or interpolated).
    """

    track_id: int
    frame: int
    box: Array
    landmarks: Array
    score: float
    observed: bool
