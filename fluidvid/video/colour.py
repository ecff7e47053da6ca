"""Between RGB and a frame's native planes: matrices and ranges by ITU-T H.273, chroma blocks, bit depths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from fluidvid.video.orientation import Box

# H.273 matrix coefficients -> (Kr, Kb, swscale's name). YCgCo, ICtCp and the like are read with the nearest of these:
# both directions use the same matrix, so a region goes out as it came in.
_MATRICES = {
    1: (0.2126, 0.0722, Colorspace.ITU709),
    4: (0.30, 0.11, Colorspace.FCC),
    5: (0.299, 0.114, Colorspace.ITU601),
    6: (0.299, 0.114, Colorspace.ITU601),
    7: (0.212, 0.087, Colorspace.SMPTE240M),
    9: (0.2627, 0.0593, Colorspace.BT2020),
    10: (0.2627, 0.0593, Colorspace.BT2020),
    14: (0.2627, 0.0593, Colorspace.BT2020),
}
_HD_HEIGHT = 720
_PLANAR = (
    *("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le"),
    *("yuv420p12le", "yuv422p12le", "yuv444p12le", "yuv420p16le", "yuv422p16le", "yuv444p16le"),
    *("gbrp", "gbrp10le", "gbrp12le", "gbrp14le", "gray", "gray10le", "gray12le", "gray16le"),
)


@dataclass(frozen=True)
class Colour:
    """How a frame's numbers mean colours.

    Attributes:
        kr: weight of red in luma.
        kb: weight of blue in luma.
        full: True for full ("pc") range.
        space: the same matrix for swscale.
    """

    kr: float
    kb: float
    full: bool
    space: Colorspace

    @staticmethod
    def of(picture: av.VideoFrame) -> Colour:
        """Read the tags; an unspecified matrix is BT.709 from 720 lines on and BT.601 below, as players guess."""
        kr, kb, space = _MATRICES[matrix_of(picture.colorspace, picture.height)]
        full = picture.color_range == ColorRange.JPEG or picture.format.name.startswith("yuvj")
        return Colour(kr, kb, full, space)


def matrix_of(tag: int, height: int) -> int:
    """The matrix, by its number in H.273, that a picture of this tag and height in pixels is converted by."""
    if tag in _MATRICES:
        return tag
    return 1 if height >= _HD_HEIGHT or tag == 8 else 6


@dataclass(frozen=True)
class Layout:
    """Shape of a pixel format.

    Attributes:
        planar: True if every component is a plane of its own, little endian: regions can be written into it.
        rgb: planes are G, B, R rather than Y, Cb, Cr.
        grey: one plane only.
        bits: per component.
        right: log2 of the horizontal chroma step.
        down: log2 of the vertical chroma step.
        alpha: has a fourth component.
    """

    planar: bool
    rgb: bool
    grey: bool
    bits: int
    right: int
    down: int
    alpha: bool


@lru_cache(maxsize=256)
def layout(name: str) -> Layout:
    """Shape of the pixel format `name`; raises `ValueError` if FFmpeg knows no such format."""
    form = av.VideoFormat(name, 64, 64)
    parts = form.components
    colours = [c for c in parts if not c.is_alpha]
    rgb = form.is_rgb or form.has_palette
    grey = len(colours) == 1 and not rgb
    own_planes = len({c.plane for c in parts}) == len(parts)
    known = (form.is_rgb and name.startswith("gbr")) or name.startswith(("yuv", "gray"))
    planar = own_planes and known and not form.has_palette and not form.is_big_endian and not name.endswith("msble")
    planar = planar and not name.endswith(("f32le", "f16le"))
    right = 0 if grey or rgb else (64 // form.chroma_width(64)).bit_length() - 1
    down = 0 if grey or rgb else (64 // form.chroma_height(64)).bit_length() - 1
    bits = max((c.bits for c in colours), default=8)
    return Layout(planar, rgb, grey, bits, right, down, len(parts) > len(colours))


def loss(source: Layout, target: Layout) -> tuple[int, ...]:
    """How much is lost by storing `source` as `target`, worst first; zeros = nothing, the rest counts waste."""
    return (
        int(source.rgb != target.rgb and not source.grey),
        max(0, source.bits - target.bits),
        int(target.grey and not source.grey),
        max(0, target.right - source.right) + max(0, target.down - source.down),
        int(source.alpha and not target.alpha),
        # waste
        int(source.grey != target.grey) + int(target.alpha and not source.alpha),
        abs(source.right - target.right) + abs(source.down - target.down),
        abs(target.bits - source.bits),
        int(target.rgb and source.grey),
    )


def nearest(name: str, choices: Sequence[str]) -> str | None:
    """The planar format among `choices` that stores `name` with the least loss; `name` itself if it is there."""
    planar = [c for c in choices if layout(c).planar]
    if name in planar:
        return name
    shape = layout(name)
    return min(planar, key=lambda c: loss(shape, layout(c)), default=None)


def planar_format(name: str) -> str:
    """The planar format in which frames of format `name` are worked on: `name` itself where possible."""
    return name if layout(name).planar else nearest(name, _PLANAR) or "yuv444p"


def write_regions(
    picture: av.VideoFrame, before: NDArray[np.uint8], after: NDArray[np.uint8], regions: Sequence[Box]
) -> None:
    """Write regions of an RGB picture into a frame's planes, in place.

    Within a region everything between the outermost changed pixels, along rows and along columns, is converted afresh,
    so that nothing of the original stays below the rounding of 8-bit RGB; what lies outside keeps its exact values.
    A chroma sample is rewritten if any pixel it covers was. What is rewritten becomes opaque: a face's outline, or a
    whole picture of it, may be in the transparency, too.

    Args:
        picture: planar, see `planar_format`; its buffers must be writable and not shared.
        before: `(H, W, 3)` uint8 RGB of `picture`, stored orientation.
        after: `(H, W, 3)` uint8 RGB, edited.
        regions: `(x1, y1, x2, y2)` stored pixels, ends excluded, within the picture.
    """
    shape, colour = layout(picture.format.name), Colour.of(picture)
    wide, high = 1 << shape.right, 1 << shape.down
    height, width = before.shape[:2]
    planes = [_plane(plane, shape.bits) for plane in picture.planes]
    edited = before.copy()
    for x1, y1, x2, y2 in regions:
        edited[y1:y2, x1:x2] = after[y1:y2, x1:x2]
    for x1, y1, x2, y2 in regions:
        x1, y1 = x1 - x1 % wide, y1 - y1 % high
        x2, y2 = min(width, x2 + -x2 % wide), min(height, y2 + -y2 % high)
        if x1 >= x2 or y1 >= y2:
            continue
        block = edited[y1:y2, x1:x2]
        other = block != before[y1:y2, x1:x2]
        changed = _filled(other[..., 0] | other[..., 1] | other[..., 2])
        if not changed.any():
            continue
        rgb = block.astype(np.float32) / np.float32(255)
        top = (1 << shape.bits) - 1
        if shape.alpha:
            planes[-1][y1:y2, x1:x2][changed] = top
        if shape.rgb:
            for plane, channel in zip(planes, (1, 2, 0), strict=False):
                _put(plane[y1:y2, x1:x2], rgb[..., channel] * top, changed)
            continue
        luma, scale = _luma(rgb, colour), 1 << (shape.bits - 8)
        _put(planes[0][y1:y2, x1:x2], luma * top if colour.full else (16 + 219 * luma) * scale, changed)
        if shape.grey:
            continue
        mean, touched = _blocks(rgb, wide, high), _blocks(changed[..., None], wide, high)[..., 0] > 0
        mean_luma = _luma(mean, colour)
        span = top if colour.full else 224 * scale
        rows, columns = slice(y1 >> shape.down, -(-y2 >> shape.down)), slice(x1 >> shape.right, -(-x2 >> shape.right))
        for plane, channel, weight in ((planes[1], 2, colour.kb), (planes[2], 0, colour.kr)):
            difference = (mean[..., channel] - mean_luma) / (2 * (1 - weight))
            _put(plane[rows, columns], difference * span + (128 * scale), touched, top)


def _plane(plane: av.video.plane.VideoPlane, bits: int) -> NDArray[Any]:
    kind = np.dtype(np.uint8 if bits <= 8 else "<u2")
    rows = np.frombuffer(memoryview(plane), dtype=kind).reshape(plane.height, plane.line_size // kind.itemsize)
    return rows[:, : plane.width]


def _put(target: NDArray[Any], values: NDArray[np.float32], where: NDArray[np.bool_], top: int | None = None) -> None:
    rounded = np.rint(values)
    if top is not None:
        rounded = np.clip(rounded, 0, top)
    np.copyto(target, rounded.astype(target.dtype), where=where)


def _luma(rgb: NDArray[np.float32], colour: Colour) -> NDArray[np.float32]:
    green = 1 - colour.kr - colour.kb
    weights = np.array([colour.kr, green, colour.kb], dtype=np.float32)
    return np.asarray(rgb @ weights, dtype=np.float32)


def _blocks(values: NDArray[Any], wide: int, high: int) -> NDArray[np.float32]:
    """Mean over `high x wide` blocks of an `(H, W, C)` array; the last row and column are repeated to fill."""
    height, width = values.shape[:2]
    if height % high or width % wide:
        values = np.pad(values, ((0, -height % high), (0, -width % wide), (0, 0)), mode="edge")
    # Summed by strides: numpy's mean over two short axes takes several times as long.
    total = np.zeros((values.shape[0] // high, values.shape[1] // wide, values.shape[2]), np.float32)
    for row in range(high):
        for column in range(wide):
            total += values[row::high, column::wide]
    return np.asarray(total / (high * wide), dtype=np.float32)


def _filled(changed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """All pixels between changed ones of their row and between changed ones of their column."""
    along = [
        np.maximum.accumulate(changed, axis=axis)
        & np.flip(np.maximum.accumulate(np.flip(changed, axis), axis=axis), axis)
        for axis in (0, 1)
    ]
    return changed | (along[0] & along[1])
