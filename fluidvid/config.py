"""The one typed table of options that preset files, `--flags` and the Python API all read.

Every leaf has a dotted key (`edit.strength`), a type, a range and a help text; those with a `flag` in their
metadata are also command-line options. Wrong keys, types and ranges become one `ConfigError` line.
"""

from __future__ import annotations

import datetime
import difflib
import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from fluidvid.errors import ConfigError
from fluidvid.rate import USUAL_RATE

Mode = Literal["fluid", "blur", "pixelate", "solid"]
MaskKind = Literal["solid", "pixelate", "blur"]
PRESETS = ("default", "fast", "quality", "live")
LONGEST_SHOWN = 200
"""Characters of a wrong value in a message."""
FASTEST = 240
"""A header that says more is wrong."""


_TIME = re.compile(r"([0-9]{1,9}:){0,2}[0-9]{1,9}(\.[0-9]{1,9})?")


def parse_time(text: str) -> Fraction:
    """Seconds as an exact fraction from `12.5`, `1:02.5` or `1:00:02`; raises ValueError otherwise."""
    if not _TIME.fullmatch(text.strip()):
        raise ValueError("a time is seconds, MM:SS or HH:MM:SS, not negative")
    seconds = Fraction(0)
    for part in text.strip().split(":"):
        seconds = seconds * 60 + Fraction(part)
    return seconds


def _checked_time(text: str) -> str:
    parse_time(text)
    return text


def _as_text(value: object) -> object:
    """A TOML file may also hold a number of seconds, or a time without quotes."""
    if isinstance(value, datetime.time):
        return value.isoformat()
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12:
        return f"{value:.9f}".rstrip("0").rstrip(".")
    return value


Time = Annotated[str, BeforeValidator(_as_text), AfterValidator(_checked_time)]


def parse_duration(value: Any) -> float:
    """Seconds from a number, `500ms`, `2s`, `5m` or `1h`; raises ValueError otherwise."""
    text = str(value).strip().lower()
    for unit, seconds in (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)):
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * seconds
    return float(text)


Duration = Annotated[float, BeforeValidator(parse_duration)]


def _is_none(value: object) -> bool:
    return isinstance(value, str) and value.lower() == "none"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _emptied(cls, value: object, info: ValidationInfo) -> object:
        """The text `none` empties an optional key: TOML and flags have no other word for it."""
        if isinstance(value, str) and "\0" in value:
            raise ValueError("no name of a file, codec or address has a NUL in it")
        field = cls.model_fields[str(info.field_name)]
        return None if _is_none(value) and type(None) in get_args(field.annotation) else value


def _option(default: Any, text: str, *, flag: str | None = None, words: str | None = None, **limits: Any) -> Any:
    """A leaf; `words` say what is allowed where its limits do not."""
    return Field(default=default, description=text, json_schema_extra={"flag": flag, "words": words}, **limits)


class DetectConfig(_Section):
    """How faces are found."""

    detector: str = _option(
        "centerface",
        "first detector: centerface, tiny_face, scrfd, yunet, or insightface with detect.model",
        flag="--detector",
        min_length=1,
    )
    model: str | None = _option(None, "ONNX file of the first detector, instead of the embedded one")
    quantised: bool = _option(
        True, "on a CPU, use the embedded CenterFace's 8-bit form: less time, nearly the same scores"
    )
    second: str | None = _option(
        "tiny_face", "second opinion for what the first misses: a detector's name, or none", flag="--second"
    )
    second_model: str | None = _option(None, "ONNX file of the second detector")
    score: float = _option(0.5, "score from which a detection starts a track", ge=0.05, le=0.99)
    low_score: float = _option(0.3, "score from which a detection may continue a track", ge=0.05, le=0.99)
    long_side: int = _option(
        1280, "pictures are scaled down to this long side for detection", flag="--long-side", ge=160, le=8192
    )
    every: int = _option(
        3,
        "look at the whole picture of every n-th frame (25 per second), near known faces in between; 1: of every frame",
        flag="--every",
        ge=1,
        le=10,
    )

    @model_validator(mode="after")
    def _in_order(self) -> DetectConfig:
        if self.low_score > self.score:
            raise ValueError(
                f"detect.low_score = {self.low_score} is not allowed: at most detect.score ({self.score}), "
                "or faces that are sure enough would go unseen"
            )
        return self


