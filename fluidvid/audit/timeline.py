"""Which frame of a result belongs to which frame of its source: by presentation time, never by a frame rate."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fluidvid.video import VideoReader

Picture = NDArray[np.uint8]
SAME_TIME = Fraction(2, 1000)
"""Containers round to a millisecond: times that differ by less are the same."""
CUT = 0.2
"""A result that is shorter by more seconds may lack the beginning or the end: nobody can say which part it is."""


@dataclass(frozen=True)
class Timeline:
    """Pairs of frames, and what does not fit.

    Attributes:
        pairs: index in the source -> index in the result, rising in both.
        source_frames: frames of the source.
        result_frames: frames of the result.
        by: `time`, or `order` where both have as many frames and their clocks differ.
        largest_shift: largest difference of presentation times of a pair in seconds, both counted from the first frame.
        only_result: indices of result frames without a counterpart: nobody can say what they show.
        missing_at_end: seconds of the source behind the last pair.
    """

    pairs: dict[int, int]
    source_frames: int
    result_frames: int
    by: str
    largest_shift: float
    only_result: tuple[int, ...]
    missing_at_end: float = 0.0

    @property
    def cut(self) -> bool:
        """True if the result is so much shorter that it may begin later than the source as well as end earlier."""
        return self.missing_at_end > CUT

    @property
    def same(self) -> bool:
        """True if both have the same frames at the same times."""
        return self.source_frames == self.result_frames == len(self.pairs) and self.largest_shift <= float(SAME_TIME)

    def words(self) -> str:
        """One sentence for people."""
        if self.same:
            return f"all {self.source_frames} frames correspond in number and presentation time"
        text = f"{self.source_frames} frames in the source, {self.result_frames} in the result, {len(self.pairs)} pairs"
        text += f" matched by {self.by}; times differ by up to {1000 * self.largest_shift:.0f} ms"
        if self.only_result:
            text += f"; {len(self.only_result)} result frames have no counterpart"
        if self.cut:
            text += f"; the result is {self.missing_at_end:.1f} s shorter and may be another part of the source: "
            text += "cut the source's beginning and end alike and compare again"
        return text


def stretch(source: Path, result: Path) -> float:
    """How much more one side of the result is scaled than the other to fit the source, both upright: 1 if none is.

    Shapes agree in pixels or as players show them: some tools drop a sample aspect ratio, others resolve it.

    Raises:
        InputError: a file cannot be read.
    """
    ratios = [a / b for a, b in zip(_shapes(source), _shapes(result), strict=True)]
    return min(max(ratio, 1 / ratio) for ratio in ratios)


def _shapes(path: Path) -> tuple[float, float]:
    """Width over height of the upright picture: in pixels, and as players show it."""
    with VideoReader(path) as reader:
        info = reader.info
    sar = float(info.sar or 1)
    return info.width / info.height, info.width / info.height * (1 / sar if info.orientation.swaps_sides else sar)


def read_times(path: Path, end: Fraction | None = None) -> tuple[Fraction, ...]:
    """Presentation times of all frames in seconds from the first one; decodes the file.

    Raises:
        InputError: the file cannot be read.
    """
    with VideoReader(path, end=end) as reader:
        times = [frame.time for frame in reader]
    return tuple(time - times[0] for time in times)


def align(source: Sequence[Fraction], result: Sequence[Fraction]) -> Timeline:
    """Pair frames of equal time; where the clocks differ but not the number of frames, pair them in order.

    A pair by time lies within half of the shorter distance to a source frame's neighbours.
    """
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for index, time in enumerate(source):
        steps = [b - a for a, b in pairwise(source[max(0, index - 1) : index + 2])]
        reach = min(steps) / 2 if steps else Fraction(1, 50)
        at = bisect_left(result, time)
        near = [i for i in (at - 1, at) if 0 <= i < len(result) and i not in taken]
        best = min(near, key=lambda i: abs(result[i] - time), default=None)
        if best is not None and abs(result[best] - time) < reach:
            pairs[index] = best
            taken.add(best)
    by = "time"
    if len(source) == len(result) and len(pairs) < len(source):
        pairs, by = {i: i for i in range(len(source))}, "order"
    shift = max((abs(source[i] - result[j]) for i, j in pairs.items()), default=Fraction(0))
    alone = tuple(sorted(set(range(len(result))) - set(pairs.values())))
    missing = float(source[-1] - source[max(pairs)]) if pairs else 0.0
    return Timeline(pairs, len(source), len(result), by, float(shift), alone, missing)


def walk(
    source: Path, result: Path, timeline: Timeline, *, start: Fraction | None = None, end: Fraction | None = None
) -> Iterator[tuple[int, Picture, Picture]]:
    """Yield (source index, source picture, result picture) of every pair; both `(H, W, 3)` uint8 RGB, upright.

    A result of another size is scaled to the source's. `start` and `end` are the source's.
    """
    with VideoReader(source, start=start, end=end) as a, VideoReader(result) as b:
        ahead = iter(b)
        at = -1
        for frame in a:
            wanted = timeline.pairs.get(frame.index)
            if wanted is None:
                continue
            while at < wanted:
                other = next(ahead)
                at = other.index
            ours, theirs = frame.rgb(), other.rgb()
            if ours.shape != theirs.shape:
                theirs = np.asarray(cv2.resize(theirs, ours.shape[1::-1], interpolation=cv2.INTER_AREA), np.uint8)
            yield frame.index, ours, theirs
