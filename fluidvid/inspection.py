"""First pass, the looking: every frame is inspected for faces and cuts, by as few looks at whole pictures as is safe.

Frames come in order and leave in order, each with its detections. Reading, looking at whole pictures and filling the
frames between them overlap on `Stages.workers` threads; the result does not depend on their timing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fluidvid.errors import UNWRITTEN, detection_errors
from fluidvid.overlap import read_ahead
from fluidvid.rate import USUAL_RATE
from fluidvid.stages import CutDetector, SourceFrame, Stages
from fluidvid.trackers.sparse import Look, SparseDetector, paired
from fluidvid.trackers.types import Detection

T = TypeVar("T")

NOTHING = Look((), np.zeros((0, 4), np.float32))
BUDGET = 384 * 2**20
"""Bytes of pictures that may be under inspection at once; the frames between two whole looks become fewer for it."""
REMEMBERED = 30
"""Frames for which the place of a face that was lost is looked at in every frame."""


@dataclass(frozen=True, eq=False)
class Inspected:
    """One frame, its upright picture `(H, W, 3)` uint8 RGB, whether it begins a shot, and its faces."""

    frame: SourceFrame
    rgb: NDArray[np.uint8]
    cut: bool
    detections: list[Detection]


@dataclass(frozen=True, eq=False)
class _Seen:
    frame: SourceFrame
    rgb: NDArray[np.uint8]
    cut: bool

    @property
    def size(self) -> int:
        return self.rgb.nbytes * 3 // 2  # and the decoder's own picture


@dataclass(eq=False)
class _Stretch:
    """Frames up to one whose whole picture is looked at."""

    between: list[_Seen]
    last: _Seen
    looked: Future[Look]
    filled: Future[list[list[Detection]]] | None = None


@dataclass
class _Memory:
    """What the stretches that were sent off leave behind for the next."""

    last: Look = NOTHING
    lost: list[tuple[int, Detection]] = field(default_factory=list)


def inspect(frames: Iterable[SourceFrame], stages: Stages, *, every: int, sure_score: float) -> Iterator[Inspected]:
    """Inspect every frame.

    Args:
        frames: in order.
        stages: `detector`, `near`, `cuts` and `workers` matter here.
        every: look at the whole picture of every n-th frame at least; without `near`, of every frame.
        sure_score: score of a face that must not be missed.

    Raises:
        DetectionError: faces or cuts could not be looked for in a frame.
        Exception: what `frames` raises.
    """
    with ExitStack() as stack:
        seen: Iterable[_Seen] = _see(frames, stages.cuts)
        pool: ThreadPoolExecutor | None = None
        if stages.workers > 1:
            seen = stack.enter_context(read_ahead(seen, limit=BUDGET // 16, size=lambda item: item.size))
            pool = ThreadPoolExecutor(stages.workers, thread_name_prefix="look")
            stack.callback(pool.shutdown, cancel_futures=True)
        yield from _Inspection(stages, every, sure_score, pool).run(seen)


def _see(frames: Iterable[SourceFrame], cuts: CutDetector | None) -> Iterator[_Seen]:
    for frame in frames:
        rgb = frame.rgb()
        cut = _guarded(frame, lambda rgb=rgb: cuts.update(rgb)) if cuts is not None else False  # type: ignore[misc]
        yield _Seen(frame, rgb, cut)
        del frame, rgb


def _guarded(frame: SourceFrame, work: Callable[[], T]) -> T:
    with detection_errors(f"frame {frame.index}", UNWRITTEN):
        return work()


class _Inspection:
    def __init__(self, stages: Stages, every: int, sure_score: float, pool: ThreadPoolExecutor | None) -> None:
        self._detector = stages.detector
        self._sparse = None
        if stages.near is not None and every > 1:
            self._sparse = SparseDetector(stages.near, sure_score=sure_score)
        self._every = every if self._sparse is not None else 1
        self._sure, self._pool = sure_score, pool
        self._flight = 0 if pool is None else stages.workers + 1
        self._waiting: deque[_Stretch] = deque()
        self._memory = _Memory()

    def run(self, seen: Iterable[_Seen]) -> Iterator[Inspected]:
        open_: list[_Seen] = []
        looked: Fraction | None = None
        apart = Fraction(self._every, USUAL_RATE)  # people come and go by the clock, not by the frame rate
        for item in seen:
            room = max(1, BUDGET // ((self._flight + 1) * item.size))
            if item.cut and open_:  # the last picture of a shot and the first of the next
                self._close(open_)
                open_ = []
            open_.append(item)
            late = looked is not None and item.frame.time - looked >= apart
            if len(open_) >= min(self._every, room) or late or item.cut or looked is None:
                self._close(open_)
                open_, looked = [], item.frame.time
            del item
            yield from self._settle(self._flight)
        if open_:
            self._close(open_)
            open_ = []
        yield from self._settle(0)

    def _close(self, frames: list[_Seen]) -> None:
        last = frames[-1]
        looked = self._submit(_guarded, last.frame, lambda: self._whole(last.rgb))
        self._waiting.append(_Stretch(frames[:-1], last, looked))

    def _settle(self, flight: int) -> Iterator[Inspected]:
        """Hand out the oldest stretches until at most `flight` are under way."""
        for stretch in self._waiting:  # those whose turn has come may be filled meanwhile
            if stretch.filled is None and not stretch.looked.done():
                break
            self._fill(stretch)
        while len(self._waiting) > flight:
            stretch = self._waiting.popleft()
            self._fill(stretch)
            assert stretch.filled is not None
            results = [*stretch.filled.result(), list(stretch.looked.result().faces)]
            for item, detections in zip([*stretch.between, stretch.last], results, strict=True):
                yield Inspected(item.frame, item.rgb, item.cut, detections)
            del stretch

    def _fill(self, stretch: _Stretch) -> None:
        if stretch.filled is not None:
            return
        memory, after = self._memory, stretch.looked.result()
        index = stretch.last.frame.index
        earlier, also = memory.last, [face for frame, face in memory.lost if index - frame <= REMEMBERED]
        if stretch.last.cut:
            memory.lost = []
        else:
            before = earlier.faces
            pairs = paired(before, after.faces)
            gone = {i for i, face in enumerate(before) if face.score >= self._sure} - {i for i, _ in pairs}
            lost = [entry for entry in memory.lost if index - entry[0] <= REMEMBERED]
            back = {i for i, _ in paired([face for _, face in lost], after.faces)}
            memory.lost = [entry for i, entry in enumerate(lost) if i not in back]
            memory.lost += [(index, before[i]) for i in sorted(gone)]
        memory.last = after
        images = [item.rgb for item in stretch.between]
        first = stretch.between[0].frame if stretch.between else stretch.last.frame
        stretch.filled = self._submit(_guarded, first, lambda: self._between(images, earlier, after, also))

    def _whole(self, image: NDArray[np.uint8]) -> Look:
        if self._sparse is not None:
            return self._sparse.whole(image)
        return Look(self._detector.detect(image), np.zeros((0, 4), np.float32))

    def _between(
        self, images: Sequence[NDArray[np.uint8]], earlier: Look, later: Look, also: Sequence[Detection]
    ) -> list[list[Detection]]:
        if not images:
            return []
        assert self._sparse is not None
        return self._sparse.between(images, earlier, later, also)

    def _submit(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        if self._pool is not None:
            return self._pool.submit(work, *arguments)
        done: Future[T] = Future()
        done.set_result(work(*arguments))
        return done
