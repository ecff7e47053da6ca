"""Signals that ask for an end."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Windows has no SIGHUP."""


def heed(handler: Callable[[int, FrameType | None], Any]) -> None:
    """Have SIGINT, SIGTERM and SIGHUP call `handler`, but for those that are ignored on purpose."""
    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)
