"""A source that has to stay the same file, and unwritten, for as long as it is read; of a playlist, all its parts."""

from __future__ import annotations

import os
import re
import weakref
from collections.abc import Iterator
from os.path import realpath
from pathlib import Path

from fluidvid.errors import InputError
from fluidvid.video.opening import check_source


class SourceFile:
    """Holds a source open, and tells whether another file took its name or somebody wrote into it."""

    def __init__(self, path: Path) -> None:
        """Remember which file it is, and its state.

        Raises:
            InputError: as `check_source`, or it cannot be read.
        """
        check_source(path)
        self._path = path
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}): change its permissions") from error
        # Held: FAT gives a file that nobody has open another inode number when it is looked up anew.
        weakref.finalize(self, os.close, descriptor)
        self._known = _state(os.fstat(descriptor))
        self._parts = {part: _found(part) for part in _parts(path)}

    def check(self) -> None:
        """Call after every further opening of the file, and when all was read.

        Raises:
            InputError: it is not the file it was.
        """
        try:
            now = _state(self._path.stat())
        except OSError:
            now = None
        if now != self._known or any(_found(part) != known for part, known in self._parts.items()):
            raise InputError(
                f"{self._path} changed while it was being read: run again when nothing writes to it; no result was "
                "written"
            )


_NAMED = re.compile(rb"""^[ \t]*file[ \t]+(.+?)[ \t\r]*$""", re.MULTILINE)
_LINES = re.compile(rb"""^([^#\r\n][^\r\n]*)|URI="([^"\r\n]+)\"""", re.MULTILINE)


def _parts(path: Path) -> Iterator[Path]:
    """The local files that a playlist leads to, playlists within it and theirs among them, each once; else none."""
    playlists, known = [path], {realpath(path)}
    while playlists:
        for part in _named(playlists.pop()):
            if part.is_file() and (where := realpath(part)) not in known:
                known.add(where)
                playlists.append(part)
                yield part


def _named(path: Path) -> Iterator[Path]:
    """What an HLS playlist (RFC 8216) or a list of FFmpeg's concat demuxer names; of another file nothing."""
    try:
        with path.open("rb") as file:
            if not file.read(8).startswith((b"#EXTM3U", b"ffconcat")):
                return
            file.seek(0)
            content = file.read()
    except OSError:
        return
    names = [b"".join(found) for found in _LINES.findall(content)]
    names += [re.sub(rb"['\\]", b"", name) for name in _NAMED.findall(content)]
    for name in names:
        yield path.parent / os.fsdecode(name.removeprefix(b"file:"))


def _found(path: Path) -> tuple[int, ...] | None:
    try:
        return _state(path.stat())
    except OSError:
        return None


def _state(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
