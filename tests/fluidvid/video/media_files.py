"""Media built from the demo clip with PyAV alone, and a view of files that owes nothing to fluidvid."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.stream import AudioStream
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream
from numpy.typing import NDArray

from fluidvid.video import Frame, MuxReport, VideoReader, VideoWriter
from fluidvid.video.subtitles import ASS_HEADER

RATE = 8000
SUBTITLES = ((Fraction(1, 10), "one"), (Fraction(1, 2), "two, ünïcode"))
Edit = Callable[[Frame], tuple[NDArray[np.uint8], Sequence[tuple[int, int, int, int]]] | None]


@lru_cache(maxsize=2)
def pictures(clip: Path, count: int = 24) -> tuple[NDArray[np.uint8], ...]:
    """The first pictures of a clip, `(H, W, 3)` uint8 RGB."""
    with av.open(str(clip)) as container:
        found = zip(range(count), container.decode(video=0), strict=False)
        return tuple(np.asarray(picture.to_ndarray(format="rgb24"), np.uint8) for _, picture in found)


@dataclass(frozen=True)
class Recipe:
    """What is built. `turn`: degrees counter-clockwise from stored to upright; `pts` in `time_base` units."""

    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    size: tuple[int, int] = (176, 144)
    time_base: Fraction = Fraction(1, 30000)
    pts: Sequence[int] = tuple(range(0, 24 * 1001, 1001))
    turn: int = 0
    sar: Fraction | None = None
    colour: tuple[int, int, int, int] | None = None  # range, primaries, transfer, matrix
    audio: Sequence[str] = ()
    rate: int = RATE
    subtitles: str | None = None
    cover: bool = False
    attachment: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)


def build(path: Path, clip: Path, recipe: Recipe) -> Path:
    """Write a file; pictures repeat if there are fewer than times."""
    with av.open(str(path), "w") as out:
        out.metadata.update(recipe.tags)
        if path.suffix in (".mp4", ".mov"):
            out.container_options["movie_timescale"] = str(recipe.time_base.denominator)
        video = _video(out, recipe)
        sounds = [_audio(out, codec, n, recipe.rate) for n, codec in enumerate(recipe.audio)]
        text: Any = out.add_stream(recipe.subtitles) if recipe.subtitles else None
        if text is not None:
            text.codec_context.subtitle_header = ASS_HEADER
            text.time_base = Fraction(1, 1000)
            text.metadata["language"] = "nld"
        cover: Any = out.add_stream("mjpeg", width=16, height=16, pix_fmt="yuvj420p") if recipe.cover else None
        if cover is not None:
            cover.disposition = Disposition.attached_pic
        if recipe.attachment:
            out.add_attachment("people.txt", "text/plain", b"names of people")
        out.start_encoding()
        if cover is not None:
            for packet in _jpeg():
                packet.stream = cover
                out.mux(packet)
        for number, sound in enumerate(sounds):
            _tone(out, sound, number, recipe)
        for time, words in SUBTITLES if text is not None else ():
            encoded = words.encode()
            cue: Any = Packet(len(encoded).to_bytes(2, "big") + encoded if recipe.subtitles == "mov_text" else encoded)
            cue.stream, cue.time_base = text, Fraction(1, 1000)
            cue.pts = cue.dts = int(time * 1000)
            cue.duration = 200
            out.mux(cue)
        _encode(out, video, clip, recipe)
    return path


def _video(out: av.container.OutputContainer, recipe: Recipe) -> VideoStream:
    stream = out.add_stream(recipe.codec, rate=30)
    assert isinstance(stream, VideoStream)
    context = stream.codec_context
    width, height = recipe.size
    context.width, context.height = (height, width) if recipe.turn % 180 else (width, height)
    context.pix_fmt, context.time_base = recipe.pix_fmt, recipe.time_base
    stream.time_base = recipe.time_base
    preset = {"preset": "ultrafast"} if recipe.codec in ("libx264", "libx265") else {}
    quiet = {"x265-params": "log-level=none"} if recipe.codec == "libx265" else {}
    context.options = {**preset, **quiet, **recipe.options}
    if recipe.sar is not None:
        context.sample_aspect_ratio = recipe.sar
    if recipe.colour is not None:
        context.color_range, context.color_primaries, context.color_trc, context.colorspace = recipe.colour
    if recipe.turn:
        stream.set_display_rotation(recipe.turn)
    return stream


def _encode(out: av.container.OutputContainer, video: VideoStream, clip: Path, recipe: Recipe) -> None:
    context = video.codec_context
    source = pictures(clip)
    for number, pts in enumerate(recipe.pts):
        array = np.rot90(source[number % len(source)], -recipe.turn // 90)
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
        full = recipe.pix_fmt.startswith("yuvj") or (recipe.colour is not None and recipe.colour[0] == 2)
        picture = picture.reformat(
            context.width, context.height, recipe.pix_fmt, src_color_range=2, dst_color_range=2 if full else 1
        )
        picture.pts, picture.time_base = pts, recipe.time_base
        out.mux(video.encode(picture))
    out.mux(video.encode(None))


def _audio(out: av.container.OutputContainer, codec: str, number: int, rate: int) -> AudioStream:
    stream = out.add_stream(codec, rate=rate, layout="mono")
    assert isinstance(stream, AudioStream)
    stream.metadata["language"] = ("deu", "fra")[number]
    stream.time_base = Fraction(1, rate)
    return stream


def _tone(out: av.container.OutputContainer, stream: AudioStream, number: int, recipe: Recipe) -> None:
    first = round(recipe.pts[0] * recipe.time_base * recipe.rate)
    last = round((recipe.pts[-1] + 1001) * recipe.time_base * recipe.rate)
    step = min(1024, stream.codec_context.frame_size or 1024)
    for at in range(first, last, step):
        wave = np.sin(np.arange(at, at + step, dtype=np.float32) * np.float32(0.2 + 0.1 * number))[None]
        form = stream.codec_context.format.name
        kind = {"s16": np.int16, "s32": np.int32}.get(form.rstrip("p"))
        samples = (wave * 20000).astype(kind) if kind is not None else wave
        frame = av.AudioFrame.from_ndarray(samples, format=form, layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = recipe.rate, at, Fraction(1, recipe.rate)
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))


def _jpeg() -> list[Any]:
    context: Any = av.CodecContext.create("mjpeg", "w")
    context.width, context.height, context.pix_fmt = 16, 16, "yuvj420p"
    context.time_base = Fraction(1, 25)
    picture = av.VideoFrame(16, 16, "yuvj420p")
    picture.pts = 0
    return [*context.encode(picture), *context.encode(None)]


@dataclass(frozen=True)
class Other:
    """One stream beside the video: packets as `(time in seconds, SHA-256)`."""

    kind: str
    codec: str
    language: str | None
    packets: tuple[tuple[Fraction | None, str], ...]

    @property
    def hashes(self) -> tuple[str, ...]:
        """What the packets hold, without times."""
        return tuple(h for _, h in self.packets)


@dataclass(frozen=True)
class Seen:
    """A file as PyAV shows it, video decoded frame by frame."""

    codec: str
    pix_fmt: str
    size: tuple[int, int]
    sar: Fraction | None
    rotation: int
    colour: tuple[int, int, int, int]
    time_base: Fraction
    duration: Fraction | None
    times: tuple[Fraction, ...]
    others: tuple[Other, ...]
    tags: Mapping[str, str]

    def of(self, kind: str) -> tuple[Other, ...]:
        """Streams of one kind."""
        return tuple(o for o in self.others if o.kind == kind)


def see(path: Path, end: Fraction | None = None) -> Seen:
    """Read a file with PyAV alone, up to `end` seconds on its own clock."""
    times = []
    with av.open(str(path)) as container:
        video = next(s for s in container.streams.video if not s.disposition & Disposition.attached_pic)
        base = Fraction(video.time_base or 0)
        first = None
        for picture in container.decode(video):
            first = first or picture
            assert picture.pts is not None
            if end is not None and picture.pts * base >= end:
                break
            times.append(picture.pts * base)
        assert first is not None
        context = video.codec_context
        tags = {k: v for s in (container, *container.streams) for k, v in s.metadata.items()}
        return Seen(
            codec=context.codec.canonical_name,
            pix_fmt=first.format.name,
            size=(first.width, first.height),
            sar=video.sample_aspect_ratio or None,
            rotation=first.rotation % 360,
            colour=(
                int(first.color_range),
                int(first.color_primaries),
                int(first.color_trc),
                int(first.colorspace),
            ),
            time_base=base,
            duration=video.duration * base if video.duration else None,
            times=tuple(times),
            others=_others(path, video.index),
            tags=tags,
        )


def _others(path: Path, video: int) -> tuple[Other, ...]:
    with av.open(str(path)) as container:
        found: dict[int, list[tuple[Fraction | None, str]]] = {s.index: [] for s in container.streams}
        for packet in container.demux():
            if packet.size and packet.stream_index != video:
                time = packet.pts * packet.time_base if packet.pts is not None else None
                found[packet.stream_index].append((time, hashlib.sha256(bytes(packet)).hexdigest()))
        return tuple(
            Other(
                "picture" if s.disposition & Disposition.attached_pic else s.type,
                getattr(getattr(s, "codec_context", None), "name", ""),
                s.language,
                tuple(found[s.index]),
            )
            for s in container.streams
            if s.index != video
        )


def rewrite(source: Path, target: Path, edit: Edit | None = None, **options: Any) -> tuple[MuxReport, VideoReader]:
    """Copy through reader and writer; `start` and `end` go to the reader."""
    cut = {name: options.pop(name) for name in ("start", "end") if name in options}
    with VideoReader(source, **cut) as reader, VideoWriter(target, reader, **options) as writer:
        for frame in reader:
            edited = edit(frame) if edit is not None else None
            if edited is None:
                writer.write(frame)
            else:
                writer.write(frame, *edited)
    return writer.report, reader


def heard(path: Path) -> tuple[NDArray[np.int16], list[float]]:
    """The samples of the first sound, one channel of 16 bits, and the time of every packet, seconds."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
        return np.concatenate([frame.to_ndarray()[0] for frame in frames]), [float(frame.time or 0) for frame in frames]


def planes(path: Path) -> list[list[NDArray[Any]]]:
    """The native planes of every decoded picture, without padding."""
    with av.open(str(path)) as container:
        return [[_plane(plane, p.format.components[0].bits) for plane in p.planes] for p in container.decode(video=0)]


def _plane(plane: Any, bits: int) -> NDArray[Any]:
    kind = np.dtype(np.uint8 if bits <= 8 else "<u2")
    rows = np.frombuffer(memoryview(plane), kind).reshape(plane.height, plane.line_size // kind.itemsize)
    return rows[:, : plane.width].copy()


def damage(path: Path, which: slice) -> None:
    """Overwrite the data of some video packets with zeros."""
    with av.open(str(path)) as container:
        places = [(p.pos or 0, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for at, size in places[which]:
        data[at : at + size] = bytes(size)
    path.write_bytes(data)


def give_pixel_crop(path: Path, side: bytes, pixels: int) -> None:
    """Put a PixelCrop element in the place of DisplayUnit."""
    data = path.read_bytes()
    assert data.count(b"\x54\xb2\x81\x04") == 1
    path.write_bytes(data.replace(b"\x54\xb2\x81\x04", side + b"\x81" + bytes([pixels])))
