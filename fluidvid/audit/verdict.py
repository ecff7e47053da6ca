"""The verdict: a few checks with their limits, and plain words for people who read nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluidvid.audit.attacks import AttackOutcome
from fluidvid.audit.graders import Part
from fluidvid.audit.measure import Measured
from fluidvid.audit.pictures import untouched
from fluidvid.audit.privacy import Recognition, judged, present
from fluidvid.audit.study import SURE, Study

SMALLEST = 12.0
"""Faces with a shorter side in pixels have too little detail to say whether they were changed."""
FEW = 4
"""Tracks with fewer judged faces have no share of their own."""
SAME_SHAPE = 1.03
"""Sides that are scaled by more than this apart belong to another picture; rounding to even pixels stays below."""
SAME_PICTURE = 15.0
"""Median PSNR in dB outside the faces below which a result does not show what its source shows at that time."""


class State(StrEnum):
    """How an audit ends."""

    PASSED = "passed"
    FAILED = "failed"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Limits:
    """What a verdict tolerates.

    Attributes:
        reidentified: largest share of faces that a recogniser re-identifies at 1 % false accepts. Faces that were fully
            replaced still match now and then, by the meaning of 1 % and because three views are tried.
        track: the same within any one track.
        reversed_: largest share of faces that may be recognised after an attack, at the threshold of 1 % false accepts
            for that very attack. Where more are recognised without it already, that share is the limit.
    """

    reidentified: float = 0.05
    track: float = 0.25
    reversed_: float = 0.10


@dataclass(frozen=True)
class Check:
    """One condition: `passed` is None where it could not be judged."""

    name: str
    passed: bool | None
    words: str

    def to_dict(self) -> dict[str, Any]:
        """Plain types."""
        return {"name": self.name, "passed": self.passed, "words": self.words}


@dataclass(frozen=True)
class Verdict:
    """State, one sentence, and the checks behind it."""

    state: State
    words: str
    checks: tuple[Check, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain types."""
        return {"state": self.state.value, "words": self.words, "checks": [c.to_dict() for c in self.checks]}


def untouched_faces(study: Study, measured: Measured) -> NDArray[np.bool_]:
    """`(N,)` faces whose pixels are still the source's own, detected or held."""
    around = np.array([measured.encoding.get(f.frame, np.nan) for f in study.faces])
    sides = np.array([float((f.box[2:] - f.box[:2]).min()) for f in study.faces])
    rows = zip(measured.psnr, measured.detail, around, strict=True)
    same = np.array([bool(untouched(float(p), float(d), float(a))) for p, d, a in rows], bool)
    return same & (sides >= SMALLEST) & measured.compared


def decide(
    study: Study,
    measured: Measured,
    recognitions: Sequence[Recognition],
    attacks: Sequence[AttackOutcome] = (),
    limits: Limits | None = None,
) -> Verdict:
    """Weigh everything.

    A recogniser that guided the edit may accuse; only others can acquit.
    """
    limit = limits or Limits()
    faces = present(study)
    checks = [_timeline(measured), _same_picture(measured), _untouched(study, measured, recognitions)]
    if not faces.any():
        words = "no face was found in the source, so nothing was judged: look at the result yourself"
        return _sum_up([*checks, Check("faces", None, words)])
    for recognition in sorted(recognitions, key=lambda r: not r.grader.may_acquit):
        checks += _recognised(study, measured, recognition, limit)
    checks.append(_acquitters(recognitions))
    checks += [_reversal(outcome, limit) for outcome in attacks]
    return _sum_up(checks)


def _sum_up(checks: list[Check]) -> Verdict:
    failed = [c for c in checks if c.passed is False]
    open_ones = [c for c in checks if c.passed is None]
    if failed:
        more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        return Verdict(State.FAILED, f"Do not publish: {failed[0].words}{more}.", tuple(checks))
    if open_ones:
        return Verdict(State.UNDECIDED, f"Not established: {open_ones[0].words}.", tuple(checks))
    words = "No check failed: within what was measured, the faces are no longer recognised."
    return Verdict(State.PASSED, words, tuple(checks))


def _timeline(measured: Measured) -> Check:
    timeline = measured.timeline
    doubtful = bool(timeline.only_result) or timeline.cut or not timeline.pairs
    return Check("timeline", None if doubtful else True, timeline.words())


