"""Two passes over a file: find and follow the faces, find one direction per person, then treat and write each frame.

Only boxes, transforms and at most `key_frames` aligned crops per track are kept between the passes, never frames.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluidvid.config import Config, TrackConfig
from fluidvid.coverage import Coverage, Reason
from fluidvid.editing import FaceEditor, Preparation
from fluidvid.errors import UNWRITTEN, DetectionError, StrictError, detection_errors
from fluidvid.following import Follower
from fluidvid.gating import REASONS, GateLimits, code_of, gate_track
from fluidvid.heap import give_back
from fluidvid.inspection import Inspected, inspect
from fluidvid.keyframes import KeyCrops, key_crop, merge, presentable
from fluidvid.overlap import feed_behind, read_ahead
from fluidvid.progress import ProgressCallback, ProgressEvent, silent
from fluidvid.stages import SourceFrame, Stages, Writer
from fluidvid.suspicion import longest_held, suspicious_gaps
from fluidvid.trackers.types import Detection, TrackedFace
from fluidvid.tracktable import TrackTable
from fluidvid.treatment import FrameTreatment, PlannedFace

_log = logging.getLogger(__name__)

GROUP = 16
"""Frames of the second pass whose faces are edited together."""
GROUP_BYTES = 32 * 2**20
"""Bytes of their pictures at most; one frame always fits."""
WAITING = 32 * 2**20
"""Bytes of pictures that may wait before and behind the treatment in the second pass."""
_NOTHING = np.zeros((0, 0, 3), np.uint8)
_Done = tuple[SourceFrame, NDArray[np.uint8] | None, Sequence[tuple[int, int, int, int]]]


@dataclass
class Analysis:
    """What the first pass found. Holds no frame."""

    table: TrackTable = field(default_factory=TrackTable)
    frames: int = 0
    shape: tuple[int, int] = (0, 0)
    pts: list[int | None] = field(default_factory=list)
    cuts: set[int] = field(default_factory=set)
    key_crops: dict[int, KeyCrops] = field(default_factory=dict)
    embeddings: dict[int, list[NDArray[np.float32]]] = field(default_factory=dict)
    people: dict[int, int] = field(default_factory=dict)
    gaps: tuple[str, ...] = ()
    longest_held: int = 0
    first_time: Fraction | None = None
    last_time: Fraction | None = None

    @property
    def duration(self) -> Fraction | None:
        """Length of what was read in seconds; the last frame counts as long as the mean of the others."""
        if self.first_time is None or self.last_time is None or self.frames < 2:
            return None
        return (self.last_time - self.first_time) * self.frames / (self.frames - 1)


@dataclass(frozen=True)
class Outcome:
    """What a run of the pipeline did; `api.anonymize` makes the report of it."""

    coverage: Coverage
    analysis: Analysis
    preparations: Mapping[int, Preparation | None]
    detectors: tuple[str, ...]
    reader: Any
    writer: Any


def run(stages: Stages, config: Config, progress: ProgressCallback = silent) -> Outcome:
    """Run both passes.

    Raises:
        DetectionError: detector or tracker failed, or the second pass met a frame that was not inspected.
        StrictError: `config.strict` and a face was held too long or a gap is suspicious; nothing is written.
        FluidvidError: whatever the stages raise; the writer leaves nothing behind.
    """
    analysis = analyse(stages, config, progress)
    if config.strict:
        check_strict(analysis, config.track.at_rate(stages.rate))
    plan(stages, analysis, config)
    preparations = prepare(stages, analysis, config, progress)
    withhold(stages, analysis, preparations)
    give_back()
    coverage, reader, writer = write(stages, analysis, config, progress)
    return Outcome(coverage, analysis, preparations, stages.detectors, reader, writer)


def analyse(stages: Stages, config: Config, progress: ProgressCallback) -> Analysis:
    """First pass: detect, track, choose key crops; then complete the tracks and link them.

    Raises:
        DetectionError: detector or tracker failed, or frames came out of order.
    """
    found = Analysis(TrackTable(compact=stages.editor is None))
    follower = Follower(stages, config)
    with stages.open_reader() as reader:
        total = getattr(getattr(reader, "info", None), "frames_estimate", None)
        for seen in inspect(reader, stages, every=config.detect.every, sure_score=config.detect.score):
            frame = seen.frame
            if frame.index != found.frames:
                raise DetectionError(f"frame {frame.index} came where {found.frames} was due; re-mux the source")
            found.shape = seen.rgb.shape[:2]
            found.table.append(_follow(stages, follower, config, found, seen))
            found.pts.append(frame.pts)
            found.last_time = frame.time
            found.first_time = frame.time if found.first_time is None else found.first_time
            found.frames += 1
            progress(ProgressEvent("detect", found.frames, total))
            del seen, frame
    if stages.looked is not None:  # who is linked is looked at by other networks: there is no room for both kinds
        stages.looked()
    give_back()
    found.table.finish(found.frames, found.shape, lambda faces: stages.complete(faces, found.frames, found.cuts))
    near = config.track.at_rate(stages.rate).strict_gap
    found.gaps = suspicious_gaps(found.table, found.cuts, near)
    found.longest_held = longest_held(found.table, found.cuts, near)
    _link(stages, found)
    return found


def _follow(stages: Stages, follower: Follower, config: Config, found: Analysis, seen: Inspected) -> list[TrackedFace]:
    index, rgb = seen.frame.index, seen.rgb
    with detection_errors(f"frame {index}", UNWRITTEN):
        if seen.cut:
            found.cuts.add(index)
        faces, earlier = follower.follow(index, rgb, seen.detections, cut=seen.cut)
        if stages.editor is not None:
            _collect(stages, stages.editor, config, found, rgb, faces)
    return [*earlier, *faces]


def _collect(
    stages: Stages,
    editor: FaceEditor,
    config: Config,
    found: Analysis,
    rgb: NDArray[np.uint8],
    faces: list[TrackedFace],
) -> None:
    """Keep key crops, and an embedding of each unless `identify` makes it later, of the faces that are good enough."""
    for face in faces:
        if not presentable(face, config):
            continue
        pose = stages.pose(face.landmarks, rgb, face.box)
        if not np.isfinite(pose.yaw) or abs(pose.yaw) > config.edit.max_yaw:
            continue
        keep = found.key_crops.setdefault(face.track_id, KeyCrops(config.edit.key_frames))
        if not keep.wants(face.frame, pose.quality, pose.yaw):
            continue
        keep.offer(key_crop(face, rgb, pose, editor))
        if stages.embedder is not None and stages.identify is None:
            seen = found.embeddings.setdefault(face.track_id, [])
            detection = Detection(box=face.box, score=face.score, landmarks=face.landmarks)
            seen.append(stages.embedder(rgb, [detection])[0])
            del seen[: -2 * config.edit.key_frames]


def _link(stages: Stages, found: Analysis) -> None:
    tracks = {}
    for track, indices in found.table.tracks():
        rows = found.table.rows(indices)
        tracks[track] = rows["frame"][rows["observed"]].astype(np.int64)  # where it is held, nobody was seen
    found.people = {track: track for track in tracks}
    if stages.link is not None and (found.embeddings or stages.identify is not None):
        known = _identities(stages, found)
        found.people |= stages.link({track: seen for track, seen in known.items() if track in tracks}, tracks)
    found.embeddings.clear()


def _identities(stages: Stages, found: Analysis) -> dict[int, NDArray[np.float32]]:
    """What tracks are linked by, `(K, D)` each: of the key crops if there is a way, and without those that show too
    little of a face.
    """
    if stages.identify is None:
        return {track: np.stack(seen) for track, seen in found.embeddings.items()}
    known = {}
    for track, kept in found.key_crops.items():
        seen = stages.identify(np.stack([c.crop for c in kept.best()]))
        known[track] = seen[np.abs(seen).max(axis=1) > 0]
    return known


def check_strict(analysis: Analysis, track: TrackConfig) -> None:
    """Raise StrictError naming the first offence against the limits for the source's frame rate."""
    if analysis.longest_held > track.strict_held:
        raise StrictError(
            f"a face was held for {analysis.longest_held} frames without a detection, --strict allows "
            f"{track.strict_held} at this frame rate (track.strict_held): look at the source or lower detect.score; "
            "no result was written"
        )
    if analysis.gaps:
        raise StrictError(
            f"{len(analysis.gaps)} suspicious gaps, first: {analysis.gaps[0]}; raise track.max_gap or lower "
            "detect.score; no result was written"
        )


