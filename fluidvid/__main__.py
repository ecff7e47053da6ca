"""The `fluidvid` command, also as `python -m fluidvid`: ends quietly on Ctrl-C while the command line is loaded."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType
from typing import NoReturn


def main() -> NoReturn:
    """Entry point of the `fluidvid` command."""
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:  # else it is ignored on purpose
        signal.signal(signal.SIGINT, _end)
    from fluidvid.cli import main as command

    command()


def _end(signum: int, frame: FrameType | None) -> NoReturn:
    """At once: an exception would show where it was raised, and modules that are being loaded turn it into others."""
    with contextlib.suppress(OSError):
        os.write(2, b"fluidvid: interrupted: nothing was written\n")
    os._exit(130)


if __name__ == "__main__":
    main()
