"""The account of every tracked face in every frame: edited, held or masked, and why. `raw` does not exist."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from fluidvid.errors import FluidvidError


class Reason(StrEnum):
    """Why a face was masked instead of edited."""

    MODE = "classic mode"
    TOO_SMALL = "too small"
    TOO_TURNED = "too turned"
    HELD = "held too long to edit"
    NOT_PREPARED = "not prepared"
    FADING = "fading between mask and face"
    NO_LANDMARKS = "no usable landmarks"
    EDITOR_ERROR = "editor error"
    WEAK_EDIT = "weak edit"
    BAD_EDIT = "unusable edit"
    COMPOSITE_ERROR = "composite error"
    COOL_DOWN = "after a failed edit"
    TOO_SLOW = "no time to edit"


class CoverageError(FluidvidError):
    """A tracked face would have left untreated: the run stops before that frame is written."""


@dataclass(frozen=True)
class FaceOutcome:
    """What happened to one face in one frame.

    Attributes:
        track_id: its track.
        observed: a detection supports the box; False where the tracker held it.
        treatment: `edited` or `masked`.
        reason: why it was masked, None if edited. Known reasons are `Reason`; an editor may give its own words.
    """

    track_id: int
    observed: bool
    treatment: str
    reason: str | None = None


@dataclass
class _TrackLine:
    frames: int = 0
    edited: int = 0
    held_run: int = 0
    longest_held: int = 0
    last_frame: int = -2


@dataclass
class _Ended:
    """Tracks that are over, folded."""

    tracks: int = 0
    shares: float = 0.0
    least: float = 1.0
    fully_masked: int = 0
    longest_held: int = 0

    def fold(self, line: _TrackLine) -> None:
        share = line.edited / line.frames
        self.tracks += 1
        self.shares += share
        self.least = min(self.least, share)
        self.fully_masked += line.edited == 0
        self.longest_held = max(self.longest_held, line.longest_held)


@dataclass
class Coverage:
    """Running account; `edited + held + masked == faces` holds after every `add`.

    Memory grows with the number of tracks only, or not at all if ended ones are folded by `forget`. Other threads than
    the one that adds look at a `snapshot`.
    """

    frames: int = 0
    frames_with_faces: int = 0
    faces: int = 0
    edited: int = 0
    held: int = 0
    masked: int = 0
    held_edited: int = 0
    masked_reasons: Counter[str] = field(default_factory=Counter)
    held_reasons: Counter[str] = field(default_factory=Counter)
    frames_fully_edited: int = 0
    _tracks: dict[int, _TrackLine] = field(default_factory=lambda: defaultdict(_TrackLine))
    _ended: _Ended = field(default_factory=lambda: _Ended())
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, frame: int, expected: int, outcomes: Iterable[FaceOutcome]) -> None:
        """Account for one frame.

        Args:
            frame: its index.
            expected: number of tracked faces present in it.
            outcomes: one per face.

        Raises:
            CoverageError: a face has no outcome, or one that is neither edited nor masked.
        """
        listed = list(outcomes)
        if len(listed) != expected or any(o.treatment not in ("edited", "masked") for o in listed):
            raise CoverageError(
                f"frame {frame}: {expected} faces tracked but {len(listed)} treated: stopped before it was written; "
                "please report this as a bug"
            )
        with self._lock:
            self.frames += 1
            self.frames_with_faces += bool(listed)
            self.frames_fully_edited += bool(listed) and all(o.treatment == "edited" for o in listed)
            for outcome in listed:
                self._count(frame, outcome)

    def snapshot(self) -> Coverage:
        """A copy in which everything adds up; from any thread."""
        with self._lock:
            return replace(
                self,
                masked_reasons=self.masked_reasons.copy(),
                held_reasons=self.held_reasons.copy(),
                _tracks={track: copy(line) for track, line in self._tracks.items()},
                _ended=copy(self._ended),
                _lock=threading.Lock(),
            )

    def _count(self, frame: int, outcome: FaceOutcome) -> None:
        line = self._tracks[outcome.track_id]
        self.faces += 1
        line.frames += 1
        line.edited += outcome.treatment == "edited"
        if outcome.observed:
            line.held_run = 0
            if outcome.treatment == "edited":
                self.edited += 1
            else:
                self.masked += 1
                self.masked_reasons[outcome.reason or "unknown"] += 1
        else:
            line.held_run = line.held_run + 1 if frame == line.last_frame + 1 else 1
            line.longest_held = max(line.longest_held, line.held_run)
            self.held += 1
            if outcome.treatment == "edited":
                self.held_edited += 1
            else:
                self.held_reasons[outcome.reason or "unknown"] += 1
        line.last_frame = frame

    def forget(self, frame: int) -> None:
        """Fold the tracks that were last seen before `frame`; they may not come again."""
        with self._lock:
            for track in [k for k, line in self._tracks.items() if line.last_frame < frame]:
                self._ended.fold(self._tracks.pop(track))

    @property
    def tracks(self) -> int:
        """Number of tracks seen."""
        return self._ended.tracks + len(self._tracks)

    def summary(self) -> dict[str, Any]:
        """Shares by frame and by track, as printed beside privacy figures; None where there is nothing to share.

        `treated` is 1 by construction for tracked faces. It says nothing about faces that no detector found:
        that is for `fluidvid audit`.
        """
        whole = copy(self._ended)
        for line in self._tracks.values():
            whole.fold(line)
        treated = self.edited + self.held + self.masked
        return {
            "treated": treated / self.faces if self.faces else None,
            "edited_by_face": (self.edited + self.held_edited) / self.faces if self.faces else None,
            "frames_with_faces": self.frames_with_faces,
            "frames_fully_edited": self.frames_fully_edited,
            "tracks_fully_masked": whole.fully_masked,
            "edited_by_track_mean": whole.shares / whole.tracks if whole.tracks else None,
            "edited_by_track_min": whole.least if whole.tracks else None,
            "held_edited": self.held_edited,
            "held_masked": self.held - self.held_edited,
            "held_masked_reasons": dict(self.held_reasons.most_common()),
            "longest_held_frames": whole.longest_held,
        }
