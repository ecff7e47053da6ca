"""Whether pseudonyms tell people apart, keep one person together, and do not connect two runs."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from fluidvid.audit.measure import Measured
from fluidvid.audit.privacy import Recognition, judged, present, unit
from fluidvid.audit.statistics import Figure, mean_figure, not_measured
from fluidvid.audit.study import Study


def linkage(study: Study, measured: Measured, recognition: Recognition, other: Measured | None) -> dict[str, Figure]:
    """Figures of linkage by one recogniser, over the mean embedding of each track where a face is found in the result.

    Args:
        study: of the source.
        measured: the result.
        recognition: the recogniser's thresholds.
        other: a second run over the same source, or None.
    """
    name, at = recognition.grader.name, recognition.loose.value
    of = int(present(study).sum())
    if measured.look is None or at is None:
        return {}
    ours = track_means(study, measured, name)
    same, different = [], []
    apart = study.apart()
    for one, two in combinations(sorted(ours), 2):
        cosine = float(ours[one] @ ours[two])
        if study.people[one] == study.people[two]:
            same.append(cosine >= at)
        elif (study.people[one], study.people[two]) in apart:
            different.append(cosine >= at)
    found = {
        "tracks_of_one_person_linked": _share(same, of, "no person has two tracks with a face in the result"),
        "different_people_confused": _share(different, of, "no two people with a face in the result are seen together"),
    }
    if other is None:
        found["linked_between_runs"] = not_measured("no second run was given (--second)", of)
        return found
    theirs, chosen = track_means(study, other, name), judged(study, measured) & measured.found
    rows = np.flatnonzero(chosen & np.isin(study.track, sorted(theirs)))
    table = measured.look.embeddings[name]
    linked = np.array([float(table[r] @ theirs[int(study.track[r])] >= at) for r in rows])
    found["linked_between_runs"] = mean_figure(linked, study.track[rows], of)
    return found


def track_means(study: Study, measured: Measured, name: str) -> dict[int, NDArray[np.float32]]:
    """Track -> `(D,)` unit mean of the result's embeddings, by its own landmarks; masks all look alike, link nobody."""
    if measured.look is None:
        return {}
    table, means = measured.own[name], {}
    chosen = judged(study, measured) & measured.found & np.isfinite(table).all(1)
    for track in np.unique(study.track[chosen]):
        means[int(track)] = unit(table[chosen & (study.track == track)].mean(0))
    return means


def _share(pairs: list[bool], of: int, why: str) -> Figure:
    """Share of pairs of tracks; `count` is the number of pairs."""
    return Figure(float(np.mean(pairs)), len(pairs), len(pairs)) if pairs else not_measured(why, of)
