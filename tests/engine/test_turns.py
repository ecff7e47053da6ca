"""Turned heads for training pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch

from fluidvid.engine.training import turns as made

SIDE = 96


def _head(count: int = 1) -> torch.Tensor:
    """`(count, 468, 3)`: points of a half cylinder, the nose in front of it, the ears behind the cheeks."""
    angle = torch.linspace(-1.2, 1.2, 468)
    points = torch.stack([0.5 + 0.3 * angle.sin(), torch.linspace(0.2, 0.8, 468), 0.2 - 0.3 * angle.cos()], 1)
    points[list(made.MIDDLE)] = torch.tensor([0.5, 0.5, -0.1])
    points[4] = torch.tensor([0.5, 0.55, -0.2])
    points[made.EARS[0]], points[made.EARS[1]] = torch.tensor([0.22, 0.5, 0.3]), torch.tensor([0.78, 0.5, 0.3])
    return points.expand(count, -1, -1).clone()


def test_a_turned_nose_moves_against_the_cheeks_and_the_middle_stays() -> None:
    head = _head(3)
    flat = made.turned_mesh(head, torch.tensor([0.0, 30.0, -30.0]))
    torch.testing.assert_close(flat[0], head[0, :, :2])
    assert torch.equal(flat[..., 1], head[..., 1]), "nobody nods"
    torch.testing.assert_close(flat[:, made.MIDDLE].mean(1), head[:, made.MIDDLE, :2].mean(1))
    assert flat[1, 4, 0] < 0.48 and flat[2, 4, 0] > 0.52
    torch.testing.assert_close(flat[1, 4, 0] + flat[2, 4, 0], torch.tensor(1.0))
    ears = flat[:, list(made.EARS), 0]
    # They are as near to the axis as the cheeks: their distance shrinks by the cosine, and nothing more.
    torch.testing.assert_close(ears[1, 1] - ears[1, 0], torch.tensor(0.56 * math.cos(math.pi / 6)))


def test_nothing_of_a_head_folds_over() -> None:
    head = _head()
    order = torch.linspace(-1.2, 1.2, 468)
    skin = [i for i in range(468) if i not in (*made.MIDDLE, *made.EARS)]
    for degrees in (-35.0, 35.0):
        across = made.turned_mesh(head, torch.tensor([degrees]))[0, skin, 0]
        assert torch.all(across.diff()[order[skin][:-1].abs() < 0.9] > 0)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")  # where batches of large systems cannot be solved
def test_some_are_turned_none_beyond_the_furthest_and_pictures_follow_their_mesh(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    count, head = 64, _head(64)
    cheek = 130
    x, y = (int(v * SIDE) for v in head[0, cheek, :2])
    crops = torch.full((count, 3, SIDE, SIDE), -1.0)
    crops[..., y - 2 : y + 3, x - 2 : x + 3] = 1.0  # a bright spot
    before = crops.clone()
    asked: list[torch.Tensor] = []
    turned_mesh = made.turned_mesh

    def noted(mesh: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
        asked.append(by)
        return turned_mesh(mesh, by)

    monkeypatch.setattr(made, "turned_mesh", noted)
    monkeypatch.setattr(made, "EVERY", 1)
    done, flat = made.turns(crops, head, torch.Generator().manual_seed(0))
    assert torch.equal(crops, before)
    moved = (flat - head[..., :2]).abs().amax((1, 2)) > 0
    assert 15 <= int(moved.sum()) <= 36 and len(asked[0]) == int(moved.sum())
    assert torch.equal(done[~moved], crops[~moved])
    assert float(asked[0].abs().max()) <= made.MOST and float(asked[0].abs().max()) > 25
    columns = torch.arange(SIDE).float() + 0.5
    light = (done[:, 0] + 1).sum(1)
    at = (light * columns).sum(1) / light.sum(1) / SIDE
    assert float((at - flat[:, cheek, 0]).abs().max()) < 0.015 and float(at.max() - at.min()) > 0.06
    # Who is turned by 40 degrees already is not turned on by as much as others.
    yaw = torch.tensor(math.radians(40))
    far = head.clone()
    far[..., 0] = 0.5 + (head[..., 0] - 0.5) * yaw.cos() + head[..., 2] * yaw.sin()
    far[..., 2] = head[..., 2] * yaw.cos() - (head[..., 0] - 0.5) * yaw.sin()
    made.turns(crops, far, torch.Generator().manual_seed(0))
    assert float(asked[1].max()) < made.FURTHEST - 39 and float(asked[1].min()) == -made.MOST
