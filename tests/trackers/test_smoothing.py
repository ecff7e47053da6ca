"""Alignment over time: steady, without lag, and honest about what it does not know."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fluidvid.geometry import FFHQ_112, invert, similarity, transform
from fluidvid.trackers import smooth_transforms

TEMPLATE = FFHQ_112 * 128


def _placed(
    x: NDArray[np.float64], y: NDArray[np.float64], eyes: float = 40.0, angle: NDArray[np.float64] | None = None
) -> NDArray[np.float32]:
    """`(T, 5, 2)`: the template's shape, its middle at (x, y), with an eye distance and a turn."""
    shape = (FFHQ_112 - FFHQ_112.mean(0)) / (FFHQ_112[1, 0] - FFHQ_112[0, 0]) * eyes
    turn = np.zeros(len(x)) if angle is None else angle
    c, s = np.cos(turn), np.sin(turn)
    rotation = np.stack([np.stack([c, -s], 1), np.stack([s, c], 1)], 1)  # (T, 2, 2)
    return np.asarray(np.einsum("tij,kj->tki", rotation, shape) + np.stack([x, y], 1)[:, None], dtype=np.float32)


def _middles(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """`(T, 2)` where in the picture the template's middle comes from."""
    return np.stack([transform(invert(m), TEMPLATE.mean(0)) for m in matrices])


def _smooth(points: NDArray[np.float32]) -> NDArray[np.float64]:
    return smooth_transforms(points, TEMPLATE)


def _raw(points: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.stack([similarity(p, TEMPLATE) for p in points])


def test_a_still_face_stays_as_it_is() -> None:
    points = _placed(np.full(30, 100.0), np.full(30, 80.0))
    smoothed = _smooth(points)
    assert smoothed.shape == (30, 2, 3)
    assert smoothed.dtype == np.float64
    np.testing.assert_allclose(smoothed, _raw(points), atol=1e-4)
    np.testing.assert_allclose(transform(smoothed[7], points[7]), TEMPLATE, atol=1e-2)


def test_steady_motion_and_growth_have_no_lag() -> None:
    t = np.arange(40.0)
    points = _placed(100 + 3 * t, 50 + 0.02 * t * t)
    np.testing.assert_allclose(_middles(_smooth(points)), _middles(_raw(points)), atol=0.02)


def test_a_nod_keeps_its_height_and_its_phase() -> None:
    """Period 12 frames (half a second at 25 fps): at least 85 % of the amplitude, the phase within 2 degrees."""
    t = np.arange(96.0)
    middles = _middles(_smooth(_placed(np.full(96, 100.0), 100 + 6 * np.sin(2 * np.pi * t / 12))))[12:84, 1]
    wave = np.exp(-2j * np.pi * np.arange(12, 84) / 12)
    got = 2 * np.mean((middles - middles.mean()) * wave)
    assert 0.85 * 6 <= abs(got) <= 6.05
    assert abs(np.degrees(np.angle(got * 1j))) < 2


def test_jitter_is_at_least_halved() -> None:
    rng = np.random.default_rng(0)
    still = _placed(np.full(300, 100.0), np.full(300, 100.0))
    points = (still + rng.normal(0, 1.0, still.shape)).astype(np.float32)
    shaken, smooth = _middles(_raw(points)), _middles(_smooth(points))
    assert np.std(smooth - 100) < 0.55 * np.std(shaken - 100)
    assert np.std(np.diff(smooth, axis=0)) < 0.3 * np.std(np.diff(shaken, axis=0))
    sizes = [np.log(np.hypot(m[:, 0, 0], m[:, 1, 0])) for m in (_smooth(points), _raw(points))]
    assert np.std(sizes[0]) < 0.55 * np.std(sizes[1])
    angles = [np.arctan2(m[:, 1, 0], m[:, 0, 0]) for m in (_smooth(points), _raw(points))]
    assert np.std(angles[0]) < 0.55 * np.std(angles[1])


def test_what_comes_out_is_a_similarity() -> None:
    rng = np.random.default_rng(1)
    points = (_placed(np.full(40, 100.0), np.full(40, 100.0)) + rng.normal(0, 2, (40, 5, 2))).astype(np.float32)
    for m in _smooth(points):
        np.testing.assert_allclose(m[:, :2] @ m[:, :2].T, np.eye(2) * np.linalg.det(m[:, :2]), atol=1e-9)


def test_a_jump_is_not_smoothed_over() -> None:
    x = np.where(np.arange(40) < 20, 100.0, 260.0)
    points = _placed(x, np.full(40, 100.0))
    np.testing.assert_allclose(_middles(_smooth(points))[:, 0], x, atol=0.01)


def test_a_jump_in_size_is_not_smoothed_over() -> None:
    still = np.full(20, 100.0)
    points = np.concatenate([_placed(still, still, eyes=20), _placed(still, still, eyes=40)])
    np.testing.assert_allclose(_smooth(points), _raw(points), atol=1e-3)


def test_coinciding_and_missing_landmarks_are_nan_and_spoil_nothing_else() -> None:
    points = _placed(100 + np.arange(30.0), np.full(30, 100.0))
    points[10] = 55.0
    points[20, 3] = np.nan
    smoothed = _smooth(points)
    bad = np.isnan(smoothed).any(axis=(1, 2))
    assert np.flatnonzero(bad).tolist() == [10, 20]
    assert np.isnan(smoothed[bad]).all()
    good = ~bad
    np.testing.assert_allclose(smoothed[good], _raw(points[good]), atol=0.02)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_short_tracks(count: int) -> None:
    t = np.arange(float(count))
    points = _placed(100 + 2 * t, 100 - t)
    np.testing.assert_allclose(_smooth(points), _raw(points), atol=1e-3)


def test_an_empty_track() -> None:
    assert _smooth(np.zeros((0, 5, 2), np.float32)).shape == (0, 2, 3)


def test_angles_wrap_around() -> None:
    """A head upside down that sways through 180 degrees does not spin the crop."""
    t = np.arange(48.0)
    angle = np.pi + 0.3 * np.sin(2 * np.pi * t / 24)
    points = _placed(np.full(48, 100.0), np.full(48, 100.0), angle=angle)
    for matrix, truth in zip(_smooth(points), angle, strict=True):
        got = np.arctan2(matrix[1, 0], matrix[0, 0])
        assert abs((got + truth + np.pi) % (2 * np.pi) - np.pi) < 0.03


def test_the_distance_of_the_face_does_not_change_the_result() -> None:
    """Twice as large a picture: the same crop."""
    rng = np.random.default_rng(2)
    t = np.arange(40.0)
    points = (_placed(100 + 8 * np.sin(t / 3), 100 + t) + rng.normal(0, 0.5, (40, 5, 2))).astype(np.float32)
    for a, b, small, large in zip(_smooth(points), _smooth(points * 2), points, points * 2, strict=True):
        np.testing.assert_allclose(transform(a, small), transform(b, large), atol=1e-3)
