"""Pictures that come in another size or shape, or turned otherwise, than a file's first one: brought into its form.

A phone is turned, a broadcast changes between programmes. Squeezed into another shape faces are missed, and look wrong.
"""

from __future__ import annotations

from fractions import Fraction

import av
from av.filter import Graph

from fluidvid.video.info import OrientationTracker, VideoInfo
from fluidvid.video.orientation import Orientation

_ALIKE = Fraction(1, 100)
"""Difference of two shapes that is no more than rounding: filled, without bars."""
_Form = tuple[int, int, str, Fraction, int, bool]


class Fitter:
    """Fits pictures into the size of the first one, as large as they can be, with black bars where the shape differs.

    Attributes:
        note: what the user should know of it; None while all pictures were alike.
    """

    def __init__(self, info: VideoInfo) -> None:
        self._size = info.crop.outer(info.stored_width, info.stored_height)
        self._first = info.orientation
        self._orientations = OrientationTracker(self._first, self._size)
        self._shape: Fraction | None = None
        self._form: _Form | None = None
        self._graph: Graph | None = None
        self.note: str | None = None

    def fit(self, picture: av.VideoFrame, shape: Fraction | None) -> av.VideoFrame:
        """The picture itself if it is in the first one's form.

        Args:
            picture: as decoded, progressive.
            shape: sample aspect ratio that the decoder reads in the stream at this time; None or 0 = not said.
        """
        size, orientation = (picture.width, picture.height), self._orientations.read(picture)
        first = self._shape = self._shape or shape or None
        own = shape or first or Fraction(1)
        wider = (1 / own if orientation.swaps_sides != self._first.swaps_sides else own) / (first or 1)
        if size == self._size and wider == 1 and _same(orientation, self._first):
            return picture
        self.note = "the picture changes its size, shape or turn within the source: it was fitted into the first one's"
        form = (*size, picture.format.name, wider, orientation.quarter_turns, orientation.mirrored)
        if self._graph is None or form != self._form:
            self._graph, self._form = self._build(picture, orientation, wider), form
        self._graph.push(picture)
        fitted = self._graph.pull()
        assert isinstance(fitted, av.VideoFrame)
        return fitted

    def _build(self, picture: av.VideoFrame, orientation: Orientation, wider: Fraction) -> Graph:
        steps = [] if _same(orientation, self._first) else [*orientation.filters(), *self._first.back()]
        turned = orientation.swaps_sides != self._first.swaps_sides
        width, height = (picture.height, picture.width) if turned else (picture.width, picture.height)
        width, height = _within(self._size, width * wider, height)
        steps.append(("scale", f"{width}:{height}"))
        if (width, height) != self._size:
            steps.append(("pad", f"{self._size[0]}:{self._size[1]}:-1:-1"))
        graph = Graph()
        source = graph.add_buffer(
            width=picture.width, height=picture.height, format=picture.format, time_base=picture.time_base
        )
        graph.link_nodes(source, *(graph.add(*step) for step in steps), graph.add("buffersink"))
        graph.configure()
        return graph


def _same(one: Orientation, other: Orientation) -> bool:
    return (one.quarter_turns, one.mirrored) == (other.quarter_turns, other.mirrored)


def _within(size: tuple[int, int], width: Fraction | int, height: int) -> tuple[int, int]:
    """The largest even sides of a picture's shape that lie within `size`; `size` where the shape is the same."""
    shape, wanted = Fraction(width) / height, Fraction(size[0], size[1])
    if abs(shape / wanted - 1) < _ALIKE:
        return size
    if shape > wanted:
        return size[0], max(2, int(size[0] / shape) // 2 * 2)
    return max(2, int(size[1] * shape) // 2 * 2), size[1]
