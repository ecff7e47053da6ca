"""The Kalman filter behind a track."""

from __future__ import annotations

import numpy as np
import pytest

from fluidvid.trackers.motion import BoxMotion
from tests.trackers.scenes import box_at, centre


def test_it_starts_where_the_box_is() -> None:
    np.testing.assert_allclose(BoxMotion(box_at(100, 50)).box, box_at(100, 50), atol=1e-3)


def test_it_learns_a_constant_velocity() -> None:
    motion = BoxMotion(box_at(100, 100))
    for t in range(1, 20):
        motion.predict()
        motion.update(box_at(100 + 5 * t, 100 - 2 * t))
    np.testing.assert_allclose(centre(motion.predict()), (200, 60), atol=1.0)


def test_it_takes_out_jitter() -> None:
    rng = np.random.default_rng(0)
    motion = BoxMotion(box_at(100, 100))
    raw, smooth = [], []
    for _ in range(200):
        jitter = rng.normal(0, 2, 2)
        motion.predict()
        motion.update(box_at(*(100 + jitter)))
        raw.append(jitter)
        smooth.append(centre(motion.box) - 100)
    assert np.std(smooth) < 0.9 * np.std(raw)


def test_a_lost_face_stops() -> None:
    motion = BoxMotion(box_at(100, 100))
    for t in range(1, 10):
        motion.predict()
        motion.update(box_at(100 + 10 * t, 100))
    last = centre(motion.box)[0]
    places = [centre(motion.predict())[0] for _ in range(60)]
    assert np.all(np.diff(places) >= 0)
    assert 60 < places[-1] - last < 120, "about ten frames' worth of motion, then rest"
    assert places[-1] - places[-2] < 0.1


def test_a_lost_face_keeps_its_size() -> None:
    motion = BoxMotion(box_at(100, 100, 80, 100))
    for t in range(1, 10):
        motion.predict()
        motion.update(box_at(100, 100, 80 - 4 * t, 100 - 5 * t))
    for _ in range(2):
        motion.predict()
    size = motion.box[2:] - motion.box[:2]
    for _ in range(40):
        motion.predict()
    np.testing.assert_allclose(motion.box[2:] - motion.box[:2], size, rtol=0.05)
    assert (motion.box[2:] > motion.box[:2]).all()


@pytest.mark.parametrize(
    "box", [(0, 0, 0, 10), (0, 0, 10, 0), (10, 0, 0, 10), (0, 0, float("nan"), 1), (0, 0, float("inf"), 1), (0, 0, 1)]
)
def test_nonsense_is_refused_with_its_value(box: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"x1 < x2, y1 < y2, got \["):
        BoxMotion(np.array(box))


def test_boxes_beyond_the_edge_are_boxes() -> None:
    np.testing.assert_allclose(BoxMotion(np.array([-30.0, -20, 10, 30])).box, (-30, -20, 10, 30), atol=1e-3)
