"""A small HTTP server of a run: a thread per client, so that none holds up another, or the end of the run."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
from collections.abc import Iterable
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from fluidvid.errors import ConfigError

LOOPBACK = "127.0.0.1"
PATIENCE = 5.0
"""Seconds after which a client that says or takes nothing is let go."""


def check_free(addresses: Iterable[tuple[str, str, int]]) -> None:
    """Refuse early what could not be served later.

    Args:
        addresses: `(words, host, port)` each; words: as the user named it.

    Raises:
        ConfigError: one cannot be listened on, or two ask for the same port.
    """
    with ExitStack() as held:
        before: dict[int, str] = {}
        for words, host, port in addresses:
            try:
                held.enter_context(socket.create_server((host, port)))
            except (OSError, OverflowError) as error:
                if port in before and getattr(error, "errno", None) == errno.EADDRINUSE:
                    raise ConfigError(f"{before[port]} and {words} ask for the same port: choose another") from error
                number = getattr(error, "errno", None) or 0  # negative where there is no such host
                reason = os.strerror(number) if number > 0 else str(error)
                raise ConfigError(f"cannot serve {words} ({reason}): choose another address") from error
            before[port] = words


class PageHandler(BaseHTTPRequestHandler):
    """Answers one client."""

    timeout = PATIENCE

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
        """Log nothing: stderr is for the status line."""


class PageServer(ThreadingHTTPServer):
    """Serves from the beginning until it is closed.

    Args:
        host: address to listen on.
        port: 0: any free one, which is then `server_port`.
        handler: answers; in threads that nobody waits for.
        name: of the serving thread.

    Raises:
        OSError: the address cannot be listened on.
        OverflowError: there is no such port.
    """

    daemon_threads = True

    def __init__(self, host: str, port: int, handler: type[PageHandler], *, name: str) -> None:
        super().__init__((host, port), handler)
        self._thread = threading.Thread(target=self.serve_forever, name=name, daemon=True)
        self._thread.start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left is no news."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def close(self) -> None:
        """Stop serving."""
        self.shutdown()
        self.server_close()
        self._thread.join()
