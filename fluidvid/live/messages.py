"""What the session and a muxing worker say to each other, besides packets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fluidvid.live.addresses import Address

LOGIN_REFUSED = "the login was refused: check user and password"
DISK_FULL = "the disk is full: free some space"
"""Failures that say by themselves what to do."""


@dataclass(frozen=True)
class Opening:
    """The first message: where to publish what."""

    address: Address
    description: bytes
    transport: str
    segment: float


@dataclass(frozen=True)
class Told:
    """What the worker says.

    Attributes:
        what: `started` (the process itself), `opened`, `written` (a packet), `closed`, or `failed`.
        text: notes, or why it failed, without secrets.
        permanent: trying again is of no use: wrong login, a format that cannot be.
    """

    what: Literal["started", "opened", "written", "closed", "failed"]
    text: str = ""
    permanent: bool = False
