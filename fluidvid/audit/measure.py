"""Source and result side by side: every face of a study is looked for, looked at and compared in the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fluidvid.audit.graders import Panel
from fluidvid.audit.look import Crops, Floats, Look, concatenated, crops_of, embed, look, scattered, spread
from fluidvid.audit.pictures import encoding, face_change, luma, outside, untouched, warp_errors
from fluidvid.audit.study import Study, Tick, crop_matrix
from fluidvid.audit.timeline import Timeline, align, read_times, stretch, walk
from fluidvid.trackers.detectors.base import iou_matrix
from fluidvid.trackers.detectors.near import NearDetector
from fluidvid.trackers.types import Detection, TrackedFace

FOUND, FOUND_SCORE = 0.4, 0.5
"""A face is found again where a detection of this score overlaps its box by this much (IoU)."""
SMOOTHING, LARGEST_SMOOTHING = 1.1, 2.5
"""Standard deviation in picture pixels, and at most in crop pixels, of a blur that washes out noise made against a
recogniser. On a 50-pixel face it leaves dlib's cosine to the person at .8, and lifts one that noise of 6 / 255 has
brought from .96 to -.55 to .59 again."""
KEPT_PER_PERSON = 8
WHOLE_EVERY = 5
"""The source is searched whole in every frame; the result in windows around the source's faces, and, for faces that
only it shows, whole in every so manieth frame."""
WINDOW = 2
"""Faces before and after a kept one that are kept too, for attacks that average over time."""


@dataclass(frozen=True)
class ExtraFace:
    """A face in the result where the study has none: `same` means that its pixels are still the source's."""

    frame: int
    box: tuple[float, ...]
    score: float
    same: bool


@dataclass(eq=False)
class Measured:
    """A result against its study; row i belongs to `study.faces[i]`, NaN where nothing was measured.

    Attributes:
        timeline: which frames correspond.
        compared: `(N,)` the frame has a counterpart.
        found: `(N,)` a detector finds a face in its place in the result.
        score: `(N,)` that detection's score.
        points: `(N, 5, 2)` that detection's landmarks in pixels.
        look: of the result's crops, at the place and in the alignment of the source's face.
        own: recogniser -> `(N, D)` of crops aligned by the result's own landmarks.
        null: recogniser -> `(N, D)` of the crops with the face's middle painted over in its mean colour, where no face
            is found in the result; NaN elsewhere. What is still recognised in them is not the face.
        smooth: recogniser -> `(N, D)` of the blurred crops in the source's alignment.
        psnr: `(N,)` dB inside the face.
        detail: `(N,)` correlation of fine detail with the source's.
        warp_source: `(N,)` warp error from the track's previous frame, of the source.
        warp_result: `(N,)` the same of the result.
        outside: source frame -> PSNR in dB outside faces.
        encoding: the same of what only the encoder changed.
        extra: faces that only the result shows.
        kept: row -> source and result crop, `(S, S, 3)` uint8.
        stretch: see `fluidvid.audit.timeline.stretch`.
    """

    timeline: Timeline
    compared: NDArray[np.bool_]
    found: NDArray[np.bool_]
    score: Floats
    points: Floats
    psnr: Floats
    detail: Floats
    warp_source: Floats
    warp_result: Floats
    look: Look | None = None
    own: dict[str, Floats] = field(default_factory=dict)
    smooth: dict[str, Floats] = field(default_factory=dict)
    null: dict[str, Floats] = field(default_factory=dict)
    outside: dict[int, float] = field(default_factory=dict)
    encoding: dict[int, float] = field(default_factory=dict)
    extra: list[ExtraFace] = field(default_factory=list)
    kept: dict[int, tuple[Crops, Crops]] = field(default_factory=dict)
    stretch: float = 1.0


