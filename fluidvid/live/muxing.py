"""The worker process of one output: reads packets on stdin, muxes them, and tells on stdout how far it has come.

It is a process of its own because a frozen server blocks FFmpeg's muxer for ever: a process can be killed. The address,
with its secrets, comes over stdin, never on the command line. Run by `fluidvid.live.publisher`, never by hand.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import BinaryIO

import av

from fluidvid.live.addresses import Address
from fluidvid.live.encoding import Coded
from fluidvid.live.messages import DISK_FULL, LOGIN_REFUSED, Opening, Told
from fluidvid.live.network import unreachable
from fluidvid.live.sinks import Sink, open_sink
from fluidvid.signals import ENDING

ORPHANED = 5.0
"""Seconds that a worker whose parent died has for its trailer."""


def main() -> int:
    """Serve one output until stdin ends."""
    for number in ENDING:  # they may reach every process of a run; the parent decides
        signal.signal(number, signal.SIG_IGN)
    av.logging.set_libav_level(av.logging.PANIC)
    threading.Thread(target=_watch_parent, args=(os.getppid(),), daemon=True).start()
    inbox, outbox = sys.stdin.buffer, sys.stdout.buffer
    opening: Opening = pickle.load(inbox)
    try:
        _serve(opening, inbox, outbox)
    except (av.FFmpegError, OSError, ValueError) as error:
        with suppress(BrokenPipeError):  # the parent may be what broke
            _tell(outbox, failure(opening.address, error))
        return 1
    return 0


def _serve(opening: Opening, inbox: BinaryIO, outbox: BinaryIO) -> None:
    _tell(outbox, Told("started"))
    sink: Sink = open_sink(opening.address, opening.description, transport=opening.transport, segment=opening.segment)
    _tell(outbox, Told("opened", "; ".join(sink.notes)))
    while True:
        try:
            packet: Coded | None = pickle.load(inbox)
        except (EOFError, pickle.UnpicklingError):  # the parent died, maybe in the middle of a packet
            packet = None
        if packet is None:
            break
        sink.write(packet)
        _tell(outbox, Told("written"))
    sink.close()
    _tell(outbox, Told("closed"))


def failure(address: Address, error: Exception) -> Told:
    """Why it failed in words for the user, without secrets, and whether trying again may help."""
    reason = str(getattr(error, "strerror", None) or error).split(";")[0]
    if isinstance(error, (av.HTTPUnauthorizedError, av.HTTPForbiddenError)):
        return Told("failed", LOGIN_REFUSED, permanent=True)
    if isinstance(error, av.HTTPNotFoundError):
        return Told("failed", "the server has no such path")
    if isinstance(error, OSError) and error.errno == 28:
        return Told("failed", DISK_FULL)
    if isinstance(error, ValueError) and not isinstance(error, av.FFmpegError):
        return Told("failed", address.clean(str(error)), permanent=True)
    return Told("failed", unreachable(address, error) or address.clean(reason))


def _tell(outbox: BinaryIO, told: Told) -> None:
    pickle.dump(told, outbox)
    outbox.flush()


def _watch_parent(parent: int) -> None:
    """Leave when the parent is gone, even from a muxer that hangs."""
    while os.getppid() == parent:
        time.sleep(0.5)
    time.sleep(ORPHANED)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
