"""Scene cuts: a track must not run on into another shot."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fluidvid.trackers.types import Image

THUMBNAIL = (64, 36)
BINS = (8, 4, 4)
MEMORY = 0.9
CALM = 2.5
BARS = 16.0
"""Grey level below which whole rows and columns of both pictures are bars that say nothing about either."""
FLAT = 2.0
"""Standard deviation of a thumbnail's grey levels below which there is nothing to see."""
WHITE = 250.0
FLASHED = 0.4
"""Correlation of a flash with the picture before it, lit until as much of it is white."""
FLASH = 3
"""Pictures that a flash lasts at most."""


class SceneCutDetector:
    """Compares each picture with the one before: colour histograms for what is in it, thumbnails for where.

    The distance is the geometric mean of the Hellinger distance of HSV histograms and of one minus the correlation
    of thumbnails, so that neither a passer-by (histogram) nor a pan (thumbnail) alone makes a cut. It must also stand
    out by a factor from the recent distances, so that a shaken camera does not make one in every frame. Up to three
    empty pictures (white or black: a flash, a dropped picture) are passed over, as the shot may go on behind them;
    a cut to white or black for longer is told three pictures late, one to something on a white ground at once. Fades
    and dissolves are not cuts.

    Args:
        threshold: distance in (0, 1] from which it is a cut.
    """

    def __init__(self, threshold: float = 0.35) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"a cut threshold lies above 0 and up to 1, got {threshold}")
        self._threshold = threshold
        self._before: _Thumbnail | None = None
        self._usual = 0.0
        self._passed = 0

    def update(self, image: Image) -> bool:
        """True if `(H, W, 3)` uint8 RGB begins a new shot; the first picture does not."""
        now = _thumbnail(image)
        before = self._before
        if before is not None and not before.empty and now.may_be_a_flash_of(before) and self._passed < FLASH:
            self._passed += 1
            return False
        self._before, self._passed = now, 0
        if before is None:
            return False
        distance = _distance(before, now)
        cut = distance >= self._threshold and distance > CALM * self._usual
        self._usual = 0.0 if cut else MEMORY * self._usual + (1 - MEMORY) * distance
        return cut


@dataclass(frozen=True, eq=False)
class _Thumbnail:
    hsv: NDArray[np.uint8]
    grey: NDArray[np.float32]

    @property
    def flat(self) -> bool:
        return bool(self.grey.std() < FLAT)

    @property
    def empty(self) -> bool:
        return self.flat or bool((self.grey >= WHITE).mean() > 0.5)

    def may_be_a_flash_of(self, other: _Thumbnail) -> bool:
        """Nothing is seen in it, or it is the other in more light: something on a white ground is another shot."""
        if self.flat or not self.empty:
            return self.flat
        # As much of the other made white by as much light as it takes.
        darkest_white = float(np.quantile(other.grey, 1 - float((self.grey >= WHITE).mean())))
        lit = np.minimum(other.grey * (WHITE / max(darkest_white, 1.0)), 255.0)
        return lit.std() == 0 or float(np.corrcoef(self.grey.ravel(), lit.ravel())[0, 1]) >= FLASHED


def _thumbnail(image: Image) -> _Thumbnail:
    small = cv2.resize(image, THUMBNAIL, interpolation=cv2.INTER_AREA)
    grey = np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), dtype=np.float32)
    return _Thumbnail(np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2HSV), dtype=np.uint8), grey)


def _distance(a: _Thumbnail, b: _Thumbnail) -> float:
    brighter = np.maximum(a.grey, b.grey)
    inside = np.ix_(brighter.max(1) >= BARS, brighter.max(0) >= BARS)
    if min(inside[0].size, inside[1].size) == 0:
        return 0.0
    # Blurred only now, or the bars would bleed in.
    x, y = (np.asarray(cv2.GaussianBlur(t.grey[inside], (0, 0), 1.0), dtype=np.float32) for t in (a, b))
    common = np.sqrt(_histogram(a.hsv[inside]) * _histogram(b.hsv[inside])).sum()
    hellinger = float(np.sqrt(max(0.0, 1.0 - float(common))))
    apart = min(1.0, abs(float(x.mean() - y.mean())) / 64.0)
    x, y = x - x.mean(), y - y.mean()
    power = float(np.sqrt((x * x).sum() * (y * y).sum()))
    # Two flat pictures (a black one and a white one) have no correlation: their means then decide.
    if power >= FLAT * FLAT * x.size:
        apart = min(1.0, max(0.0, 1.0 - float((x * y).sum()) / power))
    return float(np.sqrt(hellinger * apart))


def _histogram(hsv: NDArray[np.uint8]) -> NDArray[np.float32]:
    histogram = cv2.calcHist([np.ascontiguousarray(hsv)], [2, 1, 0], None, list(BINS), [0, 256, 0, 256, 0, 180])
    return np.asarray(histogram / histogram.sum(), dtype=np.float32)
