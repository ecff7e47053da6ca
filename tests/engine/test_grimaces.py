"""Open mouths, closed eyes and moved brows for training pictures."""

from __future__ import annotations

import pytest
import torch

from fluidvid.engine.training import grimaces as made

SIDE = 96
EYES, MOUTH = ((0.36, 0.42), (0.64, 0.42)), (0.5, 0.7)


def _mesh(count: int) -> torch.Tensor:
    """Points all over the face, with open eyes and a closed mouth where a face has them."""
    generator = torch.Generator().manual_seed(0)
    mesh = 0.25 + 0.5 * torch.rand(1, 468, 2, generator=generator)
    for (x, y), upper, lower in zip(EYES, made.UPPER_LIDS, made.LOWER_LIDS, strict=True):
        mesh[:, list(upper)] = torch.tensor([x, y - 0.03])
        mesh[:, list(lower)] = torch.tensor([x, y + 0.03])
    for lip in (made.UPPER_LIP, made.LOWER_LIP):
        mesh[:, list(lip), 0] = torch.linspace(0.42, 0.58, len(lip))
        mesh[:, list(lip), 1] = MOUTH[1]
    mesh[:, [61, 78]], mesh[:, [291, 308]] = torch.tensor([0.4, 0.7]), torch.tensor([0.6, 0.7])
    return mesh.expand(count, -1, -1).clone()


def _made(monkeypatch: pytest.MonkeyPatch, crops: torch.Tensor, **shares: float) -> torch.Tensor:
    for name in ("MOUTHS", "BLINKS", "RAISED"):
        monkeypatch.setattr(made, name, shares.get(name, 0.0))
    return made.grimaces(crops, _mesh(len(crops)), torch.Generator().manual_seed(1))


def test_a_face_that_is_left_alone_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    crops = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) - 0.5
    torch.testing.assert_close(_made(monkeypatch, crops), crops, atol=1e-3, rtol=0)


def test_an_opened_mouth_is_dark_below_the_upper_lip_and_the_forehead_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    crops = torch.full((8, 3, SIDE, SIDE), 0.5)
    done = _made(monkeypatch, crops, MOUTHS=1.0)
    x, y = int(MOUTH[0] * SIDE), int(MOUTH[1] * SIDE)
    below = done[:, 0, y : y + SIDE // 8, x]
    assert torch.all(below.amin(1) < 0.25)
    assert torch.equal(done[..., : SIDE // 3, :], crops[..., : SIDE // 3, :])


def test_what_lies_at_the_upper_lid_comes_down_when_an_eye_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    crops = torch.full((4, 3, SIDE, SIDE), -1.0)
    for x, y in EYES:  # a bright lid above a dark eye
        crops[..., int((y - 0.05) * SIDE) : int((y - 0.02) * SIDE), int((x - 0.04) * SIDE) : int((x + 0.04) * SIDE)] = 1
    done = _made(monkeypatch, crops, BLINKS=1.0)
    rows = torch.arange(SIDE).float()[:, None]

    def height(pictures: torch.Tensor) -> torch.Tensor:
        light = (pictures[:, 0] + 1) / 2
        return (light * rows).sum((1, 2)) / light.sum((1, 2))

    assert torch.all(height(done) > height(crops) + 0.008 * SIDE)
