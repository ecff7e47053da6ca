"""The `fluidvid` command, also as `python -m fluidvid`: a signal while it is being loaded ends it in one line."""

from __future__ import annotations

import contextlib
import os
from types import FrameType
from typing import NoReturn

from fluidvid.signals import heed


def main() -> NoReturn:
    """Entry point of the `fluidvid` command."""
    heed(_end)
    from fluidvid.cli import main as command

    command()


def _end(signum: int, frame: FrameType | None) -> NoReturn:
    """At once: an exception would show where it was raised, and modules that are being loaded turn it into others."""
    with contextlib.suppress(OSError):
        os.write(2, b"fluidvid: interrupted: nothing was written\n")
    os._exit(130)


if __name__ == "__main__":
    main()
