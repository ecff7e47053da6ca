"""Target containers: what each can hold, how it keeps time, and the options that keep it exact."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

import av
from av.audio.layout import AudioLayout
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.stream import Stream

from fluidvid.errors import OutputError


@dataclass(frozen=True)
class Target:
    """A container the writer knows.

    Attributes:
        suffixes: file name endings.
        muxer: FFmpeg's name.
        video: codec to fall back to when it cannot hold the source's.
        subtitles: the text codec it holds, or None.
        rotation: can store a display matrix; else the pixels are turned.
        negative: can store B-frames without moving everything.
        priming: can store sound before time zero, which decoders need to start cleanly, without moving everything.
        ticks: can store any frame time; else only multiples of the frame rate's.
        only: codecs it holds, for muxers that do not tell FFmpeg; empty = ask FFmpeg.
        refused: codecs FFmpeg lists for it, whose first packet it refuses all the same.
    """

    suffixes: tuple[str, ...]
    muxer: str
    video: str
    subtitles: str | None = None
    rotation: bool = False
    negative: bool = False
    priming: bool = False
    ticks: bool = True
    only: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()


SAMPLES = "pcm_s16le"
"""What sound becomes whose own codec a container does not hold, where that loses nothing."""
_TRANSPORT = frozenset(
    {"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "aac", "ac3", "eac3", "mp2", "mp3", "opus", "dts", "truehd"}
    | {"dvb_subtitle", "dvb_teletext"}
)
_PROGRAM = frozenset({"mpeg1video", "mpeg2video", "mp2", "mp3", "ac3", "dvd_subtitle"})
_FLV_RATES = {"pcm_alaw": (8000,), "pcm_mulaw": (8000,)}
_FLV_PCM_RATES = (5512, 11025, 22050, 44100)
"""Rates, in Hz, that FLV can tell of sound that is not compressed; FFmpeg takes others, to be played as these."""
_NOT_IN_MP4 = frozenset({"truehd"})
_NOT_IN_MOV = frozenset({"vp8", "vp9", "av1", "flac", "opus"})

TARGETS = (
    Target(
        (".mp4", ".m4v"), "mp4", "h264", "mov_text", rotation=True, negative=True, priming=True, refused=_NOT_IN_MP4
    ),
    Target((".mov",), "mov", "h264", "mov_text", rotation=True, negative=True, priming=True, refused=_NOT_IN_MOV),
    Target((".mkv",), "matroska", "h264", "subrip", rotation=True, negative=True),
    Target((".webm",), "webm", "vp9", "webvtt", rotation=True, negative=True),
    Target((".avi",), "avi", "mpeg4", ticks=False),
    Target((".ts", ".m2ts", ".mts"), "mpegts", "h264", only=_TRANSPORT),
    Target((".mpg", ".mpeg"), "mpeg", "mpeg2video", only=_PROGRAM),
    Target((".flv",), "flv", "h264", refused=frozenset({"mpeg4"})),
)


def target_for(path: Path) -> Target:
    """Choose the container by the file name.

    Raises:
        OutputError: no or an unknown ending.
    """
    for target in TARGETS:
        if path.suffix.lower() in target.suffixes:
            return target
    known = ", ".join(suffix for target in TARGETS for suffix in target.suffixes)
    what = f"unknown file name ending {path.suffix!r}" if path.suffix else "no file name ending"
    raise OutputError(f"cannot write {path}: {what}; use one of {known}")


@cache
def codecs_held(target: Target) -> frozenset[str]:
    """Codecs a container can hold, of video, sound and subtitles."""
    if target.only:
        return target.only
    with av.open(io.BytesIO(), "w", format=target.muxer) as out:
        return frozenset(out.supported_codecs) - target.refused


def add_copy(out: OutputContainer, stream: Stream, muxer: str) -> Stream:
    """Add a stream that is copied from a source.

    Raises:
        av.FFmpegError: it cannot be added.
        ValueError: it is sound that the container does not hold, although it holds other sound of that codec.
    """
    if not isinstance(stream, AudioStream):
        return out.add_stream_from_template(stream, opaque=True)
    layout = _layout(stream, muxer, stream.codec_context.codec.canonical_name)
    with av.open(io.BytesIO(), "w", format=muxer) as trial:
        _add_sound(trial, stream, layout)
        try:
            trial.start_encoding()
        except av.FFmpegError as error:
            raise ValueError(f"{muxer} takes no such sound of {stream.rate} Hz ({error.strerror})") from error
    return _add_sound(out, stream, layout)


def _add_sound(out: OutputContainer, stream: AudioStream, layout: AudioLayout | None) -> AudioStream:
    made = out.add_stream_from_template(stream, opaque=True)
    if layout is not None:
        made.codec_context.layout = layout
    return made


def add_samples(out: OutputContainer, stream: AudioStream, muxer: str) -> AudioStream:
    """Add a stream for the samples of a source's sound, which are not compressed any more: `SAMPLES`.

    Raises:
        av.FFmpegError: it cannot be added.
        ValueError: the container does not hold so many channels of it, or no such rate.
    """
    layout = _layout(stream, muxer, SAMPLES) or stream.layout
    return cast(AudioStream, out.add_stream(SAMPLES, rate=stream.rate, layout=layout))


def _layout(stream: AudioStream, muxer: str, codec: str) -> AudioLayout | None:
    """Where its channels belong, which some muxers must be told of PCM; AVI, MXF and NUT give their number alone.

    Raises:
        ValueError: there are usual places for one to eight of them, and for no nine; FFmpeg aborts at three in FLV,
            which has few rates, too.
    """
    count = stream.channels
    if muxer not in ("mp4", "flv") or not codec.startswith("pcm_"):
        return None
    if muxer == "flv" and count > 2:
        raise ValueError(f"{muxer} takes no {count} channels of it")
    if muxer == "flv" and stream.rate not in _FLV_RATES.get(codec, _FLV_PCM_RATES):
        raise ValueError(f"{muxer} takes no samples of {stream.rate} Hz")
    if stream.layout.name != f"{count} channels":
        return stream.layout
    try:
        return AudioLayout(f"{count}c")
    except ValueError as error:
        raise ValueError(f"nothing says where its {count} channels belong") from error


def codec_tag(muxer: str, codec: str) -> str | None:
    """What a container is to call a codec, if FFmpeg's own choice is not played everywhere: hev1 is not by Apple's."""
    return "hvc1" if codec == "hevc" and muxer in ("mp4", "mov") else None