def _same_picture(measured: Measured) -> Check:
    """Open where faces were not looked for in the places they have in the result."""
    name, remedy = "same picture", "compare the same part of the picture and of the time, turned the same way"
    values = [value for value in measured.outside.values() if np.isfinite(value)]
    likeness = float(np.median(values)) if values else None
    if measured.stretch > SAME_SHAPE:
        return Check(name, None, f"the result has another shape than the source ({measured.stretch:.2f} : 1): {remedy}")
    if likeness is None:
        return Check(name, True, "the result has the source's shape; faces fill every frame, nothing else is compared")
    if likeness < SAME_PICTURE:
        words = f"outside the faces the result does not show what the source shows (PSNR {likeness:.1f} dB): {remedy}"
        return Check(name, None, words)
    return Check(name, True, f"outside the faces the result shows what the source shows (PSNR {likeness:.1f} dB)")


def _untouched(study: Study, measured: Measured, recognitions: Sequence[Recognition]) -> Check:
    same = untouched_faces(study, measured)
    certain = same & present(study)
    known = np.zeros(len(same), bool)
    for r in recognitions:
        known |= r.sure_hit
    held = same & study.sure & ~study.observed & known
    extra = [e for e in measured.extra if e.same and e.score >= SURE]
    frames = sorted({int(f) for f in study.frame[certain | held]} | {e.frame for e in extra})
    count = int((certain | held).sum()) + len(extra)
    if not count:
        return Check("untouched faces", True, "every face that was found in the source was changed in the result")
    total = int((present(study) | held).sum()) + len(extra)
    words = f"{count} of {total} faces are still the source's own pixels (frames {frames_in_words(frames)})"
    return Check("untouched faces", False, words)


def frames_in_words(frames: Sequence[int], most: int = 5) -> str:
    """`0, 3-7, 9, ...`: runs of frames."""
    runs: list[list[int]] = []
    for frame in frames:
        if runs and frame == runs[-1][1] + 1:
            runs[-1][1] = frame
        else:
            runs.append([frame, frame])
    text = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs[:most])
    return text + (", ..." if len(runs) > most else "")


def _recognised(study: Study, measured: Measured, recognition: Recognition, limit: Limits) -> list[Check]:
    name = recognition.grader.name
    figure = recognition.figures["reidentified_at_1_percent"]
    if figure.value is None:
        return []
    part = "" if recognition.grader.part is Part.INDEPENDENT else f", {recognition.grader.part.value}"
    share = f"{name}{part} re-identifies {figure.value:.1%} of {figure.count} faces at 1 % false accepts"
    share += f" ({figure.count} of {figure.of} faces could be judged)"
    checks = [Check(f"re-identified by {name}", figure.value <= limit.reidentified, share)]
    chosen, hit = judged(study, measured), recognition.hit
    worst = (0.0, -1, 0)
    tracks = np.unique(study.track[chosen])
    for track in tracks if len(tracks) > 1 else ():
        rows = chosen & (study.track == track)
        if rows.sum() >= FEW:
            worst = max(worst, (float(hit[rows].mean()), int(track), int(rows.sum())))
    if worst[1] >= 0:
        words = f"{name}{part} re-identifies {worst[0]:.1%} of the {worst[2]} faces of track {worst[1]}, its worst"
        checks.append(Check(f"worst track by {name}", worst[0] <= limit.track, words))
    return checks


def _acquitters(recognitions: Sequence[Recognition]) -> Check:
    names = [
        r.grader.name
        for r in recognitions
        if r.grader.may_acquit and r.figures["reidentified_at_1_percent"].value is not None
    ]
    if names:
        return Check("judged by others", True, f"the verdict rests on {', '.join(names)}")
    words = "no recogniser that the edit was not optimised against could judge a single face"
    return Check("judged by others", None, words + " (larger faces, or --recognisers with others, are needed)")


def _reversal(outcome: AttackOutcome, limit: Limits) -> Check:
    if outcome.share is None:
        words = f"the attack {outcome.name} ({outcome.words}) could not be tried: {outcome.why}"
        return Check(f"attack {outcome.name}", None, words)
    share, before = outcome.share, outcome.before or 0.0
    passed = share <= max(limit.reversed_, before)
    much = ("little" if share > before else "nothing further") if passed else "people"
    words = f"{outcome.words} brings {much} back: {share:.1%} of {outcome.count} "
    words += f"faces recognised by {outcome.recogniser}, {before:.1%} without"
    return Check(f"attack {outcome.name} by {outcome.recogniser}", passed, words)
