"""A source that has to stay the same file, and unwritten, for as long as it is read."""

from __future__ import annotations

import os
import weakref
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

    def check(self) -> None:
        """Call after every further opening of the file, and when all was read.

        Raises:
            InputError: it is not the file it was.
        """
        try:
            now = _state(self._path.stat())
        except OSError:
            now = None
        if now != self._known:
            raise InputError(
                f"{self._path} changed while it was being read: run again when nothing writes to it; nothing was "
                "written"
            )


def _state(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
