"""Text subtitles from one container's form into another's; styling is lost, words and times are kept."""

from __future__ import annotations

import re
import struct

TEXT_CODECS = frozenset({"subrip", "srt", "text", "mov_text", "ass", "ssa", "webvtt"})

_TAGS = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")

# mov_text needs a style block; FFmpeg's encoder makes it from an ASS header.
ASS_HEADER = (
    b"[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\nFormat: Name, Fontname, Fontsize, PrimaryColour, "
    b"SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, "
    b"BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding\nStyle: Default,Arial,16,&Hffffff,"
    b"&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,0\n\n[Events]\nFormat: Layer, Start, End, Style, Name, "
    b"MarginL, MarginR, MarginV, Effect, Text\n"
)


def text_of(codec: str, data: bytes) -> str:
    """The words of one subtitle packet, lines separated by a newline; empty for the gaps mov_text stores.

    Args:
        codec: one of `TEXT_CODECS`.
        data: the packet.
    """
    if codec == "mov_text":
        length = struct.unpack(">H", data[:2])[0] if len(data) >= 2 else 0
        words = data[2 : 2 + length].decode("utf-8", "replace")
    else:
        words = data.rstrip(b"\0").decode("utf-8", "replace")
        if codec in ("ass", "ssa"):
            words = words.split(",", 8)[-1].replace("\\N", "\n").replace("\\n", "\n").replace("\\h", " ")
    return _TAGS.sub("", words).replace("\r\n", "\n").strip("\r\n ")


def packet_of(codec: str, words: str) -> bytes:
    """One packet in the form `mov_text`, or the plain one that `subrip`, `webvtt` and `text` share."""
    encoded = words.encode("utf-8")
    if codec == "mov_text":
        encoded = encoded[:65535]
        return struct.pack(">H", len(encoded)) + encoded
    return encoded
