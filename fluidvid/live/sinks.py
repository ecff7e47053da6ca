"""What a muxing worker writes to: a publishing URL, an HLS folder, one file, a file in parts, or a preview.

Files are written under a temporary name and get their own when they are complete.
"""

from __future__ import annotations

import errno
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from os import fstat
from os.path import samestat
from pathlib import Path
from typing import IO, Any, Protocol

import av
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Stream

from fluidvid.errors import OutputError
from fluidvid.live.addresses import Address, part_name, parts
from fluidvid.live.encoding import VIDEO, Coded
from fluidvid.video.containers import TARGETS, add_copy, codec_tag, codecs_held, target_for
from fluidvid.video.opening import local

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be renamed
    fcntl = None  # type: ignore[assignment]

UNFINISHED = ".part"
ASIDE = ".old"
_WRITE = 2
"""FFmpeg's AVIO_FLAG_WRITE."""
_INTERLEAVE = "500000"
"""Microseconds that a picture may wait for sound: sound that ended must not hold up the picture."""
_KEEP = 6
"""Parts in an HLS playlist; older ones are deleted."""
_MAKER = "fluidvid"
"""Who provides the service, by each part of a playlist: it begins with that."""
_PACKET = 188
_TEMPORARY = ".tmp"
"""What FFmpeg adds to the name of a playlist's part until it is complete."""


class Sink(Protocol):
    """Takes packets that begin with a key frame."""

    @property
    def notes(self) -> Sequence[str]:
        """What differs from what was asked for."""
        ...

    def write(self, packet: Coded) -> None:
        """Write one packet; may block for ever when a server is frozen."""
        ...

    def close(self) -> None:
        """Write the trailer and put files in their place."""
        ...


def open_sink(address: Address, description: bytes, *, transport: str, segment: float) -> Sink:
    """Open a target; a frozen server blocks here.

    Raises:
        av.FFmpegError: refused, unauthorised, full and so on.
        OSError: a file cannot be written, or a port is taken.
    """
    if address.kind == "preview":
        from fluidvid.live.preview import PreviewSink  # OpenCV: no other worker needs it

        return PreviewSink(address.port, description)
    if address.kind == "segments":
        return PartSink(address, description, segment)
    if address.kind == "file":
        return FileSink(Path(address.url), description)
    options = {"max_interleave_delta": _INTERLEAVE, "flush_packets": "1"}
    if address.kind == "hls":
        Path(address.url).parent.mkdir(exist_ok=True)
        options |= {
            "hls_time": f"{segment:g}",
            "hls_list_size": str(_KEEP),
            # A worker that replaces another goes on where that one was: players refuse numbers that go back.
            "hls_flags": "delete_segments+temp_file+independent_segments+append_list+discont_start",
        }
        return PlaylistSink(local(Path(address.url)), description, options)
    if address.kind == "rtsp":
        return ContainerSink(address.url, "rtsp", description, options | {"rtsp_transport": transport})
    if address.kind == "rtmp":
        return ContainerSink(address.url, "flv", description, options | {"flvflags": "no_duration_filesize"})
    return ContainerSink(address.url, "mpegts", description, options)


class ContainerSink:
    """One output container.

    Args:
        where: URL or path.
        muxer: FFmpeg's name of the format.
        description: `LiveEncoder.description`.
        options: for muxer and protocol.
        tags: of the whole.
        io_open: opens files in FFmpeg's place, as in `av.open`.
    """

    def __init__(
        self,
        where: str,
        muxer: str,
        description: bytes,
        options: dict[str, str],
        tags: Mapping[str, str] | None = None,
        io_open: Callable[..., Any] | None = None,
    ) -> None:
        self._notes: list[str] = []
        with av.open(
            io.BytesIO(description), format="nut", options={"analyzeduration": "0", "probesize": "32"}
        ) as told:
            assert isinstance(told, InputContainer)
            self._out: OutputContainer = av.open(where, "w", format=muxer, options=options, io_open=io_open)
            self._out.metadata.update(tags or {})
            try:
                self._streams = [self._added(stream, muxer) for stream in told.streams]
                self._out.start_encoding()  # writes the header, so that refusals show here
            except BaseException:
                self._out.close()
                raise

    @property
    def notes(self) -> Sequence[str]:
        return self._notes

    def _added(self, stream: Stream, muxer: str) -> Stream | None:
        name = stream.codec_context.codec.canonical_name
        real = "mpegts" if muxer == "hls" else muxer
        holds = _holds(real)
        if stream.index != VIDEO and holds and name not in holds:
            self._notes.append(f"{muxer} cannot hold the sound ({name}): published without sound")
            return None
        try:
            sound = stream.index != VIDEO and holds
            made = add_copy(self._out, stream, real) if sound else self._out.add_stream_from_template(stream)
            if tag := codec_tag(muxer, name):
                made.codec_context.codec_tag = tag
            return made
        except (av.FFmpegError, ValueError) as error:
            if stream.index == VIDEO:
                raise
            self._notes.append(f"the sound ({name}) cannot be copied ({error}): published without sound")
            return None

    def write(self, packet: Coded) -> None:
        stream = self._streams[packet.stream] if packet.stream < len(self._streams) else None
        if stream is None:
            return
        out = Packet(packet.data)
        out.pts, out.dts, out.duration, out.time_base = packet.pts, packet.dts, packet.duration, packet.time_base
        out.is_keyframe = packet.key
        out.stream = stream
        self._out.mux_one(out)

    def close(self) -> None:
        self._out.close()


