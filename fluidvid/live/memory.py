"""Gives freed memory back to the system: a run of weeks stays as large as it is, not as large as it ever was."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any


@cache
def _trim() -> Any:
    """The C library's `malloc_trim`, or None where it has none (only glibc has)."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None


def give_back() -> None:
    """Return what is free at the heap's pages; takes milliseconds. Nothing happens where there is no such call.

    Decoders, encoders and threads that come and go with every reconnect leave glibc's heaps fragmented.
    """
    trim = _trim()
    if trim is not None:
        trim(0)