class TrackConfig(_Section):
    """How faces are followed. Frames are those of 25 a second: see `at_rate`."""

    look_ahead: int = _option(
        12, "frames (25 per second) a track is applied before its first and after its last detection", ge=0, le=120
    )
    max_gap: int = _option(
        30, "longest gap inside a track, in frames (25 per second), that is filled from both sides", ge=0, le=600
    )
    cut_threshold: float = _option(0.35, "scene-cut sensitivity: distance of consecutive pictures", gt=0, le=1)
    link: bool = _option(True, "give a person who returns the same pseudonym within the run")
    strict_held: int = _option(
        15,
        "with --strict: longest stretch of frames (25 per second) a face may be held without a detection",
        ge=0,
        le=600,
    )
    strict_gap: int = _option(
        60,
        "with --strict: a face that vanishes and reappears in place within these frames (25 per second) is suspicious",
        ge=0,
        le=600,
    )

    def at_rate(self, rate: Fraction | None) -> TrackConfig:
        """The same with more frames where there are more of them a second, so that all lasts as long as at 25.

        Args:
            rate: pictures a second, as the source says; None: not known.
        """
        faster = Fraction(min(max(rate or 0, USUAL_RATE), FASTEST), USUAL_RATE)
        if faster == 1:
            return self
        kinds = ("look_ahead", "max_gap", "strict_held", "strict_gap")
        return self.model_copy(update={kind: math.ceil(getattr(self, kind) * faster) for kind in kinds})


class EditConfig(_Section):
    """How a face is turned into another one (mode fluid)."""

    editor: Literal["difference", "inversion"] = _option("difference", "editing method", flag="--editor")
    geometry: Literal["linear", "geodesic"] = _option(
        "geodesic", "how the direction is applied in h-space", flag="--geometry"
    )
    strength: float = _option(
        1.6,
        "strength of the edit: below 1 part of the way to the other face, above 1 beyond it, further from the person; "
        "people who are still recognised take up to 1.3 times as much",
        flag="--strength",
        ge=0.1,
        le=2.0,
    )
    backbone: str = _option(
        "prior",
        "'prior' (embedded), a diffusers folder, a downloaded hub id, or the name of a pulled model",
        flag="--backbone",
        min_length=1,
    )
    min_face: int = _option(
        40,
        "faces with a shorter side below this many pixels are masked, not edited",
        flag="--min-face",
        ge=8,
        le=2000,
    )
    max_yaw: float = _option(50.0, "faces turned further (degrees) are masked", ge=5, le=90)
    max_held: int = _option(3, "a face held longer than this many frames between detections is masked", ge=0, le=60)
    key_frames: int = _option(6, "pictures per person the direction is found on", ge=2, le=8)
    iterations: int = _option(
        20, "optimisation steps of a search, each on one picture", flag="--iterations", ge=1, le=1000
    )
    searches: int = _option(
        1, "pseudonyms that are searched for a person; the one that looks most like a face is taken", ge=1, le=4
    )
    gaze: bool = _option(
        True,
        "what lies between the lids and between the lips stays the source's, somewhat softened: gaze, blinks, speech; "
        "false edits it, too",
    )
    glasses: bool = _option(True, "rims, bridge and temples of glasses stay the source's; false edits them, too")
    timesteps: tuple[Annotated[int, Field(ge=1, le=999)], ...] | None = _option(
        None,
        "edit levels, from noisy to clean, e.g. [700, 500, 300]; default: the backbone's own",
        min_length=1,
        max_length=12,
    )
    inversion_steps: int = _option(20, "DDIM steps of the inversion editor", ge=2, le=200)
    fade_frames: int = _option(8, "frames of the cross-fade between mask and new face", ge=0, le=120)
    between: float = _option(
        4.0,
        "a frame whose face lies on the line between two edited ones, at most four frames apart, to within this many "
        "grey levels takes its share of their changes; 0: every frame is edited itself",
        ge=0,
        le=20,
    )
    batch: int = _option(16, "faces edited at once", ge=1, le=64)


