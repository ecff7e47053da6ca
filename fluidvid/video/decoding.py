"""Packets to pictures: times made strictly increasing, damage accounted for, fields woven into whole pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
from av.filter import Graph
from av.packet import Packet
from av.video.stream import VideoStream

from fluidvid.errors import InputError
from fluidvid.video.cropping import Cropper
from fluidvid.video.fitting import Fitter
from fluidvid.video.frame import copy_picture
from fluidvid.video.info import VideoInfo
from fluidvid.video.opening import GUESSED_TIMES, NO_INDEX, main_video, open_source
from fluidvid.video.seams import SteadyClock

# One packet is one picture: a packet whose picture never came was lost, whether or not the decoder raised an error
# (with frame threads it may not). VP8, VP9 and AV1 have packets without a picture, MPEG-4 has "not coded" ones.
_ONE_TO_ONE = frozenset({"h264", "hevc", "mpeg1video", "mpeg2video", "mjpeg"})


@dataclass(frozen=True)
class Decoded:
    """A picture in working format and stored size, its time, and whether it had to be concealed."""

    picture: av.VideoFrame
    pts: int
    concealed: bool


class PictureDecoder:
    """Decodes the main video stream of a file once.

    Damage: a packet the decoder refuses leaves a hole. The times of all packets sent are remembered until their
    picture comes; when a later picture comes first, the holes before it are filled with copies of that picture, marked
    concealed. Thus a picture nobody could decode is a neighbour's, which is inspected like any other. There are no more
    holes than pictures that neither came nor are still held: times may be wrong, and a picture come after a later one.
    """

    def __init__(self, info: VideoInfo, max_bad_packets: int, seek_to: Fraction | None = None) -> None:
        self._info, self._limit = info, max_bad_packets
        self._container = open_source(info.path)
        self._stream: VideoStream = main_video(self._container, info.path)
        # Where no times are stored they come from the packet that released the picture: valid without frame threads.
        # With them damage is concealed otherwise in each pass, and what is written would not be what was inspected.
        self._guess = info.container in GUESSED_TIMES
        self._stream.thread_type = "SLICE"
        self._clock = SteadyClock(info)
        self._seek(seek_to)
        self._deinterlacer = _Deinterlacer(self._stream) if info.interlaced else None
        self._cropper = Cropper(info.crop)
        self._fitter = Fitter(info)
        self._sent: set[int] = set()
        self._held = 0
        self._certain = info.codec in _ONE_TO_ONE and not info.interlaced
        self._refused = 0
        self._run = 0
        self._last: int | None = None
        self._first_dts: int | None = None
        self._lag: int | None = None
        self._closed = False
        self.damaged = 0
        self._notes: list[str] = []

    @property
    def warnings(self) -> list[str]:
        """What the user should know of the source; complete after iteration."""
        fitted = [self._fitter.note] if self._fitter.note else []
        return [*self._clock.warnings, *self._notes, *fitted]

    def close(self) -> None:
        """Release the file; iteration ends."""
        self._closed = True  # PyAV reads freed memory if a stream is used after its container was closed
        self._container.close()

    def _seek(self, time: Fraction | None) -> None:
        if time is None or time <= self._info.start or self._guess or self._info.container in NO_INDEX:
            return
        try:
            self._container.seek(int(time / self._info.time_base), stream=self._stream, backward=True)
        except (av.FFmpegError, OSError):
            self._container.close()  # not seekable: read from the beginning
            self._container = open_source(self._info.path)
            self._stream = main_video(self._container, self._info.path)
            self._stream.thread_type = "SLICE"

    def pictures(self) -> Iterator[Decoded]:
        """All pictures in presentation order with strictly increasing times.

        Raises:
            InputError: more than the allowed number of failures in a row.
        """
        for picture, damaged in self._woven():
            picture = self._normal(picture)
            pts = self._time(picture)
            if self._last is not None:
                lost = max(0, len(self._sent - {pts}) - self._held)
                for hole in self._holes(sorted(p for p in self._sent if self._last < p < pts)[:lost]):
                    self._last = hole
                    yield Decoded(copy_picture(picture), hole, True)
            self._sent = {p for p in self._sent if p > pts}
            self._last = pts
            yield Decoded(picture, pts, damaged)

    def missing_at_end(self, last: int | None) -> list[int]:
        """Times after `last` whose pictures never came."""
        return self._holes(p for p in self._sent if last is not None and p > last)

    def _holes(self, missing: Iterable[int]) -> list[int]:
        """Of the times without a picture those that are damage; an error of the decoder explains one of them."""
        holes = sorted(missing)
        holes = holes if self._certain else holes[: self._refused]
        self.damaged += max(0, len(holes) - self._refused)
        self._refused = max(0, self._refused - len(holes))
        return holes

    def _woven(self) -> Iterator[tuple[av.VideoFrame, bool]]:
        for picture in self._decoded():
            damaged = picture.is_corrupt
            if damaged:
                self.damaged += 1
            if self._deinterlacer is None and picture.interlaced_frame:
                self._deinterlacer = _Deinterlacer(self._stream)
                self._notes.append(
                    "parts of the source are interlaced: deinterlaced (bwdif), the output is progressive"
                )
            if self._deinterlacer is None:
                yield picture, damaged
            else:
                yield from ((whole, damaged) for whole in self._deinterlacer.push(picture))
        if self._deinterlacer is not None:
            yield from ((whole, False) for whole in self._deinterlacer.push(None))

    def _decoded(self) -> Iterator[av.VideoFrame]:
        for packet in self._packets():
            if self._closed:
                return
            if packet.size == 0:  # a dropped frame, or PyAV's mark of the end; never judge by `dts is None`
                continue
            if self._guess:
                self._first_dts = packet.dts if self._first_dts is None else self._first_dts
            elif packet.pts is not None and not packet.is_discard:
                self._sent.add(packet.pts)
            try:
                pictures = packet.decode()
            except (av.FFmpegError, ValueError) as error:
                self._fail(error)
                continue
            if pictures:
                self._run = 0
            yield from self._one_by_one(pictures, self._stream.codec_context.reorder_depth)
        while not self._closed:  # the decoder's delay; an error in between must not lose the rest
            try:
                yield from self._one_by_one(self._stream.decode(None), 0)
                return
            except av.EOFError:
                return
            except (av.FFmpegError, ValueError) as error:
                self._fail(error)

    def _one_by_one(self, pictures: Sequence[av.VideoFrame], depth: int) -> Iterator[av.VideoFrame]:
        """Keeps count of what is decoded and yet to come; a decoder that gives several at once gives all it had."""
        inside = depth if len(pictures) == 1 else 0
        for number, picture in enumerate(pictures, 1):
            self._held = len(pictures) - number + inside
            yield picture

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        while not self._closed:
            try:
                yield from self._clock.steady(self._container.demux(self._stream))
                return
            except av.EOFError:
                return
            except (av.FFmpegError, OSError) as error:
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.damaged += 1
        self._refused += 1
        self._run += 1
        if self._run > self._limit:
            where = (
                "at its beginning" if self._last is None else f"after {float(self._last * self._info.time_base):.3f} s"
            )
            raise InputError(
                f"{self._info.path}: {self._run} packets in a row cannot be decoded {where} ({error}); cut the "
                "damaged part off with --start/--end, or get a sound copy"
            ) from error

    def _time(self, picture: av.VideoFrame) -> int:
        base = self._info.time_base
        own = self._counted(picture) if self._guess or picture.pts is None else picture.pts
        if own is None:
            step = picture.duration or round(1 / (self._info.average_rate or Fraction(25)) / base)
            own = 0 if self._last is None else self._last + max(1, step)
        elif picture.time_base is not None and picture.time_base != base:
            own = round(own * picture.time_base / base)
        if self._last is not None and own <= self._last:
            own = self._last + 1
            note = "some times of the source do not increase: they were moved by the least step"
            if note not in self._notes:
                self._notes.append(note)
        return own

    def _counted(self, picture: av.VideoFrame) -> int | None:
        """Time by the packet that released the picture, less the decoder's delay: the first is at the first packet."""
        if picture.dts is None:
            return None
        if self._lag is None:
            self._lag = picture.dts - (self._first_dts if self._first_dts is not None else picture.dts)
        return picture.dts - self._lag

    def _normal(self, picture: av.VideoFrame) -> av.VideoFrame:
        picture = self._fitter.fit(picture, self._stream.codec_context.sample_aspect_ratio)
        form = self._info.working_format
        if picture.format.name != form:
            picture = picture.reformat(format=form, threads=1)
        return self._cropper.cut(picture)


