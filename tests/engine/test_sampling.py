"""Unconditional samples."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fluidvid.engine.sampling import sample
from tests.engine.tiny import tiny_backbone


def _drawn(folder: Path, count: int, batch: int, steps: int = 4, kind: str = "sample") -> torch.Tensor:
    backbone = tiny_backbone(folder, prediction_type=kind)
    parts = list(sample(backbone, count, torch.Generator().manual_seed(5), steps, batch))
    assert all(len(part) <= batch for part in parts)
    return torch.cat(parts)


@pytest.mark.parametrize("kind", ["sample", "epsilon"])
def test_a_sample_depends_on_its_own_noise_alone(kind: str, tmp_path: Path) -> None:
    five, three = (_drawn(tmp_path, n, b, kind=kind) for n, b in ((5, 2), (3, 3)))
    assert five.shape == (5, 3, 64, 64)
    torch.testing.assert_close(five[:3], three, atol=1e-4, rtol=1e-4)
    assert (five[0] - five[1]).abs().max() > 1e-3
    assert five.abs().max() <= 1


def test_the_last_step_is_the_models_own_picture(tmp_path: Path) -> None:
    """One step from pure noise is what the model predicts there, decoded."""
    backbone = tiny_backbone(tmp_path)
    (drawn,) = sample(backbone, 2, torch.Generator().manual_seed(5), steps=1)
    generator = torch.Generator().manual_seed(5)
    z = torch.stack([torch.randn(4, 8, 8, generator=generator) for _ in range(2)])
    with torch.inference_mode():
        x0, _ = backbone.predict(z, torch.full((2,), 999))
        torch.testing.assert_close(drawn, backbone.decode(x0))


def test_no_more_steps_than_there_are_levels(tmp_path: Path) -> None:
    assert torch.isfinite(_drawn(tmp_path, 1, 1, steps=5000)).all()
