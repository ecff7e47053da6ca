"""Brings the frames' native pictures into the form the encoder takes, with as little change as possible."""

from __future__ import annotations

from collections.abc import Iterator

import av
from av.filter import Graph

from fluidvid.video.colour import Colour
from fluidvid.video.frame import copy_picture
from fluidvid.video.info import VideoInfo


class PictureShaper:
    """Turns pixels where the container cannot store a rotation, converts the pixel format where the encoder must.

    Attributes:
        turns: the pixels are turned.
        format: pixel format the encoder takes.
        limited: full range becomes limited range, as nothing would tell a player of it.
        bare: side data is taken off.
    """

    def __init__(self, info: VideoInfo, *, turn: bool) -> None:
        self._info = info
        self.turns = turn
        self.format = info.working_format
        self.limited = False
        self.bare = False
        self._graph: Graph | None = None

    @property
    def size(self) -> tuple[int, int]:
        """`(width, height)` of the pictures to encode."""
        info = self._info
        return (info.width, info.height) if self.turns else (info.stored_width, info.stored_height)

    def shape(self, picture: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
        """Yield the picture in its new form; `None` = no more pictures."""
        if picture is None:
            return
        if self.turns:
            picture = self._turned(picture)
        yield self._converted(picture)

    def _turned(self, picture: av.VideoFrame) -> av.VideoFrame:
        if self._graph is None:
            self._graph = graph = Graph()
            source = graph.add_buffer(
                width=picture.width,
                height=picture.height,
                format=picture.format,
                time_base=picture.time_base or self._info.time_base,
            )
            steps = [graph.add(name, arguments) for name, arguments in self._info.orientation.filters()]
            graph.link_nodes(source, *steps, graph.add("buffersink"))
            graph.configure()
        self._graph.push(picture)
        turned = self._graph.pull()
        assert isinstance(turned, av.VideoFrame)
        return turned

    def _converted(self, picture: av.VideoFrame) -> av.VideoFrame:
        have, want, colour = picture.format.name, self.format, Colour.of(picture)
        narrowed = self.limited and colour.full
        if have != want and not narrowed and have.replace("yuvj", "yuv") == want.replace("yuvj", "yuv"):
            picture = copy_picture(picture, want)  # the same numbers under another name
            picture.color_range = 2 if colour.full else picture.color_range
        elif have != want or narrowed:
            range_ = 2 if colour.full else 1
            picture = picture.reformat(
                format=want,
                src_colorspace=colour.space,
                dst_colorspace=colour.space,
                src_color_range=range_,
                dst_color_range=1 if narrowed else range_,
                threads=1,
            )
        if self.bare:
            picture = copy_picture(picture)
        picture.pict_type = 0  # the encoder decides; the decoder's choice would be forced otherwise
        return picture
