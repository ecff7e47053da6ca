"""One connection to a live input: opened with time limits, demuxed, decoded without delay, until it is lost."""

from __future__ import annotations

import errno
import math
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
from av.audio.stream import AudioStream
from av.bitstream import BitStreamFilterContext
from av.codec.context import Flags
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from fluidvid.live.addresses import Address
from fluidvid.live.messages import LOGIN_REFUSED
from fluidvid.live.network import unreachable
from fluidvid.video.cropping import Crop, Cropper
from fluidvid.video.opening import is_picture, local

MAX_BAD = 50
"""Packets in a row that cannot be decoded: then the connection is given up and made anew."""
SMEARED = 2.0
"""Seconds after damage for which pictures are left out at most, if no key frame comes: some cameras send none."""
# Without FFmpeg's `nobuffer`: it throws the packets of the analysis away, and with them a file's only key frame.
_ANALYSE = {"flags": "low_delay", "analyzeduration": "1000000"}
_AHEAD = 250
"""Packets among which the first of the sound has to be: FFmpeg has met it while it analysed."""
_REORDERED = 50
"""Packets after which the picture of one has certainly come."""
_UNWRAP = "aac_adtstoasc"
_POLL = 0.004
"""Seconds after which a device without a picture is asked again."""
_FORMATS = {"device": "v4l2", "mpegts": "mpegts"}


class Lost(Exception):  # noqa: N818 - no failure of the run: a state that reconnecting ends
    """The input is not to be had at the moment.

    Args:
        reason: in words for the user, without secrets.
        permanent: trying again is of no use, unless it has worked before.
        finished: a file or recording was read to its end.
        remedied: the reason says what to do.
    """

    def __init__(self, reason: str, *, permanent: bool = False, finished: bool = False, remedied: bool = False) -> None:
        super().__init__(reason)
        self.permanent, self.finished, self.remedied = permanent, finished, remedied


def opening(address: Address, *, transport: str) -> tuple[str | None, dict[str, str]]:
    """FFmpeg's format (None: it finds out) and options by which an address is read."""
    options = dict(_ANALYSE)
    if address.kind == "rtsp":
        options["rtsp_transport"] = transport
    return _FORMATS.get(address.kind), options