class MaskConfig(_Section):
    """What covers a face that is not edited, and the classic modes."""

    kind: MaskKind = _option("solid", "mask for faces that cannot be edited (mode fluid)", flag="--mask")
    cells: int = _option(6, "cells across a pixelated or blurred face", ge=1, le=8)
    margin: float = _option(0.2, "margin around the tracked box, as a share of its size", ge=0.05, le=1.0)


class MediaConfig(_Section):
    """What part is read and how the result is written."""

    start: Time | None = _option(None, "begin here (seconds, MM:SS or HH:MM:SS)", flag="--start")
    end: Time | None = _option(None, "stop here (seconds, MM:SS or HH:MM:SS)", flag="--end")
    codec: str | None = _option(
        None, "video codec; default: the source's, of a live stream h264", flag="--codec", min_length=1
    )
    crf: int | None = _option(None, "constant quality; lower is better", flag="--crf", ge=0, le=63)
    preset: str | None = _option(None, "the encoder's own speed preset", flag="--preset", min_length=1)
    keep_metadata: bool = _option(False, "keep tags, cover art and data tracks (they identify)", flag="--keep-metadata")


class CacheConfig(_Section):
    """Whether pseudonyms are remembered beyond the run. Off by default."""

    path: str | None = _option(
        None,
        "remember people in this file: who is recognised in a later run gets the same face, which LINKS the runs",
        flag="--cache",
        min_length=1,
    )
    key_file: str | None = _option(
        None,
        "secret of 32 bytes or more: locks the cache, and the same video gets the same pseudonyms again; who has it "
        "can link and reproduce them",
        flag="--key-file",
        min_length=1,
    )
    passphrase: bool = _option(
        False, "lock the cache with a passphrase (asked for, or one line on stdin)", flag="--cache-passphrase"
    )
    ttl_days: float = _option(30.0, "days a person is remembered after their last run", gt=0, le=3650)
    max_mb: float = _option(64.0, "largest size of the cache, the longest unused go first", gt=0, le=10**6)


class LiveConfig(_Section):
    """How live streams are read, kept going and published (`fluidvid stream`)."""

    latency: Duration = _option(
        0.5,
        "longest way of a picture from arriving to leaving; when the machine is too slow for it, faces are edited less "
        "often, then masked, then pictures are dropped",
        flag="--latency",
        ge=0.05,
        le=60,
    )
    retries: int = _option(
        0, "attempts to get a lost input or output back before giving up; 0: for ever", flag="--retries", ge=0, le=10**6
    )
    timeout: Duration = _option(
        10.0, "silence after which an input or output counts as lost", flag="--timeout", ge=0.5, le=600
    )
    transport: Literal["tcp", "udp"] = _option("tcp", "how RTSP carries its media", flag="--transport")
    metrics: str | None = _option(
        None,
        "serve /metrics (Prometheus) and /health on this HOST:PORT",
        flag="--metrics",
        words="HOST:PORT as in 127.0.0.1:9187",
        pattern=r"^[^\s/]*:\d+$",
    )
    segment: Duration = _option(60.0, "length of the parts of a segmented file", flag="--segment", ge=1, le=86400)
    key_interval: Duration = _option(2.0, "time between key frames of what is published", ge=0.1, le=60)
    hold: Duration = _option(1.0, "a face is still covered for this long after its last detection", ge=0, le=4)
    cores: float = _option(
        1.0, "share of CPU cores that the search for directions may take in the background", gt=0, le=64
    )
    status: Duration = _option(5.0, "time between status lines; 0: none", ge=0, le=3600)


