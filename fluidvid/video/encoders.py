"""Chooses codec, encoder, pixel format and quality: the source's own wherever an encoder and the container allow."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import av

from fluidvid.errors import ConfigError, OutputError
from fluidvid.video.colour import layout, loss, nearest
from fluidvid.video.info import VideoInfo


@dataclass(frozen=True)
class Encoder:
    """How one encoder is driven.

    Attributes:
        name: FFmpeg's.
        crf: default quality, visually lossless; None = lossless or fixed by the codec.
        scale: option that takes the quality: `crf`, `qscale` or `cq`.
        best: smallest allowed value.
        worst: largest allowed value.
        preset: default preset; None = the encoder has none.
        preset_option: what the option is called.
        presets: all it takes, where it would complain of another in its own words; empty = it is asked.
        options: always set.
        even: needs even sides where chroma is halved.
        indexed: codes a frame number, not a time: times are put onto its packets afterwards.
        full_range: what tells a player that its numbers are of full range.
        bare: is given pictures without what they carry beside their pixels: it would write it.
        captions: writes closed captions of the pictures it is given.
        least: pixels of width; with some narrower pictures x265 writes beyond its memory, and the process dies.
    """

    name: str
    crf: float | None = None
    scale: str = "crf"
    best: float = 0
    worst: float = 51
    preset: str | None = None
    preset_option: str = "preset"
    presets: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    even: bool = False
    indexed: bool = False
    full_range: Literal["stream", "container", "nothing"] = "stream"
    bare: bool = False
    captions: bool = False
    least: int = 0

    def too_small(self, size: tuple[int, int]) -> str | None:
        """Why it must not be given pictures of `size` `(width, height)`; None = it may."""
        if size[0] >= self.least:
            return None
        return f"pictures of {size[0]}x{size[1]} are too small for it, it needs a width of {self.least}"

    def check(self, crf: float | None, preset: str | None) -> None:
        """Raise ConfigError if the quality is out of range, or it is known that there is no such preset."""
        if self.crf is not None and crf is not None and not self.best <= crf <= self.worst:
            raise ConfigError(f"crf {crf:g} is out of range: {self.name} takes {self.best:g} to {self.worst:g}")
        if preset is not None and self.presets and preset not in self.presets:
            raise ConfigError(f"{self.name} has no preset {preset!r}: give --preset one of {', '.join(self.presets)}")


_X264 = (
    *("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo"),
    *map(str, range(10)),
)
_VP8 = {"deadline": "good", "b": "20M"}
_VPX = {"deadline": "good", "row-mt": "1", "b": "0", "auto-alt-ref": "1", "lag-in-frames": "16"}
_QSCALE = {"scale": "qscale", "best": 1, "worst": 31, "indexed": True}
_MPEG = {**_QSCALE, "full_range": "nothing"}

# Quality defaults are meant to be visually lossless.
ENCODERS: Mapping[str, Encoder] = {
    "h264": Encoder("libx264", 17, preset="veryfast", presets=_X264, even=True, captions=True),
    "hevc": Encoder("libx265", 19, preset="veryfast", even=True, options={"x265-params": "log-level=none"}, least=64),
    "vp8": Encoder("libvpx", 10, worst=63, preset="4", preset_option="cpu-used", options=_VP8, full_range="nothing"),
    "vp9": Encoder("libvpx-vp9", 22, worst=63, preset="5", preset_option="cpu-used", options=_VPX),
    "av1": Encoder("libsvtav1", 22, worst=63, preset="9"),
    "mpeg1video": Encoder("mpeg1video", 2, **_MPEG),  # type: ignore[arg-type]
    "mpeg2video": Encoder("mpeg2video", 2, captions=True, **_MPEG),  # type: ignore[arg-type]
    "mpeg4": Encoder("mpeg4", 2, **_MPEG),  # type: ignore[arg-type]
    # Without this it takes pictures of full range only.
    "mjpeg": Encoder("mjpeg", 2, **_QSCALE, options={"strict": "unofficial"}, bare=True),  # type: ignore[arg-type]
    "prores": Encoder("prores_ks", full_range="nothing"),
    "ffv1": Encoder("ffv1", full_range="container"),
    "huffyuv": Encoder("huffyuv", full_range="container"),
    "ffvhuff": Encoder("ffvhuff", full_range="container"),
    "utvideo": Encoder("utvideo", full_range="container"),
}
_ALIASES = {"x264": "h264", "avc": "h264", "x265": "hevc", "h265": "hevc", "mpeg2": "mpeg2video", "mpeg1": "mpeg1video"}
_HARDWARE = ("_nvenc", "_qsv", "_vaapi", "_amf", "_videotoolbox", "_v4l2m2m", "_mf", "_vulkan")


@dataclass(frozen=True)
class EncoderPlan:
    """What the output's video stream will be.

    Attributes:
        codec: for example `h264`.
        encoder: how to make it.
        pix_fmt: of the pictures it is fed.
        options: for the encoder.
        quality: value of the encoder's scale, None if it has none.
        warnings: every departure from the source or from what was asked for.
    """

    codec: str
    encoder: Encoder
    pix_fmt: str
    options: Mapping[str, str]
    quality: float | None
    warnings: tuple[str, ...]


def plan_encoder(
    info: VideoInfo,
    size: tuple[int, int],
    held: Collection[str],
    fallback: str,
    *,
    codec: str | None = None,
    crf: float | None = None,
    preset: str | None = None,
) -> EncoderPlan:
    """Find an encoder that really opens.

    Args:
        info: the source.
        size: `(width, height)` of the pictures to encode.
        held: codecs the container can hold.
        fallback: the container's own codec.
        codec: what the user asked for: a codec or an encoder (also a hardware one); None = as the source.
        crf: quality on the encoder's scale; None = its default.
        preset: the encoder's preset; None = its default.

    Raises:
        ConfigError: no such codec, or quality or preset out of range.
        OutputError: the container cannot hold the codec asked for, or nothing could be opened.
    """
    warnings: list[str] = []
    for name, encoder in _candidates(info.codec, codec, fallback, warnings):
        if name not in held:
            if codec is not None and not _is_hardware(codec):
                raise OutputError(f"the container cannot hold {name}: choose another file name ending, .mkv holds most")
            warnings.append(f"the container cannot hold {name}")
            continue
        encoder.check(crf, preset)
        if small := encoder.too_small(size):
            warnings.append(f"encoder {encoder.name} is not used ({small})")
            continue
        failures, formats = [], _formats(info, encoder, size)
        for pix_fmt in formats:
            plan = _plan(info, name, encoder, pix_fmt, crf, preset, warnings)
            failure = _trial(plan, size)
            if failure is None:
                return plan
            failures.append(failure)
        if preset is not None and any(
            _trial(_plan(info, name, encoder, f, crf, None, []), size) is None for f in formats
        ):
            raise ConfigError(f"{encoder.name} has no preset {preset!r}: see `ffmpeg -h encoder={encoder.name}`")
        warnings.append(f"encoder {encoder.name} does not work here ({failures[0] if failures else 'not built in'})")
    raise OutputError(
        f"no encoder works ({'; '.join(warnings)}): choose one with --codec, or a file name ending in .mkv"
    )


def codec_named(asked: str) -> str:
    """Key of `ENCODERS` that a user names: by itself, an alias (`x264`) or its encoder (`libx264`); else lower case."""
    name = _ALIASES.get(asked.lower(), asked.lower())
    return next((codec for codec, encoder in ENCODERS.items() if encoder.name == name), name)


def _is_hardware(name: str) -> bool:
    return name.endswith(_HARDWARE)


def _candidates(source: str, asked: str | None, fallback: str, warnings: list[str]) -> Iterator[tuple[str, Encoder]]:
    if asked is not None:
        name = codec_named(asked)
        if _is_hardware(name):
            family = _ALIASES.get(name.rsplit("_", 1)[0], name.rsplit("_", 1)[0])
            if family not in ENCODERS:
                raise ConfigError(f"unknown codec {asked!r}: use one of {', '.join(ENCODERS)}")
            scale = "cq" if name.endswith("_nvenc") else "global_quality"
            yield (
                family,
                Encoder(name, ENCODERS[family].crf, scale=scale, even=True, captions=ENCODERS[family].captions),
            )
            warnings.append(f"{ENCODERS[family].name} is used instead of {name}")
            yield family, ENCODERS[family]
            return
        if name not in ENCODERS:
            raise ConfigError(
                f"unknown codec {asked!r}: use one of {', '.join(ENCODERS)}, or a hardware encoder's name"
            )
        yield name, ENCODERS[name]
        return
    if source in ENCODERS:
        yield source, ENCODERS[source]
    for name in dict.fromkeys(("h264", fallback)):
        if name != source:
            warnings.append(f"{name} replaces the source's {source}")
            yield name, ENCODERS[name]
            warnings.pop()


def _formats(info: VideoInfo, encoder: Encoder, size: tuple[int, int]) -> list[str]:
    try:
        offered = [f.name for f in av.Codec(encoder.name, "w").video_formats or ()]
    except (av.FFmpegError, ValueError):
        return []
    planar = [name for name in offered if layout(name).planar]
    if encoder.even:
        wide, high = (side % 2 for side in size)
        planar = [n for n in planar if not (wide and layout(n).right) and not (high and layout(n).down)]
    best = nearest(info.working_format, planar)
    plain = nearest("yuv420p", planar)
    return list(dict.fromkeys(name for name in (best, plain) if name is not None))


def _plan(
    info: VideoInfo,
    codec: str,
    encoder: Encoder,
    pix_fmt: str,
    crf: float | None,
    preset: str | None,
    warnings: list[str],
) -> EncoderPlan:
    options = dict(encoder.options)
    quality = encoder.crf if crf is None else crf
    if encoder.crf is None:
        quality = None
    elif encoder.scale != "qscale":
        options[encoder.scale] = f"{quality:g}"
    if info.hdr and encoder.name == "libx265" and layout(pix_fmt).bits > 8:
        options["x265-params"] = ":".join([options["x265-params"], *hdr_parameters(info.hdr)])
    if encoder.preset_option and (preset or encoder.preset):
        options[encoder.preset_option] = str(preset or encoder.preset)
    notes = list(warnings)
    if info.hdr and encoder.name != "libx265":
        notes.append(f"{encoder.name} is not told the source's HDR mastering data: they are dropped")
    if info.captions and not encoder.captions:
        notes.append(
            f"{encoder.name} does not write the closed captions of the source's pictures: use --codec h264 to keep "
            "them, or extract them first, as with `ccextractor`"
        )
    if crf is not None and quality is None:
        notes.append(f"{encoder.name} has no quality setting: crf is ignored")
    *precision, transparency = loss(layout(info.pix_fmt), layout(pix_fmt))[:5]
    if transparency:
        notes.append(f"the source's transparency is lost: {pix_fmt} has none")
    elif layout(info.pix_fmt).alpha:
        notes.append("the source's transparency is kept, but treated faces are opaque: it would show their outline")
    if any(precision):
        notes.append(f"{encoder.name} stores {pix_fmt}, the source has {info.pix_fmt}: some precision is lost")
    elif not transparency and layout(pix_fmt) != layout(info.pix_fmt) and layout(info.pix_fmt).planar:
        notes.append(f"stored as {pix_fmt} because {encoder.name} cannot store {info.pix_fmt} of this size")
    return EncoderPlan(codec, encoder, pix_fmt, options, quality, tuple(notes))


def hdr_parameters(side_data: Iterable[tuple[str, bytes]]) -> list[str]:
    """Mastering display (SMPTE ST 2086) and light levels (CTA-861.3) as x265 takes them.

    Args:
        side_data: `VideoInfo.hdr`: names and FFmpeg's structures AVMasteringDisplayMetadata, AVContentLightMetadata.
    """
    parameters = []
    for name, data in side_data:
        if name == "CONTENT_LIGHT_LEVEL" and len(data) >= 8:
            parameters.append("max-cll={},{}".format(*struct.unpack_from("=2I", data)))
        elif name == "MASTERING_DISPLAY_METADATA" and len(data) >= 88:
            numbers = struct.unpack_from("=22i", data)
            if not (numbers[20] and numbers[21]):  # has_primaries, has_luminance
                continue
            values = [
                Fraction(n, d) if d else Fraction(0) for n, d in zip(numbers[:20:2], numbers[1:20:2], strict=True)
            ]
            red_x, red_y, green_x, green_y, blue_x, blue_y, white_x, white_y = (round(v * 50_000) for v in values[:8])
            least, most = (round(v * 10_000) for v in values[8:])
            parameters.append(
                f"master-display=G({green_x},{green_y})B({blue_x},{blue_y})R({red_x},{red_y})"
                f"WP({white_x},{white_y})L({most},{least})"
            )
    return parameters


def configure(context: av.VideoCodecContext, plan: EncoderPlan, size: tuple[int, int]) -> None:
    """Set what the encoder needs before it is opened, but for colours and clock."""
    context.width, context.height = size
    context.pix_fmt = plan.pix_fmt
    context.options = dict(plan.options)
    if plan.encoder.scale == "qscale" and plan.quality is not None:
        context.qscale = True
        context.global_quality = round(plan.quality * 118)  # FF_QP2LAMBDA
    if plan.encoder.indexed:
        context.max_b_frames = 0


def _trial(plan: EncoderPlan, size: tuple[int, int]) -> str | None:
    """Open the encoder for good, hardware with a real picture; None = works, else why not."""
    try:
        context = av.CodecContext.create(plan.encoder.name, "w")
        if not isinstance(context, av.VideoCodecContext):
            return "no video encoder"
        configure(context, plan, size)
        context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
        context.open()
        if _is_hardware(plan.encoder.name):
            picture = av.VideoFrame(size[0], size[1], plan.pix_fmt)
            picture.pts, picture.time_base = 0, Fraction(1, 25)
            if not context.encode(picture) + context.encode(None):
                return "the test picture did not come back"
    except (av.FFmpegError, OSError, ValueError) as error:
        return str(getattr(error, "strerror", None) or error)
    return None
