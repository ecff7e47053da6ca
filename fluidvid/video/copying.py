"""Copies sound and subtitles packet by packet, in step with the video; everything else is dropped and listed.

What a container does not hold changes its form where that keeps what it says: text, and sound that loses no sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Discard, Disposition, Stream

from fluidvid.video.containers import SAMPLES, Target, add_copy, add_samples, codecs_held, target_for
from fluidvid.video.headers import SPEAKING, without_speaker, without_words
from fluidvid.video.info import UNKNOWN, VideoInfo
from fluidvid.video.metadata import identifying
from fluidvid.video.opening import open_source
from fluidvid.video.seams import SteadyClock
from fluidvid.video.silence import Untimed, untimed
from fluidvid.video.subtitles import ASS_HEADER, TEXT_CODECS, packet_of, text_of

_WHY = {"picture": "cover art or thumbnail", "data": "may hold places and times", "attachment": "attached file"}
_BY_ITSELF = frozenset({"pcm_mulaw", "pcm_alaw", "adpcm_ms", "adpcm_ima_wav"})
"""Sound of 16 bits at most, of which every packet is decoded without another one: G.711 and ADPCM of cameras."""
_PRIMING = Fraction(1, 5)
"""Sound before an edit list's start that decoders need to start cleanly; what lies further ahead was cut away."""


@dataclass
class CopyReport:
    """What became of the streams beside the video, one line each."""

    dropped_streams: list[str] = field(default_factory=list)
    dropped_metadata: list[str] = field(default_factory=list)
    converted: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass
class _Copied:
    source: Stream  # not to be touched once its container is closed: PyAV would read freed memory
    out: Stream
    kind: str
    codec: str
    converts_to: str | None = None
    last_dts: int | None = None
    ends: int = 0
    untimed: Untimed | None = None