class Config(_Section):
    """The whole configuration. Immutable; `updated` makes a changed copy."""

    mode: Mode = _option("fluid", "what happens to faces", flag="--mode")
    device: str = _option(
        "auto",
        "auto, cpu, cuda, cuda:N or mps",
        flag="--device",
        words="auto, cpu, mps, cuda, or one card as in cuda:1",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
    )
    seed: int | None = _option(
        None,
        "for tests only: makes pseudonyms predictable; the default is a fresh secret",
        flag="--seed",
        ge=0,
        le=2**32 - 1,
    )
    strict: bool = _option(
        False,
        "refuse (exit 6, no output) when a face was held too long or a gap is suspicious",
        flag="--strict",
    )
    detect: DetectConfig = DetectConfig()
    track: TrackConfig = TrackConfig()
    edit: EditConfig = EditConfig()
    mask: MaskConfig = MaskConfig()
    media: MediaConfig = MediaConfig()
    cache: CacheConfig = CacheConfig()
    live: LiveConfig = LiveConfig()

    @property
    def mask_kind(self) -> MaskKind:
        """The mask in force: the mode itself in the classic modes."""
        return self.mask.kind if self.mode == "fluid" else self.mode

    @property
    def start(self) -> Fraction | None:
        """Begin of the part to process, in seconds."""
        return None if self.media.start is None else parse_time(self.media.start)

    @property
    def end(self) -> Fraction | None:
        """End of the part to process, in seconds."""
        return None if self.media.end is None else parse_time(self.media.end)

    def updated(self, changes: Mapping[str, Any]) -> Config:
        """A copy with dotted keys changed: `updated({"edit.strength": 0.8})`.

        Raises:
            ConfigError: a key is unknown or a value is of the wrong type or out of range.
        """
        tree = self.model_dump()
        for key, value in changes.items():
            option_at(key)
            node = tree
            *sections, leaf = key.split(".")
            for section in sections:
                node = node[section]
            node[leaf] = value
        return from_mapping(tree)


@dataclass(frozen=True)
class Option:
    """One leaf of the configuration tree: dotted key, pydantic field, command-line flag, words for what is allowed."""

    key: str
    field: FieldInfo
    flag: str | None
    words: str | None

    @property
    def is_switch(self) -> bool:
        """True for booleans."""
        return self.field.annotation is bool

    @property
    def allowed(self) -> str:
        """The allowed values in words, e.g. `0.1 to 2.0` or `linear, geodesic`."""
        return _allowed(self.field.annotation, self.field.metadata, self.words)


def _allowed(annotation: Any, metadata: list[Any], words: str | None) -> str:
    """Words for a type and its pydantic constraints, unless `words` say it."""
    optional = ""
    if get_origin(annotation) in (Union, UnionType):
        members = [a for a in get_args(annotation) if a is not type(None)]
        annotation, optional = members[0], " or none"
    if words is not None:
        return words + optional
    if get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        if any(isinstance(m, AfterValidator) for m in more):
            return "seconds, MM:SS or HH:MM:SS" + optional
    if get_origin(annotation) is Literal:
        return ", ".join(str(a) for a in get_args(annotation)) + optional
    if annotation is bool:
        return "true or false"
    if get_origin(annotation) is tuple:
        return "a list of whole numbers from 1 to 999"
    kind = {int: "a whole number", float: "a number", str: "text"}.get(annotation, str(annotation))
    if any(isinstance(item, BeforeValidator) for item in metadata):
        kind = "seconds, 500ms or 5m,"
    low = high = None
    for item in metadata:
        low = getattr(item, "ge", getattr(item, "gt", low))
        high = getattr(item, "le", getattr(item, "lt", high))
    if low is not None and high is not None:
        above = " above" if any(hasattr(m, "gt") for m in metadata) else ""
        kind += f" above {low} up to {high}" if above else f" from {low} to {high}"
    return kind + optional


