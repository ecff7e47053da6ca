"""Words in codec headers: comments, script information, speakers' names stay behind."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from av.packet import Packet

from fluidvid.video.headers import without_speaker, without_words
from fluidvid.video.subtitles import ASS_HEADER
from tests.fluidvid.video.media_files import Recipe, build, rewrite

NAMED = (
    b"[Script Info]\r\nTitle: Interview with Jane Roe\r\nOriginal Script: John Doe\r\nScriptType: v4.00+\r\n"
    b"PlayResX: 640\r\n\r\n[Aegisub Project Garbage]\r\nVideo File: /home/john.doe/jane_roe.mp4\r\n\r\n"
    + ASS_HEADER.partition(b"\n\n")[2]
    + b"Comment: 0,0:00:00.00,0:00:01.00,Default,John Doe,0,0,0,,about Jane Roe\n\n"
    b"[Graphics]\nfilename: jane.png\n#M#\n"
)


def xiph(comments: list[bytes], kind: bytes = b"\x03vorbis", end: bytes = b"\x01") -> list[bytes]:
    count = len(comments).to_bytes(4, "little")
    body = b"".join(len(c).to_bytes(4, "little") + c for c in comments)
    return [b"\x01first" * 5, kind + b"\x04\0\0\0Xiph" + count + body + end, b"\x05codebooks" * 90]


def lace(parts: list[bytes]) -> bytes:
    sizes = b"".join(b"\xff" * (len(part) // 255) + bytes([len(part) % 255]) for part in parts[:2])
    return b"\x02" + sizes + b"".join(parts)


def with_cue(video: Path, target: Path, codec: str, header: bytes, cue: bytes) -> Path:
    """The pictures of `video`, and a stream of subtitles that holds one cue."""
    with av.open(str(video)) as container, av.open(str(target), "w") as out:
        pictures = out.add_stream_from_template(container.streams.video[0])
        text: Any = out.add_stream(codec)
        text.codec_context.subtitle_header = header
        text.time_base = Fraction(1, 1000)
        for packet in container.demux(video=0):
            if packet.size:
                packet.stream = pictures
                out.mux(packet)
        words: Any = Packet(cue)
        words.stream, words.time_base, words.pts, words.dts, words.duration = text, Fraction(1, 1000), 10, 10, 100
        out.mux(words)
    return target


@pytest.mark.parametrize(("codec", "kind", "end"), [("vorbis", b"\x03vorbis", b"\x01"), ("theora", b"\x81theora", b"")])
def test_comments_go_and_the_decoders_headers_stay(codec: str, kind: bytes, end: bytes) -> None:
    parts = xiph([b"ARTIST=Jane Roe", b"METADATA_BLOCK_PICTURE=" + b"x" * 700], kind, end)
    header, taken = without_words(codec, lace(parts))
    assert taken
    assert header == lace([parts[0], kind + bytes(8) + end, parts[2]])
    assert without_words(codec, header) == (header, "")


@pytest.mark.parametrize("header", [b"", b"\x02", b"\x02\xff\xff", b"\x02\x05\x09short", b"\x01\x02abc"])
def test_headers_of_no_known_form_are_left_alone(header: bytes) -> None:
    assert without_words("vorbis", header) == (header, "")
    assert without_words("aac", header) == (header, "")


def test_a_script_keeps_what_it_is_drawn_by() -> None:
    header, taken = without_words("ass", NAMED)
    assert taken
    assert header.startswith(b"[Script Info]\nScriptType: v4.00+\nPlayResX: 640\n\n[V4+ Styles]\nFormat: Name")
    assert b"Style: Default,Arial" in header and header.rstrip().endswith(b"Effect, Text")
    assert not any(word in header.lower() for word in (b"jane", b"john", b"graphics", b"garbage"))
    for plain in (ASS_HEADER, ASS_HEADER.rstrip(), ASS_HEADER.replace(b"\n", b"\r\n")):
        assert without_words("ass", plain) == (plain, ""), "nothing was taken out"


def test_an_event_keeps_its_words() -> None:
    assert without_speaker("ass", b"7,0,Default,Jane Roe,0,0,0,,well, yes") == b"7,0,Default,,0,0,0,,well, yes"
    assert without_speaker("ass", b"no event") == b"no event"


def test_a_cue_of_webvtt_keeps_its_words() -> None:
    cue = b"<v Jane Roe>well, <i>yes</i></v>\n<v.loud.far John Doe>no 1 <v 2"
    assert without_speaker("webvtt", cue) == b"<v>well, <i>yes</i></v>\n<v.loud.far>no 1 <v 2"


@pytest.mark.parametrize("keep", [False, True])
def test_no_name_of_a_webvtt_cue_is_in_the_file(clip: Path, tmp_path: Path, keep: bool) -> None:
    """PyAV cannot write a cue's name: it is put where FFmpeg stores it, between its place and its words."""
    video = build(tmp_path / "video.webm", clip, Recipe(pts=range(0, 6 * 1001, 1001), codec="libvpx-vp9"))
    source = with_cue(video, tmp_path / "in.webm", "webvtt", ASS_HEADER, b"<v Jane Roe>well, yes")
    content = source.read_bytes()
    assert content.count(b"\n\n<v Jane Roe>") == 1  # an empty name, empty settings
    named = content.replace(b"\n\n<v Jane Roe>", b"Roe\nline:1\n<v>")
    assert len(named) == len(content)
    source.write_bytes(named)
    report, _ = rewrite(source, tmp_path / "out.webm", keep_metadata=keep)
    written = (tmp_path / "out.webm").read_bytes()
    assert b"line:1\n<v>well, yes" in written
    assert (b"Roe" in written) is keep
    assert ("names of cues in subtitle stream 1" in report.dropped_metadata) is not keep


@pytest.mark.parametrize("keep", [False, True])
def test_nothing_of_it_is_in_the_file(clip: Path, tmp_path: Path, keep: bool) -> None:
    video = build(tmp_path / "video.mkv", clip, Recipe(pts=range(0, 6 * 1001, 1001)))
    source = with_cue(video, tmp_path / "in.mkv", "ass", NAMED, b"0,0,Default,Jane Roe,0,0,0,,hello")
    assert b"Jane Roe" in source.read_bytes()
    report, _ = rewrite(source, tmp_path / "out.mkv", keep_metadata=keep)
    data = (tmp_path / "out.mkv").read_bytes()
    assert b"hello" in data and b"Style: Default" in data
    assert (b"Jane Roe" in data) == keep
    listed = [line for line in report.dropped_metadata if "subtitle stream" in line]
    assert len(listed) == (0 if keep else 2)
