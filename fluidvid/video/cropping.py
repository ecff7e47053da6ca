"""What a container's header cuts off the decoded picture: no player shows it, so it must not come back."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from fractions import Fraction

import av
from av.filter import Graph
from av.video.stream import VideoStream

from fluidvid.video.ebml import SEGMENT, TRACK_ENTRY, TRACKS, VIDEO, elements, within

_SIDES = (0x54CC, 0x54BB, 0x54DD, 0x54AA)
"""PixelCropLeft, PixelCropTop, PixelCropRight and PixelCropBottom."""
_CLAP = b"\0\0\0\x28clap"


@dataclass(frozen=True)
class Crop:
    """Pixels cut off each side of the stored picture."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0

    def __bool__(self) -> bool:
        return any((self.left, self.top, self.right, self.bottom))

    @staticmethod
    def of(stream: VideoStream) -> Crop:
        """Matroska's PixelCrop elements, or the clean aperture (`clap`) of MP4 and QuickTime.

        FFmpeg reads both and PyAV shows neither: they are read from the header that FFmpeg would write for the stream,
        as Matroska, or as QuickTime where Matroska does not hold the codec.
        """
        header = _header(stream, "matroska", {"allow_raw_vfw": "1"})
        if header is not None:
            return _pixel_crop(header)
        header = _header(stream, "mov", {"movflags": "empty_moov"})
        return Crop() if header is None else _clean_aperture(header, stream.width, stream.height)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """`(width, height)` of what is left."""
        return width - self.left - self.right, height - self.top - self.bottom

    def outer(self, width: int, height: int) -> tuple[int, int]:
        """`(width, height)` of the whole of which that much is left."""
        return width + self.left + self.right, height + self.top + self.bottom


class Cropper:
    """Cuts pictures, whatever size and format they change to; times, tags and side data stay."""

    def __init__(self, crop: Crop) -> None:
        self._crop = crop
        self._graph: Graph | None = None
        self._shape: object = None

    def cut(self, picture: av.VideoFrame) -> av.VideoFrame:
        """What is left of the picture, in buffers of its own."""
        if not self._crop:
            return picture
        shape = picture.width, picture.height, picture.format.name
        if self._graph is None or shape != self._shape:
            graph = Graph()
            width, height = self._crop.size(picture.width, picture.height)
            graph.link_nodes(
                graph.add_buffer(
                    width=picture.width,
                    height=picture.height,
                    format=picture.format,
                    time_base=picture.time_base,
                ),
                graph.add("crop", f"{width}:{height}:{self._crop.left}:{self._crop.top}:exact=1"),
                graph.add("copy"),  # else rows would reach beyond the old buffer's end
                graph.add("buffersink"),
            )
            graph.configure()
            self._graph, self._shape = graph, shape
        self._graph.push(picture)
        rest = self._graph.pull()
        assert isinstance(rest, av.VideoFrame)
        return rest


def _header(stream: VideoStream, muxer: str, options: dict[str, str]) -> bytes | None:
    header = io.BytesIO()
    try:
        with av.open(header, "w", format=muxer, options=options) as out:
            out.add_stream_from_template(stream, opaque=True)
            out.start_encoding()
    except (av.FFmpegError, ValueError):
        return None
    return header.getvalue()


def _pixel_crop(content: bytes) -> Crop:
    found = {name: body for name, body, _ in elements(within(content, SEGMENT, TRACKS, TRACK_ENTRY, VIDEO))}
    return Crop(*(int.from_bytes(found.get(side, b""), "big") for side in _SIDES))


def _clean_aperture(header: bytes, width: int, height: int) -> Crop:
    """ISO/IEC 14496-12, 12.1.4: its size, and how far its centre lies right of and below the picture's."""
    at = header.rfind(_CLAP)
    if at < 0:
        return Crop()
    numbers = struct.unpack_from(">8i", header, at + len(_CLAP))
    wide, high, right, down = (Fraction(n, d) for n, d in zip(numbers[::2], numbers[1::2], strict=True))
    left, top = int((width - wide) / 2 + right), int((height - high) / 2 + down)
    return Crop(left, top, width - int(wide) - left, height - int(high) - top)