def prepare(
    stages: Stages, analysis: Analysis, config: Config, progress: ProgressCallback
) -> dict[int, Preparation | None]:
    """One direction per person who is to be edited somewhere; None where the editor threw. Key crops are dropped."""
    results: dict[int, Preparation | None] = {}
    if stages.editor is None:
        return results
    wanted = {
        analysis.people[track]
        for track, indices in analysis.table.tracks()
        if analysis.table.rows(indices)["weight"].any()
    }
    groups: dict[int, list[KeyCrops]] = {}
    for track, crops in analysis.key_crops.items():
        if analysis.people.get(track) in wanted:
            groups.setdefault(analysis.people[track], []).append(crops)
    for done, (person, members) in enumerate(sorted(groups.items())):
        progress(ProgressEvent("prepare", done, len(groups)))
        chosen = merge(members, config.edit.key_frames)
        try:
            results[person] = stages.editor.prepare(
                person, np.stack([c.crop for c in chosen]), frames=[c.frame for c in chosen]
            )
        except Exception as error:  # noqa: BLE001 - this person's faces are masked and counted
            _log.warning("no pseudonym for person %d: %s: %s", person, type(error).__name__, error)
            results[person] = None
    if groups:
        progress(ProgressEvent("prepare", len(groups), len(groups)))
    analysis.key_crops.clear()
    return results