class Connection:
    """An open input. A context manager.

    Attributes:
        sound: its first audio stream of which enough is known to copy it, or None.
        header: what a muxer must know of the sound beforehand, where its stream does not tell.
        unheard: there is sound, but none that can be copied.
        rate: frames per second as announced, or 25.
        aspect: of a pixel, width by height, as announced, or None.
        corrupt: pictures and packets that were left out: damaged ones, and those that are predicted from them.
        recorded: an address that has an end, such as a playlist that says so: what is read there is no live stream.
        timeless: its pictures carry no times of their own: those FFmpeg gives are 25 a second, whatever comes.

    Args:
        address: where from.
        transport: tcp or udp, for RTSP.
        timeout: seconds of silence after which the connection is lost.

    Raises:
        Lost: it cannot be opened, or has no video.
    """

    def __init__(self, address: Address, *, transport: str, timeout: float) -> None:
        self._address, self._timeout = address, timeout
        form, options = opening(address, transport=transport)
        try:
            container = av.open(
                local(Path(address.url)) if address.kind == "file" else address.url,
                format=form,
                options=options,
                timeout=(timeout, timeout),
                metadata_errors="replace",
            )
        except (av.FFmpegError, OSError, ValueError) as error:
            raise self._lost(error) from error
        self._container: InputContainer = container
        if address.kind == "device":
            _unblock(address.url)
        videos = [s for s in container.streams.video if not is_picture(s) and s.codec_context is not None]
        if not videos:
            container.close()
            raise Lost("it has no video that can be decoded")
        self._video: VideoStream = videos[0]
        self._video.thread_type = "SLICE"  # frame threads would add a picture of delay each
        self._video.codec_context.flags |= Flags.low_delay
        known = (s for s in container.streams.audio if s.codec_context is not None and s.codec_context.sample_rate)
        self.sound: AudioStream | None = next(known, None)
        self.rate = Fraction(self._video.average_rate or self._video.guessed_rate or 25)
        self.aspect: Fraction | None = self._video.sample_aspect_ratio or None
        self._cropper = Cropper(Crop.of(self._video))
        self.corrupt = 0
        self._smeared = -math.inf  # when damage was last met that no key frame has mended
        self._key: int | None = None  # time of the last key frame the decoder was given
        self._waited: int | None = None  # the same when it last refused a packet
        self.timeless = container.format.name == "mpjpeg"
        self.recorded = address.kind == "http" and not self.timeless and _has_end(container)
        self.header = b""
        self._tears = False
        self._torn: deque[int] = deque(maxlen=_REORDERED)  # times of packets of which part was lost
        self._unwrap: BitStreamFilterContext | None = None
        self._ahead: deque[Packet[Any]] = deque()
        try:
            self._prepare_sound()
        except (av.FFmpegError, OSError, ValueError) as error:
            container.close()
            raise self._lost(error) from error
        self.unheard = self.sound is None and bool(container.streams.audio)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: Any) -> None:
        self._container.close()

    def _prepare_sound(self) -> None:
        """Read up to the first sound if it is AAC whose packets tell (ADTS) what muxers want to know beforehand."""
        sound = self.sound
        if sound is None or sound.codec_context.codec.canonical_name != "aac" or sound.codec_context.extradata:
            return
        self.sound = None
        for packet in islice(self._container.demux(self._video, sound), _AHEAD):
            self._ahead.append(packet)
            if packet.stream_index == sound.index and packet.size:
                self.header = _adts_header(packet)
                if self.header:
                    self.sound, self._unwrap = sound, BitStreamFilterContext(_UNWRAP, sound)
                return

    def items(self) -> Iterator[av.VideoFrame | Packet[AudioStream]]:
        """Pictures and packets of sound as they come, with times.

        Raises:
            Lost: the input ended, fell silent, or sends nothing but garbage. Iteration always ends so.
        """
        wanted = [self._video] if self.sound is None else [self._video, self.sound]
        bad, seen, given, untimed = 0, time.monotonic(), 0, 0
        try:
            for packet in self._packets(wanted):
                if time.monotonic() - seen > self._timeout:
                    raise Lost(f"no picture for {self._timeout:g} s")
                if packet.stream_index != self._video.index:
                    yield from self._heard(packet)
                    continue
                pictures = self._decoded(packet)
                bad = 0 if pictures else bad + 1
                if bad > MAX_BAD:
                    raise Lost(f"{MAX_BAD} packets in a row could not be decoded")
                seen = time.monotonic() if pictures else seen
                for picture in self._whole(pictures):
                    if picture.pts is None:  # before the server has told the time
                        untimed += 1
                        continue
                    given += 1
                    yield picture
                    seen = time.monotonic()  # whoever takes them may wait until they are due
        except (av.FFmpegError, OSError, ValueError) as error:
            raise self._lost(error) from error
        ends = self._address.kind == "file" or self.recorded
        if ends and untimed and not given:
            # Copied (`-c copy`), pictures that refer to later ones come out in the wrong order.
            why = "its pictures have no times: convert it first, as with `ffmpeg -i IN -crf 17 OUT.mp4`"
            raise Lost(why, permanent=True, remedied=True)
        if ends and not given:
            raise Lost("no picture of it could be decoded: get a complete copy", permanent=True, remedied=True)
        if ends:
            raise Lost("the file ended" if self._address.kind == "file" else "the recording ended", finished=True)
        raise Lost("the stream ended")

    def _packets(self, wanted: Sequence[Stream]) -> Iterator[Packet[Any]]:
        """What the container gives; a device that has nothing at the moment is asked again."""
        heard = time.monotonic()
        while self._ahead:
            yield self._ahead.popleft()
        while True:
            try:
                for packet in self._container.demux(wanted):
                    heard = time.monotonic()
                    yield packet
                return
            except av.BlockingIOError:
                if time.monotonic() - heard > self._timeout:
                    raise Lost(f"no picture for {self._timeout:g} s") from None
                time.sleep(_POLL)

    def _heard(self, packet: Packet[Any]) -> list[Packet[AudioStream]]:
        """What a packet of sound brings."""
        # Empty ones end a stream; `dts is None` would not tell: some first packets have none.
        if self.sound is None or not packet.size:
            return []
        if self._unwrap is None:
            return [packet]
        try:
            return self._unwrap.filter(packet)
        except (av.FFmpegError, ValueError):
            self.corrupt += 1
            return []

    def _decoded(self, packet: Packet[Any]) -> list[av.VideoFrame]:
        """The undamaged pictures of a packet."""
        # Part of it was lost, or of the next: FFmpeg's parser marks the one too early. Its picture may come later.
        if (packet.is_corrupt or self._tears) and packet.pts is not None:
            self._torn.append(packet.pts)
        self._tears = packet.is_corrupt
        if packet.is_keyframe:
            self._key = packet.pts
        try:
            pictures = [p for p in packet.decode() if isinstance(p, av.VideoFrame)]
        except (av.FFmpegError, ValueError):
            self.corrupt += 1
            self._smeared, self._waited = time.monotonic(), self._key
            return []
        good = [p for p in pictures if not (p.is_corrupt or p.pts in self._torn)]
        if len(good) < len(pictures):
            self.corrupt += len(pictures) - len(good)
            self._smeared = time.monotonic()
        return good

    def _mends(self, picture: av.VideoFrame) -> bool:
        """A key frame, unless it was in the decoder already when a packet behind it was refused."""
        return picture.key_frame and (self._waited is None or picture.pts != self._waited)

    def _whole(self, pictures: Sequence[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        """Those not predicted from damaged ones, which the decoder does not call damaged: half a face is smeared there,
        no detector finds it, and the other half could be recognised.
        """
        for picture in pictures:
            if self._mends(picture):
                self._smeared = -math.inf
            if time.monotonic() - self._smeared < SMEARED:
                self.corrupt += 1
            else:
                yield self._cropper.cut(picture)

    def _lost(self, error: Exception) -> Lost:
        if isinstance(error, (av.HTTPUnauthorizedError, av.HTTPForbiddenError)):
            return Lost(LOGIN_REFUSED, permanent=True, remedied=True)
        if isinstance(error, av.HTTPNotFoundError):
            return Lost("there is no such path on the server (404)")
        if isinstance(error, av.ExitError):
            return Lost(f"no picture for {self._timeout:g} s")
        if isinstance(error, av.EOFError):
            return Lost("the stream ended")
        if self._address.kind == "device" and (lost := _lost_device(error)):
            return lost
        if said := unreachable(self._address, error):
            return Lost(said)
        reason = str(getattr(error, "strerror", None) or error).split(";")[0]
        return Lost(self._address.clean(reason), permanent=self._address.kind == "file")


def _has_end(container: InputContainer) -> bool:
    """True if it knows its own length: a server gives one of files, FFmpeg one of playlists that are complete."""
    return container.duration is not None or (container.format.name != "hls" and container.size > 0)


def _adts_header(packet: Packet[Any]) -> bytes:
    """The AudioSpecificConfig that stands in a packet's own header, or nothing if it has none."""
    try:
        (bare,) = BitStreamFilterContext(_UNWRAP, "aac").filter(Packet(bytes(packet)))
    except (av.FFmpegError, ValueError):
        return b""
    return bytes(bare.get_sidedata("new_extradata"))


def _unblock(device: str) -> None:
    """Let reads of an open device come back when it has no picture: FFmpeg's wait for ever, whatever the timeout."""
    place = Path(device).resolve()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # one that was closed meanwhile
            if link.resolve() == place:
                os.set_blocking(int(link.name), False)


def _lost_device(error: Exception) -> Lost | None:
    """What a video device's own errors mean."""
    number = getattr(error, "errno", None)
    if number in (errno.EACCES, errno.EPERM):
        why = "no permission to read it: add your user to its group (video on most systems)"
        return Lost(why, permanent=True, remedied=True)
    if number == errno.ENOTTY:
        return Lost("it is no video device", permanent=True)
    if number == errno.EBUSY:
        return Lost("another program uses it")
    if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return Lost("the device is not there: unplugged?")
    return None
