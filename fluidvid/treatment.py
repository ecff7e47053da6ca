"""The faces of frames: edit, fade, mask, and the check that nothing was left out. The last gate before the writer."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fluidvid.composite import add_residual, blend
from fluidvid.config import MaskConfig, MaskKind
from fluidvid.coverage import CoverageError, FaceOutcome, Reason
from fluidvid.editing import EditedCrop, FaceEditor
from fluidvid.masks import Region, clip_region, face_mask
from fluidvid.trackers.align import crop as aligned_crop

_log = logging.getLogger(__name__)

PATIENCE = 8
"""A track whose edits keep failing stays masked up to this many times longer: a steady mask beats a blinking face."""
MIN_CHANGE = 1.0
"""Grey levels: an edit that changes the middle of a face by less than this on average is no edit."""


@dataclass(frozen=True, eq=False)
class PlannedFace:
    """One tracked face of one frame and what is planned for it.

    Attributes:
        track_id: its track.
        person_id: the person whose direction is applied.
        box: `(4,)` pixels, may reach beyond the edges.
        observed: a detection supports it.
        matrix: `(2, 3)` float64 smoothed similarity from frame to crop pixels; None if it cannot be edited.
        weight: share of the edit in [0, 1], the rest is mask; 0 = masked.
        reason: why `weight` is below 1.
    """

    track_id: int
    person_id: int
    box: NDArray[np.float32]
    observed: bool
    matrix: NDArray[np.float64] | None = None
    weight: float = 0.0
    reason: str | None = None


@dataclass(frozen=True, eq=False)
class TreatedFrame:
    """`rgb` `(H, W, 3)` with every face treated, the regions that changed, and one outcome per face."""

    rgb: NDArray[np.uint8]
    regions: tuple[Region, ...]
    outcomes: tuple[FaceOutcome, ...]


@dataclass(frozen=True, eq=False)
class _Edit:
    face: PlannedFace
    edited: EditedCrop | None
    reason: str | None


def _good_ahead(made: Mapping[tuple[int, int], _Edit], place: int, track_id: int) -> int:
    """Frames from `place` on whose edits of a track, by place and track, are there and good."""
    end = place
    while (end, track_id) in made and made[end, track_id].edited is not None:
        end += 1
    return end - place


class FrameTreatment:
    """Applies edits and masks to frames in order.

    Args:
        mask: margin and cells of masks.
        kind: the mask in force.
        editor: None in the classic modes.
        batch: faces edited at once.
        fade_frames: after a failed edit a track stays masked this long and then fades in over as many frames; twice as
            long at every failure soon after the last one. Where half as many frames ahead are known to be good it fades
            in at once: what fails while it fades in, mostly masked, is no flash.
    """

    def __init__(
        self,
        mask: MaskConfig,
        kind: MaskKind,
        editor: FaceEditor | None,
        *,
        batch: int = 4,
        fade_frames: int = 8,
    ) -> None:
        self._mask = mask
        self._kind = kind
        self._editor = editor
        self._batch = batch
        self._fade = fade_frames
        self._blocked: dict[int, int] = {}  # track -> frames since its last failed edit
        self._patience: dict[int, int] = {}  # track -> frames it stays masked after a failed edit

    def apply(self, source: NDArray[np.uint8], faces: Sequence[PlannedFace]) -> TreatedFrame:
        """Treat one frame; see `apply_all`."""
        return self.apply_all([(source, faces)])[0]

    def apply_all(self, frames: Sequence[tuple[NDArray[np.uint8], Sequence[PlannedFace]]]) -> list[TreatedFrame]:
        """Treat frames that follow each other; their faces are edited together.

        Args:
            frames: `(H, W, 3)` uint8 RGB, not modified, and every tracked face present in it.

        Raises:
            CoverageError: a face came out neither edited nor masked (a bug; nothing may be written then).
        """
        edits = self._edit(frames)
        return [self._treat(source, faces, edits, place) for place, (source, faces) in enumerate(frames)]

    def _treat(
        self, source: NDArray[np.uint8], faces: Sequence[PlannedFace], made: dict[tuple[int, int], _Edit], place: int
    ) -> TreatedFrame:
        if not faces:
            return TreatedFrame(source, (), ())
        canvas = source.copy()
        wanted = [self._with_recovery(face, made, place) for face in faces]
        edits = [
            replace(made.get((place, face.track_id), _Edit(face, None, Reason.NOT_PREPARED)), face=face)
            for face in wanted
            if face.weight > 0
        ]
        regions: list[Region] = []
        outcomes: list[FaceOutcome] = []
        cover: list[tuple[PlannedFace, str]] = [
            (face, face.reason or Reason.MODE) for face in wanted if face.weight <= 0
        ]
        fading: list[PlannedFace] = []
        for edit in edits:
            region, reason = self._composite(canvas, edit)
            if region is None:
                self._block(edit.face.track_id)
                cover.append((edit.face, reason or Reason.BAD_EDIT))
                continue
            regions.append(region)
            if edit.face.weight < 1:
                fading.append(edit.face)
            else:
                outcomes.append(FaceOutcome(edit.face.track_id, edit.face.observed, "edited"))
        # Masks come after all edits: a neighbour's edit must not write over them.
        for face in fading:
            outcomes.append(self._fade_in(canvas, source, face, regions))
        for face, why in cover:
            outcomes.append(self._cover(canvas, face, why, regions))
        self._check(source.shape, faces, outcomes, regions)
        return TreatedFrame(canvas, tuple(regions), tuple(outcomes))

    @property
    def failing(self) -> Collection[int]:
        """Tracks with an edit that failed lately."""
        return self._blocked.keys()

    def forget(self, alive: set[int]) -> None:
        """Drop the state of tracks that are not in `alive`."""
        self._blocked = {track: since for track, since in self._blocked.items() if track in alive}
        self._patience = {track: frames for track, frames in self._patience.items() if track in alive}

    def _block(self, track_id: int) -> None:
        """Mask a track for some time: the longer, the sooner it failed again."""
        before = self._patience.get(track_id)
        self._patience[track_id] = self._fade if before is None else min(2 * before, PATIENCE * self._fade)
        self._blocked[track_id] = 0

    def _with_recovery(self, face: PlannedFace, made: Mapping[tuple[int, int], _Edit], place: int) -> PlannedFace:
        """What becomes of a plan after a failed edit, for the frame at a place among those whose edits are `made`."""
        if face.weight > 0 and (self._editor is None or face.matrix is None):
            return replace(face, weight=0.0, reason=face.reason or Reason.NOT_PREPARED)
        since = self._blocked.get(face.track_id)
        if since is None:
            return face
        patience = self._patience[face.track_id]
        if since < patience <= 2 * _good_ahead(made, place, face.track_id):
            since = patience
        self._blocked[face.track_id] = since + 1
        shown = since - patience  # frames since it may be seen again
        if shown >= self._fade + patience:  # that long without another failure: forgiven
            del self._blocked[face.track_id], self._patience[face.track_id]
        if shown >= self._fade:
            return face
        if face.weight <= 0 or shown < 0:
            return replace(face, weight=0.0, reason=face.reason or Reason.COOL_DOWN)
        weight = min(face.weight, (shown + 1) / (self._fade + 1))
        return replace(face, weight=weight, reason=Reason.FADING)

    def _edit(self, frames: Sequence[tuple[NDArray[np.uint8], Sequence[PlannedFace]]]) -> dict[tuple[int, int], _Edit]:
        """The edit of every face that may be shown, by place of its frame and track."""
        wanted = [
            (place, face)
            for place, (_, faces) in enumerate(frames)
            for face in faces
            if face.weight > 0 and face.matrix is not None and not self._stays_masked(face.track_id, place, len(frames))
        ]
        if self._editor is None:
            return {}
        # A person's frames together and in order: the editor sees them as the run they are.
        wanted.sort(key=lambda item: (item[1].person_id, item[0]))
        edits: dict[tuple[int, int], _Edit] = {}
        for begin in range(0, len(wanted), self._batch):
            group = wanted[begin : begin + self._batch]
            for (place, face), result in zip(group, self._edit_group(group, frames, self._editor), strict=True):
                if result is None:
                    edits[place, face.track_id] = _Edit(face, None, Reason.EDITOR_ERROR)
                    continue
                reason = None if result.ok else result.reason or Reason.BAD_EDIT
                edits[place, face.track_id] = _Edit(face, result if result.ok else None, reason)
        return edits

    def _stays_masked(self, track_id: int, place: int, count: int) -> bool:
        """Whatever the edits of `count` frames turn out to be."""
        since = self._blocked.get(track_id)
        return since is not None and since + place < self._patience[track_id] and self._patience[track_id] > 2 * count

    def _edit_group(
        self,
        group: Sequence[tuple[int, PlannedFace]],
        frames: Sequence[tuple[NDArray[np.uint8], Sequence[PlannedFace]]],
        editor: FaceEditor,
    ) -> Sequence[EditedCrop | None]:
        """One edit per face; None where the editor throws on that face alone: the others must not suffer for it."""
        try:
            return self._edit_together(group, frames, editor)
        except Exception as error:  # noqa: BLE001 - whatever an editor throws, its faces are masked and counted
            _log.warning("editor failed on %d faces: %s: %s", len(group), type(error).__name__, error)
        if len(group) == 1:
            return [None]
        # Out of the handler: what the error holds on to is free by now, if it was want of memory.
        return [edited for one in group for edited in self._edit_group([one], frames, editor)]

    @staticmethod
    def _edit_together(
        group: Sequence[tuple[int, PlannedFace]],
        frames: Sequence[tuple[NDArray[np.uint8], Sequence[PlannedFace]]],
        editor: FaceEditor,
    ) -> Sequence[EditedCrop]:
        crops = []
        for place, face in group:
            assert face.matrix is not None
            crops.append(aligned_crop(frames[place][0], face.matrix, editor.crop_size))
        results = editor.edit([face.person_id for _, face in group], np.stack(crops), np.ones(len(group), np.float32))
        if len(results) != len(group):
            raise ValueError(f"{len(group)} crops went in, {len(results)} came out")
        return results

    @staticmethod
    def _composite(canvas: NDArray[np.uint8], edit: _Edit) -> tuple[Region | None, str | None]:
        """Put one edit on the canvas; (None, reason) if it cannot pass for one."""
        face, edited = edit.face, edit.edited
        if edited is None or face.matrix is None:
            return None, edit.reason
        core = _core(face, canvas.shape)
        if core is None:
            return None, Reason.BAD_EDIT
        x1, y1, x2, y2 = core
        before = canvas[y1:y2, x1:x2].astype(np.int16)
        try:
            region = add_residual(canvas, np.asarray(edited.residual, dtype=np.float32), face.matrix)
        except Exception as error:  # noqa: BLE001 - the face is masked and counted, see privacy.md rule 1
            _log.warning("compositing failed: %s: %s", type(error).__name__, error)
            return None, Reason.COMPOSITE_ERROR
        if region is None:
            return None, Reason.BAD_EDIT
        if np.abs(canvas[y1:y2, x1:x2] - before).mean() < MIN_CHANGE:
            return None, Reason.WEAK_EDIT
        return region, None

    def _fade_in(
        self, canvas: NDArray[np.uint8], source: NDArray[np.uint8], face: PlannedFace, regions: list[Region]
    ) -> FaceOutcome:
        covered = source.copy()
        region = self._mask_on(covered, face)
        blend(canvas, covered, region, face.weight)
        regions.append(region)
        return FaceOutcome(face.track_id, face.observed, "masked", Reason.FADING)

    def _cover(self, canvas: NDArray[np.uint8], face: PlannedFace, why: str, regions: list[Region]) -> FaceOutcome:
        regions.append(self._mask_on(canvas, face))
        return FaceOutcome(face.track_id, face.observed, "masked", str(why))

    def _mask_on(self, image: NDArray[np.uint8], face: PlannedFace) -> Region:
        region = face_mask(image, face.box, kind=self._kind, cells=self._mask.cells, margin=self._mask.margin)
        if region is None:
            raise CoverageError(f"track {face.track_id}: its box {face.box} lies outside the picture; report this bug")
        return region

    @staticmethod
    def _check(
        shape: tuple[int, ...],
        faces: Sequence[PlannedFace],
        outcomes: list[FaceOutcome],
        regions: list[Region],
    ) -> None:
        """Every face has its own outcome and its middle lies in a region that is taken over by the writer."""
        if sorted(o.track_id for o in outcomes) != sorted(f.track_id for f in faces):
            raise CoverageError(
                "a tracked face was left out: stopped before it was written; please report this as a bug"
            )
        for face in faces:
            core = _core(face, shape)
            inside = core is None or any(
                r[0] <= core[0] and r[1] <= core[1] and r[2] >= core[2] and r[3] >= core[3] for r in regions
            )
            if not inside:
                raise CoverageError(
                    f"track {face.track_id}: no treated region covers its box: stopped before it was written; "
                    "please report this as a bug"
                )


def _core(face: PlannedFace, shape: tuple[int, ...]) -> Region | None:
    """The middle half of the face's box, inside the picture; the whole visible part if the middle is outside."""
    x1, y1, x2, y2 = (float(v) for v in face.box)
    inset_x, inset_y = (x2 - x1) / 4, (y2 - y1) / 4
    middle = clip_region((x1 + inset_x, y1 + inset_y, x2 - inset_x, y2 - inset_y), shape)
    return middle or clip_region(face.box, shape)
