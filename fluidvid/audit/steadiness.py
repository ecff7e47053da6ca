"""How a result behaves in time: one identity per track, no flicker, the source's own motion, no jumps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fluidvid.audit.look import Floats
from fluidvid.audit.measure import Measured
from fluidvid.audit.privacy import Recognition, judged, present
from fluidvid.audit.statistics import Figure, mean_figure, not_measured, ratio_figure
from fluidvid.audit.study import Study
from fluidvid.audit.utility import next_rows
from fluidvid.geometry import invert, transform

SHORTEST = 8
"""Steps of a track from which a correlation of its motion means something."""


@dataclass(frozen=True)
class Jump:
    """The frame in which a track's identity changes in the result though it does not in the source."""

    track: int
    frame: int
    cosine: float


def steadiness(study: Study, measured: Measured, recognitions: list[Recognition]) -> dict[str, Figure]:
    """All figures of time."""
    of, tracks = int(present(study).sum()), study.track
    chosen, following = judged(study, measured) & measured.found, next_rows(study)
    pairs = np.flatnonzero((following >= 0) & chosen & np.append(chosen, False)[following])
    figures: dict[str, Figure] = {}
    for recognition in recognitions:
        name = recognition.grader.name
        if measured.look is None or study.look is None or not len(pairs):
            missing = not_measured("no track is found again in two frames running", of)
            figures |= {f"next_frame_cosine_{name}": missing, f"jumps_{name}": missing}
            continue
        new, old = _steps(study, measured, name, pairs, following)
        figures[f"next_frame_cosine_{name}"] = mean_figure(new, tracks[pairs], of, float(old.mean()))
        at = recognition.loose.value
        if at is not None:
            jumped = np.where(old >= at, new < at, np.nan)
            figures[f"jumps_{name}"] = mean_figure(jumped, tracks[pairs], of)
    good = present(study) & np.isfinite(measured.warp_result)
    if good.any():
        floor = float(measured.warp_source[good].mean())
        figures["warp_error"] = mean_figure(measured.warp_result[good], tracks[good], of, floor)
        figures["flicker_ratio"] = ratio_figure(
            measured.warp_result[good], measured.warp_source[good], tracks[good], of
        )
    else:
        missing = not_measured("no track is seen in two frames running", of)
        figures |= {"warp_error": missing, "flicker_ratio": missing}
    figures["motion_correlation"] = _motion(study, measured, pairs, following, of, whole=True)
    figures["expression_motion_correlation"] = _motion(study, measured, pairs, following, of, whole=False)
    return figures


def jumps(study: Study, measured: Measured, recognition: Recognition) -> list[Jump]:
    """Steps over which a face stops being the same person for this recogniser, where the source's does not."""
    if study.look is None or measured.look is None or recognition.loose.value is None:
        return []
    chosen, following = judged(study, measured) & measured.found, next_rows(study)
    pairs = np.flatnonzero((following >= 0) & chosen & np.append(chosen, False)[following])
    at = recognition.loose.value
    new, old = _steps(study, measured, recognition.grader.name, pairs, following)
    jumped = (old >= at) & (new < at)
    rows = following[pairs][jumped]
    return [Jump(int(study.track[r]), int(study.frame[r]), float(c)) for r, c in zip(rows, new[jumped], strict=True)]


def _steps(
    study: Study, measured: Measured, name: str, pairs: NDArray[np.int64], following: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """`(K,)` cosines from one frame to the next, of the result and of the source."""
    assert study.look is not None and measured.look is not None
    new, old = measured.look.embeddings[name], study.look.embeddings[name]
    after = following[pairs]
    return (new[pairs] * new[after]).sum(1), (old[pairs] * old[after]).sum(1)


def in_picture(landmarks: Floats, matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """`(N, 68, 2)` landmarks in crop pixels to picture pixels, by `(N, 2, 3)` matrices from picture to crop."""
    return np.stack([transform(invert(m), p) for m, p in zip(matrices, landmarks, strict=True)])


def _motion(
    study: Study, measured: Measured, pairs: NDArray[np.int64], following: NDArray[np.int64], of: int, *, whole: bool
) -> Figure:
    """Pearson correlation of the 68 landmarks' steps in source and result, per track, weighted by its faces.

    `whole`: steps in the picture, the head's own motion included; else in the aligned crop, where only the face moves
    and the landmarker's jitter weighs more.
    """
    pairs = pairs[measured.found[pairs] & measured.found[following[pairs]]]
    if study.look is None or measured.look is None or not len(pairs):
        return not_measured("no track is found again in two frames running", of)
    steps = []
    for look in (study.look, measured.look):
        if whole:
            before = in_picture(look.landmarks[pairs], study.matrices[pairs])
            after = in_picture(look.landmarks[following[pairs]], study.matrices[following[pairs]])
            steps.append(after - before)
        else:
            steps.append(np.asarray(look.landmarks[following[pairs]] - look.landmarks[pairs], np.float64))
    values = np.full(len(pairs), np.nan)
    for track in np.unique(study.track[pairs]):
        rows = study.track[pairs] == track
        a, b = (s[rows].ravel() for s in steps)
        if rows.sum() >= SHORTEST and a.std() > 1e-9 and b.std() > 1e-9:
            values[rows] = np.corrcoef(a, b)[0, 1]
    figure = mean_figure(values, study.track[pairs], of)
    return figure if figure.value is not None else not_measured(f"no track is followed for {SHORTEST} steps", of)