class PlaylistSink(ContainerSink):
    """An HLS playlist and its parts, whose files are opened here.

    FFmpeg's muxer opens them itself and tells nobody when one cannot be written: on a full disk playlist and parts
    would be empty, and the report as if nothing had happened.
    """

    def __init__(self, where: str, description: bytes, options: dict[str, str]) -> None:
        self._failed: list[OSError] = []
        super().__init__(where, "hls", description, options, {"service_provider": _MAKER}, self._opened)

    def _opened(self, name: str, flags: int, _: dict[str, str]) -> io.RawIOBase | io.BytesIO:
        path = Path(name)
        if flags & _WRITE:
            return _Written(path, self._failed)
        return io.BytesIO(path.read_bytes() if path.exists() else b"")  # the playlist of the worker before

    def write(self, packet: Coded) -> None:
        super().write(packet)
        self._check()

    def close(self) -> None:
        super().close()
        self._check()

    def _check(self) -> None:
        if self._failed:
            raise self._failed[0]


class _Written(io.FileIO):
    """A file that is written whole, and notes the error if it cannot be.

    A playlist that fails is deleted before FFmpeg gives it its name: the one before stays. A part can be played up to
    where it failed, and is deleted if it is empty.
    """

    def __init__(self, path: Path, failed: list[OSError]) -> None:
        super().__init__(path, "wb")
        self._where, self._failed = path, failed

    def write(self, data: Any) -> int:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self._failed.append(error)
            if not self.tell() or ".m3u8" in self._where.suffixes:
                self._where.unlink(missing_ok=True)
        return len(data)


def _holds(muxer: str) -> frozenset[str]:
    """Codecs that a muxer really takes; empty: it says when asked (RTSP lists nothing it can)."""
    return next((codecs_held(target) for target in TARGETS if target.muxer == muxer), frozenset())


def being_written(path: Path) -> bool:
    """True if a worker, maybe of another run, has this unfinished file open."""
    try:
        with path.open("rb") as file:
            return not _locked(file)
    except OSError:
        return False


def _locked(file: IO[bytes]) -> bool:
    """Mark an open file as being written, until it is closed; False: somebody else has."""
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True  # a file system without locks
    return True