class StreamCopier:
    """A second reader of the source, for its other streams. Holds one packet."""

    def __init__(
        self, info: VideoInfo, target: Target, *, keep_metadata: bool, start: Fraction | None, end: Fraction | None
    ) -> None:
        """Open the source once more.

        Args:
            info: the source.
            target: what is written.
            keep_metadata: also keep cover art, data tracks, attachments, chapters and tags.
            start: of the part that is kept, on the source's clock; it becomes time zero.
            end: of the part that is kept, excluded.
        """
        self._info, self._target, self._keep = info, target, keep_metadata
        self._start, self._end = start, end
        self._container = open_source(info.path)
        self._clock = SteadyClock(info)
        self._copied: dict[int, _Copied] = {}
        self._packets: Iterator[Packet[Stream]] = iter(())
        self._held: Packet[Stream] | None = None
        self.report = CopyReport()

    def close(self) -> None:
        """Release the source."""
        self._container.close()
        for index, copied in self._copied.items():
            if copied.untimed is not None and copied.untimed.lost:
                self.report.warnings.append(
                    f"{self._target.muxer} stores no gaps of sound: audio stream {index} is up to "
                    f"{float(copied.untimed.lost):.3f} s early; write .mkv to keep it in step"
                )

    def add_streams(self, out: OutputContainer, kind: str) -> None:
        """Add the streams to the output: `kind` is "before" for those before the video stream, else "after"."""
        for stream in self._container.streams:
            if stream.index != self._info.stream and (stream.index < self._info.stream) == (kind == "before"):
                self._add(out, stream)

    def add_tags(self, out: OutputContainer, video: Stream) -> None:
        """Carry over tags and chapters, or list them."""
        source_video = self._container.streams[self._info.stream]
        if source_video.language:
            video.metadata["language"] = source_video.language
        video.disposition = source_video.disposition & ~Disposition.attached_pic
        report, chapters = self.report, self._container.chapters()
        if self._keep:
            out.metadata.update({k: v for k, v in self._container.metadata.items() if identifying({k: v})})
            video.metadata.update({k: v for k, v in source_video.metadata.items() if identifying({k: v})})
            if chapters and self._start is None and self._end is None:
                out.set_chapters(chapters)
            elif chapters:
                report.dropped_metadata.append(f"{len(chapters)} chapters (the part was cut)")
            return
        report.dropped_metadata += identifying(self._container.metadata)
        report.dropped_metadata += [
            f"{name} of {stream.type} stream {stream.index}"
            for stream in self._container.streams
            if stream.index == self._info.stream or stream.index in self._copied
            for name in identifying(stream.metadata)
        ]
        if chapters:
            report.dropped_metadata.append(f"{len(chapters)} chapters")

    def begin(self) -> None:
        """Start reading; call after the streams were added."""
        read = set(self._copied) | ({self._info.stream} if self._clock.may_jump else set())
        for stream in self._container.streams:
            if stream.index not in read:
                stream.discard = Discard.all
        whole = self._clock.may_jump or any(c.kind == "subtitle" for c in self._copied.values())
        if self._start is not None and self._start > self._info.start and self._copied and not whole:
            try:
                self._container.seek(int(max(Fraction(0), self._start - 1) * av.time_base), backward=True)
            except (av.FFmpegError, OSError):
                self._container.close()
                raise
        if self._copied:
            self._packets = self._demux([self._container.streams[index] for index in sorted(read)])

    @property
    def has_sound(self) -> bool:
        """True if any audio stream is kept."""
        return any(c.kind == "audio" for c in self._copied.values())

    @property
    def has_picture(self) -> bool:
        """True if cover art is kept."""
        return any(c.kind == "picture" for c in self._copied.values())

    @property
    def time_bases(self) -> list[Fraction]:
        """Clocks of the copied audio streams."""
        return [c.source.time_base for c in self._copied.values() if c.kind == "audio" and c.source.time_base]

    def advance(self, out: OutputContainer, until: Fraction | None) -> None:
        """Write every packet up to `until` seconds on the source's clock; None = all that is left."""
        while True:
            packet = self._held or next(self._packets, None)
            self._held = None
            if packet is None:
                return
            time = packet.dts if packet.dts is not None else packet.pts
            if until is not None and time is not None and time * packet.time_base > until:
                self._held = packet
                return
            self._write(out, packet)

    def _demux(self, streams: list[Stream]) -> Iterator[Packet[Stream]]:
        failures = 0
        while True:
            try:
                for packet in self._clock.steady(self._container.demux(streams)):
                    # `dts is None` is no sign of the end: some first packets have none
                    if packet.size and packet.stream_index in self._copied:
                        yield packet
                return
            except av.EOFError:
                return
            except (av.FFmpegError, OSError) as error:
                failures += 1
                if failures > 3:
                    self.report.warnings.append(f"sound and subtitles could not be read to their end ({error})")
                    return

    def _write(self, out: OutputContainer, packet: Packet[Stream]) -> None:
        copied = self._copied[packet.stream_index]
        base = packet.time_base
        if packet.pts is None and packet.dts is None:
            packet.pts = copied.ends
        pts = packet.pts if packet.pts is not None else packet.dts
        assert pts is not None
        duration = packet.duration or 0
        copied.ends = pts + duration
        if copied.kind == "subtitle":
            pts, duration = self._clipped(pts, duration, base)
            if duration < 0 or (copied.codec == "mov_text" and not text_of("mov_text", bytes(packet))):
                return  # the gaps between mov_text cues are written by the muxer
            if copied.converts_to is not None:
                words = text_of(copied.codec, bytes(packet))
                if not words:
                    return
                packet = Packet(packet_of(copied.converts_to, words))
                packet.time_base = base
            elif copied.codec in SPEAKING and not self._keep:
                packet = self._unnamed(packet, copied)
                packet.time_base = base
            packet.pts = packet.dts = pts
            packet.duration = duration
        elif not self._within(copied, packet, pts * base):
            return
        elif copied.converts_to is not None:
            packet = self._samples(packet, copied)
            if not packet.size:
                return
            packet.pts = packet.dts = pts
            packet.duration = duration
            packet.time_base = base
        self._place(out, copied, packet, base)

    def _samples(self, packet: Packet[Stream], copied: _Copied) -> Packet[Stream]:
        """The samples of a packet of sound: as many as it would be heard as."""
        sound, samples = copied.source, []
        assert isinstance(sound, AudioStream)
        try:
            for frame in sound.decode(cast("Packet[AudioStream]", packet)):
                samples += [made.to_ndarray().tobytes() for made in AudioResampler("s16").resample(frame)]
        except av.FFmpegError as error:
            note = f"parts of audio stream {sound.index} cannot be decoded and are missing ({error.strerror})"
            if note not in self.report.warnings:
                self.report.warnings.append(note)
        return Packet(b"".join(samples))

    def _unnamed(self, packet: Packet[Stream], copied: _Copied) -> Packet[Stream]:
        data = bytes(packet)
        nameless = without_speaker(copied.codec, data)
        named = packet.has_sidedata("webvtt_identifier")
        for taken, words in ((nameless != data, "names of speakers"), (named, "names of cues")):
            note = f"{words} in subtitle stream {copied.source.index}"
            if taken and note not in self.report.dropped_metadata:
                self.report.dropped_metadata.append(note)
        made: Packet[Stream] = Packet(nameless)
        if packet.has_sidedata("webvtt_settings"):  # where it is shown
            made.set_sidedata(packet.get_sidedata("webvtt_settings"))
        return made

    def _within(self, copied: _Copied, packet: Packet[Stream], time: Fraction) -> bool:
        if self._start is not None and time < self._start:
            return False
        if self._end is not None and time >= self._end:
            return False
        # Matroska stores how much comes before time zero if it was told, as by itself or in the header of Opus.
        told = copied.codec == "opus" or "matroska" in self._info.container
        primed = self._target.priming or (told and self._target.negative)
        if time < 0 and (not primed or time < -_PRIMING):
            return False
        return not (packet.is_discard and time >= 0)

    def _clipped(self, pts: int, duration: int, base: Fraction) -> tuple[int, int]:
        """A cue that reaches over the cut is shortened; duration -1 = it lies outside."""
        first, last = pts, pts + duration
        if self._start is not None:
            if last * base <= self._start:
                return pts, -1
            first = max(first, -(-self._start // base))
        if self._end is not None:
            if first * base >= self._end:
                return pts, -1
            last = min(last, int(self._end // base)) if duration else last
        return first, max(0, last - first)

    def _place(self, out: OutputContainer, copied: _Copied, packet: Packet[Stream], base: Fraction) -> None:
        shift = round(self._start / base) if self._start is not None else 0
        if packet.pts is not None:
            packet.pts -= shift
        packet.dts = packet.dts - shift if packet.dts is not None else packet.pts
        assert packet.dts is not None
        if copied.last_dts is not None and packet.dts <= copied.last_dts and copied.kind == "audio":
            note = f"times of audio stream {copied.source.index} do not increase: moved by the least step"
            if note not in self.report.warnings:
                self.report.warnings.append(note)
        if copied.untimed is not None:
            length = (packet.duration or 0) * base
            for time, silence in copied.untimed.before(packet.dts * base, packet.size, length):
                made: Packet[Stream] = Packet(silence)
                made.time_base = base
                made.pts = made.dts = int(time / base)
                self._put(out, copied, made, base)  # what is stored may have lagged behind: it moves by the least step
        self._put(out, copied, packet, base)

    def _put(self, out: OutputContainer, copied: _Copied, packet: Packet[Stream], base: Fraction) -> None:
        """Write a packet with a decoding time; sound whose times do not increase is moved by the least step."""
        assert packet.dts is not None
        if copied.last_dts is not None and packet.dts <= copied.last_dts and copied.kind == "audio":
            tick = copied.out.time_base or base
            packet.dts = copied.last_dts + max(1, -int(-tick // base))  # the output's clock may be the coarser one
            packet.pts = max(packet.dts, packet.pts if packet.pts is not None else packet.dts)
        copied.last_dts = packet.dts
        packet.stream = copied.out
        out.mux_one(packet)

    def _add(self, out: OutputContainer, stream: Stream) -> None:
        described = next(s for s in self._info.streams if s.index == stream.index)
        kind, codec = described.kind, described.codec
        name = f"{kind} stream {stream.index} ({codec}{', ' + stream.language if stream.language else ''})"
        drop = self.report.dropped_streams.append
        if kind == "video":
            drop(f"{name}: only one video stream is pseudonymised, a second one would leave with its faces")
            return
        if kind in ("picture", "data", "attachment") and not self._keep:
            drop(f"{name}: {_WHY[kind]}")
            return
        if kind not in ("audio", "subtitle", "picture", "data", "attachment"):
            drop(f"{name}: unknown kind of stream")
            return
        if codec == UNKNOWN and kind in ("audio", "subtitle"):
            drop(f"{name}: no decoder here knows its codec; convert it first, or add it afterwards, as with `ffmpeg`")
            return
        try:
            copied = self._template(out, stream, kind, codec)
        except (av.FFmpegError, ValueError, OSError) as error:
            copied, reason = None, str(error)
        else:
            reason = f"{self._target.muxer} cannot hold {codec}"
        if copied is None:
            better = self._better(kind, codec)
            drop(f"{name}: {reason}" + (f"; choose a file name ending in {better} to keep it" if better else ""))
            return
        if stream.language:
            copied.out.metadata["language"] = stream.language
        if self._keep:
            copied.out.metadata.update({k: v for k, v in stream.metadata.items() if identifying({k: v})})
        copied.out.disposition = stream.disposition
        if isinstance(stream, AudioStream):
            step = 1 / (self._info.average_rate or Fraction(25))
            stored = copied.converts_to or codec
            copied.untimed = untimed(self._target.muxer, stored, stream.rate, stream.channels, step)
        self._copied[stream.index] = copied

    def _better(self, kind: str, codec: str) -> str | None:
        """The ending of another container that holds such a stream."""
        if kind in ("data", "attachment"):
            others = [".ts" if kind == "data" else ".mkv"]
        else:
            others = [end for end in (".mkv", ".mov", ".avi") if codec in codecs_held(target_for(Path(end[1:] + end)))]
        return next((end for end in others if end not in self._target.suffixes), None)

    def _template(self, out: OutputContainer, stream: Stream, kind: str, codec: str) -> _Copied | None:
        target = self._target
        if kind in ("data", "attachment"):
            possible = target.muxer == ("mpegts" if kind == "data" else "matroska")
        elif kind == "picture" and target.muxer == "mov":
            possible = False  # FFmpeg takes the picture and does not write it
        else:
            possible = codec in codecs_held(target)
        if possible:
            made: Stream = add_copy(out, stream, target.muxer)
            if not self._keep and made.codec_context is not None:
                header, taken = without_words(codec, bytes(made.codec_context.extradata or b""))
                if taken:
                    made.codec_context.extradata = header
                    self.report.dropped_metadata.append(f"{taken} in the header of {kind} stream {stream.index}")
            return _Copied(stream, made, kind, codec)
        if isinstance(stream, AudioStream) and codec in _BY_ITSELF and SAMPLES in codecs_held(target):
            samples = add_samples(out, stream, target.muxer)
            self.report.converted.append(f"audio stream {stream.index}: {codec} to {SAMPLES}, nothing is lost")
            return _Copied(stream, samples, kind, codec, SAMPLES)
        wanted = target.subtitles
        if kind != "subtitle" or codec not in TEXT_CODECS or wanted is None:
            return None
        made = out.add_stream(wanted)
        made.codec_context.subtitle_header = ASS_HEADER  # type: ignore[union-attr]
        made.time_base = Fraction(1, 1000)
        self.report.converted.append(f"subtitle stream {stream.index}: {codec} to {wanted}, styling is lost")
        return _Copied(stream, made, kind, codec, wanted)
