"""What can be said of two pictures without any network: how much was changed, where, and how steadily."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fluidvid.audit.timeline import Picture
from fluidvid.masks import clip_region, expanded

INNER = -0.1
"""The face's own pixels: the box without this share of its longer side all round."""
AROUND = 0.6
"""Pixels outside faces lie further from every box than this share of its longer side: hair and masks reach that far."""
SAME_DETAIL, LIKE_DETAIL, LIKE_PSNR = 0.93, 0.6, 4.0
"""See `untouched`."""
LARGEST_PSNR = 99.0
BLOCK = 16
"""Side in pixels of what is looked at together in `encoding`."""
NO_ENCODING = 650.0
"""Mean squared error of a block, 20 dB, beyond which it was painted over and not encoded."""
FLOW_SIDE = 96
"""Longer side in pixels of the region that optical flow is computed on."""


def luma(picture: Picture) -> NDArray[np.float32]:
    """`(H, W)` float32 BT.601 luma of `(H, W, 3)` uint8 RGB, 0..255."""
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY), np.float32)


def psnr(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Peak signal-to-noise ratio in dB of 8-bit values of one shape, at most `LARGEST_PSNR`; NaN of none."""
    if a.size == 0:
        return math.nan
    error = float(np.square(a.astype(np.float64) - b).mean())
    return LARGEST_PSNR if error < 1e-9 else min(LARGEST_PSNR, 10 * math.log10(255**2 / error))


def face_change(a: NDArray[np.float32], b: NDArray[np.float32], box: ArrayLike) -> tuple[float, float]:
    """How much of a face is still the source's own.

    Args:
        a: `(H, W)` luma of the source.
        b: `(H, W)` luma of the result.
        box: `(4,)` face in pixels.

    Returns:
        PSNR in dB inside the face, and the correlation of its fine detail (what a Gaussian of 1/16 of the box takes
        away) in [-1, 1]; NaN where the box has no pixels, and a correlation of 0 where one of both has no detail.
    """
    grown = np.asarray(box, np.float64)
    side = float(max(grown[2] - grown[0], grown[3] - grown[1]))
    region = clip_region(grown + INNER * side * np.array([-1, -1, 1, 1]), a.shape)
    if region is None:
        return math.nan, math.nan
    x1, y1, x2, y2 = region
    one, two = a[y1:y2, x1:x2], b[y1:y2, x1:x2]
    sigma = max(0.8, side / 16)
    fine = [p - cv2.GaussianBlur(p, (0, 0), sigma) for p in (one, two)]
    spread = [float(np.sqrt(np.square(f - f.mean()).mean())) for f in fine]
    if min(spread) < 0.25:
        return psnr(one, two), 0.0
    product = float(((fine[0] - fine[0].mean()) * (fine[1] - fine[1].mean())).mean())
    return psnr(one, two), product / (spread[0] * spread[1])


def untouched(inside: float, detail: float, around: float) -> bool:
    """Whether a face is still the source's own, as only re-encoding leaves it.

    Measured on a 50-pixel face: re-encoding at CRF 18, 28 and 36 leaves correlations of .97, .87 and .64 and as many dB
    inside the face as outside; fluidvid's edits .58 to .79 and 13 dB less, blur and pixelation .36 at most.

    Args:
        inside: PSNR in dB inside the face.
        detail: correlation of fine detail.
        around: PSNR in dB outside all faces, the encoder's own; NaN if there is no outside.
    """
    return detail >= SAME_DETAIL or (detail >= LIKE_DETAIL and inside >= around - LIKE_PSNR)


def outside(a: NDArray[np.float32], b: NDArray[np.float32], boxes: list[NDArray[np.float32]]) -> float:
    """PSNR in dB of what lies outside all faces and their surroundings; NaN if nothing does.

    Args:
        a: `(H, W)` luma of the source.
        b: `(H, W)` luma of the result.
        boxes: `(4,)` faces in pixels.
    """
    far = _far(a.shape, boxes)
    return psnr(a[far], b[far])


def encoding(a: NDArray[np.float32], b: NDArray[np.float32], boxes: list[NDArray[np.float32]]) -> float:
    """The same of what only the encoder changed: without blocks that changed more than any encoding changes them.

    A mask on something that is no face is no encoding; measured by it, an edited face would look untouched.
    """
    height, width = (side // BLOCK * BLOCK for side in a.shape)
    shape = (height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    far = _far(a.shape, boxes)[:height, :width].reshape(shape).all((1, 3))
    if not far.any():
        return outside(a, b, boxes)
    errors = np.square(a[:height, :width].astype(np.float64) - b[:height, :width]).reshape(shape).mean((1, 3))[far]
    kept = errors[errors <= NO_ENCODING]
    return (
        psnr(np.sqrt(kept).astype(np.float32), np.zeros(len(kept), np.float32)) if len(kept) else outside(a, b, boxes)
    )


def _far(shape: tuple[int, ...], boxes: list[NDArray[np.float32]]) -> NDArray[np.bool_]:
    far = np.ones(shape, bool)
    for box in boxes:
        region = clip_region(expanded(box, AROUND), shape)
        if region is not None:
            x1, y1, x2, y2 = region
            far[y1:y2, x1:x2] = False
    return far


def warp_errors(
    before: tuple[NDArray[np.float32], NDArray[np.float32]],
    after: tuple[NDArray[np.float32], NDArray[np.float32]],
    box: ArrayLike,
) -> tuple[float, float]:
    """Flicker of a face: what its motion does not explain of the change to the next frame.

    The motion is the source's (Farneback's optical flow), for both (the warping error of Lai et al., ECCV 2018).

    Args:
        before: luma `(H, W)` of source and result.
        after: the same of the next frame.
        box: `(4,)` face in pixels, in the next frame.

    Returns:
        mean absolute error in 8-bit values, of the source and of the result; NaN where the box has no pixels.
    """
    region = clip_region(expanded(box, 0.15), after[0].shape)
    if region is None or region[2] - region[0] < 16 or region[3] - region[1] < 16:
        return math.nan, math.nan
    x1, y1, x2, y2 = region
    scale = min(1.0, FLOW_SIDE / max(x2 - x1, y2 - y1))
    size = (max(16, round((x2 - x1) * scale)), max(16, round((y2 - y1) * scale)))
    small = [cv2.resize(p[y1:y2, x1:x2], size, interpolation=cv2.INTER_AREA) for p in (*before, *after)]
    empty = np.zeros((size[1], size[0], 2), np.float32)
    flow = np.asarray(
        cv2.calcOpticalFlowFarneback(
            small[2].astype(np.uint8), small[0].astype(np.uint8), empty, 0.5, 3, 13, 3, 5, 1.1, 0
        )
    )
    grid = np.stack(np.meshgrid(np.arange(size[0]), np.arange(size[1])), -1).astype(np.float32) + flow
    valid = (grid >= 0).all(2) & (grid[..., 0] <= size[0] - 1) & (grid[..., 1] <= size[1] - 1)
    if not valid.any():
        return math.nan, math.nan
    moved = [cv2.remap(p, grid[..., 0], grid[..., 1], cv2.INTER_LINEAR) for p in small[:2]]
    return float(np.abs(moved[0] - small[2])[valid].mean()), float(np.abs(moved[1] - small[3])[valid].mean())
