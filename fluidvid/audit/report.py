"""The audit's report: one frozen record, plain JSON for machines, a short summary for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fluidvid.audit.attacks import AttackOutcome
from fluidvid.audit.measure import WHOLE_EVERY, Measured
from fluidvid.audit.privacy import Recognition, judged, present
from fluidvid.audit.statistics import Figure, rounded
from fluidvid.audit.steadiness import Jump
from fluidvid.audit.study import Study
from fluidvid.audit.verdict import State, Verdict, untouched_faces

if TYPE_CHECKING:
    from rich.console import Console

HONEST_WORDS = (
    "The audit knows only the faces that its own detectors found, and only what the recognisers named here can tell. "
    "Hair, clothes, body, gait, voice, places and context still identify people. This is no proof of anonymity."
)


@dataclass(frozen=True, eq=False)
class AuditReport:
    """Everything one audit measured. `to_dict` holds no embedding and no picture.

    Attributes:
        source: path as given.
        result: path as given.
        verdict: see `fluidvid.audit.verdict`.
        study: of the source.
        measured: the result against it.
        recognitions: one per recogniser.
        linkage: recogniser -> figures.
        utility: figures.
        time: figures.
        jumps: recogniser -> steps at which an identity changes.
        attacks: outcomes of the attacks that were run.
        unmeasured: what was not measured, and why.
    """

    source: str
    result: str
    verdict: Verdict
    study: Study
    measured: Measured
    recognitions: tuple[Recognition, ...]
    linkage: Mapping[str, Mapping[str, Figure]]
    utility: Mapping[str, Figure]
    time: Mapping[str, Figure]
    jumps: Mapping[str, tuple[Jump, ...]]
    attacks: tuple[AttackOutcome, ...]
    unmeasured: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the verdict passes."""
        return self.verdict.state is State.PASSED

    def coverage(self) -> dict[str, Any]:
        """Faces there are, faces judged, and why the others were not; by track too."""
        study, measured = self.study, self.measured
        there, chosen = present(study), judged(study, measured)
        tracks = np.unique(study.track[there])
        shares = [float(chosen[there & (study.track == t)].mean()) for t in tracks]
        held = study.sure & ~study.observed
        return {
            "faces": int(there.sum()),
            "judged_by_recognisers": int(chosen.sum()),
            "too_small_for_recognisers": int((there & ~study.measured).sum()),
            "frame_without_counterpart": int((there & ~measured.compared).sum()),
            "not_found_in_result": int((there & measured.compared & ~measured.found).sum()),
            "untouched": int((untouched_faces(study, measured) & there).sum()),
            "tracks": len(tracks),
            "tracks_judged": int(sum(s > 0 for s in shares)),
            "worst_track_judged": rounded(min(shares)) if shares else None,
            "held_places": int(held.sum()),
            "held_places_untouched": int((untouched_faces(study, measured) & held).sum()),
            "unsure_faces_left_out": int((~study.sure & study.observed).sum()),
            "frames_searched_whole_in_result": sum(f % WHOLE_EVERY == 0 for f in measured.timeline.pairs),
            "faces_only_in_result": len(measured.extra),
            "faces_only_in_result_with_source_pixels": sum(e.same for e in measured.extra),
        }

    def people(self) -> list[dict[str, Any]]:
        """One entry per person, by first appearance."""
        study, measured, entries = self.study, self.measured, []
        there, chosen = present(study), judged(study, measured)
        same = untouched_faces(study, measured)
        for person in sorted(set(study.people.values())):
            rows = there & (study.person == person)
            if not rows.any():
                continue
            mine = chosen & rows
            seen = {}
            for r in self.recognitions:
                if not mine.any():
                    continue
                score = np.where(mine, np.nan_to_num(r.score, nan=-1), -1)
                row = int(score.argmax())
                seen[r.grader.name] = {
                    "reidentified_at_1_percent": rounded(float(r.hit[mine].mean())),
                    "worst_frame": int(study.frame[row]),
                    "worst_cosine": rounded(float(score[row])),
                }
            frames = study.frame[rows]
            entries.append(
                {
                    "person": int(person),
                    "tracks": sorted({int(t) for t in study.track[rows]}),
                    "first_frame": int(frames.min()),
                    "last_frame": int(frames.max()),
                    "faces": int(rows.sum()),
                    "judged": int(mine.sum()),
                    "found_again": int((measured.found & rows).sum()),
                    "untouched_frames": [int(f) for f in study.frame[rows & same]],
                    "recognisers": seen,
                }
            )
        return entries

    def to_dict(self) -> dict[str, Any]:
        """Plain types only; the same for the same pair of files."""
        timeline = self.measured.timeline
        return {
            "verdict": self.verdict.to_dict(),
            "source": self.source,
            "result": self.result,
            "timeline": {
                "same": timeline.same,
                "words": timeline.words(),
                "source_frames": timeline.source_frames,
                "result_frames": timeline.result_frames,
                "pairs": len(timeline.pairs),
                "largest_shift_seconds": rounded(timeline.largest_shift, 6),
            },
            "coverage": self.coverage(),
            "privacy": [r.to_dict() for r in self.recognitions],
            "linkage": {name: plain(figures) for name, figures in self.linkage.items()},
            "attacks": [outcome.to_dict() for outcome in self.attacks],
            "utility": plain(self.utility),
            "time": plain(self.time),
            "jumps": {
                name: [{"track": j.track, "frame": j.frame, "cosine": rounded(j.cosine)} for j in found]
                for name, found in self.jumps.items()
            },
            "people": self.people(),
            "not_measured": list(self.unmeasured),
            "limits_of_this_audit": HONEST_WORDS,
        }

    def to_json(self) -> str:
        """One JSON object on one line."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)

    def print_summary(self, console: Console) -> None:
        """Write the human summary to `console` (stderr in the command line)."""
        from fluidvid.audit.summary import print_summary

        print_summary(self, console)


def plain(figures: Mapping[str, Figure]) -> dict[str, Any]:
    """Figures as plain types."""
    return {name: figure.to_dict() for name, figure in figures.items()}
