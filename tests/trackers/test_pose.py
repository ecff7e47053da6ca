"""Pose from five landmarks, against a head projected at known angles."""

from __future__ import annotations

import itertools
import math

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from fluidvid.geometry import ARCFACE_112, FFHQ_112
from fluidvid.trackers import FacePose, face_pose
from fluidvid.trackers.pose import MODEL_MM
from tests.trackers.scenes import box_at, points_in, texture

BOX = np.array([0, 0, 200, 250], np.float32)


def _head(yaw: float, pitch: float, roll: float, scale: float = 1.5) -> NDArray[np.float64]:
    """`(5, 2)` landmarks of the mean head: nodded, then turned, then tilted, seen from far away."""
    y, p, r = (math.radians(v) for v in (yaw, pitch, roll))
    nod = np.array([[1, 0, 0], [0, math.cos(p), -math.sin(p)], [0, math.sin(p), math.cos(p)]])
    turn = np.array([[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]])
    tilt = np.array([[math.cos(r), -math.sin(r), 0], [math.sin(r), math.cos(r), 0], [0, 0, 1]])
    return np.asarray((MODEL_MM @ (tilt @ turn @ nod).T)[:, :2] * scale + (320, 240))


def _angles(points: NDArray[np.float64]) -> tuple[float, float, float]:
    pose = face_pose(points, None, BOX)
    return pose.yaw, pose.pitch, pose.roll


@pytest.mark.parametrize(
    ("yaw", "pitch", "roll"), list(itertools.product((-60, -25, 0, 40), (-25, 0, 20), (-40, 0, 30, 120)))
)
def test_known_angles_are_recovered(yaw: float, pitch: float, roll: float) -> None:
    np.testing.assert_allclose(_angles(_head(yaw, pitch, roll)), (yaw, pitch, roll), atol=0.01)


def test_signs_are_as_promised() -> None:
    """Yaw is positive where the nose stands to the right of the eyes' middle as seen."""
    right = _head(30, 0, 0)
    assert right[2, 0] > right[:2, 0].mean()
    assert face_pose(right, None, BOX).yaw > 0
    up = _head(0, 20, 0)
    assert (up[2, 1] - up[:2, 1].mean()) < (_head(0, 0, 0)[2, 1] - _head(0, 0, 0)[:2, 1].mean())
    assert face_pose(up, None, BOX).pitch > 0


@pytest.mark.parametrize("template", [FFHQ_112, ARCFACE_112])
def test_the_templates_are_frontal(template: NDArray[np.float64]) -> None:
    yaw, pitch, roll = _angles(template * 112)
    assert abs(yaw) < 4
    assert abs(pitch) < 12
    assert abs(roll) < 2


def test_jitter_of_the_landmarks_moves_the_angles_little() -> None:
    rng = np.random.default_rng(0)
    points = _head(20, 5, 10)
    eyes = np.linalg.norm(points[1] - points[0])
    errors = [np.array(_angles(points + rng.normal(0, 0.03 * eyes, points.shape))) - (20, 5, 10) for _ in range(200)]
    assert np.abs(np.mean(errors, axis=0)).max() < 2
    assert np.std(errors, axis=0).max() < 8


@pytest.mark.parametrize(
    "points",
    [
        np.full((5, 2), 30.0),
        np.full((5, 2), np.nan),
        np.where(np.eye(5, 2) > 0, np.inf, 10.0),
        np.stack([np.arange(5.0), np.zeros(5)], 1),
        np.zeros((4, 2)),
        np.zeros((5, 3)),
    ],
    ids=["coincide", "nan", "inf", "line", "four", "3-d"],
)
def test_nonsense_is_nan_and_useless(points: NDArray[np.float64]) -> None:
    pose = face_pose(points, None, BOX)
    assert math.isnan(pose.yaw)
    assert math.isnan(pose.pitch)
    assert math.isnan(pose.roll)
    assert pose.quality == 0.0


def _quality(yaw: float = 0, pitch: float = 0, size: float = 200, image: NDArray[np.uint8] | None = None) -> float:
    return face_pose(_head(yaw, pitch, 0), image, np.array([0, 0, size, 1.25 * size])).quality


def test_quality_falls_with_the_turn() -> None:
    values = [_quality(yaw=y) for y in (0, 20, 40, 60, 80)]
    assert values[0] == pytest.approx(1)
    assert np.all(np.diff(values) < 0)
    assert values[-1] < 0.2
    assert _quality(yaw=-40) == pytest.approx(_quality(yaw=40))
    assert _quality(pitch=30) < 0.9


def test_quality_falls_with_size() -> None:
    values = [_quality(size=s) for s in (160, 100, 50, 20)]
    assert np.all(np.diff(values) < 0)
    assert _quality(size=160) == _quality(size=500)


def test_quality_falls_with_blur() -> None:
    sharp = texture(0, 300, 300, blur=2)
    values = [_quality(image=np.asarray(cv2.GaussianBlur(sharp, (0, 0), s), np.uint8)) for s in (0.5, 3, 6, 12)]
    assert np.all(np.diff(values) < 0)
    assert values[-1] < 0.3 * values[0]
    assert all(0 < v <= 1 for v in values)


@pytest.mark.parametrize("box", [(-50, -50, 30, 30), (280, 280, 400, 420), (-90, -90, -10, -10), (900, 900, 990, 999)])
def test_a_box_beyond_the_picture_does_not_crash(box: tuple[float, ...]) -> None:
    quality = face_pose(points_in(np.array(box)), texture(0, 300, 300), np.array(box)).quality
    assert 0 < quality <= 1


def test_a_flat_picture_is_of_little_use_but_of_some() -> None:
    pose = face_pose(points_in(box_at(100, 100)), np.zeros((200, 200, 3), np.uint8), box_at(100, 100))
    assert isinstance(pose, FacePose)
    assert 0 < pose.quality < 0.1
