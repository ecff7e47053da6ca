"""Carry crops out of a frame and residuals back into it, by one similarity per face."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from fluidvid.geometry import invert, transform
from fluidvid.masks import Region, clip_region
from fluidvid.trackers.align import BLUR, BLURRED_BELOW

Matrix = NDArray[np.float64]
"""`(2, 3)` similarity from frame pixels to crop pixels."""
AVERAGED_ABOVE = 1.5
"""Crop pixels per frame pixel from which a residual is averaged before it is warped, which would alias."""
CORRECTIONS = 2
"""Rounds in which a residual is sharpened before it is warped, see `_restored`."""


def crop_footprint(matrix: Matrix, size: int, shape: tuple[int, ...]) -> Region | None:
    """Region of the frame that the crop's square touches, None if it lies outside the picture."""
    corners = np.array([(0, 0), (size, 0), (size, size), (0, size)], dtype=np.float64)
    placed = transform(invert(matrix), corners)
    return clip_region((*placed.min(0), *placed.max(0)), shape)


def add_residual(canvas: NDArray[np.uint8], residual: NDArray[np.float32], matrix: Matrix) -> Region | None:
    """Add a crop's residual to the frame, in place: `frame + warp^-1(residual)`, clipped.

    The same crop, cut from the frame again, shows nearly the residual as it was, but for what lies beyond the frame and
    what is finer than its pixels: what interpolation takes from it would leave the source's own fine detail in the
    face, by which recognisers find the person again.

    Args:
        canvas: `(H, W, 3)` uint8 RGB, changed in place.
        residual: `(S, S, 3)` float32 in pixel units, finite, zero towards the crop's rim.
        matrix: `(2, 3)` similarity from frame to crop pixels.

    Returns:
        The region that may have changed, None if the crop lies outside the picture.

    Raises:
        ValueError: the residual is not square, not finite, or the matrix is degenerate.
    """
    size = residual.shape[0]
    if residual.shape != (size, size, 3) or not np.isfinite(residual).all():
        raise ValueError(f"a residual is (S, S, 3) and finite, got {residual.shape}")
    scale = math.sqrt(abs(float(np.linalg.det(matrix[:, :2]))))
    if not np.isfinite(matrix).all() or scale < 1e-3:
        raise ValueError("the crop's transform is degenerate")
    region = crop_footprint(matrix, size, canvas.shape)
    if region is None:
        return None
    x1, y1, x2, y2 = region
    residual = _restored(residual, scale)
    if scale > AVERAGED_ABOVE:
        smaller = max(8, round(size / scale))
        residual = cv2.resize(residual, (smaller, smaller), interpolation=cv2.INTER_AREA).astype(np.float32)
        # Pixel centres: u' + .5 = (u + .5) * smaller / size.
        ratio = smaller / size
        matrix = matrix * ratio
        matrix[:, 2] += 0.5 * ratio - 0.5
    local = matrix.copy()
    local[:, 2] += local[:, :2] @ np.array([x1, y1], dtype=np.float64)
    warped = cv2.warpAffine(
        residual,
        local,
        (x2 - x1, y2 - y1),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderValue=(0, 0, 0),
    )
    patch = canvas[y1:y2, x1:x2]
    canvas[y1:y2, x1:x2] = np.clip(np.rint(patch + warped), 0, 255).astype(np.uint8)
    return region


def _restored(residual: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """A residual with what warping into the frame, and cutting the crop again, will take from it.

    That is about a Gaussian mean, undone by the iteration of Van Cittert (1931).

    Args:
        residual: `(S, S, 3)` float32.
        scale: crop pixels per frame pixel.
    """
    linear = 1 / 6  # variance of linear interpolation, in squares of the grid's pixels
    if scale > AVERAGED_ABOVE:
        variance = (1 / 12 + linear) * scale**2
    elif scale < BLURRED_BELOW:
        variance = linear + BLUR**2
    else:
        variance = linear + (linear * scale**2 if scale < 1 else 0.0)
    found = residual
    for _ in range(CORRECTIONS):
        found = found + residual - cv2.GaussianBlur(found, (0, 0), math.sqrt(variance))
    return found


def blend(canvas: NDArray[np.uint8], cover: NDArray[np.uint8], region: Region, weight: float) -> None:
    """Cross-fade in place within `region`: `weight` of the canvas, the rest of the cover of equal shape."""
    x1, y1, x2, y2 = region
    mixed = weight * canvas[y1:y2, x1:x2].astype(np.float32) + (1.0 - weight) * cover[y1:y2, x1:x2]
    canvas[y1:y2, x1:x2] = np.rint(mixed).astype(np.uint8)
