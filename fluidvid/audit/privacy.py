"""Who is still recognised: each recogniser with its own impostor floor, over every view an attacker can take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluidvid.audit.graders import WORDS, Grader
from fluidvid.audit.look import Floats
from fluidvid.audit.measure import Measured
from fluidvid.audit.statistics import (
    Figure,
    Scores,
    equal_error_rate,
    mean_figure,
    median_figure,
    not_measured,
    rounded,
    true_accept_rate,
)
from fluidvid.audit.study import Study

FIGURES = (
    "reidentified_at_1_percent",
    "reidentified_at_0.1_percent",
    "reidentified_at_1_percent_where_found_again",
    "reidentified_at_1_percent_where_not_found",
    "rank_1",
    "rank_10",
    "rank_1_by_chance",
    "true_accepts_at_1_percent",
    "equal_error_rate",
    "cosine_to_template",
    "cosine_to_same_frame",
    "median_cosine_to_same_frame",
)
"""Names of all figures of a recogniser, whether or not they could be measured."""
NULL_MARGIN = 0.1
"""So much more like the person than the same crop without a face must a place be where no face is found."""
ENOUGH = {0.01: 300, 0.001: 3000}
"""Impostor pairs from which a threshold at this rate of false accepts is measured."""


@dataclass(frozen=True)
class Threshold:
    """From which cosine on a face is somebody: `value` at `far` false accepts, None if unknown; `origin` in words."""

    far: float
    value: float | None
    origin: str


@dataclass(frozen=True, eq=False)
class Recognition:
    """What one recogniser sees in a result.

    Attributes:
        grader: who.
        loose: threshold at 1 % false accepts.
        strict: threshold at 0.1 % false accepts.
        score: `(N,)` best cosine to the person's template over all views; NaN where not measured.
        bar: `(N,)` cosine from which the face is re-identified at 1 %: the threshold. Where no face is found in the
            result it is raised to what 1 % of the gallery's synthetic people reach by the same views of this very
            place (a smear looks a little like everybody), and above the cosine of the same crop with the face painted
            over (a grey square is the same for all people, and looks like some of them).
        strict_bar: `(N,)` the same at 0.1 %; NaN where that threshold is unknown.
        same_frame: `(N,)` cosine to the same frame of the source, the same crop.
        impostors: `(K,)` cosines of source faces to other people.
        figures: everything else by name.
        worst: track -> (frame, cosine) of its worst frame.
    """

    grader: Grader
    loose: Threshold
    strict: Threshold
    score: Floats
    bar: Floats
    strict_bar: Floats
    same_frame: Floats
    impostors: Floats
    figures: dict[str, Figure]
    worst: dict[int, tuple[int, float]]

    @property
    def hit(self) -> NDArray[np.bool_]:
        """`(N,)` faces re-identified at 1 % false accepts."""
        return np.asarray(np.nan_to_num(self.score, nan=-2) >= self.bar)

    @property
    def sure_hit(self) -> NDArray[np.bool_]:
        """`(N,)` faces re-identified at 0.1 % false accepts."""
        return np.asarray(np.nan_to_num(self.score, nan=-2) >= np.nan_to_num(self.strict_bar, nan=2))

    def to_dict(self) -> dict[str, Any]:
        """Plain types; no embedding."""
        return {
            "recogniser": self.grader.name,
            "part": self.grader.part.value,
            "part_in_words": WORDS[self.grader.part],
            "threshold_1_percent": rounded(self.loose.value),
            "threshold_origin": self.loose.origin,
            "threshold_0.1_percent": rounded(self.strict.value),
            "strict_threshold_origin": self.strict.origin,
            "impostor_pairs": len(self.impostors),
            "figures": {name: figure.to_dict() for name, figure in self.figures.items()},
            "worst_frame": {
                str(track): {"frame": frame, "cosine": rounded(cosine)} for track, (frame, cosine) in self.worst.items()
            },
        }


def judged(study: Study, measured: Measured) -> NDArray[np.bool_]:
    """`(N,)` faces that figures of privacy rest on: surely faces, detected, large enough, with a counterpart."""
    return study.sure & study.observed & study.measured & measured.compared


def present(study: Study) -> NDArray[np.bool_]:
    """`(N,)` faces there are: what coverage is a share of."""
    return study.sure & study.observed


def templates(study: Study, name: str) -> dict[int, Floats]:
    """Person -> `(D,)` unit mean of the source's embeddings: what an attacker who knows the person has enrolled."""
    if study.look is None:
        return {}
    table, usable = study.look.embeddings[name], study.measured & study.observed
    found = {}
    for person in sorted(set(study.people.values())):
        own = table[usable & (study.person == person)]
        if len(own):
            found[person] = unit(own.mean(0))
    return found


