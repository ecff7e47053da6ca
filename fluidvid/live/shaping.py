"""Brings live pictures into one form: upright, progressive, yuv420p, and of the size that was published first.

Cameras change their resolution in the middle of a stream; readers of what is published need not notice.
"""

from __future__ import annotations

import av
from av.filter import Graph

from fluidvid.errors import InputError
from fluidvid.video.info import OrientationTracker

_Key = tuple[int, int, str, int, bool, bool]


class Shaper:
    """Turns pictures upright and fits them into one size, with black bars where the shape differs.

    Attributes:
        size: `(width, height)` of all pictures given out, even numbers; None before the first.
        changes: how often the input's own size changed.
    """

    def __init__(self) -> None:
        self.size: tuple[int, int] | None = None
        self.changes = 0
        self._orientations = OrientationTracker()
        self._key: _Key | None = None
        self._graph: Graph | None = None

    def shape(self, picture: av.VideoFrame) -> av.VideoFrame:
        """One picture in, one picture out, which keeps `pts`, `time_base` and colours.

        Raises:
            InputError: FFmpeg has no way to convert this picture.
        """
        orientation = self._orientations.read(picture)
        size = orientation.size(picture.width, picture.height)
        turns = orientation.quarter_turns, orientation.mirrored
        key = (picture.width, picture.height, picture.format.name, *turns, picture.interlaced_frame)
        if self.size is None:
            self.size = max(2, size[0] // 2 * 2), max(2, size[1] // 2 * 2)
        if self._key is not None and key[:2] != self._key[:2]:
            self.changes += 1
        if key != self._key:
            self._graph = None
            self._key = key
        steps = list(orientation.filters())
        if picture.interlaced_frame:
            # One field, stretched: the better deinterlacers wait for the next picture.
            stored = picture.width, picture.height
            steps = [("field", "top"), ("scale", f"{stored[0]}:{stored[1]}"), *steps]
        if size != self.size:
            width, height = self.size
            steps.append(("scale", f"{width}:{height}:force_original_aspect_ratio=decrease:force_divisible_by=2"))
            steps.append(("pad", f"{width}:{height}:-1:-1"))
        if picture.format.name != "yuv420p":
            steps.append(("format", "yuv420p"))
        return picture if not steps else self._filtered(picture, steps)

    def _filtered(self, picture: av.VideoFrame, steps: list[tuple[str, str]]) -> av.VideoFrame:
        try:
            if self._graph is None:
                self._graph = graph = Graph()
                source = graph.add_buffer(
                    width=picture.width,
                    height=picture.height,
                    format=picture.format,
                    time_base=picture.time_base,
                )
                graph.link_nodes(source, *(graph.add(*step) for step in steps), graph.add("buffersink"))
                graph.configure()
            self._graph.push(picture)
            shaped = self._graph.pull()
        except (av.FFmpegError, ValueError) as error:
            self._graph = None
            raise InputError(f"a picture of {picture.width}x{picture.height} {picture.format.name}: {error}") from error
        assert isinstance(shaped, av.VideoFrame)
        return shaped