def chosen_rows(study: Study, count: int = KEPT_PER_PERSON) -> dict[int, list[int]]:
    """Person -> at most `count` rows of measured, observed faces, spread evenly over the person's time."""
    usable = study.measured & study.observed
    rows: dict[int, list[int]] = {}
    for person in sorted(set(study.people.values())):
        own = np.flatnonzero(usable & (study.person == person))
        if len(own):
            at = np.unique(np.linspace(0, len(own) - 1, min(count, len(own))).round().astype(int))
            rows[person] = own[at].tolist()
    return rows


def neighbours(study: Study, row: int, reach: int = WINDOW) -> list[int]:
    """Rows of the same track within `reach` frames, the row itself included."""
    near = np.abs(study.frame - study.frame[row]) <= reach
    return np.flatnonzero(near & (study.track == study.track[row]) & study.measured).tolist()


def measure_result(study: Study, result: Path, panel: Panel, near: NearDetector, *, tick: Tick) -> Measured:
    """Walk source and result together.

    Args:
        study: of the source.
        result: the other file.
        panel: the networks the study was made with.
        near: the study's detector, in windows around known faces.
        tick: called with stage, done and total.

    Raises:
        InputError: a file cannot be read.
    """
    n = len(study.faces)
    timeline = align(study.times, read_times(result, study.length))
    measured = Measured(
        timeline,
        compared=np.zeros(n, bool),
        found=np.zeros(n, bool),
        score=np.full(n, np.nan, np.float32),
        points=np.full((n, 5, 2), np.nan, np.float32),
        psnr=np.full(n, np.nan, np.float32),
        detail=np.full(n, np.nan, np.float32),
        warp_source=np.full(n, np.nan, np.float32),
        warp_result=np.full(n, np.nan, np.float32),
        stretch=stretch(study.path, result),
    )
    keep = {k for rows in chosen_rows(study).values() for row in rows for k in neighbours(study, row)}
    looks: list[Look] = []
    own: list[dict[str, Floats]] = []
    smooth: list[dict[str, Floats]] = []
    null: list[dict[str, Floats]] = []
    previous: tuple[int, tuple[Floats, Floats]] | None = None
    previous_rows: dict[int, int] = {}
    walked = walk(study.path, result, timeline, start=study.start, end=study.end)
    for done, (frame, ours, theirs) in enumerate(walked, 1):
        rows = study.rows_of(frame)
        pair = (luma(ours), luma(theirs))
        boxes = [study.faces[r].box for r in rows]
        measured.compared[rows] = True
        measured.outside[frame], measured.encoding[frame] = outside(*pair, boxes), encoding(*pair, boxes)
        again = [d for d in near.detect([theirs], [_stacked(boxes)])[0] if d.score >= FOUND_SCORE]
        matches = matched([study.faces[r] for r in rows], again)
        for row, match in zip(rows, matches, strict=True):
            face = study.faces[row]
            measured.psnr[row], measured.detail[row] = face_change(*pair, face.box)
            if match is not None:
                measured.found[row], measured.score[row] = True, again[match].score
                measured.points[row] = again[match].landmarks
            if previous is not None and previous[0] == frame - 1 and face.track_id in previous_rows:
                measured.warp_source[row], measured.warp_result[row] = warp_errors(previous[1], pair, face.box)
        if frame % WHOLE_EVERY == 0:
            all_of_it = [d for d in near.whole(theirs)[0] if d.score >= FOUND_SCORE]
            measured.extra += _extra(frame, pair, measured.encoding[frame], boxes, all_of_it)
        networks = [r for r in rows if study.measured[r]]
        if networks:
            crops = crops_of(theirs, study.matrices[networks])
            looks.append(look(panel, crops))
            smooth.append(embed(panel, smoothed(crops, study.matrices[networks])))
            faces = [again[m] if (m := matches[rows.index(r)]) is not None else None for r in networks]
            own.append(_own(panel, theirs, faces, looks[-1]))
            null.append(_null(panel, crops, np.array([f is None for f in faces]), looks[-1]))
            for row, crop in zip(networks, crops, strict=True):
                if row in keep:
                    measured.kept[row] = (crops_of(ours, study.matrices[[row]])[0], crop)
        previous, previous_rows = (frame, pair), {study.faces[r].track_id: r for r in rows}
        tick("result", done, len(timeline.pairs))
    if looks:
        where = study.measured & measured.compared
        measured.look = spread(concatenated(looks), where)
        for target, parts in ((measured.own, own), (measured.smooth, smooth), (measured.null, null)):
            target.update({k: scattered(np.concatenate([p[k] for p in parts]), where) for k in parts[0]})
    return measured