def unit(vectors: Floats) -> Floats:
    """`(..., D)` of unit length."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12), np.float32)


def impostor_scores(study: Study, name: str, people: dict[int, Floats], gallery: Floats | None) -> Floats:
    """Cosines `(K,)` of source faces to the gallery's synthetic people and to others who are certainly others."""
    if study.look is None:
        return np.zeros(0, np.float32)
    table, usable, apart = study.look.embeddings[name], study.measured & study.observed & study.sure, study.apart()
    found = [(table[usable] @ gallery.T).ravel()] if gallery is not None else []
    for one, two in sorted(apart):
        if two in people:
            found.append(table[usable & (study.person == one)] @ people[two])
    return np.concatenate(found) if found else np.zeros(0, np.float32)


def thresholds(impostors: Floats, grader: Grader) -> tuple[Threshold, Threshold]:
    """At 1 % the stricter of what this audit's impostors say and of what is known of the recogniser; and at 0.1 %."""
    floors = [
        float(np.quantile(impostors, 1 - far)) if len(impostors) >= ENOUGH[far] else None for far in (0.01, 0.001)
    ]
    here, floor = "this audit's impostors", floors[0]
    if floor is None:
        loose = Threshold(0.01, grader.calibrated, "calibration of the recogniser (too few impostors here)")
    elif floor < grader.calibrated:
        loose = Threshold(0.01, floor, here)
    else:
        loose = Threshold(0.01, grader.calibrated, f"calibration of the recogniser (stricter than {here})")
    if floors[1] is None:
        return loose, Threshold(0.001, None, "too few impostors for a threshold at 0.1 %")
    return loose, Threshold(0.001, max(floors[1], loose.value or 0.0), here)


def recognise(study: Study, measured: Measured, grader: Grader, gallery: Floats | None) -> Recognition:
    """Judge a result by one recogniser."""
    name, n = grader.name, len(study.faces)
    people = templates(study, name)
    impostors = impostor_scores(study, name, people, gallery)
    loose, strict = thresholds(impostors, grader)
    chosen, of = judged(study, measured), int(present(study).sum())
    nothing = np.full(n, np.nan, np.float32)
    if study.look is None or measured.look is None or not chosen.any():
        missing = not_measured("no face is large enough for recognisers", of)
        figures = dict.fromkeys(FIGURES, missing)
        return Recognition(grader, loose, strict, nothing, nothing, nothing, nothing, impostors, figures, {})
    views = [measured.look.embeddings[name], measured.own[name], measured.smooth[name]]
    own = np.stack([people.get(int(p), np.full(views[0].shape[1], np.nan, np.float32)) for p in study.person])
    score = best_of([(view * own).sum(1) for view in views])
    same_frame = (views[0] * study.look.embeddings[name]).sum(1)
    others = _others(study, views, people, gallery)
    null = (measured.null[name] * own).sum(1)
    bars = [_bar(at, views, gallery, measured.found, null) for at in (loose, strict)]
    hits = [np.where(np.isnan(bar), np.nan, score >= bar) for bar in bars]
    figures = _figures(study, measured, score, same_frame, others, hits, strict.origin)
    worst = _worst(study, score, chosen)
    return Recognition(grader, loose, strict, score, bars[0], bars[1], same_frame, impostors, figures, worst)


