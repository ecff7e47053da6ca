"""What a source is: size, clock, colours and streams, measured on its first decodable frame."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Stream
from av.video.stream import VideoStream

from fluidvid.errors import InputError
from fluidvid.video.colour import layout, planar_format
from fluidvid.video.cropping import Crop
from fluidvid.video.opening import NO_INDEX, WRAP, is_picture, main_video, open_source
from fluidvid.video.orientation import Orientation

UNKNOWN = "unknown"
"""What a codec is called that PyAV's FFmpeg does not decode: teletext, TTML, WebVTT of mkvmerge, AC-4."""


@dataclass(frozen=True)
class StreamInfo:
    """One stream of the source. `kind`: video, audio, subtitle, data, attachment or picture (cover art).

    `codec` is FFmpeg's name, or `UNKNOWN`.
    """

    index: int
    kind: str
    codec: str
    language: str | None


@dataclass(frozen=True)
class VideoInfo:
    """A source's main video stream, and what lies beside it.

    Attributes:
        path: the file.
        container: FFmpeg's name of the format.
        stream: index of the video stream.
        codec: its codec.
        width: upright pixels.
        height: upright pixels.
        stored_width: pixels as coded, without those that the container crops.
        stored_height: pixels as coded, without those that the container crops.
        crop: what the container crops of the stored picture.
        orientation: from stored to upright.
        rotation: degrees counter-clockwise from stored to upright.
        pix_fmt: pixel format as decoded.
        sar: sample aspect ratio of the stored picture, None if the source says nothing.
        color_range: H.273 number (1 limited, 2 full, 0 not said), as the next three.
        colorspace: matrix.
        color_trc: transfer curve.
        color_primaries: primaries.
        hdr: mastering display and light level side data of the first frame, for the encoder.
        lost: one line for each thing of the first frame that no result will have.
        captions: there are closed captions (CEA-608, -708) in the first picture, which some encoders write into theirs.
        interlaced: fields instead of whole pictures; they are deinterlaced.
        time_base: seconds per tick of the video stream.
        average_rate: frames per second, None if unknown.
        frames_estimate: number of frames, None if unknown. An estimate.
        duration: seconds of the video stream, None if unknown.
        start: first time of any audio or video stream, seconds; `--start` and `--end` count from here.
        offset: to add to all times, seconds: FFmpeg counts backwards from where the clock of a broadcast begins anew.
        streams: all streams.
    """

    path: Path
    container: str
    stream: int
    codec: str
    width: int
    height: int
    stored_width: int
    stored_height: int
    crop: Crop
    orientation: Orientation
    rotation: int
    pix_fmt: str
    sar: Fraction | None
    color_range: int
    colorspace: int
    color_trc: int
    color_primaries: int
    hdr: tuple[tuple[str, bytes], ...]
    lost: tuple[str, ...]
    captions: bool
    interlaced: bool
    time_base: Fraction
    average_rate: Fraction | None
    frames_estimate: int | None
    duration: Fraction | None
    start: Fraction
    offset: Fraction
    streams: tuple[StreamInfo, ...]

    @property
    def working_format(self) -> str:
        """Pixel format frames are given out in: `pix_fmt`, or the nearest planar one."""
        return planar_format(self.pix_fmt)


def read_info(path: Path, max_bad_packets: int) -> VideoInfo:
    """Open the file, decode up to its first picture, and close it again.

    Raises:
        InputError: cannot be opened, has no video, or no picture within `max_bad_packets` failures.
    """
    with open_source(path) as container:
        stream = main_video(container, path)
        first = _first_picture(container, stream, path, max_bad_packets)
        orientation = picture_orientation(first)
        crop = Crop.of(stream)
        stored = crop.size(first.width, first.height)
        if min(stored) <= 0:
            raise InputError(f"{path}: its header crops the whole picture away: correct it, as with mkvpropedit")
        width, height = orientation.size(*stored)
        rate = _rate(stream)
        duration = _duration(container, stream)
        estimate = stream.frames or (round(duration * rate) if duration and rate else 0)
        context = stream.codec_context
        begins = _begins(container)
        offset = WRAP if begins < 0 and container.format.name in NO_INDEX else Fraction(0)
        return VideoInfo(
            path=path,
            container=container.format.name,
            stream=stream.index,
            codec=stream.codec_context.codec.canonical_name,
            width=width,
            height=height,
            stored_width=stored[0],
            stored_height=stored[1],
            crop=crop,
            orientation=orientation,
            rotation=orientation.quarter_turns * 90,
            pix_fmt=first.format.name,
            sar=stream.sample_aspect_ratio or None,
            color_range=int(first.color_range or context.color_range),
            colorspace=int(first.colorspace),
            color_trc=int(first.color_trc),
            color_primaries=int(first.color_primaries),
            hdr=_hdr(first),
            lost=(*_cropped(crop, stored), *_lost(first, stream)),
            captions=bool(_side_data(first, SideDataType.A53_CC)),
            interlaced=first.interlaced_frame,
            time_base=stream.time_base or Fraction(1, 90000),
            average_rate=rate,
            frames_estimate=estimate or None,
            duration=duration,
            start=max(Fraction(0), begins + offset),
            offset=offset,
            streams=tuple(_described(s) for s in container.streams),
        )


def _first_picture(container: InputContainer, stream: VideoStream, path: Path, limit: int) -> av.VideoFrame:
    failures = 0
    try:
        for packet in container.demux(stream):
            if packet.size == 0:
                continue
            try:
                for picture in packet.decode():
                    return picture
            except (av.FFmpegError, ValueError):
                failures += 1
                if failures > limit:
                    break
        for picture in stream.decode(None) if failures <= limit else ():
            return picture
    except av.FFmpegError:
        failures += 1
    raise InputError(
        f"{path}: no picture could be decoded ({failures} packets failed): the video data are missing or damaged, "
        "get a complete copy"
    )