def plan(stages: Stages, analysis: Analysis, config: Config) -> None:
    """Write each row's transform, weight of the edit and reason into the table, as if everybody had a direction."""
    editor, table = stages.editor, analysis.table
    limits = GateLimits(config.edit.min_face, config.edit.max_yaw, config.edit.max_held, config.edit.fade_frames)
    for _, indices in table.tracks():
        rows = table.rows(indices)
        if editor is None:
            table.set(indices, "reason", np.full(len(indices), code_of(Reason.MODE), np.uint8))
            continue
        sides = np.minimum(rows["box"][:, 2] - rows["box"][:, 0], rows["box"][:, 3] - rows["box"][:, 1])
        yaws = np.array([stages.pose(r["landmarks"], None, r["box"]).yaw for r in rows], dtype=np.float64)
        weights, reasons = gate_track(sides.astype(np.float64), np.abs(yaws), rows["observed"], limits)
        if weights.any():
            template = editor.template * editor.crop_size
            matrices = stages.smooth(rows["landmarks"], template)
            bad = ~np.isfinite(matrices).all(axis=(1, 2))
            weights[bad], reasons[bad] = 0, code_of(Reason.NO_LANDMARKS)
            table.set(indices, "matrix", np.nan_to_num(matrices).astype(np.float32))
        table.set(indices, "weight", weights)
        table.set(indices, "reason", reasons)


def withhold(stages: Stages, analysis: Analysis, preparations: Mapping[int, Preparation | None]) -> None:
    """Mask whoever was to be edited and has no verified direction."""
    if stages.editor is None:
        return
    for track, indices in analysis.table.tracks():
        prepared = preparations.get(analysis.people[track])
        if prepared is None or not prepared.ok:
            rows = analysis.table.rows(indices)
            withheld = (rows["weight"] > 0) | (rows["reason"] == 0)
            reasons = np.where(withheld, code_of(Reason.NOT_PREPARED), rows["reason"])
            analysis.table.set(indices, "reason", reasons.astype(np.uint8))
            analysis.table.set(indices, "weight", np.zeros(len(indices), np.float32))


