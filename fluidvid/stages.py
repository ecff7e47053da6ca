"""What the pipeline is made of: the protocols of its parts, and the record that holds them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fluidvid.editing import Crops, FaceEditor
from fluidvid.trackers.types import Detection, TrackedFace


class SourceFrame(Protocol):
    """One decoded frame; see `fluidvid.video`."""

    @property
    def index(self) -> int: ...
    @property
    def pts(self) -> int | None: ...
    @property
    def time(self) -> Fraction: ...
    def rgb(self) -> NDArray[np.uint8]: ...


class Writer(Protocol):
    """A sink of frames; leaving its context normally commits the result, an exception removes it."""

    def write(
        self,
        frame: Any,
        rgb: NDArray[np.uint8] | None = None,
        regions: Sequence[tuple[int, int, int, int]] = (),
    ) -> None: ...


class Detector(Protocol):
    """Finds faces in `(H, W, 3)` uint8 RGB."""

    def detect(self, image: NDArray[np.uint8]) -> list[Detection]: ...


class NearDetector(Protocol):
    """Finds faces near `(N, 4)` places of each of several pictures, and in whole ones with `(M, 4)` hints."""

    def whole(self, image: NDArray[np.uint8]) -> tuple[list[Detection], NDArray[np.float32]]: ...

    def detect(
        self, images: Sequence[NDArray[np.uint8]], places: Sequence[NDArray[np.float32]]
    ) -> list[list[Detection]]: ...


class OnlineTracker(Protocol):
    """Follows faces from frame to frame."""

    def update(
        self,
        frame_index: int,
        detections: Sequence[Detection],
        embeddings: NDArray[np.float32] | None = None,
        scene_cut: bool = False,
    ) -> list[TrackedFace]: ...


class CutDetector(Protocol):
    """Tells whether this picture begins a new shot."""

    def update(self, image: NDArray[np.uint8]) -> bool: ...


Embedder = Callable[[NDArray[np.uint8], Sequence[Detection]], NDArray[np.float32]]
"""`(H, W, 3)` picture and N detections -> `(N, D)` float32 unit embeddings. In memory only."""


Linker = Callable[[Mapping[int, NDArray[np.float32]], Mapping[int, NDArray[np.int64]]], Mapping[int, int]]
"""`{track: (K, D) embeddings}, {track: frames} -> {track: person}`."""


Identify = Callable[[Crops], NDArray[np.float32]]
"""`(K, S, S, 3)` key crops -> `(K, D)` float32 unit identities, zeros where too little is seen. In memory only."""


class Memory(Protocol):
    """People known from this run and earlier ones: what the report needs of it."""

    def account(self) -> Mapping[str, Any]:
        """Counts, and the cache entry of each person who has one."""
        ...

    def warnings(self) -> Sequence[str]:
        """One line for each trouble."""
        ...

    def close(self) -> None:
        """Let go of files."""
        ...


class Pose(Protocol):
    """What gating and key-frame choice need to know of a face."""

    @property
    def yaw(self) -> float: ...
    @property
    def quality(self) -> float: ...


@dataclass(frozen=True)
class Stages:
    """Everything a run is made of; each part can be replaced (tests make each of them fail in turn).

    Attributes:
        open_reader: a fresh reader per pass.
        open_writer: opens the target for the second pass.
        detector: finds faces.
        tracker: follows them.
        cuts: scene cuts, or None.
        complete: `(faces of one track, frames, cuts) -> faces by frame`, gaps filled and ends extended.
        smooth: `(T, 5, 2) landmarks, (5, 2) template in crop pixels -> (T, 2, 3)` transforms.
        pose: `(landmarks, picture or None, box) -> Pose`.
        editor: None in the classic modes.
        embedder: for appearance in tracking and for linking, or None.
        link: `{track: (K, D) embeddings}, {track: frames} -> {track: person}`, or None: every track its own person.
        detectors: names and providers of the detectors, for the report.
        near: looks for faces near known places, and at whole pictures in place of `detector`; None: every whole picture
            is looked at.
        uncertain: `detections -> (N,) bool`: whose embedding the tracker needs in the next frame; None: everybody's.
        workers: threads that look at pictures; with 1 everything happens in the caller's thread. With more, `detector`
            and `near` are called from several threads at once.
        identify: surer of a person than `embedder`, and slower: for linking only. None: `embedder` does it.
        memory: the editor's memory of people, or None.
        looked: called when no picture will be looked at any more; `detector` and `near` are not used afterwards.
        rate: of the source, pictures a second; None: not known.
    """

    open_reader: Callable[[], AbstractContextManager[Any]]
    open_writer: Callable[[Any], AbstractContextManager[Any]]
    detector: Detector
    tracker: OnlineTracker
    complete: Callable[[list[TrackedFace], int, Collection[int]], Mapping[int, list[TrackedFace]]]
    smooth: Callable[[NDArray[np.float32], NDArray[np.float64]], NDArray[np.float64]]
    pose: Callable[[NDArray[np.float32], NDArray[np.uint8] | None, NDArray[np.float32]], Pose]
    cuts: CutDetector | None = None
    editor: FaceEditor | None = None
    embedder: Embedder | None = None
    link: Linker | None = None
    detectors: tuple[str, ...] = ()
    near: NearDetector | None = None
    uncertain: Callable[[Sequence[Detection]], NDArray[np.bool_]] | None = None
    workers: int = 1
    identify: Identify | None = None
    memory: Memory | None = None
    looked: Callable[[], None] | None = None
    rate: Fraction | None = None