def _stacked(boxes: list[Floats]) -> Floats:
    return np.stack(boxes) if boxes else np.zeros((0, 4), np.float32)


def smoothed(crops: Crops, matrices: NDArray[np.float64]) -> Crops:
    """`(N, S, S, 3)` crops blurred by `SMOOTHING` pixels of the pictures they came from by `(N, 2, 3)` matrices."""
    scales = np.hypot(matrices[:, 0, 0], matrices[:, 0, 1])
    sigmas = np.clip(SMOOTHING * scales, 0.5, LARGEST_SMOOTHING)
    return np.stack([cv2.GaussianBlur(c, (0, 0), float(s)) for c, s in zip(crops, sigmas, strict=True)])


def matched(faces: Sequence[TrackedFace], again: Sequence[Detection]) -> list[int | None]:
    """Per face the detection that shows it again, best overlap first; no detection serves two faces."""
    found: list[int | None] = [None] * len(faces)
    if not faces or not again:
        return found
    overlap = iou_matrix(np.stack([f.box for f in faces]), np.stack([d.box for d in again]))
    while overlap.max() > FOUND:
        i, j = np.unravel_index(int(overlap.argmax()), overlap.shape)
        found[int(i)] = int(j)
        overlap[i], overlap[:, j] = -1, -1
    return found


def _own(panel: Panel, picture: Crops, faces: Sequence[Detection | None], like: Look) -> dict[str, Floats]:
    """Embeddings by the result's own landmarks; NaN where no face was found."""
    empty = np.zeros((2, 3))
    matrices = np.stack([empty if f is None else crop_matrix(f.landmarks) for f in faces])
    there = np.abs(matrices).sum((1, 2)) > 0
    if not there.any():
        return {name: np.full_like(table, np.nan) for name, table in like.embeddings.items()}
    found = embed(panel, crops_of(picture, matrices[there]))
    return {name: scattered(table, there) for name, table in found.items()}


def _null(panel: Panel, crops: Crops, lost: NDArray[np.bool_], like: Look) -> dict[str, Floats]:
    """Embeddings of the painted crops where `lost`; NaN elsewhere."""
    if not lost.any():
        return {name: np.full_like(table, np.nan) for name, table in like.embeddings.items()}
    found = embed(panel, np.stack([painted(c) for c in crops[lost]]))
    return {name: scattered(table, lost) for name, table in found.items()}


def painted(crop: Crops) -> Crops:
    """An aligned `(S, S, 3)` uint8 crop with an ellipse over brows, eyes, nose and mouth in its own mean colour."""
    side = crop.shape[0]
    inside = np.zeros(crop.shape[:2], np.uint8)
    middle, axes = (side // 2, round(0.56 * side)), (round(0.3 * side), round(0.36 * side))
    cv2.ellipse(inside, middle, axes, 0, 0, 360, 1, -1)
    copy = crop.copy()
    copy[inside > 0] = np.rint(crop[inside > 0].mean(0)).astype(np.uint8)
    return copy


def _extra(
    frame: int, pair: tuple[Floats, Floats], around: float, boxes: list[Floats], seen: list[Detection]
) -> list[ExtraFace]:
    """Faces of the result that overlap no face of the study, even a little."""
    extra = []
    for face in seen:
        if boxes and iou_matrix(face.box[None], _stacked(boxes)).max() > 0.1:
            continue
        same = untouched(*face_change(*pair, face.box), around)
        extra.append(ExtraFace(frame, tuple(map(float, face.box)), face.score, same))
    return extra