def _walk(model: type[BaseModel], prefix: str) -> Iterator[Option]:
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _walk(annotation, f"{prefix}{name}.")
        else:
            extra: Any = field.json_schema_extra
            yield Option(prefix + name, field, extra["flag"], extra["words"])


@cache
def options() -> dict[str, Option]:
    """All leaves by dotted key, in the order of the table."""
    return {option.key: option for option in _walk(Config, "")}


def option_at(key: str) -> Option:
    """The leaf of that dotted key; raises ConfigError naming the nearest known one."""
    found = options().get(key)
    if found is not None:
        return found
    section = next((name for name in options() if name.startswith(f"{key}.")), None)
    if section is not None:
        raise ConfigError(f"{key} is a section of keys: name one in it, as {section}")
    # A section's name is spelt wrong among sections, a key's among keys: most letters of a key are its section's.
    known = options() if "." in key else Config.model_fields
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "see configs/default.toml for all of them"
    raise ConfigError(f"unknown configuration key {key}: {hint}")


def from_mapping(tree: Mapping[str, Any], *, origin: str = "") -> Config:
    """Build a Config from nested mappings (as TOML gives); absent keys keep their defaults.

    Args:
        tree: sections and leaves.
        origin: where it came from, put in front of the message.

    Raises:
        ConfigError: one line naming the key, the offending value and the allowed range.
    """
    try:
        return Config.model_validate(dict(tree))
    except ValidationError as error:
        raise ConfigError((f"{origin}: " if origin else "") + _first_line(error)) from None


def _first_line(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    names = [str(part) for part in first["loc"] if not isinstance(part, int)]
    key = ".".join(names)
    if first["type"] == "extra_forbidden":
        try:
            option_at(key)
        except ConfigError as unknown:
            return str(unknown)
    if first["type"] == "value_error" and key in Config.model_fields:
        return str(first["ctx"]["error"])
    option, given = options().get(key), _shown(first["input"])
    if option is None:
        return f"{key or 'configuration'} = {given}: a section of keys is needed, as in configs/default.toml"
    return f"{key} = {given} is not allowed: {option.allowed}"


def _shown(value: object) -> str:
    """A wrong value for a message: not too long, and without the login of an address."""
    from fluidvid.live.addresses import redacted

    try:
        text = redacted(repr(value))
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "..."


def parse_value(key: str, text: str) -> Any:
    """Turn a flag's text into a TOML-like value for `key`; the tree's own validation judges it.

    Lists are comma-separated.
    """
    annotation = option_at(key).field.annotation
    members = (annotation, *get_args(annotation))
    if any(get_origin(member) is tuple for member in members) and not _is_none(text):
        return [part.strip() for part in text.split(",")]
    return text


def load(name_or_path: str | Path = "default") -> Config:
    """Load a preset by name or a TOML file by path.

    Raises:
        ConfigError: no such preset or file, not TOML, or wrong content.
    """
    name = str(name_or_path)
    if name in PRESETS:
        text = resources.files("fluidvid.configs").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    else:
        path = Path(name_or_path)
        if not path.is_file():
            raise ConfigError(f"no preset or file {name!r}: presets are {', '.join(PRESETS)}, a file must exist")
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read {path}: {error}; a UTF-8 TOML file is needed") from None
    try:
        tree = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # not only TOMLDecodeError: numbers too long, lists too deep
        raise ConfigError(f"{name} is not valid TOML: {error}") from None
    return from_mapping(tree, origin=name)


def as_config(given: Config | str | Path) -> Config:
    """What a caller of the Python API names: a configuration, or a preset or TOML file to `load`.

    Raises:
        ConfigError: see `load`; or it is something else.
    """
    if isinstance(given, str | Path):
        return load(given)
    if not isinstance(given, Config):
        raise ConfigError(f"config is a {type(given).__name__}: give a Config, a preset's name or a TOML file")
    return given
