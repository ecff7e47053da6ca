"""Encodes published pictures without delay, once for all outputs, and describes the streams to those who mux them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import av
from av.audio.stream import AudioStream
from av.codec.context import Flags
from av.video.frame import PictureType
from av.video.stream import VideoStream

from fluidvid.errors import ConfigError, OutputError
from fluidvid.live.clock import TIME_BASE
from fluidvid.video.encoders import ENCODERS, codec_named

VIDEO, AUDIO = 0, 1
"""Indices of the streams in a description and in `Coded`."""
_PIX_FMT = "yuv420p"
_CRF = 21.0
_PRESETS = {"libx264": "superfast", "libx265": "ultrafast"}


@dataclass(frozen=True)
class Coded:
    """One packet on its way to the outputs.

    Attributes:
        stream: `VIDEO` or `AUDIO`.
        data: the coded picture, or sound as it came.
        pts: presentation time in `time_base`.
        dts: decoding time in `time_base`.
        duration: in `time_base`; 0 if unknown.
        time_base: seconds per tick.
        key: a reader can begin here.
        arrived: `time.monotonic()` when the picture came in; what latency is counted from.
    """

    stream: int
    data: bytes
    pts: int
    dts: int
    duration: int
    time_base: Fraction
    key: bool
    arrived: float


@dataclass(frozen=True)
class Look:
    """How the pictures' numbers are shown, by the numbers of H.273; 2: not said.

    Attributes:
        aspect: of a pixel, width by height; None: not said.
        color_range: 1 limited, 2 full, 0 not said.
        matrix: from RGB.
        transfer: of light.
        primaries: of colours.
    """

    aspect: Fraction | None = None
    color_range: int = 0
    matrix: int = 2
    transfer: int = 2
    primaries: int = 2

    @staticmethod
    def of(picture: av.VideoFrame, aspect: Fraction | None) -> Look:
        """That of a yuv420p picture; RGB became BT.601's Y, Cb, Cr, which is what FFmpeg converts to."""
        was_rgb = picture.colorspace == 0
        return Look(
            aspect,
            1 if was_rgb else int(picture.color_range),
            6 if was_rgb else int(picture.colorspace),
            int(picture.color_trc),
            int(picture.color_primaries),
        )


class LiveEncoder:
    """One encoder, tuned for no delay, with its headers in every key frame.

    Args:
        size: `(width, height)` in pixels, even.
        rate: frames per second, as a guess for rate control; times are the pictures' own.
        key_interval: seconds between key frames.
        codec: `h264` or `hevc`, or another name of theirs (x264, libx265); None: `h264`.
        crf: constant quality; None: a default for live streams.
        preset: the encoder's; None: a fast one.
        look: how the pictures are to be shown.

    Raises:
        ConfigError: another codec, pictures too small for it, or a preset or quality that the encoder refuses.
    """

    def __init__(
        self,
        size: tuple[int, int],
        rate: Fraction,
        *,
        key_interval: float,
        codec: str | None = None,
        crf: float | None = None,
        preset: str | None = None,
        look: Look | None = None,
    ) -> None:
        name = codec_named(codec or "h264")
        if name not in ("h264", "hevc"):
            raise ConfigError(f"live streams are published as h264 or hevc, not {codec}: choose one with --codec")
        ENCODERS[name].check(crf, preset)
        if small := ENCODERS[name].too_small(size):
            raise ConfigError(f"{ENCODERS[name].name} is not used ({small}): give --codec h264")
        self._encoder = ENCODERS[name].name
        self._size, self._rate, self._look = size, rate, look or Look()
        options = {"crf": f"{crf if crf is not None else _CRF:g}", "preset": preset or _PRESETS[self._encoder]}
        own = "x264-params" if name == "h264" else "x265-params"
        # x264 would cut pictures into a slice per core: relays that repeat the headers (GStreamer's) tear such key
        # frames apart.
        more = "threads=1" if name == "h264" else "log-level=none"
        self._options: Mapping[str, str] = options | {"tune": "zerolatency", own: f"repeat-headers=1:{more}"}
        self._interval = key_interval / TIME_BASE
        self._last_key: int | None = None
        self._due = True
        try:
            self._context = self._opened()
        except (av.FFmpegError, ValueError) as error:
            raise ConfigError(
                f"{self._encoder} refuses preset {options['preset']!r}, crf {options['crf']} or size "
                f"{size[0]}x{size[1]} ({error}): choose others with --preset and --crf"
            ) from error

    def _opened(self) -> av.VideoCodecContext:
        context = av.CodecContext.create(self._encoder, "w")
        assert isinstance(context, av.VideoCodecContext)
        self._configure(context)
        context.open()
        return context

    def _configure(self, context: av.VideoCodecContext) -> None:
        context.width, context.height, context.pix_fmt = *self._size, _PIX_FMT
        context.time_base, context.framerate = TIME_BASE, self._rate
        look = self._look
        if look.aspect is not None:
            context.sample_aspect_ratio = look.aspect
        context.color_range, context.colorspace = look.color_range, look.matrix
        context.color_trc, context.color_primaries = look.transfer, look.primaries
        context.gop_size = 100_000  # key frames come by the clock
        context.options = dict(self._options)
        context.flags |= Flags.global_header

    def key_frame_due(self) -> None:
        """Make the next picture one that a new reader can begin with."""
        self._due = True

    def encode(self, picture: av.VideoFrame, *, arrived: float) -> list[Coded]:
        """Encode one yuv420p picture with `pts` in ticks of `TIME_BASE`; there is no delay, so one packet comes back.

        Raises:
            OutputError: the encoder failed.
        """
        pts = picture.pts
        assert pts is not None
        picture.time_base = TIME_BASE
        key = self._due or self._last_key is None or pts - self._last_key >= self._interval
        picture.pict_type = PictureType.I if key else PictureType.NONE
        try:
            packets = self._context.encode(picture)
        except av.FFmpegError as error:
            raise OutputError(f"{self._encoder} failed ({error}): choose another codec with --codec") from error
        if key:
            self._due, self._last_key = False, pts
        return [
            Coded(
                VIDEO,
                bytes(packet),
                packet.pts if packet.pts is not None else pts,
                packet.dts if packet.dts is not None else pts,
                packet.duration or 0,
                TIME_BASE,
                bool(packet.is_keyframe),
                arrived,
            )
            for packet in packets
        ]

    def description(self, sound: AudioStream | None, header: bytes = b"") -> bytes:
        """A few bytes of NUT from which a muxer in another process learns both streams' parameters.

        Args:
            sound: the input's audio stream, whose packets will be copied, or None.
            header: the sound's codec header, where the stream has none.
        """
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="nut") as container:
            stream = container.add_stream(self._encoder)
            assert isinstance(stream, VideoStream)
            self._configure(stream.codec_context)
            if sound is not None:
                copied = container.add_stream_from_template(sound)
                if header:
                    copied.codec_context.extradata = header
            black = av.VideoFrame(*self._size, _PIX_FMT)
            for plane in black.planes:
                plane.update(bytes([128]) * plane.buffer_size)
            black.pts, black.time_base = 0, TIME_BASE
            container.mux(stream.encode(black))
            container.mux(stream.encode(None))
        return buffer.getvalue()
