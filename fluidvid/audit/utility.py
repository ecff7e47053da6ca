"""What stayed: landmarks, pose, eyes, mouth, expression, age, gender; each beside what one frame changes by itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fluidvid.audit.look import Floats, Look
from fluidvid.audit.measure import Measured
from fluidvid.audit.privacy import judged, present
from fluidvid.audit.statistics import Figure, mean_figure, not_measured
from fluidvid.audit.study import Study
from fluidvid.trackers.pose import head_angles

LEFT_EYE, RIGHT_EYE, INNER_LIPS = range(36, 42), range(42, 48), range(60, 68)


def next_rows(study: Study) -> NDArray[np.int64]:
    """`(N,)` row of the same track's face in the next frame, or -1; both observed and measured."""
    place = {(f.track_id, f.frame): row for row, f in enumerate(study.faces)}
    usable = study.observed & study.measured
    found = np.full(len(study.faces), -1, np.int64)
    for row, face in enumerate(study.faces):
        following = place.get((face.track_id, face.frame + 1), -1)
        if following >= 0 and usable[row] and usable[following]:
            found[row] = following
    return found


def eye_distance(landmarks: Floats) -> Floats:
    """`(N,)` distance of the eye centres of `(N, 68, 2)` landmarks."""
    between = landmarks[:, LEFT_EYE].mean(1) - landmarks[:, RIGHT_EYE].mean(1)
    return np.asarray(np.maximum(np.linalg.norm(between, axis=1), 1e-6), np.float32)


def eye_openness(landmarks: Floats) -> Floats:
    """`(N,)` mean eye aspect ratio of `(N, 68, 2)` landmarks (Soukupova and Cech, 2016)."""

    def ratio(eye: range) -> Floats:
        p = landmarks[:, eye]
        high = np.linalg.norm(p[:, 1] - p[:, 5], axis=1) + np.linalg.norm(p[:, 2] - p[:, 4], axis=1)
        return np.asarray(high / np.maximum(2 * np.linalg.norm(p[:, 0] - p[:, 3], axis=1), 1e-6), np.float32)

    return np.asarray((ratio(LEFT_EYE) + ratio(RIGHT_EYE)) / 2, np.float32)


def mouth_openness(landmarks: Floats) -> Floats:
    """`(N,)` height over width of the inner lips of `(N, 68, 2)` landmarks."""
    p = landmarks[:, INNER_LIPS]
    high = sum(np.linalg.norm(p[:, a] - p[:, b], axis=1) for a, b in ((1, 7), (2, 6), (3, 5))) / 3
    return np.asarray(high / np.maximum(np.linalg.norm(p[:, 0] - p[:, 4], axis=1), 1e-6), np.float32)


def _landmarks(a: Look, b: Look) -> Floats:
    error = np.linalg.norm(a.landmarks - b.landmarks, axis=2).mean(1)
    return np.asarray(error / eye_distance(a.landmarks), np.float32)


def _total_variation(a: Look, b: Look) -> Floats:
    return np.asarray(np.abs(a.expression - b.expression).sum(1) / 2, np.float32)


DIFFERENCES: dict[str, Callable[[Look, Look], Floats]] = {
    "landmarks_by_eye_distance": _landmarks,
    "eye_openness": lambda a, b: np.abs(eye_openness(a.landmarks) - eye_openness(b.landmarks)),
    "mouth_openness": lambda a, b: np.abs(mouth_openness(a.landmarks) - mouth_openness(b.landmarks)),
    "expression": _total_variation,
    "age_years": lambda a, b: np.abs(a.age - b.age),
    "gender_probability": lambda a, b: np.abs(a.male - b.male),
}
"""Mean absolute differences per face; expression is the total variation distance of seven probabilities."""


def taken(look: Look, rows: NDArray[np.int64]) -> Look:
    """What a look says of the crops at `(K,)` rows."""
    return Look(
        {name: table[rows] for name, table in look.embeddings.items()},
        *(getattr(look, part)[rows] for part in ("landmarks", "expression", "age", "male")),
    )


def utility(study: Study, measured: Measured) -> dict[str, Figure]:
    """All figures of utility. What needs a face is measured where one is found again, and says so by its coverage."""
    everyone, of, tracks = judged(study, measured), int(present(study).sum()), study.track
    seen = np.flatnonzero(present(study) & measured.compared)
    figures = {
        "found_again": mean_figure(measured.found[seen].astype(float), tracks[seen], of),
        "found_again_score": mean_figure(np.where(measured.found, measured.score, np.nan)[seen], tracks[seen], of),
    }
    rows = np.flatnonzero(everyone & measured.found)
    following = next_rows(study)
    pairs = np.flatnonzero(following >= 0)
    for name, difference in DIFFERENCES.items():
        if study.look is None or measured.look is None or not len(rows):
            figures[name] = not_measured("no face was found again", of)
            continue
        floor = None
        if len(pairs):
            floor = float(np.mean(difference(taken(study.look, pairs), taken(study.look, following[pairs]))))
        changes = difference(taken(study.look, rows), taken(measured.look, rows))
        figures[name] = mean_figure(changes, tracks[rows], of, floor)
    return figures | _pose(study, measured, rows, pairs, following, of) | _outside(measured)


def _pose(
    study: Study,
    measured: Measured,
    rows: NDArray[np.int64],
    pairs: NDArray[np.int64],
    following: NDArray[np.int64],
    of: int,
) -> dict[str, Figure]:
    """Mean absolute differences of yaw, pitch and roll in degrees."""
    if not len(rows):
        return dict.fromkeys(
            ("yaw_degrees", "pitch_degrees", "roll_degrees"), not_measured("no face was found again", of)
        )
    ours = np.array([head_angles(f.landmarks.astype(np.float64)) for f in study.faces])
    theirs = np.array([head_angles(p.astype(np.float64)) for p in measured.points[rows]])
    change, natural = np.abs(turned(ours[rows], theirs)), np.abs(turned(ours[pairs], ours[following[pairs]]))
    return {
        f"{name}_degrees": mean_figure(
            change[:, k], study.track[rows], of, float(np.nanmean(natural[:, k])) if len(pairs) else None
        )
        for k, name in enumerate(("yaw", "pitch", "roll"))
    }


def turned(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Difference of `(N,)` angles in degrees, in [-180, 180)."""
    return np.asarray((b - a + 180) % 360 - 180)


def _outside(measured: Measured) -> dict[str, Figure]:
    """Picture quality far from all faces, over frames."""
    values = np.array(list(measured.outside.values()), float)
    good = values[np.isfinite(values)]
    if not len(good):
        return {"outside_psnr_db": not_measured("faces and their surroundings fill every frame")}
    return {
        "outside_psnr_db": Figure(float(good.mean()), len(good), len(values)),
        "outside_psnr_db_worst_frame": Figure(float(good.min()), len(good), len(values)),
    }