class FileSink:
    """A file that can be read up to where it was written, and gets its name when it is complete.

    Where it fails before anything was written to it, on a full disk for instance, it does not stay.

    Raises:
        OSError: another run writes it, or it cannot be written.
    """

    def __init__(self, path: Path, description: bytes) -> None:
        self._path, self._temporary = path, path.with_name(path.name + UNFINISHED)
        self._mark = self._claimed()
        if fstat(self._mark.fileno()).st_size:  # what a worker wrote that was killed: it can be played
            _leave(self._mark, self._temporary, _unused(path))
            self._mark = self._claimed()
        muxer = target_for(path).muxer
        options = {"max_interleave_delta": _INTERLEAVE, "flush_packets": "1"}
        if muxer in ("mp4", "mov"):
            options["movflags"] = "frag_keyframe+empty_moov+default_base_moof"
        self._begun = False
        with self._nothing_empty_left():
            self._sink = ContainerSink(local(self._temporary), muxer, description, options)

    def _claimed(self) -> IO[bytes]:
        """The unfinished file, open and marked before anything of it is changed: two runs may begin at once."""
        mark = self._temporary.open("ab")
        if not _locked(mark):
            mark.close()
            raise OSError(errno.EBUSY, f"another run is writing {self._temporary.name}: stop it, or choose another OUT")
        return mark

    @contextmanager
    def _nothing_empty_left(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            if not self._begun:
                self._mark.close()
                if self._temporary.is_file():  # no device
                    self._temporary.unlink()
            raise

    @property
    def notes(self) -> Sequence[str]:
        return self._sink.notes

    def write(self, packet: Coded) -> None:
        if packet.stream == VIDEO and packet.key:
            self._check()
        with self._nothing_empty_left():
            self._sink.write(packet)
        self._begun = True

    def _check(self) -> None:
        """Raise FileNotFoundError if the file is no longer where it was: nobody would find what is written to it."""
        with suppress(FileNotFoundError):
            if samestat(self._temporary.stat(), fstat(self._mark.fileno())):
                return
        raise FileNotFoundError(errno.ENOENT, f"{self._temporary.name} was deleted or moved while it was written")

    def close(self) -> None:
        with self._nothing_empty_left():
            self._sink.close()
        _leave(self._mark, self._temporary, self._path)


def _leave(mark: IO[bytes], path: Path, name: Path) -> None:
    """Give a marked file another name, and take the mark away: afterwards, or on Windows before."""
    with mark:
        if fcntl is None:
            mark.close()
        path.replace(name)


def _unused(path: Path) -> Path:
    """A name beside `path` that nothing has yet: `name.1.mp4` and so on."""
    number = 1
    while (other := path.with_stem(f"{path.stem}.{number}")).exists():
        number += 1
    return other


def set_aside(pattern: Path) -> int:
    """Move what stands under the name of parts, or of a playlist's, out of the way of a run that begins; how many.

    They must not stay: nobody could tell them from the run's own, and they may be raw. They are not deleted: a name may
    stand for a long archive, which a supervisor who starts the same command again should not cost.

    Raises:
        OutputError: one cannot be moved, or another run is writing here.
    """
    unfinished = parts(pattern, UNFINISHED)
    for part in filter(being_written, filter(Path.is_file, unfinished)):
        raise OutputError(f"another run is writing {part}: stop it, or choose another OUT")
    old = [*parts(pattern), *unfinished]
    for part in old:
        aside = part.with_name(part.name + ASIDE)
        try:
            part.replace(_unused(aside) if aside.exists() else aside)
        except OSError as error:
            raise OutputError(f"cannot move {part} aside ({error.strerror}): move it, or choose another OUT") from error
    return len(old)


def delete_published(pattern: Path) -> int:
    """Delete the parts of a playlist that an earlier run wrote, as it would have done itself; how many.

    Moved aside they would be a few more at each start, without end. Only what says that it is a run's is deleted.
    """
    deleted = 0
    for part in filter(Path.is_file, (*parts(pattern), *parts(pattern, _TEMPORARY))):
        with suppress(OSError):  # it is moved aside
            with part.open("rb") as file:
                published = _MAKER.encode() in file.read(_PACKET)
            if published:
                part.unlink()
                deleted += 1
    return deleted


class PartSink:
    """A file in parts of about `segment` seconds; each begins with a key frame and is complete by itself."""

    def __init__(self, address: Address, description: bytes, segment: float) -> None:
        self._pattern, self._description, self._segment = Path(address.url), description, segment
        self._number = self._first_free()
        self._began: float | None = None
        self._part = self._opened()

    @property
    def notes(self) -> Sequence[str]:
        return self._part.notes

    def _first_free(self) -> int:
        """Behind what an earlier worker of this run has written, also where older parts were taken away meanwhile."""
        complete, unfinished = parts(self._pattern), parts(self._pattern, UNFINISHED)
        return max([0, *(number + 1 for number in complete.values()), *unfinished.values()])

    def _name(self, number: int) -> Path:
        return self._pattern.with_name(part_name(self._pattern.name, number))

    def _opened(self) -> FileSink:
        return FileSink(self._name(self._number), self._description)

    def write(self, packet: Coded) -> None:
        time = float(packet.pts * packet.time_base)
        if self._began is None:
            self._began = time
        if packet.stream == VIDEO and packet.key and time - self._began >= self._segment:
            self._part.close()
            self._number += 1
            self._began = time
            self._part = self._opened()
        self._part.write(packet)

    def close(self) -> None:
        self._part.close()
