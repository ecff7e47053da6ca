"""One clock for a broadcast's file that was joined from several: behind a seam its stored times begin anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

from av.packet import Packet

from fluidvid.video.info import VideoInfo
from fluidvid.video.opening import NO_INDEX, WRAP

_JUMP = Fraction(1, 2)
"""Seconds by which the clock jumps back at a seam; by less it is merely unsteady, unless a recording is no longer."""
_REORDERED = 17
"""Pictures by which a time of showing may run ahead: codecs show up to 16 of them later than they come."""
_PATIENCE = Fraction(5)
"""Seconds of sound that wait for a seam of the picture. Sound that jumps by itself stays where it is."""
_SHOWN = 3


class SteadyClock:
    """Moves the times behind a seam: the picture goes on after its last one, and all else stays in step with it.

    Each reader of the file has its own. They come to the same times, as all see the video's packets from the beginning.
    """

    def __init__(self, info: VideoInfo) -> None:
        self._info = info
        self._frame = 1 / (info.average_rate or Fraction(25))
        self._reach = max(_JUMP, _REORDERED * self._frame)
        self._stored: dict[int, Fraction] = {}  # decoding time of each stream's last packet
        self._begun: dict[int, Fraction] = {}  # of the first packet behind each stream's last seam
        self._offset = info.offset
        self._sound: dict[int, Fraction] = {}  # the offset of each stream of sound, which may lag behind
        self._waiting: list[Packet[Any]] = []
        self._end: Fraction | None = None
        self._last_shown: Fraction | None = None  # when the last packet of the picture is shown, as stored
        self._ahead: Packet[Any] | None = None  # one of the picture that leaps ahead, until the next one is known
        # Before a seam: the last time, the first one and the offset; and the seam's place.
        self._doubted: tuple[Fraction, Fraction | None, Fraction, Fraction] | None = None
        self._seams: list[Fraction] = []

    @property
    def may_jump(self) -> bool:
        """False: all packets are left as they are. True: `steady` must be given the video's packets, too."""
        return self._info.container in NO_INDEX

    @property
    def warnings(self) -> list[str]:
        """One line if there was a seam."""
        places = [f"{float(time - self._info.start):.3f} s" for time in self._seams]
        if not places:
            return []
        more = f" and {len(places) - _SHOWN} times more" if len(places) > _SHOWN else ""
        return [
            f"the source's clock jumps back at {', '.join(places[:_SHOWN])}{more}, where recordings were joined: "
            "picture and sound go on without a gap"
        ]

    def steady(self, packets: Iterable[Packet[Any]]) -> Iterator[Packet[Any]]:
        """All packets on one clock. Sound that comes to a seam before the picture waits for it."""
        for packet in packets:
            if not self.may_jump or (time := _stored(packet)) is None:
                yield packet
            elif packet.stream_index == self._info.stream:
                yield from self._seen(packet, time)
            elif packet.stream.type == "audio":
                yield from self._heard(packet, time)
            else:
                yield self._moved(packet, self._offset)
        if self._ahead is not None:
            yield from self._placed(self._ahead)
        yield from self._released(None)

    def _seen(self, packet: Packet[Any], time: Fraction) -> Iterator[Packet[Any]]:
        """One of the picture that leaps ahead waits for the next; if that one does not, its times are damaged."""
        if self._ahead is not None:
            ahead, self._ahead = self._ahead, None
            if self._follows(packet, time):
                ahead.pts = ahead.dts = None
                yield ahead
            else:
                yield from self._placed(ahead)
        if self._leaps(packet, time):
            self._ahead = packet
        else:
            yield from self._placed(packet)

    def _placed(self, packet: Packet[Any]) -> Iterator[Packet[Any]]:
        time = _stored(packet)
        assert time is not None
        self._last_shown = _shown(packet)
        if self._meets_seam(packet, time):
            yield from self._released(self._offset)
        yield self._moved(packet, self._offset)
        self._end = max(self._end or Fraction(0), self._ends(packet))

    def _steps(self, packet: Packet[Any], time: Fraction) -> tuple[Fraction, Fraction]:
        """From the last packet of the picture to this one: when they are decoded, and shown."""
        last = self._stored.get(packet.stream_index, time)
        shown = _shown(packet)
        return _step(last, time), _step(shown if self._last_shown is None else self._last_shown, shown)

    def _leaps(self, packet: Packet[Any], time: Fraction) -> bool:
        return max(self._steps(packet, time)) > self._reach

    def _follows(self, packet: Packet[Any], time: Fraction) -> bool:
        decoded, shown = self._steps(packet, time)
        return 0 < decoded <= self._reach and abs(shown) <= self._reach

    def _meets_seam(self, packet: Packet[Any], time: Fraction) -> bool:
        index = packet.stream_index
        last = self._stored.get(index, time)
        if self._doubted is not None:
            before, begun, offset, place = self._doubted
            self._doubted = None
            left_out = _step(before, time)
            if (_step(last, time) > _JUMP or left_out > 1.5 * self._frame) and 0 <= left_out < _JUMP:
                self._offset = offset  # a single packet had a damaged time
                if begun is not None:
                    self._begun[index] = begun
            else:
                self._seams.append(place)
        begun = self._begun.get(index)
        if not self._jumps(packet, time) or self._end is None:
            return False
        self._doubted = last, begun, self._offset, self._end
        self._offset = self._end - _shown(packet)
        return True

    def _heard(self, packet: Packet[Any], time: Fraction) -> Iterator[Packet[Any]]:
        index = packet.stream_index
        offset = self._sound.setdefault(index, self._offset)
        waits = any(p.stream_index == index for p in self._waiting)
        if self._jumps(packet, time):
            waits = offset == self._offset
            offset = self._sound[index] = self._offset
        if not waits:
            yield self._moved(packet, offset)
            return
        self._waiting.append(packet)
        first = next(p for p in self._waiting if p.stream_index == index)
        begun = _stored(first)
        assert begun is not None
        if abs(_step(begun, time)) > _PATIENCE:
            yield from self._released(None)

    def _released(self, offset: Fraction | None) -> Iterator[Packet[Any]]:
        """Whatever waits, by the offset of the picture's seam; None: there was none, it keeps its own."""
        waiting, self._waiting = self._waiting, []
        for packet in waiting:
            if offset is not None:
                self._sound[packet.stream_index] = offset
            yield self._moved(packet, self._sound[packet.stream_index])

    def _jumps(self, packet: Packet[Any], time: Fraction) -> bool:
        """Whether a stream's clock begins anew: far back, or where a shorter recording began."""
        index = packet.stream_index
        step = _step(self._stored.get(index, time), time)
        self._stored[index] = time
        if packet.dts is None:  # pictures are shown in another order than they come in
            return step < -_JUMP
        begun = self._begun.get(index)
        jumped = step < -_JUMP or (step < 0 and begun is not None and _step(begun, time) <= 0)
        if jumped or begun is None:
            self._begun[index] = time
        return jumped

    def _ends(self, packet: Packet[Any]) -> Fraction:
        return _shown(packet) + (packet.duration * packet.time_base if packet.duration else self._frame)

    @staticmethod
    def _moved(packet: Packet[Any], offset: Fraction) -> Packet[Any]:
        if offset:
            ticks = round(offset / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts + ticks
            packet.dts = None if packet.dts is None else packet.dts + ticks
        return packet


def _stored(packet: Packet[Any]) -> Fraction | None:
    """When a packet is decoded, or shown if it does not say."""
    time = packet.dts if packet.dts is not None else packet.pts
    return None if time is None else time * packet.time_base


def _shown(packet: Packet[Any]) -> Fraction:
    """When a packet is shown, or decoded if it does not say; one of them is known."""
    time = packet.pts if packet.pts is not None else packet.dts
    assert time is not None
    return time * packet.time_base


def _step(before: Fraction, after: Fraction) -> Fraction:
    """From one stored time to another, on a clock that begins anew by itself: FFmpeg may take a jump back for that."""
    return (after - before + WRAP / 2) % WRAP - WRAP / 2
