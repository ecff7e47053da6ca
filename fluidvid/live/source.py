"""A live input that comes back: read in a thread of its own, reconnected with growing waits, on one steady clock."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction

import av
from av.audio.stream import AudioStream
from av.packet import Packet
from av.video.reformatter import VideoReformatter

from fluidvid.errors import InputError
from fluidvid.live.addresses import Address
from fluidvid.live.backoff import Backoff
from fluidvid.live.clock import LONGEST_GAP, TIME_BASE, Timeline
from fluidvid.live.connection import Connection, Lost
from fluidvid.live.encoding import AUDIO, Coded, Look
from fluidvid.live.shaping import Shaper
from fluidvid.video.frame import Frame
from fluidvid.video.info import picture_orientation
from fluidvid.video.orientation import Orientation

MAX_WAITING = 256 * 2**20
"""Bytes of decoded pictures that may wait to be treated, whatever the time; beyond, the oldest are dropped."""

PARTING = 1.0
"""Seconds that the end of a run waits for a read under way."""
_REMEDIES = {
    "file": "check that it is a whole video",
    "device": "check that it is plugged in and that this is its name",
}
"""What to do about an input that was given up, by its kind."""


class LiveFrame(Frame):
    """A picture of the input on the published clock.

    Attributes:
        arrived: `time.monotonic()` when it was decoded.
    """

    __slots__ = ("arrived",)

    def __init__(self, picture: av.VideoFrame, reformatter: VideoReformatter, *, pts: int, arrived: float) -> None:
        picture.pts, picture.time_base = pts, TIME_BASE
        super().__init__(picture, Orientation(), reformatter, index=-1, pts=pts, time_base=TIME_BASE, duration=None)
        self.arrived = arrived


class LiveSource:
    """Pictures of a live input, in stretches without a break; sound is passed on as it comes.

    Args:
        address: where from.
        transport: tcp or udp, for RTSP.
        timeout: seconds of silence after which the input is lost.
        retries: failures in a row that are forgiven; 0: any number.
        behind: seconds that decoded pictures may wait to be treated; beyond, the oldest are dropped.
        say: takes one line for the user; called from the reading thread.
        began: called once, before the first picture is given out, with the size of all pictures, the announced rate and
            the audio stream, which must not be used afterwards, with its codec header if it has none itself; from the
            reading thread.
        heard: takes packets of sound; called from the reading thread.

    Attributes:
        pictures_in: decoded pictures.
        dropped: of those, left out because they came too fast.
        corrupt: damaged pictures and packets, left out.
        reconnects: connections after the first.
        moved: jumps of the input's times.
    """

    def __init__(
        self,
        address: Address,
        *,
        transport: str,
        timeout: float,
        retries: int,
        behind: float,
        say: Callable[[str], None],
        began: Callable[[tuple[int, int], Fraction, AudioStream | None, bytes, Look], None],
        heard: Callable[[Coded], None],
    ) -> None:
        self._address, self._transport, self._timeout = address, transport, timeout
        self._behind = behind
        self._say, self._heard, self._tell_begin = say, heard, began
        self._backoff = Backoff(retries)
        now = time.monotonic()
        self._pictures, self._sounds = Timeline(now), Timeline(now)
        self._shaper, self._reformatter = Shaper(), VideoReformatter()
        self._queue: deque[LiveFrame | None] = deque()  # None: here the input broke off
        self._waiting = 0
        self._change = threading.Condition()
        self._stopping = threading.Event()
        self._done = False
        self._error: Exception | None = None
        self._index = 0
        self._thread = threading.Thread(target=self._run, name="read input", daemon=True)
        self._told = False
        self._sound: tuple[str, int, int, bytes] | None = None
        self._broadcast = False  # it has been a live stream, whatever it is now
        self.pictures_in = self.dropped = self.corrupt = self.reconnects = 0
        self.connected = False
        self.newest_only = False
        """Give out the newest picture only and drop those that waited: the last rung of the ladder."""

    @property
    def moved(self) -> int:
        """Jumps of the input's times."""
        return self._pictures.moved

    @property
    def size(self) -> tuple[int, int] | None:
        """`(width, height)` of all pictures."""
        return self._shaper.size

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """End soon: what waits is dropped, since it would take as long as the input is behind."""
        self._stopping.set()
        with self._change:
            self._done = True
            self.dropped += sum(frame is not None for frame in self._queue)
            self._queue.clear()
            self._waiting = 0
            self._change.notify_all()

    def close(self) -> None:
        """Stop, and wait a little for the reading thread.

        FFmpeg cannot be called back from a read of an input that fell silent before the timeout, and nobody should wait
        so long for the end of a run: the thread then ends by itself and hands nothing on.
        """
        self.stop()
        if self._thread.ident is not None:
            self._thread.join(PARTING)

    def catch_up(self) -> None:
        """Drop the pictures that wait, but for the newest."""
        with self._change:
            newest = next((frame for frame in reversed(self._queue) if frame is not None), None)
            kept: deque[LiveFrame | None] = deque(frame for frame in self._queue if frame is None or frame is newest)
            self.dropped += len(self._queue) - len(kept)
            self._queue = kept
            self._waiting = 0 if newest is None else _size(newest)

    def stretches(self) -> Iterator[Iterator[LiveFrame]]:
        """Stretches of pictures, each from one connection; the times rise over all of them.

        Raises:
            InputError: the input was given up.
        """
        while True:
            with self._change:
                self._change.wait_for(lambda: self._queue or self._done)
                while self._queue and self._queue[0] is None:
                    self._queue.popleft()
                if not self._queue and self._done:
                    break
                if not self._queue:
                    continue
            yield self._stretch()
        if self._error is not None:
            raise self._error

    def _stretch(self) -> Iterator[LiveFrame]:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._queue or self._done)
                if not self._queue:
                    return
                frame = self._queue.popleft()
                if frame is None:
                    return
                self._waiting -= _size(frame)
                while self.newest_only and self._queue and self._queue[0] is not None:
                    self.dropped += 1
                    frame = self._queue.popleft()
                    assert frame is not None
                    self._waiting -= _size(frame)
            frame.index = self._index
            self._index += 1
            yield frame
            del frame  # it must not live on while the next one is waited for

    def _run(self) -> None:
        worked = False
        try:
            while not self._stopping.is_set():
                lost = self._connect()
                if self.connected:
                    worked, self.connected = True, False
                self._put(None)
                if lost is None or self._stopping.is_set() or lost.finished:
                    return
                hopeless = self._address.kind == "file" or (lost.permanent and not worked)
                wait = None if hopeless else self._backoff.failed()
                if wait is None:
                    remedy = _REMEDIES.get(self._address.kind, "check that it is on and that the address is right")
                    told = f"{self._address.shown}: {lost}: given up"
                    self._error = InputError(told if lost.remedied else f"{told}; {remedy}")
                    return
                self._say(f"{self._address.shown}: {lost}; trying again in {wait:g} s")
                self._stopping.wait(wait)
                self.reconnects += 1
        except Exception as error:  # noqa: BLE001 - raised where the pictures are taken
            self._error = error
        finally:
            with self._change:
                self._done = True
                self._change.notify_all()

    def _connect(self) -> Lost | None:
        """Read one connection to its end."""
        try:
            with Connection(self._address, transport=self._transport, timeout=self._timeout) as connection:
                if self._broadcast and connection.recorded:  # it would be published once more, from its beginning
                    raise Lost("the broadcast has ended, only a recording of it is there")
                try:
                    self._read(connection)
                finally:
                    self.corrupt += connection.corrupt
        except Lost as lost:  # its traceback would keep the connection's decoder until the next one is lost
            return Lost(str(lost), permanent=lost.permanent, finished=lost.finished, remedied=lost.remedied)
        return None

    def _read(self, connection: Connection) -> None:
        sound = _parameters(connection)
        if not self._told:
            self._sound = sound
        hears = sound is not None and sound == self._sound
        if connection.unheard:
            self._say(f"{self._address.shown}: its sound cannot be copied: published without sound")
        if sound is not None and not hears:
            self._say(f"{self._address.shown}: its sound is of another kind now: published without sound")
        self._pictures.restart()
        self._sounds.restart()
        paced = self._address.kind in ("file", "http") and not connection.timeless
        pace = Pace() if paced else None
        for item in connection.items():
            if self._stopping.is_set():
                return
            if isinstance(item, Packet):
                if hears:
                    self._hear(item)
                continue
            if pace is not None:
                self._stopping.wait(pace.wait(_seconds(item)))
            self._see(connection, item)

    def _see(self, connection: Connection, picture: av.VideoFrame) -> None:
        if not self.connected:
            self.connected = True
            self._broadcast = not connection.recorded
            self._say(f"{self._address.shown}: receiving {picture.width}x{picture.height}")
        self._backoff.succeeded()
        self.pictures_in += 1
        changes = self._shaper.changes
        arrived = time.monotonic()
        pts = self._pictures.tick(Fraction(arrived) if connection.timeless else _seconds(picture))
        shaped = self._shaper.shape(picture)
        if not self._told:
            assert self.size is not None
            aspect = connection.aspect
            if aspect is not None and picture_orientation(picture).swaps_sides:
                aspect = 1 / aspect
            self._tell_begin(self.size, connection.rate, connection.sound, connection.header, Look.of(shaped, aspect))
            self._told = True
        if self._shaper.changes != changes:
            self._say(f"{self._address.shown}: now {picture.width}x{picture.height}, fitted into {self.size}")
            self._put(None)
        self._put(LiveFrame(shaped, self._reformatter, pts=pts, arrived=arrived))

    def _hear(self, packet: Packet[AudioStream]) -> None:
        time_ = packet.pts if packet.pts is not None else packet.dts
        base = packet.time_base
        if time_ is None or self._pictures.offset is None:
            return  # nothing can be in step with pictures that have not begun
        self._sounds.follow(self._pictures, time_ * base)
        tick = self._sounds.tick(time_ * base)
        arrived = time.monotonic()
        length = round((packet.duration or 0) * base / TIME_BASE)
        self._heard(Coded(AUDIO, bytes(packet), tick, tick, length, TIME_BASE, True, arrived))

    def _put(self, frame: LiveFrame | None) -> None:
        with self._change:
            if self._stopping.is_set():
                self.dropped += frame is not None
                return
            self._queue.append(frame)
            self._waiting += 0 if frame is None else _size(frame)
            broken = False
            while self._waiting > MAX_WAITING or (frame is not None and self._is_behind(frame.arrived)):
                oldest = self._queue.popleft()
                if oldest is None:
                    broken = True
                else:
                    self._waiting -= _size(oldest)
                    self.dropped += 1
            if broken:  # what comes next still belongs to another stretch than what was taken before
                self._queue.appendleft(None)
            self._change.notify_all()

    def _is_behind(self, now: float) -> bool:
        oldest = next((frame for frame in self._queue if frame is not None), None)
        return oldest is not None and now - oldest.arrived > self._behind


class Pace:
    """Lets recorded material, and streams that come in bursts, through at their own speed."""

    def __init__(self) -> None:
        self._began: tuple[float, Fraction] | None = None
        self._last = Fraction(0)

    def wait(self, seconds: Fraction) -> float:
        """Seconds until a picture of that time is due."""
        now = time.monotonic()
        if self._began is None or not 0 <= seconds - self._last < LONGEST_GAP:
            self._began = now, seconds
        self._last = seconds
        due = self._began[0] + float(seconds - self._began[1])
        if now - due > LONGEST_GAP:  # it came late: the clock starts again
            self._began = now, seconds
        return max(0.0, due - now)


def _seconds(picture: av.VideoFrame) -> Fraction:
    assert picture.pts is not None and picture.time_base is not None
    return picture.pts * picture.time_base


def _size(frame: LiveFrame) -> int:
    return frame.picture.width * frame.picture.height * 3 // 2


def _parameters(connection: Connection) -> tuple[str, int, int, bytes] | None:
    """What must stay the same for packets of sound to be copied into one stream."""
    if connection.sound is None:
        return None
    context = connection.sound.codec_context
    return context.codec.canonical_name, context.sample_rate, context.channels, connection.header
