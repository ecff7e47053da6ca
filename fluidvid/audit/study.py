"""The source alone: its faces, followed and grouped by person, and what every network says about them.

A study serves for any number of results of the same source. It holds embeddings of real faces, in memory only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluidvid.assembly import completing
from fluidvid.audit.graders import Panel
from fluidvid.audit.look import SIZE, Look, concatenated, crops_of, look, spread
from fluidvid.config import TrackConfig
from fluidvid.geometry import FFHQ_112, similarity
from fluidvid.rate import USUAL_RATE
from fluidvid.trackers import SceneCutDetector, Tracker, link_tracks
from fluidvid.trackers.beginnings import Beginnings
from fluidvid.trackers.detectors.base import iou_matrix
from fluidvid.trackers.types import TrackedFace
from fluidvid.video import VideoReader

TRACKS = TrackConfig(look_ahead=3, max_gap=15)
"""How far tracks are completed, in frames of 25 a second: less than for masking, for these places are judged."""
SURE = 0.65
"""A track whose best detection scores less may be no face at all: it is listed, and no verdict rests on it."""
TOGETHER, APART = 3, 0.2
"""Two tracks seen together in so many frames, overlapping less than this, are certainly two people."""
Tick = Callable[[str, int, int | None], None]


@dataclass(eq=False)
class Study:
    """Faces of a source, in order of frames, and what was measured on them.

    Attributes:
        path: the source.
        end: part that was read, in seconds from the beginning, or None.
        faces: observed and held faces; `faces[i]` is row i of everything else.
        matrices: `(N, 2, 3)` from picture to crop pixels.
        look: see `Look`, of the source's crops.
        measured: `(N,)` True where the networks looked: faces of at least `min_face` pixels.
        people: track -> person.
        times: presentation time of every frame that was read, in seconds from the first one.
        size: (width, height) in pixels.
        min_face: shorter side of the box in pixels from which networks look.
        start: what lies before it was not read, in seconds from the beginning, or None.
    """

    path: Path
    end: Fraction | None
    min_face: float
    faces: list[TrackedFace]
    times: tuple[Fraction, ...]
    size: tuple[int, int]
    matrices: NDArray[np.float64]
    measured: NDArray[np.bool_]
    look: Look | None = None
    people: dict[int, int] = field(default_factory=dict)
    start: Fraction | None = None

    @property
    def length(self) -> Fraction | None:
        """Seconds of a result that are compared, or None for all of it."""
        return None if self.end is None else self.end - (self.start or 0)

    @property
    def frames(self) -> int:
        """Frames of the source."""
        return len(self.times)

    @cached_property
    def frame(self) -> NDArray[np.int64]:
        """`(N,)` frame of each face."""
        return np.array([f.frame for f in self.faces], np.int64)

    @cached_property
    def track(self) -> NDArray[np.int64]:
        """`(N,)` track of each face."""
        return np.array([f.track_id for f in self.faces], np.int64)

    @cached_property
    def person(self) -> NDArray[np.int64]:
        """`(N,)` person of each face."""
        return np.array([self.people[f.track_id] for f in self.faces], np.int64)

    @cached_property
    def observed(self) -> NDArray[np.bool_]:
        """`(N,)` True where a detection supports the face."""
        return np.array([f.observed for f in self.faces], bool)

    @cached_property
    def sure(self) -> NDArray[np.bool_]:
        """`(N,)` True for faces of tracks that are surely faces."""
        best: dict[int, float] = {}
        for face in self.faces:
            best[face.track_id] = max(best.get(face.track_id, 0.0), face.score)
        return np.array([best[f.track_id] >= SURE for f in self.faces], bool)

    def rows_of(self, frame: int) -> list[int]:
        """Rows of the faces in a frame."""
        low, high = np.searchsorted(self.frame, [frame, frame + 1])
        return list(range(int(low), int(high)))

    def apart(self) -> set[tuple[int, int]]:
        """Pairs of people (both orders) who are certainly different: seen together, in different places."""
        together: dict[tuple[int, int], int] = {}
        for frame in np.unique(self.frame):
            rows = [r for r in self.rows_of(int(frame)) if self.faces[r].observed]
            for a in rows:
                for b in rows:
                    one, two = self.people[self.faces[a].track_id], self.people[self.faces[b].track_id]
                    overlap = iou_matrix(self.faces[a].box[None], self.faces[b].box[None])[0, 0]
                    if one != two and overlap < APART:
                        together[one, two] = together.get((one, two), 0) + 1
        return {pair for pair, frames in together.items() if frames >= TOGETHER}


def study_source(
    path: Path,
    panel: Panel,
    detector: Any,
    *,
    start: Fraction | None = None,
    end: Fraction | None = None,
    min_face: float = 24.0,
    tick: Tick,
) -> Study:
    """Find, follow and group the faces of a source, then look at each with every network.

    Args:
        path: the source.
        panel: the networks.
        detector: finds faces in `(H, W, 3)` uint8 RGB.
        start: skip what lies before it, in seconds from the beginning.
        end: skip what lies behind it, in seconds from the beginning.
        min_face: smallest face, shorter side in pixels, that networks look at.
        tick: called with stage, done and total.

    Raises:
        InputError: the source cannot be read.
    """
    cutter = SceneCutDetector()
    online: list[TrackedFace] = []
    cuts: set[int] = set()
    times, size = [], (0, 0)
    with VideoReader(path, start=start, end=end) as reader:
        rate = reader.info.average_rate
        track = TRACKS.at_rate(rate)
        usual = float(rate or USUAL_RATE)
        tracker, beginnings = Tracker(rate=usual), Beginnings(reach=track.max_gap, rate=usual)
        for frame in reader:
            picture = frame.rgb()
            cut = cutter.update(picture)
            cuts |= {frame.index} if cut else set()
            detections = detector.detect(picture)
            tracked = tracker.update(frame.index, detections, scene_cut=cut)
            online += [*tracked, *beginnings.update(frame.index, detections, tracked, cut=cut)]
            times.append(frame.time)
            size = (picture.shape[1], picture.shape[0])
            tick("source", len(times), reader.info.frames_estimate)
    completed = completing(track, rate)(online, len(times), cuts)
    faces = [face for frame in sorted(completed) for face in completed[frame] if _inside(face, size)]
    matrices = np.stack([crop_matrix(f.landmarks) for f in faces]) if faces else np.zeros((0, 2, 3))
    large = np.array([_side(f) >= min_face for f in faces], bool)
    usable = np.abs(matrices).sum((1, 2)) > 0
    since_first = tuple(time - times[0] for time in times)
    study = Study(path, end, min_face, faces, since_first, size, matrices, large & usable, start=start)
    _look_at_all(study, panel, tick)
    _group(study)
    return study


def crop_matrix(landmarks: NDArray[np.float32]) -> NDArray[np.float64]:
    """`(2, 3)` from picture pixels, by `(5, 2)` landmarks, to crop pixels; zeros where they coincide."""
    try:
        return similarity(landmarks, FFHQ_112 * SIZE)
    except ValueError:
        return np.zeros((2, 3))


def _look_at_all(study: Study, panel: Panel, tick: Tick) -> None:
    looks, done = [], 0
    with VideoReader(study.path, start=study.start, end=study.end) as reader:
        for frame in reader:
            rows = [r for r in study.rows_of(frame.index) if study.measured[r]]
            if rows:
                looks.append(look(panel, crops_of(frame.rgb(), study.matrices[rows])))
                done += len(rows)
                tick("look", done, int(study.measured.sum()))
    if looks:
        study.look = spread(concatenated(looks), study.measured)


def _group(study: Study) -> None:
    study.people = {track: track for track in sorted({f.track_id for f in study.faces})}
    if study.look is None or "identity_student" not in study.look.embeddings:
        return
    chosen = study.measured & study.observed
    tracks, table = study.track, study.look.embeddings["identity_student"]
    known = {t: table[chosen & (tracks == t)] for t in study.people if (chosen & (tracks == t)).any()}
    study.people |= link_tracks(known, {t: study.frame[tracks == t] for t in study.people})


def _side(face: TrackedFace) -> float:
    return float((face.box[2:] - face.box[:2]).min())


def _inside(face: TrackedFace, size: tuple[int, int]) -> bool:
    """Whether the middle of the face lies in the picture."""
    middle = (face.box[:2] + face.box[2:]) / 2
    return bool((middle >= 0).all() and (middle < np.array(size)).all())
