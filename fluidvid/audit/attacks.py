"""Attempts to undo a result from its pixels alone: sharpening what was blurred, averaging what moves.

An attacker who tries K variants and keeps the best is compared with K tries on people he is not looking for: the
thresholds are measured for each attack by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fluidvid.audit.graders import Panel
from fluidvid.audit.look import Crops, Floats, embed
from fluidvid.audit.measure import Measured, chosen_rows, neighbours
from fluidvid.audit.privacy import Recognition, above_null, best_of, templates
from fluidvid.audit.statistics import rounded
from fluidvid.audit.study import Study

MOST_FACES = 16
"""Faces an attack is tried on, spread over all people."""
ENOUGH = 300

Attack = Callable[[list[int]], list[Crops]]
"""Rows -> variants, each `(len(rows), S, S, 3)` uint8."""


@dataclass(frozen=True)
class AttackOutcome:
    """What an attack brought back, by one recogniser.

    Attributes:
        name: one of `fluidvid.audit.options.ATTACKS`.
        recogniser: who looked.
        words: the attack in words.
        share: faces recognised after it, None if it was not measured.
        before: the same faces recognised without it.
        count: faces it was tried on.
        threshold: cosine at 1 % false accepts of this very attack.
        cosine: mean cosine to the person after it: does it lead back, even if not over the threshold?
        cosine_before: the same without it.
        why: why it was not measured, or what to know of the threshold.
    """

    name: str
    recogniser: str
    words: str
    share: float | None
    before: float | None = None
    count: int = 0
    threshold: float | None = None
    why: str = ""
    cosine: float | None = None
    cosine_before: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain types."""
        return {
            "attack": self.name,
            "recogniser": self.recogniser,
            "words": self.words,
            "share": rounded(self.share),
            "before": rounded(self.before),
            "faces": self.count,
            "threshold": rounded(self.threshold),
            "cosine": rounded(self.cosine),
            "cosine_before": rounded(self.cosine_before),
            "why": self.why,
        }


def attacked_rows(study: Study, measured: Measured) -> list[int]:
    """At most `MOST_FACES` rows that are kept with their neighbours, the same number of every person if possible."""
    queues = [[r for r in rows if r in measured.kept] for rows in chosen_rows(study).values()]
    rows: list[int] = []
    while len(rows) < MOST_FACES and any(queues):
        for queue in queues:
            if queue and len(rows) < MOST_FACES:
                rows.append(queue.pop(0))
    return sorted(rows)


def try_attack(
    name: str,
    words: str,
    attack: Attack,
    study: Study,
    measured: Measured,
    panel: Panel,
    recognitions: Sequence[Recognition],
    galleries: dict[str, Floats],
) -> list[AttackOutcome]:
    """Run an attack on some faces and let every recogniser look at all of its variants."""
    rows = attacked_rows(study, measured)
    if not rows:
        return [AttackOutcome(name, "all", words, None, why="no face is large enough")]
    seen = [embed(panel, variant) for variant in attack(rows)]
    outcomes = []
    for recognition in recognitions:
        grader = recognition.grader.name
        people = templates(study, grader)
        views = [look[grader] for look in seen]
        own = np.stack([people[int(p)] for p in study.person[rows]])
        score = best_of([(view * own).sum(1) for view in views])
        at, why = _threshold(views, study, rows, recognition, people, galleries.get(grader))
        before = float(recognition.hit[rows].mean())
        # Where no face is found: what is recognised without the face's middle is not the face.
        null = (measured.null[grader][rows] * own).sum(1)
        share = float((score >= above_null(np.full(len(rows), at, np.float32), null)).mean())
        cosines = float(score.mean()), float(recognition.score[rows].mean())
        outcomes.append(AttackOutcome(name, grader, words, share, before, len(rows), at, why, *cosines))
    return outcomes


def _threshold(
    views: list[Floats],
    study: Study,
    rows: list[int],
    recognition: Recognition,
    people: dict[int, Floats],
    gallery: Floats | None,
) -> tuple[float, str]:
    """Cosine that 1 % of other people reach by the best of as many variants; never below the recogniser's own."""
    apart, loose = study.apart(), recognition.loose.value or recognition.grader.calibrated
    rivals = [best_of([view @ gallery.T for view in views]).ravel()] if gallery is not None else []
    for place, mine in enumerate(study.person[rows]):
        wrong = [people[p] for p in people if (int(mine), p) in apart]
        if wrong:
            rivals.append(best_of([view[place] @ np.stack(wrong).T for view in views]))
    scores = np.concatenate(rivals) if rivals else np.zeros(0)
    if len(scores) < ENOUGH:
        return loose, "too few impostors: threshold of a single look, best of several tries"
    return max(loose, float(np.quantile(scores, 0.99))), ""


def sharpening(measured: Measured) -> Attack:
    """Unsharp masks and Richardson-Lucy deconvolution (1972/1974) for Gaussian blurs of several widths."""

    def attack(rows: list[int]) -> list[Crops]:
        crops = np.stack([measured.kept[r][1] for r in rows])
        variants = [np.stack([unsharp(c, 2.0, 2.0) for c in crops])]
        variants += [np.stack([deconvolved(c, sigma) for c in crops]) for sigma in (1.5, 3.0, 6.0)]
        return variants

    return attack


def averaging(study: Study, measured: Measured) -> Attack:
    """The aligned mean of neighbouring frames, plain and deconvolved: a moving face under a grid leaks this way."""

    def attack(rows: list[int]) -> list[Crops]:
        means = []
        for row in rows:
            window = [measured.kept[r][1].astype(np.float32) for r in neighbours(study, row) if r in measured.kept]
            means.append(np.clip(np.mean(window, 0), 0, 255).astype(np.uint8))
        return [np.stack(means), np.stack([deconvolved(m, 3.0) for m in means])]

    return attack


def unsharp(crop: Crops, sigma: float, amount: float) -> Crops:
    """`(S, S, 3)` uint8 with its detail finer than `sigma` pixels amplified."""
    values = crop.astype(np.float32)
    return np.clip(values + amount * (values - cv2.GaussianBlur(values, (0, 0), sigma)), 0, 255).astype(np.uint8)


def deconvolved(crop: Crops, sigma: float, rounds: int = 12) -> Crops:
    """Richardson-Lucy estimate of `(S, S, 3)` uint8 before a Gaussian blur of `sigma` pixels."""
    seen = crop.astype(np.float32) + 1.0
    guess: NDArray[np.float32] = seen.copy()
    for _ in range(rounds):
        again = np.maximum(cv2.GaussianBlur(guess, (0, 0), sigma), 1e-3)
        guess = np.asarray(guess * cv2.GaussianBlur(seen / again, (0, 0), sigma), np.float32)
    return np.asarray(np.clip(guess - 1.0, 0, 255), np.uint8)
