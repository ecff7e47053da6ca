"""What counts as recognised where there may be no face left: controls against accusing a grey square."""

from __future__ import annotations

import numpy as np

from fluidvid.audit import Auditor
from fluidvid.audit.look import embed
from fluidvid.audit.measure import matched, painted
from fluidvid.audit.privacy import NULL_MARGIN, above_null, best_of
from fluidvid.trackers.types import Detection, TrackedFace


def test_painting_takes_the_face_and_leaves_the_rest(auditor: Auditor) -> None:
    crop = np.random.default_rng(0).integers(0, 255, (128, 128, 3)).astype(np.uint8)
    empty = painted(crop)
    assert (empty[:10] == crop[:10]).all() and (empty[:, :10] == crop[:, :10]).all()
    assert len(np.unique(empty[50:90, 50:80].reshape(-1, 3), axis=0)) == 1
    grey = np.full((128, 128, 3), 128, np.uint8)
    assert (painted(grey) == grey).all()
    one, two = (embed(auditor.panel, c[None])["dlib_resnet"][0] for c in (grey, painted(grey)))
    assert float(one @ two) > 0.999


def test_bars_rise_above_painted_crops_only_where_there_are_any() -> None:
    bars = above_null(np.array([0.4, 0.4, 0.4], np.float32), np.array([np.nan, 0.1, 0.6], np.float32))
    assert np.allclose(bars, [0.4, 0.4, 0.6 + NULL_MARGIN])


def test_best_of_ignores_views_that_are_missing() -> None:
    a, b = np.array([0.1, np.nan, np.nan], np.float32), np.array([np.nan, -0.5, np.nan], np.float32)
    found = best_of([a, b])
    assert np.allclose(found[:2], [0.1, -0.5]) and np.isnan(found[2])


def test_no_detection_serves_two_faces() -> None:
    points = np.zeros((5, 2), np.float32)

    def box(x: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return np.array([x, 0, x + 10, 10], np.float32)

    faces = [TrackedFace(k, 0, box(x), points, 1.0, True) for k, x in enumerate((0, 2, 50))]
    again = [Detection(box(x), 0.9, points) for x in (1.9, 51)]
    assert matched(faces, again) == [None, 0, 1]
    assert matched(faces, []) == [None] * 3 and matched([], again) == []
