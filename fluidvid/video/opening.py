"""Opens a source, and turns what FFmpeg says about it into one line with a remedy."""

from __future__ import annotations

import os
import stat
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from fluidvid.errors import InputError

# Containers that store no presentation times: PyAV would have FFmpeg invent some (`genpts`), and gets B-frames wrong.
GUESSED_TIMES = frozenset({"avi", "h264", "hevc", "mpegvideo", "m4v", "obu", "vc1", "mjpeg", "h263"})
# Containers without an index of their key frames: a seek lands on any packet, and whatever precedes the next key frame
# cannot be decoded. They are read from the beginning.
NO_INDEX = frozenset({"mpegts", "mpeg"})
WRAP = Fraction(1 << 33, 90_000)
"""Seconds after which the clock of these begins anew by itself."""


def check_source(path: Path) -> None:
    """Refuse early, without opening it.

    Raises:
        InputError: missing, a folder, empty, or no file.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise InputError(f"no such file: {path}: check the name") from None
    except OSError as error:
        raise InputError(f"cannot look at {path} ({error.strerror}): check the path and its permissions") from error
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path} is a folder: name a video file in it")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is not a regular file: save the stream to a file first")
    if status.st_size == 0:
        raise InputError(f"{path} is empty: copy or record it again")


def local(path: Path) -> str:
    """What FFmpeg is told of a name: it takes the beginning of a relative one such as `12:30.mp4` for a protocol.

    With `file:` before it, its HLS muxer would no longer delete old parts.
    """
    return str(path) if path.is_absolute() else f".{os.sep}{path}"


def open_source(path: Path) -> InputContainer:
    """Open a media file for reading.

    Raises:
        InputError: as `check_source`; unreadable, text, or nothing FFmpeg can demux.
    """
    check_source(path)
    try:
        container = av.open(local(path), mode="r", metadata_errors="replace")
    except PermissionError as error:
        raise InputError(f"no permission to read {path}: change its permissions") from error
    except (av.FFmpegError, OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be opened as video ({_reason(error)}): it is damaged, cut short or no media file; "
            "get a complete copy, or repair it with `ffmpeg -i`"
        ) from error
    if container.format.name == "tty":  # FFmpeg draws letters into pictures
        container.close()
        raise InputError(f"{path} is text, not a video: name a video file")
    if container.format.name in GUESSED_TIMES:
        container.flags &= ~cast(int, av.container.Flags.gen_pts.value)
    return container


def is_picture(stream: VideoStream) -> bool:
    """True for cover art and thumbnails."""
    return bool(stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails))


def main_video(container: InputContainer, path: Path) -> VideoStream:
    """The video stream that is processed: the default one, else the largest.

    Raises:
        InputError: there is none, or no decoder for it.
    """
    streams = [s for s in container.streams.video if not is_picture(s)]
    if not streams:
        raise InputError(f"{path} has no video stream: nothing to pseudonymise in it, name a video file")
    decodable = [s for s in streams if s.codec_context is not None]
    if not decodable:
        raise InputError(
            f"{path}: no decoder for its video codec: convert it first, as with `ffmpeg -i IN -c:v libx264 OUT`"
        )

    def rank(stream: VideoStream) -> tuple[bool, int]:
        return bool(stream.disposition & Disposition.default), stream.width * stream.height

    return max(decodable, key=rank)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).split(";")[0]
