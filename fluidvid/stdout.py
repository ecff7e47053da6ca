"""Results on stdout: what fails there is told in one line, and a reader that has had enough is left in peace.

Words for people go to stderr, where nothing that fails matters.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable

from fluidvid.errors import OutputError


def put(text: str) -> None:
    """Write a line. Once the reader of a pipe is gone (`| head`) everything more is dropped silently.

    Raises:
        OutputError: stdout takes nothing, as on a full disk.
    """
    if sys.stdout is None:  # closed on purpose, by `>&-`
        return
    try:
        try:
            sys.stdout.write(text + "\n")
        except UnicodeEncodeError:  # a file name that is no text; in JSON, what replaces it is an escape
            encoding = sys.stdout.encoding or "utf-8"
            sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _drop()
    except OSError as error:
        _drop()
        raise OutputError(
            f"stdout cannot be written to ({error.strerror}): what the command made stands, its words are lost; "
            "send them elsewhere"
        ) from error


def for_people(say: Callable[[], object]) -> None:
    """Call what writes to stderr: where nobody can read it, what was done is no worse for it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # full, closed, not there
        say()


def _drop() -> None:
    """Nothing that is still in the buffer may fail once more when the interpreter ends."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
