"""Masks that cover a whole face: solid, pixelated or blurred. None keeps more than 8 x 8 numbers of it.

Pixelation and blur both start from the same at most `cells` x `cells` means over the face box, so that what a
mask reveals is bounded by construction and does not depend on the resolution of the picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fluidvid.config import MaskKind

Region = tuple[int, int, int, int]
"""`(x1, y1, x2, y2)` whole pixels inside the picture, x2 and y2 exclusive."""

MAX_CELLS = 8
SOLID_RGB = (128, 128, 128)


def clip_region(box: ArrayLike, shape: Sequence[int]) -> Region | None:
    """Smallest whole-pixel region of `box` inside a picture of `shape` (H, W, ...), or None if outside.

    Raises:
        ValueError: the box is not four finite numbers; an unusable box must never pass for "nothing there".
    """
    b = np.asarray(box, dtype=np.float64)
    if b.shape != (4,) or not np.isfinite(b).all():
        raise ValueError(f"a box is four finite numbers, got {b!r}")
    height, width = int(shape[0]), int(shape[1])
    left, right = sorted((b[0], b[2]))
    top, bottom = sorted((b[1], b[3]))
    x1, y1 = max(0, math.floor(left)), max(0, math.floor(top))
    x2, y2 = min(width, math.ceil(right)), min(height, math.ceil(bottom))
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def expanded(box: ArrayLike, margin: float) -> NDArray[np.float64]:
    """`(4,)` box grown on each side by `margin` times its longer side, at least one pixel."""
    b = np.asarray(box, dtype=np.float64)
    grow = max(1.0, margin * max(abs(b[2] - b[0]), abs(b[3] - b[1])))
    return np.asarray(b + np.array([-grow, -grow, grow, grow]), dtype=np.float64)


def face_mask(image: NDArray[np.uint8], box: ArrayLike, *, kind: MaskKind, cells: int, margin: float) -> Region | None:
    """Cover the face at `box` in place.

    Args:
        image: `(H, W, 3)` uint8 RGB, changed in place.
        box: `(4,)` tracked box, may reach beyond the edges; the whole box and its margin are covered.
        kind: `solid` (grey), `pixelate`, or `blur` (the pixelation smoothed over a cell's width).
        cells: cells across the longer side of the box, 1 to 8.
        margin: share of the box's longer side added all round.

    Returns:
        The covered region, or None when box and margin lie outside the picture.

    Raises:
        ValueError: `cells` out of range, an unknown kind, or an unusable box.
    """
    if not 1 <= cells <= MAX_CELLS:
        raise ValueError(f"cells must be 1 to {MAX_CELLS}, got {cells}")
    grown = expanded(box, margin)
    region = clip_region(grown, image.shape)
    if region is None:
        return None
    x1, y1, x2, y2 = region
    if kind == "solid":
        image[y1:y2, x1:x2] = SOLID_RGB
        return region
    if kind not in ("pixelate", "blur"):
        raise ValueError(f"a mask is solid, pixelate or blur, got {kind!r}")
    b = np.asarray(box, dtype=np.float64)
    side = max(abs(b[2] - b[0]), abs(b[3] - b[1]), 1.0)
    cell = max(4, math.ceil(side / cells))
    patch = image[y1:y2, x1:x2]
    # The grid is tied to the face, not to the picture: a grid that slides over a moving face would give an
    # attacker many different samplings of it.
    cover = _cells(patch, cell, offset=(x1 - math.floor(grown[0]), y1 - math.floor(grown[1])))
    if kind == "blur":
        image[y1:y2, x1:x2] = cv2.GaussianBlur(cover, (0, 0), sigmaX=0.6 * cell, borderType=cv2.BORDER_REPLICATE)
    else:
        image[y1:y2, x1:x2] = cover
    return region


def _cells(patch: NDArray[np.uint8], cell: int, *, offset: tuple[int, int]) -> NDArray[np.uint8]:
    """Every `cell` x `cell` block replaced by its mean; the grid begins `offset` pixels before the patch."""
    height, width = patch.shape[:2]
    columns = (np.arange(width) + offset[0]) // cell
    rows = (np.arange(height) + offset[1]) // cell
    columns -= columns[0]
    rows -= rows[0]
    row_starts = np.flatnonzero(np.diff(rows, prepend=-1))
    column_starts = np.flatnonzero(np.diff(columns, prepend=-1))
    sums = np.add.reduceat(np.add.reduceat(patch.astype(np.float64), row_starts, axis=0), column_starts, axis=1)
    counts = np.outer(np.bincount(rows), np.bincount(columns))[..., None]
    means = np.rint(sums / counts).astype(np.uint8)
    return np.ascontiguousarray(means[rows][:, columns])
