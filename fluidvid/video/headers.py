"""Codec headers that hold words of their own: what may identify somebody is taken out of them."""

from __future__ import annotations

import re
from itertools import accumulate

_XIPH = {"vorbis": b"\x03vorbis", "theora": b"\x81theora"}
"""How the comment header begins, the second of three that are laced together."""
_NO_COMMENTS = bytes(8)
"""An empty vendor and no comment; Vorbis closes with a framing bit."""
ASS_CODECS = frozenset({"ass", "ssa"})
SPEAKING = ASS_CODECS | {"webvtt"}
"""Subtitles that say who speaks."""
_VOICE = re.compile(rb"<v((?:\.[^\s<>]*)?)\s[^<>]*>")
_ASS_INFO = frozenset(
    {"scripttype", "playresx", "playresy", "layoutresx", "layoutresy", "wrapstyle", "scaledborderandshadow"}
    | {"ycbcr matrix", "collisions", "playdepth", "timer"}
)
_ASS_LINES = {"[v4 styles]": ("format", "style"), "[v4+ styles]": ("format", "style"), "[events]": ("format",)}
_ASS_NAME = 3
"""Which field of an event says who speaks: ReadOrder, Layer, Style, Name, ..."""


def without_words(codec: str, header: bytes) -> tuple[bytes, str]:
    """A stream's header without comments, titles, authors, paths and attached pictures, and what was taken out, or "".

    Args:
        codec: FFmpeg's name.
        header: the stream's extradata.
    """
    if codec in _XIPH:
        parts = _laced(header)
        begin = _XIPH[codec]
        if len(parts) == 3 and parts[1].startswith(begin) and _comments(parts[1][len(begin) :]):
            parts[1] = begin + _NO_COMMENTS + (b"\x01" if codec == "vorbis" else b"")
            return _lace(parts), "comments"
    elif codec in ASS_CODECS:
        lines = header.decode("utf-8", "replace").rstrip("\0").splitlines()
        if (kept := _script(lines)) != lines:
            return "".join(f"{line}\n" for line in kept).encode(), "script information"
    return header, ""


def without_speaker(codec: str, event: bytes) -> bytes:
    """A cue, as containers store it, that does not name who speaks.

    Args:
        codec: one of `SPEAKING`; WebVTT has voice tags (`<v Jane Roe>`), ASS a field of its own.
        event: the packet.
    """
    if codec == "webvtt":
        return _VOICE.sub(rb"<v\1>", event)
    fields = event.split(b",", _ASS_NAME + 1)
    if len(fields) <= _ASS_NAME + 1:
        return event
    fields[_ASS_NAME] = b""
    return b",".join(fields)


def _script(lines: list[str]) -> list[str]:
    """The lines of an ASS header that say how it is drawn."""
    section, kept = "", []
    for line in lines:
        stripped = line.strip()
        if stripped.startswith("["):
            section = stripped.lower()
        key = stripped.partition(":")[0].lower()
        known = section == "[script info]" and (key in _ASS_INFO or not stripped)
        known |= section in _ASS_LINES and (key in _ASS_LINES[section] or not stripped)
        if known or (stripped.startswith("[") and (section == "[script info]" or section in _ASS_LINES)):
            kept.append(line)
    return kept


def _comments(body: bytes) -> bool:
    """Whether there is any; the vendor, who wrote the encoder, does not count."""
    vendor = int.from_bytes(body[:4], "little")
    return int.from_bytes(body[4 + vendor : 8 + vendor], "little") > 0


def _laced(header: bytes) -> list[bytes]:
    """The three headers of a Xiph codec; none if they are not laced as Matroska and FFmpeg do it."""
    if not header or header[0] != 2:
        return []
    sizes, at = [0, 0], 1
    for k in range(2):
        while at < len(header):
            sizes[k] += header[at]
            at += 1
            if header[at - 1] < 255:
                break
    bounds = list(accumulate((at, *sizes)))
    if bounds[-1] > len(header):
        return []
    return [header[bounds[0] : bounds[1]], header[bounds[1] : bounds[2]], header[bounds[2] :]]


def _lace(parts: list[bytes]) -> bytes:
    sizes = b"".join(b"\xff" * (len(part) // 255) + bytes([len(part) % 255]) for part in parts[:2])
    return b"\x02" + sizes + b"".join(parts)
