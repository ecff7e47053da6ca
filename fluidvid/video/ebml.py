"""Headers of Matroska and WebM (EBML, RFC 8794), for what PyAV neither shows nor lets FFmpeg write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import islice
from pathlib import Path

SEGMENT, TRACKS, TRACK_ENTRY, VIDEO = 0x18538067, 0x1654AE6B, 0xAE, 0xE0
_SEEK_HEAD, _SEEK, _SEEK_ID, _SEEK_POSITION = 0x114D9B74, 0x4DBB, 0x53AB, 0x53AC
_INFO, _VOID, _CHECKSUM = 0x1549A966, 0xEC, 0xBF
_WIDTH, _HEIGHT, _UNIT = 0x54B0, 0x54BA, 0x54B2
_LONGEST = 1 << 20
"""Bytes of a file in which its headers are looked for."""


def elements(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Identifier, content and end of each element."""
    at = 0
    while at < len(data):
        length = 9 - data[at].bit_length()
        name, at = int.from_bytes(data[at : at + length], "big"), at + length
        length = 9 - data[at].bit_length()
        size = int.from_bytes(data[at : at + length], "big") - (1 << 7 * length)
        begin, at = at + length, at + length + size
        yield name, data[begin:at], at


def within(data: bytes, *names: int) -> bytes:
    """Content of the first element of that name, in it of the first of the next name, and so on; empty if not there."""
    for wanted in names:
        data = next((body for name, body, _ in elements(data) if name == wanted), b"")
    return data


def display_size(width: int, height: int, sar: Fraction) -> tuple[int, int]:
    """Square pixels on which a picture is shown: exact if a whole number of them is."""
    if (width * sar).denominator > 1 and (height / sar).denominator == 1:
        return width, int(height / sar)
    return round(width * sar), height


def set_display_size(path: Path, size: tuple[int, int]) -> bool:
    """Say in a finished file how large its only video is to be shown; False = its headers are not as FFmpeg's are.

    FFmpeg leaves room before them: they grow towards the beginning of the file, and nothing behind them moves.
    """
    with path.open("r+b") as file:
        data = file.read(_LONGEST)
        segment = within(data, SEGMENT)
        parts = list(islice(elements(segment), 4))
        if [name for name, _, _ in parts] != [_SEEK_HEAD, _VOID, _INFO, TRACKS] or parts[-1][-1] > len(segment):
            return False
        (_, seek, _), _, (_, info, _), (_, tracks, end) = parts
        info, tracks = _element(_INFO, info), _element(TRACKS, _shown(tracks, size))
        places = {_INFO: end - len(tracks) - len(info), TRACKS: end - len(tracks)}
        seek = _element(_SEEK_HEAD, _moved(seek, places))
        room = places[_INFO] - len(seek) - 9
        if room < 0:
            return False
        file.seek(len(data) - len(segment))
        file.write(seek + b"\xec" + (room | 1 << 56).to_bytes(8, "big") + bytes(room) + info + tracks)
    return True


def _element(name: int, body: bytes) -> bytes:
    length = ((len(body) + 1).bit_length() - 1) // 7 + 1
    return _number(name) + (len(body) | 1 << 7 * length).to_bytes(length, "big") + body


def _number(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def _shown(tracks: bytes, size: tuple[int, int]) -> bytes:
    shown = b"".join(_element(name, _number(side)) for name, side in zip((_WIDTH, _HEIGHT), size, strict=True))

    def video(body: bytes) -> bytes:
        return b"".join(_element(n, b) for n, b, _ in elements(body) if n not in (_WIDTH, _HEIGHT, _UNIT)) + shown

    def entry(body: bytes) -> bytes:
        return b"".join(_element(n, video(b) if n == VIDEO else b) for n, b, _ in elements(body))

    rest = ((n, entry(b) if n == TRACK_ENTRY else b) for n, b, _ in elements(tracks) if n != _CHECKSUM)
    return b"".join(_element(name, body) for name, body in rest)


def _moved(seek_head: bytes, places: Mapping[int, int]) -> bytes:
    entries = b""
    for name, body, _ in elements(seek_head):
        place = places.get(int.from_bytes(within(body, _SEEK_ID), "big")) if name == _SEEK else None
        if place is not None:
            body = _element(_SEEK_ID, within(body, _SEEK_ID)) + _element(_SEEK_POSITION, place.to_bytes(4, "big"))
        if name != _CHECKSUM:
            entries += _element(name, body)
    return entries
