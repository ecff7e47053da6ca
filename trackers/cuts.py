"""Scene cuts: a track must not run on into another shot."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from fluidvid.trackers.types import Image

THUMBNAIL = (64, 36)
BINS = (8, 4, 4)
MEMORY = 0.9
CALM = 2.5


class SceneCutDetector:
    """Compares each picture with the one before: colour histograms for what is in it, thumbnails for where.

    The distance is the geometric mean of the Hellinger distance of HSV histograms and of one minus the correlation
    of thumbnails, so that neither a passer-by (histogram) nor a pan (thumbnail) alone makes a cut. It must also stand
    out by a factor from the recent distances, so that a shaken camera does not make one in every frame.

    Args:
        threshold: distance in (0, 1] from which it is a cut.
    """

    def __init__(self, threshold: float = 0.35) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"a cut threshold lies above 0 and up to 1, got {threshold}")
        self._threshold = threshold
        self._before: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
        self._usual = 0.0
        self.distance = 0.0

    def update(self, image: Image) -> bool:
        """True if `(H, W, 3)` uint8 RGB begins a new shot; the first picture does not."""
        now = _signature(image)
        before, self._before = self._before, now
        if before is None:
            return False
        self.distance = _distance(before, now)
        cut = self.distance >= self._threshold and self.distance > CALM * self._usual
        self._usual = 0.0 if cut else MEMORY * self._usual + (1 - MEMORY) * self.distance
        return cut


def _signature(image: Image) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    small = cv2.resize(image, THUMBNAIL, interpolation=cv2.INTER_AREA)
    hsv = cv2.cvtColor(small, cv2.COLOR_RGB2HSV)
    histogram = cv2.calcHist([hsv], [2, 1, 0], None, list(BINS), [0, 256, 0, 256, 0, 180])
    grey = cv2.GaussianBlur(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), (0, 0), 1.0).astype(np.float32)
    return np.asarray(histogram / histogram.sum(), dtype=np.float32), grey


def _distance(
    a: tuple[NDArray[np.float32], NDArray[np.float32]], b: tuple[NDArray[np.float32], NDArray[np.float32]]
) -> float:
    hellinger = float(np.sqrt(max(0.0, 1.0 - float(np.sqrt(a[0] * b[0]).sum()))))
    x, y = a[1] - a[1].mean(), b[1] - b[1].mean()
    power = float(np.sqrt((x * x).sum() * (y * y).sum()))
    # Two flat pictures (a black one and a white one) have no correlation: their means then decide.
    if power < 4.0 * x.size:
        apart = min(1.0, abs(float(a[1].mean() - b[1].mean())) / 64.0)
    else:
        apart = min(1.0, max(0.0, 1.0 - float((x * y).sum()) / power))
    return float(np.sqrt(hellinger * apart))
