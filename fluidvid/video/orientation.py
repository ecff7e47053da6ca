"""The eight upright orientations of a display matrix, for arrays and boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Box = tuple[int, int, int, int]
_TURNS: tuple[list[tuple[str, str]], ...] = (
    [],
    [("transpose", "cclock")],
    [("hflip", ""), ("vflip", "")],
    [("transpose", "clock")],
)
"""Libavfilter steps of so many quarter turns counter-clockwise."""


@dataclass(frozen=True)
class Orientation:
    """How the stored picture becomes the upright one: turn counter-clockwise, then mirror left to right.

    Attributes:
        quarter_turns: counter-clockwise quarter turns, 0..3.
        mirrored: mirror left to right after the turn.
        matrix: the display matrix as stored (9 fixed-point numbers), or None if there was none.
    """

    quarter_turns: int = 0
    mirrored: bool = False
    matrix: tuple[int, ...] | None = None

    @staticmethod
    def from_matrix(matrix: Sequence[int]) -> Orientation:
        """Read FFmpeg's display matrix `(a b u c d v x y w)`; angles that are no quarter turn are rounded to one.

        Raises:
            ValueError: it does not have nine numbers.
        """
        values = tuple(int(v) for v in matrix)
        if len(values) != 9:
            raise ValueError(f"a display matrix has 9 numbers, got {len(values)}")
        a, b, _, c, d = values[:5]
        mirrored = a * d - b * c < 0
        if mirrored:  # take the mirror off: p' = M p, M = F R, so R = F M, F = diag(-1, 1)
            a, c = -a, -c
        # (x, y) -> (a x + c y, b x + d y) with y down: a turn by atan2(b, a) clockwise as seen.
        turns = round(math.atan2(-b, a) / (math.pi / 2)) % 4
        return Orientation(turns, mirrored, values)

    @staticmethod
    def from_angle(degrees: int) -> Orientation:
        """Of a picture to be turned counter-clockwise by `degrees`."""
        cos, sin = (round(65536 * f(math.radians(degrees))) for f in (math.cos, math.sin))
        return Orientation.from_matrix((cos, -sin, 0, sin, cos, 0, 0, 0, 1 << 30))

    @property
    def identity(self) -> bool:
        """True if stored and upright picture are the same."""
        return self.quarter_turns == 0 and not self.mirrored

    @property
    def exact(self) -> bool:
        """True if the matrix is one of the eight; else the displayed picture is turned by a further angle."""
        if self.matrix is None:
            return True
        a, b, _, c, d = self.matrix[:5]
        small = 0.01 * max(abs(a), abs(b), abs(c), abs(d), 1)
        return (abs(b) < small and abs(c) < small) or (abs(a) < small and abs(d) < small)

    @property
    def swaps_sides(self) -> bool:
        """True if width and height change places."""
        return self.quarter_turns % 2 == 1

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Upright `(width, height)` of a stored `(width, height)`."""
        return (height, width) if self.swaps_sides else (width, height)

    def upright(self, stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn a stored `(H, W, 3)` picture upright; contiguous."""
        if self.identity:
            return stored
        codes = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}
        turned = cv2.rotate(stored, codes[self.quarter_turns]) if self.quarter_turns else stored
        return np.ascontiguousarray(cv2.flip(turned, 1) if self.mirrored else turned, dtype=np.uint8)

    def stored(self, upright: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The inverse of `upright`, as a view."""
        turned = upright[:, ::-1] if self.mirrored else upright
        return np.rot90(turned, -self.quarter_turns)

    def stored_box(self, box: Box, width: int, height: int) -> Box:
        """Map an upright box into the stored picture.

        Args:
            box: `(x1, y1, x2, y2)` upright pixels, ends excluded.
            width: of the stored picture.
            height: of the stored picture.
        """
        x1, y1, x2, y2 = box
        w, h = self.size(width, height)
        if self.mirrored:
            x1, x2 = w - x2, w - x1
        for _ in range(self.quarter_turns):  # one turn clockwise: (x, y) -> (h - y, x), and the sides swap
            x1, y1, x2, y2 = h - y2, x1, h - y1, x2
            w, h = h, w
        return x1, y1, x2, y2

    def filters(self) -> list[tuple[str, str]]:
        """Libavfilter steps `(name, arguments)` that turn the stored picture upright."""
        return _TURNS[self.quarter_turns] + self._flip()

    def back(self) -> list[tuple[str, str]]:
        """Libavfilter steps that turn the upright picture as it was stored: the inverse of `filters`."""
        return self._flip() + _TURNS[-self.quarter_turns % 4]

    def _flip(self) -> list[tuple[str, str]]:
        return [("hflip", "")] if self.mirrored else []
