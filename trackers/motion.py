"""How a face box moves: a constant-velocity Kalman filter (filterpy) over centre and size."""

from __future__ import annotations

import numpy as np
from filterpy.kalman import KalmanFilter
from numpy.typing import ArrayLike, NDArray

POSITION_NOISE = 0.05
VELOCITY_NOISE = 0.0125
MEASUREMENT_NOISE = 0.04
"""Standard deviations as shares of the box's height, as in DeepSORT (Wojke et al., arXiv 1703.07402)."""
DAMPING = 0.9
"""Velocity that is left per frame without a detection: a lost face stops rather than flies away."""


class BoxMotion:
    """One box over time; the state is (centre x, centre y, width, height) and their velocities per frame.

    Args:
        box: `(4,)` first observation in pixels.
    """

    def __init__(self, box: ArrayLike) -> None:
        self._filter = KalmanFilter(dim_x=8, dim_z=4)
        self._filter.F = np.eye(8) + np.eye(8, k=4)
        self._filter.H = np.eye(4, 8)
        centre = _centre_form(box)
        self._filter.x = np.concatenate([centre, np.zeros(4)]).reshape(8, 1)
        side = centre[3]
        self._filter.P = np.diag([2 * POSITION_NOISE * side] * 4 + [10 * VELOCITY_NOISE * side] * 4) ** 2
        self._lost = 0

    @property
    def box(self) -> NDArray[np.float32]:
        """`(4,)` float32 current estimate in pixels."""
        x, y, width, height = self._filter.x[:4, 0]
        width, height = max(1.0, width), max(1.0, height)
        return np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2], dtype=np.float32)

    @property
    def ahead(self) -> NDArray[np.float32]:
        """`(4,)` float32 where the box will be in the next frame, pixels."""
        state = self._filter.x
        now = self.box
        return np.asarray(now + np.tile(state[4:6, 0], 2), dtype=np.float32)

    def predict(self) -> NDArray[np.float32]:
        """Advance one frame; returns the predicted box."""
        side = max(1.0, float(self._filter.x[3, 0]))
        self._filter.Q = np.diag([POSITION_NOISE * side] * 4 + [VELOCITY_NOISE * side] * 4) ** 2
        if self._lost:
            self._filter.x[4:] *= DAMPING
            self._filter.x[6:] = 0.0
        self._filter.predict()
        self._lost += 1
        return self.box

    def update(self, box: ArrayLike) -> None:
        """Take in a `(4,)` observation."""
        centre = _centre_form(box)
        self._filter.R = np.eye(4) * (MEASUREMENT_NOISE * max(1.0, centre[3])) ** 2
        self._filter.update(centre.reshape(4, 1))
        self._lost = 0


def _centre_form(box: ArrayLike) -> NDArray[np.float64]:
    b = np.asarray(box, dtype=np.float64)
    if b.shape != (4,) or not np.isfinite(b).all() or b[2] <= b[0] or b[3] <= b[1]:
        raise ValueError(f"a box is four finite numbers x1 < x2, y1 < y2, got {b.tolist()}")
    return np.array([(b[0] + b[2]) / 2, (b[1] + b[3]) / 2, b[2] - b[0], b[3] - b[1]])