def picture_orientation(picture: av.VideoFrame) -> Orientation:
    """From stored to upright, by the picture's display matrix; as it is stored if it has none."""
    return _told_orientation(picture) or Orientation()


class OrientationTracker:
    """The orientation of each picture of a stream: H.264 tells it with some, for those that follow.

    Args:
        orientation: from stored to upright, of the pictures before the first that tells it.
        size: `(width, height)` as coded of those pictures; None = not known yet.
    """

    def __init__(self, orientation: Orientation | None = None, size: tuple[int, int] | None = None) -> None:
        self._orientation, self._size = orientation or Orientation(), size

    def read(self, picture: av.VideoFrame) -> Orientation:
        """From stored to upright, of the next picture as decoded; a new size that comes untold is upright."""
        size, told = (picture.width, picture.height), _told_orientation(picture)
        if told is not None or size != self._size:
            self._orientation, self._size = told or Orientation(), size
        return self._orientation


def _told_orientation(picture: av.VideoFrame) -> Orientation | None:
    """From stored to upright, by the picture's display matrix, or None if it has none."""
    matrices = _side_data(picture, SideDataType.DISPLAYMATRIX)
    if matrices:
        return Orientation.from_matrix(np.frombuffer(matrices[0], np.int32).tolist())
    return Orientation.from_angle(picture.rotation) if picture.rotation else None


def _side_data(picture: av.VideoFrame, kind: SideDataType) -> list[bytes]:
    # Not `picture.side_data`: that one is kept by the picture it refers to, and only the garbage collector, which comes
    # seldom, would free either.
    make: Any = SideDataContainer  # its stub knows neither the argument nor that it is a sequence of SideData
    try:
        container = make(picture)
    except ValueError:  # there is a kind among them that PyAV does not know (EXIF, views of a stereo picture)
        return []
    return [bytes(container[i]) for i in range(len(container)) if container[i].type == kind]


def _hdr(picture: av.VideoFrame) -> tuple[tuple[str, bytes], ...]:
    kinds = (SideDataType.MASTERING_DISPLAY_METADATA, SideDataType.CONTENT_LIGHT_LEVEL)
    return tuple((kind.name, data) for kind in kinds for data in _side_data(picture, kind)[:1])


def _lost(picture: av.VideoFrame, stream: VideoStream) -> Iterator[str]:
    if _side_data(picture, SideDataType.SPHERICAL):
        yield (
            "the source is a 360-degree video, and the result is not marked as one: players show it flat until its "
            "projection is written into it, as with Google's Spatial Media Metadata Injector"
        )
    if _side_data(picture, SideDataType.ICC_PROFILE):
        yield "the source's colour profile (ICC) is left out: it may name a device; colours may look different"
    if any(any(data[:4]) for data in _side_data(picture, SideDataType.STEREO3D)):  # the first number is 0 for one view
        yield (
            "the source holds two views (stereo 3D), and the result does not say how they are packed: choose it in the "
            "player"
        )
    modes = {name.lower(): value for name, value in stream.metadata.items()}
    if modes.get("alpha_mode") == "1" and not layout(picture.format.name).alpha:
        yield (
            "the source's transparency was not read, the result is opaque: convert it first, as with "
            "`ffmpeg -c:v libvpx-vp9 -i IN -c:v ffv1 OUT.mkv` (libvpx for VP8)"
        )


def _cropped(crop: Crop, stored: tuple[int, int]) -> list[str]:
    sides = " x ".join(map(str, stored))
    return [f"the source's header crops the picture to {sides}: the result holds no more than that"] if crop else []


def _rate(stream: VideoStream) -> Fraction | None:
    average, guessed = stream.average_rate, stream.guessed_rate
    if average and guessed and guessed < average and average * (stream.time_base or 0) == 1:
        return guessed  # one picture per tick is what FFmpeg says of DV, where nothing was measured
    return average or guessed or None


def _duration(container: InputContainer, stream: VideoStream) -> Fraction | None:
    if stream.duration and stream.time_base:
        return stream.duration * stream.time_base
    told = [Fraction(container.duration, av.time_base)] if container.duration else []
    with suppress(ValueError, ZeroDivisionError):  # as Matroska says it; the container's counts the sound, too
        hours, minutes, seconds = map(Fraction, stream.metadata.get("DURATION", "").split(":"))
        told.append(3600 * hours + 60 * minutes + seconds)
    end = min(told, default=None)  # tools that cut a file leave the tag as it was
    if end is not None and "matroska" in container.format.name:  # it counts from zero, not from the first picture
        begin = (stream.start_time or 0) * (stream.time_base or 0)
        return end - begin if end > begin else end
    return end


def _begins(container: InputContainer) -> Fraction:
    sound_and_picture = (*container.streams.audio, *(s for s in container.streams.video if not is_picture(s)))
    times = [s.start_time * s.time_base for s in sound_and_picture if s.start_time is not None and s.time_base]
    return min(times, default=Fraction(0))


def _described(stream: Stream) -> StreamInfo:
    kind = "picture" if isinstance(stream, VideoStream) and is_picture(stream) else stream.type
    context = getattr(stream, "codec_context", None)
    if context is not None:
        return StreamInfo(stream.index, kind, context.codec.canonical_name, stream.language)
    named = getattr(stream, "name", None)  # sound and subtitles without a decoder have none, and no such attribute
    return StreamInfo(stream.index, kind, named or UNKNOWN, stream.language)