def _bar(at: Threshold, views: list[Floats], gallery: Floats | None, found: NDArray[np.bool_], null: Floats) -> Floats:
    """See `Recognition.bar`."""
    plain = np.full(len(found), np.nan if at.value is None else at.value, np.float32)
    if at.value is None or found.all():
        return plain
    smeared = above_null(plain, null)
    if gallery is not None:
        rivals = np.nan_to_num(best_of([view @ gallery.T for view in views]), nan=-1)
        smeared = np.maximum(smeared, np.quantile(rivals, 1 - at.far, axis=1).astype(np.float32))
    return np.where(found, plain, smeared)


def above_null(bar: Floats, null: Floats) -> Floats:
    """`(N,)` bars raised above the cosines of painted crops, where there are any."""
    return np.maximum(bar, np.where(np.isfinite(null), null + NULL_MARGIN, bar)).astype(np.float32)


def best_of(scores: list[Floats]) -> Floats:
    """Largest of several scores per face, NaN only where all are."""
    stacked = np.stack(scores)
    return np.where(np.isnan(stacked).all(0), np.nan, np.nanmax(np.where(np.isnan(stacked), -2, stacked), 0))


def _others(study: Study, views: list[Floats], people: dict[int, Floats], gallery: Floats | None) -> Floats:
    """`(N, M)` best scores of result faces against everybody they are certainly not; NaN elsewhere."""
    apart, persons = study.apart(), sorted(people)
    columns = [best_of([view @ gallery.T for view in views])] if gallery is not None else []
    if persons:
        table = np.stack([people[p] for p in persons])
        scores = best_of([view @ table.T for view in views])
        wrong = np.array([[(int(mine), p) in apart for p in persons] for mine in study.person])
        columns.append(np.where(wrong, scores, np.nan))
    return np.concatenate(columns, 1) if columns else np.zeros((len(study.faces), 0), np.float32)


def _figures(
    study: Study,
    measured: Measured,
    score: Floats,
    same_frame: Floats,
    others: Floats,
    hits: list[Floats],
    why: str,
) -> dict[str, Figure]:
    """All figures of one recogniser; `hits` at 1 % and 0.1 %, `why` the latter is unknown where it is."""
    of, tracks, chosen = int(present(study).sum()), study.track, judged(study, measured)

    def share(level: int, which: NDArray[np.bool_]) -> Figure:
        if not which.any():
            return not_measured("no such face", of)
        figure = mean_figure(hits[level][which], tracks[which], of)
        return figure if figure.value is not None else not_measured(why, of)

    counted = Scores.count(score[chosen], others[chosen], tracks[chosen])
    rivals = np.isfinite(others[chosen])
    better = (np.where(rivals, others[chosen], -2) >= score[chosen][:, None]).sum(1)
    alone = not_measured("no gallery and nobody else in the clip", of)

    def rank(most: int) -> Figure:
        """Share of faces whose own person is among the `most` most alike, of everybody."""
        return mean_figure((better < most).astype(float), tracks[chosen], of) if rivals.any() else alone

    return {
        "reidentified_at_1_percent": share(0, chosen),
        "reidentified_at_0.1_percent": share(1, chosen),
        "reidentified_at_1_percent_where_found_again": share(0, chosen & measured.found),
        "reidentified_at_1_percent_where_not_found": share(0, chosen & ~measured.found),
        "rank_1": rank(1),
        "rank_10": rank(10),
        "rank_1_by_chance": Figure(1 / (1 + float(rivals.sum(1).mean())), len(rivals), of) if rivals.any() else alone,
        "true_accepts_at_1_percent": counted.figure(true_accept_rate(0.01), int(chosen.sum()), of),
        "equal_error_rate": counted.figure(equal_error_rate, int(chosen.sum()), of),
        "cosine_to_template": mean_figure(score[chosen], tracks[chosen], of),
        "cosine_to_same_frame": mean_figure(same_frame[chosen], tracks[chosen], of),
        "median_cosine_to_same_frame": median_figure(same_frame[chosen], tracks[chosen], of),
    }


def _worst(study: Study, score: Floats, chosen: NDArray[np.bool_]) -> dict[int, tuple[int, float]]:
    found = {}
    for track in np.unique(study.track[chosen]):
        rows = np.flatnonzero(chosen & (study.track == track) & np.isfinite(score))
        if len(rows):
            row = rows[int(score[rows].argmax())]
            found[int(track)] = (int(study.frame[row]), float(score[row]))
    return found
