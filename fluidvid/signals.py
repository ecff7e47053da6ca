"""Signals that ask for an end."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any


def heed(handler: Callable[[int, FrameType | None], Any]) -> None:
    """Have SIGINT, SIGTERM and SIGHUP call `handler`, but for those that are ignored on purpose."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)
