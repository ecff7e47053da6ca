"""Puts into words what FFmpeg calls an Input/output error when a server cannot be reached."""

from __future__ import annotations

import errno
import socket

from fluidvid.live.addresses import Address

_TLS = ("rtsps:", "rtmps:", "https:")


def unreachable(address: Address, error: Exception) -> str | None:
    """Why a server cannot be reached, in words for the user; None: the error says it better.

    Asks the resolver again, which may take its time; FFmpeg has just waited for the same.
    """
    if getattr(error, "errno", None) != errno.EIO or not address.host:
        return None
    try:
        socket.getaddrinfo(address.host, None)
    except (OSError, UnicodeError):
        return f"no address is known for the host {address.host}: check its name and the name server"
    if address.url.lower().startswith(_TLS):
        return "the TLS connection failed or broke off: check that this port speaks TLS"
    return "the connection failed or broke off"
