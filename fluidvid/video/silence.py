"""Silence for sound in containers that store its length and not its times: what follows a gap would come too early."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

_KINDS = [("s", 16), ("s", 24), ("s", 32), ("s", 64), ("f", 32), ("f", 64)]
_SILENT = {f"pcm_{kind}{bits}{order}": bytes(bits // 8) for kind, bits in _KINDS for order in ("le", "be")}
_SILENT |= {"pcm_s8": b"\0", "pcm_u8": b"\x80", "pcm_mulaw": b"\xff", "pcm_alaw": b"\xd5"}
"""One sample of a codec that is not compressed."""
_LONGEST = Fraction(600)
"""Seconds of silence that are worth their bytes."""


class Untimed:
    """One stream of sound, of which only lengths are stored.

    Attributes:
        lost: seconds by which sound comes too early because no silence could be made.
    """

    def __init__(self, codec: str, rate: int, channels: int, *, step: Fraction, begins: Fraction | None) -> None:
        """Begin.

        Args:
            codec: FFmpeg's name.
            rate: samples per second.
            channels: of each sample.
            step: seconds; a shorter gap is none.
            begins: at how many seconds the container begins to count; None = at the first packet.
        """
        self._sample = _SILENT.get(codec, b"") * channels
        self._rate, self._step = rate, step
        self._end = begins
        self.lost = Fraction(0)

    def before(self, begins: Fraction, size: int, length: Fraction) -> Iterator[tuple[Fraction, bytes]]:
        """Times in seconds and bytes of the silence that has to come before a packet.

        Args:
            begins: when it is to be heard, seconds.
            size: of it, bytes.
            length: of it, seconds; 0 = not known.
        """
        end = begins if self._end is None else self._end
        gap = begins - end if begins - end > self._step else Fraction(0)
        if not self._sample or gap > _LONGEST:
            self.lost += gap
            end = begins
        else:
            missing = round(gap * self._rate)
            while missing:
                count = min(missing, self._rate)
                yield end, self._sample * count
                end += Fraction(count, self._rate)
                missing -= count
        if self._sample:
            length = Fraction(size // len(self._sample), self._rate)
        self._end = end + length if length else None


def untimed(muxer: str, codec: str, rate: int, channels: int, step: Fraction) -> Untimed | None:
    """The sound of one stream, if the container stores no times of it: AVI of none, QuickTime and MP4 not of PCM."""
    if muxer == "avi":
        return Untimed(codec, rate, channels, step=step, begins=Fraction(0))
    if muxer in ("mp4", "mov") and codec in _SILENT:
        return Untimed(codec, rate, channels, step=step, begins=None)  # an edit list stores the first one's
    return None