class _Deinterlacer:
    """One whole picture per interlaced picture, same times; progressive ones pass unchanged."""

    def __init__(self, stream: VideoStream) -> None:
        self._stream = stream
        self._graph: Graph | None = None
        self._kind: tuple[int, int, str] | None = None  # a graph takes pictures of one size and format

    def push(self, picture: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
        kind = None if picture is None else (picture.width, picture.height, picture.format.name)
        if self._graph is not None and kind != self._kind:
            self._graph.push(None)
            yield from self._ready(self._graph)
            self._graph = None
        if picture is None:
            return
        if self._graph is None:
            self._graph, self._kind = self._build(picture), kind
        self._graph.push(picture)
        yield from self._ready(self._graph)

    @staticmethod
    def _ready(graph: Graph) -> Iterator[av.VideoFrame]:
        while True:
            try:
                whole = graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            if isinstance(whole, av.VideoFrame):
                yield whole

    def _build(self, picture: av.VideoFrame) -> Graph:
        graph = Graph()
        steps = [
            graph.add_buffer(
                width=picture.width,
                height=picture.height,
                format=picture.format,
                time_base=picture.time_base or self._stream.time_base,
            ),
            graph.add("bwdif", "mode=send_frame:deint=interlaced"),
            graph.add("buffersink"),
        ]
        graph.link_nodes(*steps)
        graph.configure()
        return graph