def planned(analysis: Analysis, frame: int) -> list[PlannedFace]:
    """The faces of one frame as the treatment takes them."""
    return [
        PlannedFace(
            track_id=int(row["track"]),
            person_id=analysis.people[int(row["track"])],
            box=row["box"],
            observed=bool(row["observed"]),
            matrix=row["matrix"].astype(np.float64) if row["weight"] > 0 else None,
            weight=float(row["weight"]),
            reason=REASONS[int(row["reason"])],
        )
        for row in analysis.table.at(frame)
    ]


def write(stages: Stages, analysis: Analysis, config: Config, progress: ProgressCallback) -> tuple[Coverage, Any, Any]:
    """Second pass: treat and write every frame; the account, the reader and the writer.

    Raises:
        DetectionError: a frame was not inspected in the first pass, or one is missing.
        CoverageError: a face came out untreated (a bug).
    """
    treatment = FrameTreatment(
        config.mask,
        config.mask_kind,
        stages.editor,
        batch=config.edit.batch,
        fade_frames=config.edit.fade_frames,
    )
    coverage = Coverage()
    with stages.open_reader() as reader, stages.open_writer(reader) as writer, ExitStack() as stack:
        frames: Iterable[SourceFrame] = _converted(reader, analysis)
        give: Callable[[_Done], None] = partial(_hand_over, writer)
        if stages.workers > 1:
            size = 3 * analysis.shape[0] * analysis.shape[1]
            frames = stack.enter_context(read_ahead(frames, limit=WAITING, size=lambda _: 2 * size))
            give = stack.enter_context(feed_behind(give, limit=WAITING, size=lambda _: 3 * size))
        for group in _groups(frames, analysis):
            treated = treatment.apply_all([(frame.rgb() if faces else _NOTHING, faces) for frame, faces in group])
            for (frame, faces), result in zip(group, treated, strict=True):
                coverage.add(frame.index, len(faces), result.outcomes)
                give((frame, result.rgb if faces else None, result.regions))
                progress(ProgressEvent("write", coverage.frames, analysis.frames))
            del group, treated, frame, result
        if coverage.frames != analysis.frames:
            raise DetectionError(
                f"the second pass gave {coverage.frames} frames, the first {analysis.frames}: the source changed or "
                "decodes unsteadily; no result was written"
            )
    return coverage, reader, writer


def _groups(frames: Iterable[SourceFrame], analysis: Analysis) -> Iterator[list[tuple[SourceFrame, list[PlannedFace]]]]:
    """The frames and their faces in short runs; every frame must be one that was inspected."""
    most = max(1, min(GROUP, GROUP_BYTES // max(1, 3 * analysis.shape[0] * analysis.shape[1])))
    group: list[tuple[SourceFrame, list[PlannedFace]]] = []
    for due, frame in enumerate(frames):
        _check_inspected(analysis, due, frame)
        group.append((frame, planned(analysis, frame.index)))
        del frame
        if len(group) == most:
            yield group
            group = []
    if group:
        yield group


def _converted(reader: Iterable[SourceFrame], analysis: Analysis) -> Iterator[SourceFrame]:
    """The reader's frames; those with faces already converted to RGB, so that this overlaps with editing."""
    for frame in reader:
        if frame.index < analysis.frames and len(analysis.table.at(frame.index)):
            frame.rgb()
        yield frame
        del frame


def _hand_over(writer: Writer, done: _Done) -> None:
    frame, rgb, regions = done
    writer.write(frame, rgb, regions)


def _check_inspected(analysis: Analysis, due: int, frame: SourceFrame) -> None:
    known = frame.index == due and due < analysis.frames
    if not known or frame.pts != analysis.pts[due]:
        raise DetectionError(
            f"frame {frame.index} (pts {frame.pts}) of the second pass was not inspected in the first: the source "
            "changed or decodes unsteadily; no result was written"
        )


def reasons_not_prepared(preparations: Mapping[int, Preparation | None]) -> Iterable[str]:
    """One line per person without a pseudonym."""
    for person, prepared in sorted(preparations.items()):
        if prepared is None:
            yield f"person {person}: the editor failed, all of this person's faces are masked"
        elif not prepared.ok:
            yield f"person {person}: {prepared.reason}, all of this person's faces are masked"
