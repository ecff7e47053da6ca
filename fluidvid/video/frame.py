"""One decoded frame: exact time, upright RGB on demand, regions written back into the native planes."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import ColorRange, VideoReformatter
from numpy.typing import NDArray

from fluidvid.video.colour import Colour, write_regions
from fluidvid.video.orientation import Box, Orientation


class Frame:
    """One picture of the source.

    Attributes:
        index: from 0 in presentation order of this run.
        pts: presentation time in `time_base` units; strictly increasing.
        time_base: seconds per unit.
        duration: in `time_base` units, None if unknown.
        concealed: the source's data were damaged here; the pixels are the decoder's or a neighbour's.
    """

    __slots__ = (
        *("index", "pts", "time_base", "duration", "concealed", "_picture", "_orientation", "_reformatter"),
        *("_stored_rgb", "_upright_rgb", "_patched"),
    )

    def __init__(
        self,
        picture: av.VideoFrame,
        orientation: Orientation,
        reformatter: VideoReformatter,
        *,
        index: int,
        pts: int,
        time_base: Fraction,
        duration: int | None,
        concealed: bool = False,
    ) -> None:
        self.index, self.pts, self.time_base = index, pts, time_base
        self.duration, self.concealed = duration, concealed
        self._picture, self._orientation, self._reformatter = picture, orientation, reformatter
        self._stored_rgb: NDArray[np.uint8] | None = None
        self._upright_rgb: NDArray[np.uint8] | None = None
        self._patched = False

    def __repr__(self) -> str:
        return f"Frame(index={self.index}, time={float(self.time):.6f}, concealed={self.concealed})"

    @property
    def time(self) -> Fraction:
        """Presentation time in seconds on the source's clock."""
        return self.pts * self.time_base

    @property
    def picture(self) -> av.VideoFrame:
        """The decoded picture in stored orientation and native pixel format."""
        return self._picture

    def rgb(self) -> NDArray[np.uint8]:
        """The upright picture, `(H, W, 3)` uint8 RGB, full range, read-only; converted once.

        Matrix and range are those of the source; HDR transfer curves are not tone-mapped.
        """
        if self._upright_rgb is None:
            self._upright_rgb = self._orientation.upright(self._stored())
            self._upright_rgb.flags.writeable = False
        return self._upright_rgb

    def _stored(self) -> NDArray[np.uint8]:
        if self._stored_rgb is None:
            if self._patched:
                raise ValueError(f"frame {self.index} was already written with regions: ask for rgb() before")
            colour = Colour.of(self._picture)
            converted = self._reformatter.reformat(
                self._picture,
                format="rgb24",
                src_colorspace=colour.space,
                src_color_range=ColorRange.JPEG if colour.full else ColorRange.MPEG,
                dst_color_range=ColorRange.JPEG,
                threads=1,
            )
            self._stored_rgb = np.asarray(converted.to_ndarray(), dtype=np.uint8)
            self._stored_rgb.flags.writeable = False
        return self._stored_rgb

    def patch(self, rgb: NDArray[np.uint8], regions: Sequence[Box]) -> None:
        """Take regions of an edited upright picture over into the native planes; once per frame.

        Args:
            rgb: `(H, W, 3)` uint8 RGB, upright.
            regions: `(x1, y1, x2, y2)` upright pixels, ends excluded; clipped to the picture.

        Raises:
            ValueError: another size or type, or the frame was patched before.
        """
        original = self._stored()
        if rgb.shape != self.rgb().shape or rgb.dtype != np.uint8:
            raise ValueError(f"expected {self.rgb().shape} uint8, got {rgb.shape} {rgb.dtype}")
        if self._patched:
            raise ValueError(f"frame {self.index} was already written with regions")
        height, width = rgb.shape[:2]
        inside = [(max(0, x1), max(0, y1), min(width, x2), min(height, y2)) for x1, y1, x2, y2 in regions]
        stored_height, stored_width = original.shape[:2]
        boxes = [
            self._orientation.stored_box(box, stored_width, stored_height)
            for box in inside
            if box[0] < box[2] and box[1] < box[3]
        ]
        self._patched = True
        if boxes:
            self._picture.make_writable()  # the decoder may still refer to these buffers
            write_regions(self._picture, original, self._orientation.stored(rgb), boxes)


def copy_picture(picture: av.VideoFrame, form: str | None = None) -> av.VideoFrame:
    """A picture with buffers of its own, same numbers, tags and time; side data is not copied.

    Args:
        picture: planar.
        form: pixel format to call it, of the same shape; default the same.
    """
    twin = av.VideoFrame(picture.width, picture.height, form or picture.format.name)
    for ours, theirs in zip(twin.planes, picture.planes, strict=True):
        rows = np.frombuffer(memoryview(theirs), np.uint8).reshape(-1, theirs.line_size)
        target = np.frombuffer(memoryview(ours), np.uint8).reshape(-1, ours.line_size)
        common = min(ours.line_size, theirs.line_size)
        target[:, :common] = rows[:, :common]
    twin.pts, twin.duration = picture.pts, picture.duration
    if picture.time_base is not None:
        twin.time_base = picture.time_base
    twin.colorspace, twin.color_range = picture.colorspace, picture.color_range
    twin.color_trc, twin.color_primaries = picture.color_trc, picture.color_primaries
    return twin
