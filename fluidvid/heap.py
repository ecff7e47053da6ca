"""Gives freed memory back to the system: a run of weeks stays as large as it is, not as large as it ever was."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

M_ARENA_MAX = -8
"""glibc's number of that option, `malloc.h`."""
ARENAS = 2


def share() -> None:
    """Keep threads on few heaps and networks on one arena; for a process of our own, before it has either."""
    from fluidvid.trackers.session import share_arena

    share_heaps()
    share_arena()


def share_heaps() -> None:
    """Keep threads that come and go on few heaps; call before there are any. Nothing happens without such a call."""
    try:
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)
    except (OSError, AttributeError, TypeError):
        return


@cache
def _trim() -> Any:
    """The C library's `malloc_trim`, or None where it has none (only glibc has)."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None


def give_back() -> None:
    """Return what is free at the heap's pages; takes milliseconds. Nothing happens where there is no such call.

    Pictures that come and go by the thousand, and decoders, encoders and threads that come and go with every reconnect,
    leave glibc's heaps fragmented.
    """
    trim = _trim()
    if trim is not None:
        trim(0)
