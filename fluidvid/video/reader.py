"""Decodes a file frame by frame: exact times, damage counted and concealed, interlaced pictures made whole."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

from av.video.reformatter import VideoReformatter

from fluidvid.errors import ConfigError, InputError
from fluidvid.video.decoding import Decoded, PictureDecoder
from fluidvid.video.frame import Frame, copy_picture
from fluidvid.video.info import VideoInfo, read_info
from fluidvid.video.opening import NO_INDEX

LEAD = Fraction(60)
"""Seconds by which the video may begin later than the sound."""


class VideoReader:
    """A file's frames in presentation order; iterable once (a second pass is a second reader).

    Memory is bounded by the decoder's own pictures and one more.

    Attributes:
        info: what the file is.
        start: of the part that is read, seconds from `info.start`, or None.
        end: of the part that is read, excluded, or None.
        corrupt_frames: frames that were damaged or could not be decoded; complete after iteration.
        warnings: what the user should know of the source; complete after iteration.
    """

    info: VideoInfo

    def __init__(
        self,
        path: str | Path,
        *,
        start: Fraction | None = None,
        end: Fraction | None = None,
        max_bad_packets: int = 30,
    ) -> None:
        """Open and inspect the file.

        Args:
            path: a local file.
            start: skip frames before it; seconds from the file's beginning.
            end: stop before it; seconds from the file's beginning.
            max_bad_packets: so many undecodable packets in a row end the run.

        Raises:
            ConfigError: nothing lies between start and end.
            InputError: missing, empty, a folder, without video, not decodable, or cut behind its end.
        """
        self.start, self.end = start, end
        if (start is not None and start < 0) or (end is not None and end <= (start or 0)):
            until = "" if end is None else f" and end {float(end):g} s"
            raise ConfigError(
                f"nothing lies between start {float(start or 0):g} s{until}: give 0 <= start < end in seconds"
            )
        self.info = read_info(Path(path), max_bad_packets)
        told = self._announced()
        if start is not None and told is not None and start >= told + LEAD:
            raise InputError(
                f"start {float(start):g} s lies behind the end of {path} ({float(told):.3f} s): choose an earlier start"
            )
        self._max_bad = max_bad_packets
        self._decoder: PictureDecoder | None = None
        self._begun = False
        self.corrupt_frames = 0
        self.warnings = list(self.info.lost)
        if self.info.interlaced:
            self.warnings.append(
                "the source is interlaced: its frames were deinterlaced (bwdif), the output is progressive"
            )
        if not self.info.orientation.exact:
            self.warnings.append("the display matrix turns by no quarter turn: faces are looked for at the nearest one")

    def _announced(self) -> Fraction | None:
        """The length the file states; FFmpeg's guess by the last time, where the clock may jump, is not one."""
        return None if self.info.container in NO_INDEX else self.info.duration

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the file; iteration ends."""
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames; each is held back until its successor is known, which settles its duration.

        Raises:
            InputError: the source fails beyond repair in the middle.
            RuntimeError: iterated a second time.
        """
        if self._begun:
            raise RuntimeError("a VideoReader is iterable once: open another for a second pass")
        self._begun = True
        info = self.info
        first = None if self.start is None else self.start + info.start
        last = None if self.end is None else self.end + info.start
        self._decoder = decoder = PictureDecoder(info, self._max_bad, seek_to=first)
        reformatter = VideoReformatter()
        index, held, ended, cut = 0, None, info.start, False

        def frame(decoded: Decoded, following: int | None) -> Frame:
            gap = following - decoded.pts if following is not None else None
            return Frame(
                decoded.picture,
                info.orientation,
                reformatter,
                index=index,
                pts=decoded.pts,
                time_base=info.time_base,
                duration=decoded.picture.duration or gap,
                concealed=decoded.concealed,
            )

        try:
            for decoded in decoder.pictures():
                self.corrupt_frames = decoder.damaged
                time = decoded.pts * info.time_base
                if last is not None and time >= last:
                    cut = True
                    break
                if first is not None and time < first:
                    continue
                if held is not None:
                    yield frame(held, decoded.pts)
                    index += 1
                held, ended = decoded, time
            if held is not None:
                missing = [] if cut else decoder.missing_at_end(held.pts)
                wanted = (pts for pts in missing if last is None or pts * info.time_base < last)
                twins = [(pts, copy_picture(held.picture)) for pts in wanted]
                yield frame(held, twins[0][0] if twins else None)
                for pts, picture in twins:
                    index += 1
                    yield frame(Decoded(picture, pts, True), None)
        finally:
            self.corrupt_frames = decoder.damaged
            self.warnings += [w for w in decoder.warnings if w not in self.warnings]
            self.close()
        if held is None:
            raise InputError(f"no frame of {info.path} lies between start and end: widen --start/--end")
        self._check_length(ended)

    def _check_length(self, ended: Fraction) -> None:
        info = self.info
        if self.corrupt_frames:
            self.warnings.append(f"{self.corrupt_frames} damaged frames were concealed or are missing")
        announced = self._announced()
        if self.end is None and announced is not None and info.frames_estimate:
            due = announced - 2 * (1 / info.average_rate if info.average_rate else Fraction(1)) - 1
            if ended - info.start < due:
                self.warnings.append(
                    f"the source ends early: last frame at {float(ended - info.start):.2f} s, "
                    f"{float(announced):.2f} s were announced"
                )
