"""Key crops: bounded, good, and varied in pose."""

from __future__ import annotations

import numpy as np

from fluidvid.keyframes import KeyCrop, KeyCrops, merge


def crop(frame: int, quality: float, yaw: float) -> KeyCrop:
    return KeyCrop(np.zeros((4, 4, 3), np.uint8), frame, quality, yaw)


def test_bounded_and_the_best_of_a_pose_survive() -> None:
    keys = KeyCrops(4)
    for i in range(100):
        keys.offer(crop(10 * i, quality=i, yaw=0))
    assert [c.quality for c in keys.best()] == [99, 98, 97, 96]


def test_a_rare_pose_survives_better_crops_of_a_common_one() -> None:
    keys = KeyCrops(3)
    keys.offer(crop(0, 0.1, 40))
    for i in range(1, 50):
        keys.offer(crop(10 * i, 1 + i, 0))
    assert any(c.yaw == 40 for c in keys.best())


def test_neighbouring_frames_do_not_crowd() -> None:
    keys = KeyCrops(8)
    for i in range(10):
        keys.offer(crop(i, i, 0))
    assert len(keys) <= 3


def test_merge_takes_turns() -> None:
    first, second = KeyCrops(4), KeyCrops(4)
    for i in range(4):
        first.offer(crop(10 * i, 10 + i, 0))
    second.offer(crop(0, 1, 0))
    chosen = merge([first, second], 3)
    assert [c.quality for c in chosen] == [13, 1, 12]
