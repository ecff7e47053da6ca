"""Encodes frames and copies the source's other streams into a file that appears only when complete."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.codec.context import Flags
from av.container import OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from fluidvid.errors import FluidvidError, OutputError
from fluidvid.video.colour import layout, matrix_of
from fluidvid.video.containers import Target, codec_tag, codecs_held, target_for
from fluidvid.video.copying import StreamCopier
from fluidvid.video.ebml import display_size, set_display_size
from fluidvid.video.encoders import EncoderPlan, configure, plan_encoder
from fluidvid.video.frame import Frame
from fluidvid.video.info import VideoInfo, read_info
from fluidvid.video.opening import is_picture, local
from fluidvid.video.orientation import Box
from fluidvid.video.pictures import PictureShaper
from fluidvid.video.reader import VideoReader
from fluidvid.video.target_file import TargetFile, check_target, write_error

_MAX_TIMESCALE = 200_000_000
_NO_DELAY = 1 << 40
"""Ticks by which no encoder decodes ahead."""
_LATE = Fraction(10)
_VISIBLE = Fraction(1, 100)
"""Change of a pixel's shape that is said."""


@dataclass(frozen=True)
class MuxReport:
    """What the output is, and everything in it that differs from the source.

    Attributes:
        codec: of the video.
        encoder: FFmpeg's name.
        pix_fmt: of the video.
        dropped_streams: one line each, with the reason.
        dropped_metadata: names (never values) of tags that were left out.
        converted: one line per converted stream.
        warnings: what else the user should know.
    """

    codec: str = ""
    encoder: str = ""
    pix_fmt: str = ""
    dropped_streams: tuple[str, ...] = ()
    dropped_metadata: tuple[str, ...] = ()
    converted: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class VideoWriter:
    """Writes a pseudonymised copy of a source.

    A context manager: leaving it normally finishes the file and gives it its name; any exception, also
    `KeyboardInterrupt`, removes what was written. Memory is bounded: sound is read in step with the encoded video.
    """

    def __init__(
        self,
        target: str | Path,
        source: VideoReader | str | Path,
        *,
        codec: str | None = None,
        crf: float | None = None,
        preset: str | None = None,
        overwrite: bool = False,
        keep_metadata: bool = False,
        start: Fraction | None = None,
        end: Fraction | None = None,
        approve: Callable[[], None] | None = None,
    ) -> None:
        """Check what can be checked before any work; nothing is written yet.

        Args:
            target: its ending chooses the container.
            source: the reader of the frames, or the file they come from.
            codec: codec or encoder; default: the source's codec.
            crf: quality on the encoder's own scale; default visually lossless.
            preset: the encoder's speed preset.
            overwrite: replace an existing target.
            keep_metadata: keep cover art, data tracks, attachments, chapters and identifying tags.
            start: as for the reader, whose value is used if there is a reader.
            end: as for the reader, whose value is used if there is a reader.
            approve: called when the file is complete, before it gets its name; nothing is left if it raises.

        Raises:
            OutputError: the target is the source, exists, has an unknown ending, its folder is missing, or no encoder
                works.
            InputError: the source cannot be read.
            ConfigError: unknown codec, or quality or preset out of range.
        """
        self._path = Path(target)
        reader = source if isinstance(source, VideoReader) else None
        where = reader.info.path if reader else Path(str(source))
        self._spec: Target = target_for(self._path)
        check_target(self._path, where, overwrite)
        self._reader = reader
        self._info: VideoInfo = reader.info if reader else read_info(where, 30)
        self._first = (reader.start if reader else None) if start is None else start
        self._last = (reader.end if reader else None) if end is None else end
        self._overwrite, self._keep, self._approve = overwrite, keep_metadata, approve
        self._notes: list[str] = []
        self._shaper = PictureShaper(self._info, turn=not (self._spec.rotation or self._info.orientation.identity))
        if self._shaper.turns:
            self._notes.append(f"{self._spec.muxer} cannot store a rotation: the pixels were turned upright")
        held = codecs_held(self._spec)
        self._plan = plan_encoder(
            self._info, self._shaper.size, held, self._spec.video, codec=codec, crf=crf, preset=preset
        )
        self._shaper.format, self._shaper.bare = self._plan.pix_fmt, self._plan.encoder.bare
        told = self._plan.encoder.full_range
        self._shaper.limited = told == "nothing" or (told == "container" and self._spec.muxer != "matroska")
        if self._shaper.limited and self._info.color_range == 2:
            self._notes.append(
                f"{self._plan.encoder.name} in {self._spec.muxer} cannot say that colours are of full range: converted "
                "to limited range"
            )
        self._file: TargetFile | None = None
        self._out: OutputContainer | None = None
        self._copier: StreamCopier | None = None
        self._times: deque[tuple[int, int | None]] = deque()
        self._count = 0
        self._tick: int | None = None

    @property
    def report(self) -> MuxReport:
        """The account so far; complete after the context was left."""
        plan = self._plan
        copies = self._copier.report if self._copier else None
        warnings = [
            *self._notes,
            *plan.warnings,
            *(copies.warnings if copies else ()),
            *(self._reader.warnings if self._reader else ()),
        ]
        if self._copier is not None and self._copier.has_sound:
            warnings.append("the sound is kept unchanged: voices identify people too")
        return MuxReport(
            codec=plan.codec,
            encoder=plan.encoder.name,
            pix_fmt=plan.pix_fmt,
            dropped_streams=tuple(copies.dropped_streams if copies else ()),
            dropped_metadata=tuple(dict.fromkeys(copies.dropped_metadata)) if copies else (),
            converted=tuple(copies.converted if copies else ()),
            warnings=tuple(dict.fromkeys(warnings)),
        )

    def __enter__(self) -> Self:
        """Open temporary file, encoder and the source's other streams.

        Raises:
            OutputError: the folder cannot be written to.
        """
        self._file = TargetFile(self._path, self._overwrite)
        try:
            self._open(self._file)
        except BaseException as error:
            self._abandon()
            raise self._translated(error) from error
        return self

    def write(self, frame: Frame, rgb: NDArray[np.uint8] | None = None, regions: Sequence[Box] = ()) -> None:
        """Encode one frame.

        Args:
            frame: from the reader; a frame is written once.
            rgb: the edited picture, `(H, W, 3)` uint8 RGB, upright; None = unchanged.
            regions: `(x1, y1, x2, y2)` upright pixels, ends excluded: only these are taken from `rgb`.

        Raises:
            OutputError: encoder or disk failed.
            ValueError: `rgb` of another size or type, or not within the context.
        """
        if self._out is None:
            raise ValueError("write() belongs inside `with VideoWriter(...)`")
        if rgb is not None and len(regions):
            frame.patch(rgb, regions)
        pts = frame.pts - self._shift
        try:
            for picture in self._shaper.shape(frame.picture):
                if self._indexed:
                    self._times.append((pts, frame.duration))
                    picture.pts, picture.time_base, picture.duration = self._count, self._clock, 1
                else:
                    picture.pts, picture.time_base = pts, frame.time_base
                    picture.duration = frame.duration or 0
                self._count += 1
                self._mux(self._stream.encode(picture))
        except (av.FFmpegError, OSError, ValueError) as error:
            raise self._translated(error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._abandon()
            return
        try:
            self._finish()
        except BaseException as failure:
            self._abandon()
            raise self._translated(failure) from failure

    def _open(self, file: TargetFile) -> None:
        info, spec = self._info, self._spec
        if self._first is None and not spec.ticks and info.start > _LATE:
            self._first = Fraction(0)  # the muxer fills up to the first picture, and gives up at 65,000 pictures
            self._notes.append(
                f"{spec.muxer} counts pictures from zero: the source's clock starts at {float(info.start):.3f} s, the "
                "result's does not"
            )
        first = None if self._first is None else round((self._first + info.start) / info.time_base)
        self._shift = first or 0
        cut = None if first is None else first * info.time_base
        end = None if self._last is None else self._last + info.start
        self._copier = StreamCopier(info, spec, keep_metadata=self._keep, start=cut, end=end)
        self._out = out = av.open(local(file.path), "w", format=spec.muxer)
        self._copier.add_streams(out, "before")
        self._stream = self._video_stream(out, self._plan, self._shaper.size)
        self._copier.add_streams(out, "after")
        self._copier.add_tags(out, self._stream)
        if spec.muxer in ("mp4", "mov", "flv") and cut is None and info.start > _LATE:
            self._notes.append(
                f"the source's clock starts at {float(info.start):.3f} s and is kept: many players show nothing until "
                "then; write .ts or .mkv, or use --start 0 to begin at zero"
            )
        out.container_options.update(self._container_options())
        self._copier.begin()

    def _video_stream(self, out: OutputContainer, plan: EncoderPlan, size: tuple[int, int]) -> VideoStream:
        info, spec = self._info, self._spec
        rate = (info.average_rate or Fraction(25)).limit_denominator(1001)
        stream = out.add_stream(plan.encoder.name, rate=rate)
        assert isinstance(stream, VideoStream)
        context = stream.codec_context
        configure(context, plan, size)
        if tag := codec_tag(spec.muxer, plan.codec):
            context.codec_tag = tag
        self._indexed = plan.encoder.indexed or not spec.ticks
        if self._indexed:
            rate = _nearest_rate(plan.encoder.name, rate)
            context.framerate = rate
        self._clock = 1 / rate if self._indexed else info.time_base
        context.time_base = self._clock
        # What the muxer is asked for: AVI counts frames, all others get the source's clock.
        self._ticks = self._clock if not spec.ticks else info.time_base
        stream.time_base = self._ticks
        if not spec.negative:
            context.max_b_frames = 0
        if not spec.ticks:
            self._notes.append(f"{spec.muxer} stores one frame rate: times are rounded to 1/{float(rate):.3f} s")
        context.flags |= Flags.frame_duration
        sar = info.sar
        if sar is not None and self._shaper.turns and info.orientation.swaps_sides:
            sar = 1 / sar
        self._sar = sar or Fraction(1)
        if sar is not None:
            context.sample_aspect_ratio = sar
        context.color_range, context.colorspace = info.color_range, info.colorspace
        if layout(info.pix_fmt).rgb and not layout(plan.pix_fmt).rgb:  # see PictureShaper
            context.color_range = 2 if info.color_range == 2 else 1
            context.colorspace = matrix_of(info.colorspace, size[1])
        if self._shaper.limited and context.color_range == 2:
            context.color_range = 1
        context.color_trc, context.color_primaries = info.color_trc, info.color_primaries
        if info.orientation.matrix is not None and not self._shaper.turns:
            stream.set_display_matrix(info.orientation.matrix)
        return stream

    def _container_options(self) -> dict[str, str]:
        """Options that keep times exact."""
        assert self._copier is not None
        if self._spec.muxer in ("mp4", "mov"):
            video = self._ticks.denominator
            while video < 10000:  # as the muxer does
                video *= 2
            scale = video
            for base in self._copier.time_bases:  # an edit list counts in these units
                common = math.lcm(scale, base.denominator)
                scale = common if common <= _MAX_TIMESCALE else scale
            flags = "+faststart"
            if self._keep and self._copier.has_picture:  # FFmpeg writes free tags or cover art, not both
                self._notes.append(f"{self._spec.muxer} with cover art holds the usual tags only; write .mkv for all")
            elif self._keep:
                flags += "+use_metadata_tags"
            return {"movflags": flags, "movie_timescale": str(scale)}
        if self._spec.muxer == "mpegts":
            return {"mpegts_copyts": "1", "max_delay": "0"}
        if self._spec.muxer in ("mpeg", "vob"):
            return {"preload": "0", "max_delay": "0"}
        return {}

    def _mux(self, packets: Sequence[Packet[VideoStream]]) -> None:
        assert self._out is not None and self._copier is not None
        for packet in packets:
            if self._indexed:
                pts, duration = self._times.popleft()
                ticks, base = self._ticks, self._info.time_base
                packet.time_base = ticks
                tick = round(pts * base / ticks)
                # A muxer refuses a time twice: of pictures within one tick the second moves on.
                self._tick = tick if self._tick is None else max(tick, self._tick + 1)
                packet.pts = packet.dts = self._tick
                packet.duration = round(duration * base / ticks) if duration else 0
            if packet.pts is not None and packet.dts is not None and not 0 <= packet.pts - packet.dts <= _NO_DELAY:
                packet.dts = packet.pts  # x265 makes it from memory it never set where there are one or two pictures
            time = packet.dts if packet.dts is not None else packet.pts
            if time is not None:
                self._copier.advance(self._out, (time * packet.time_base) + self._shift * self._info.time_base)
            self._out.mux_one(packet)

    def _finish(self) -> None:
        assert self._out is not None and self._copier is not None and self._file is not None
        if self._count == 0:
            raise OutputError(f"no frame was written to {self._path}: nothing lies between --start and --end")
        for picture in self._shaper.shape(None):
            self._mux(self._stream.encode(picture))
        self._mux(self._stream.encode(None))
        self._copier.advance(self._out, None)
        self._copier.close()
        out, self._out = self._out, None
        out.close()
        if self._spec.muxer in ("matroska", "webm") and self._sar != 1:  # PyAV does not tell these muxers
            set_display_size(self._file.path, display_size(*self._shaper.size, self._sar))
        self._verify(self._file.path)
        if self._approve is not None:
            self._approve()
        self._file.commit()
        self._file = None

    def _verify(self, path: Path) -> None:
        """A full disk may show only here: the last buffer is written when the file is closed."""
        try:
            with av.open(local(path)) as result:
                pictures = [s for s in result.streams.video if not is_picture(s)]
                if not pictures:
                    raise OutputError(f"{self._path} came out without video: check the disk and try again")
                shape = pictures[0].sample_aspect_ratio or Fraction(1)
                if abs(shape / self._sar - 1) > _VISIBLE:
                    self._notes.append(
                        f"{self._plan.encoder.name} in {self._spec.muxer} does not store that pixels are "
                        f"{self._sar.numerator}:{self._sar.denominator}: players show another shape; write .mp4 or "
                        ".mkv, or use --codec h264"
                    )
        except av.FFmpegError as error:
            raise OutputError(
                f"{self._path} came out unreadable ({error.strerror}): check the disk and try again"
            ) from error

    def _abandon(self) -> None:
        out, self._out = self._out, None
        try:
            if out is not None:
                with contextlib.suppress(av.FFmpegError, OSError, ValueError):
                    out.close()
            if self._copier is not None:
                self._copier.close()
        finally:  # whatever signal comes meanwhile
            if self._file is not None:
                self._file.remove()
                self._file = None

    def _translated(self, error: BaseException) -> BaseException:
        if isinstance(error, (av.FFmpegError, OSError, ValueError)) and not isinstance(error, FluidvidError):
            return write_error(self._path, error)
        return error


def _nearest_rate(encoder: str, rate: Fraction) -> Fraction:
    """A frame rate the encoder can write into its stream; the container's times are the true ones."""
    allowed = av.Codec(encoder, "w").frame_rates
    if allowed:
        return min((Fraction(r.numerator, r.denominator) for r in allowed), key=lambda r: abs(r - rate))
    return rate if rate.numerator <= 65535 else rate.limit_denominator(1)
