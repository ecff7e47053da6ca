"""Pictures of what an edit should look like: a donor's face bent to the one that is there."""

from __future__ import annotations

import pytest
import torch

from fluidvid.engine.composite import EYES_AND_MOUTH, eyes_and_mouth, softened
from fluidvid.engine.training.swaps import (
    bend,
    likeness,
    swapped,
)

SIDE = 64


def _dot(x: float, y: float) -> torch.Tensor:
    """A bright blob at `x`, `y` in fractions of the side."""
    axis = (torch.arange(SIDE) + 0.5) / SIDE
    square = (axis[None, :] - x) ** 2 + (axis[:, None] - y) ** 2
    return torch.exp(-square / (2 * 0.03**2)).expand(1, 3, SIDE, SIDE)


def _points() -> torch.Tensor:
    axis = torch.linspace(0.25, 0.75, 5)
    return torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).reshape(1, -1, 2)


def _mesh(generator: torch.Generator) -> torch.Tensor:
    """Points all over the face."""
    mesh = _points().repeat(1, 19, 1)[:, :468]
    return mesh + 0.01 * torch.rand(mesh.shape, generator=generator)


def _landmarks(brows: float = 0.3) -> torch.Tensor:
    """Closed eyes at .4 of the height, a closed mouth at .7; nothing else matters here."""
    points = torch.full((1, 68, 2), 0.5)
    points[:, 17:27, 1], points[:, 36:48, 1], points[:, 48:68, 1] = brows, 0.4, 0.7
    return points


def _centre(picture: torch.Tensor) -> tuple[float, float]:
    light = picture[0].mean(0)
    axis = (torch.arange(SIDE) + 0.5) / SIDE
    total = float(light.sum())
    return float((light * axis).sum()) / total, float((light * axis[:, None]).sum()) / total


def test_nothing_is_bent_where_the_points_agree() -> None:
    picture = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    points = _points().expand(2, -1, -1)
    torch.testing.assert_close(bend(picture, points, points), picture, atol=1e-3, rtol=0)


def test_what_lies_at_a_point_comes_to_lie_on_its_goal_and_the_border_stays() -> None:
    points = _points()
    goals = points + torch.tensor([0.06, -0.04])
    x, y = _centre(bend(_dot(0.5, 0.5), points, goals))
    assert x == pytest.approx(0.56, abs=0.01)
    assert y == pytest.approx(0.46, abs=0.01)
    frame = torch.zeros(1, 3, SIDE, SIDE)
    frame[..., :2, :] = 1
    assert float((bend(frame, points, goals) - frame).abs()[..., 0, :].max()) < 0.1


def test_a_swap_keeps_light_and_what_is_outside_and_takes_the_donors_features() -> None:
    crops = torch.full((1, 3, SIDE, SIDE), -0.3) + 0.5 * _dot(0.5, 0.35)
    donors = torch.full((1, 3, SIDE, SIDE), 0.4) + 0.5 * _dot(0.4, 0.6)
    axis = (torch.arange(SIDE) + 0.5) / SIDE
    region = ((axis[None, :] - 0.5) ** 2 + (axis[:, None] - 0.5) ** 2 < 0.3**2).float()[None, None]
    mesh = _mesh(torch.Generator().manual_seed(0))
    done = swapped(crops, _landmarks(0.1), mesh, region, donors, mesh)
    outside = (region == 0).expand_as(done)
    assert torch.equal(done[outside], crops[outside])
    inside = region.expand_as(done) > 0
    assert float(done[inside].mean()) == pytest.approx(float(crops[inside].mean()), abs=0.05)  # not the donor's .4
    at = [done[0, 0, int(y * SIDE), int(x * SIDE)] for x, y in ((0.4, 0.6), (0.5, 0.35))]
    assert at[0] > at[1] + 0.1  # the donor's blob is there, the face's own is light at most


def test_a_swap_is_no_sharper_than_the_picture_it_is_put_into() -> None:
    generator = torch.Generator().manual_seed(0)
    donors = 0.5 * torch.randn(1, 3, SIDE, SIDE, generator=generator)
    region, mesh = torch.ones(1, 1, SIDE, SIDE), _mesh(generator)
    soft = swapped(softened(donors.flip(3), region, 4.0), _landmarks(-0.2), mesh, region, donors, mesh)
    sharp = swapped(donors.flip(3), _landmarks(-0.2), mesh, region, donors, mesh)
    assert float(soft.diff(dim=-1).abs().mean()) < 0.4 * float(sharp.diff(dim=-1).abs().mean())


def test_a_swap_keeps_what_open_eyes_and_an_open_mouth_show() -> None:
    generator = torch.Generator().manual_seed(0)
    crops, donors = torch.zeros(1, 3, SIDE, SIDE), torch.rand(1, 3, SIDE, SIDE, generator=generator)
    region, mesh = torch.ones(1, 1, SIDE, SIDE), _mesh(generator)
    landmarks = _landmarks()
    for ring, (x, y) in zip(EYES_AND_MOUTH, ((0.35, 0.4), (0.65, 0.4), (0.5, 0.7)), strict=True):
        turn = torch.linspace(0, 2 * torch.pi, ring.stop - ring.start + 1)[:-1]
        landmarks[0, ring] = torch.stack([x + 0.08 * turn.cos(), y + 0.08 * turn.sin()], 1)
    shown = eyes_and_mouth(landmarks, SIDE)[0, 0]
    done = swapped(crops, landmarks, mesh, region, donors, mesh)[0].abs().mean(0)
    assert float(done[shown == 1].max()) == 0
    assert float(done[shown == 0].mean()) > 0.01


def test_likeness_counts_pixels_and_slopes_where_the_weight_is() -> None:
    wanted, weight = torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4)
    weight[..., :2, :] = 1
    assert likeness(wanted, wanted, weight) == 0
    assert likeness(wanted + 0.5, wanted, weight) == pytest.approx(0.5)  # no slope differs
    outside = wanted.clone()
    outside[..., 3, :] = 1
    assert likeness(outside, wanted, weight) == 0
    edge = wanted.clone()
    edge[..., 0, 0] = 1  # one of eight pixels, and the slopes at its right and below
    assert likeness(edge, wanted, weight) == pytest.approx((1 + 1 + 1) / 8)
