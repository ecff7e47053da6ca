"""Unconditional faces from a backbone: deterministic DDIM from noise (Song et al., arXiv 2010.02502)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fluidvid.engine.backbone import Backbone


@torch.inference_mode()
def sample(
    backbone: Backbone, count: int, generator: torch.Generator, steps: int = 40, batch: int = 16
) -> Iterator[Tensor]:
    """Draw faces; each depends on its own noise alone, not on `batch`.

    Args:
        backbone: any.
        count: number of samples.
        generator: source of the noise.
        steps: evenly spaced levels from the noisiest down; fewer where the model has fewer.
        batch: samples at once.

    Yields:
        `(N, 3, S, S)` float32 in [-1, 1], N <= `batch`.
    """
    last = len(backbone.schedule.alphas_cumprod) - 1
    levels = torch.linspace(last, 0, min(steps, last + 1)).round().long().tolist()
    shape = backbone.encode(torch.zeros(1, 3, backbone.crop_size, backbone.crop_size)).shape[1:]
    for start in range(0, count, batch):
        noise = [torch.randn(shape, generator=generator) for _ in range(min(batch, count - start))]
        z = torch.stack(noise).to(backbone.device, backbone.dtype)
        for t, after in zip(levels, [*levels[1:], -1], strict=True):
            ts = torch.full((len(z),), t, device=z.device)
            x0, eps = backbone.predict(z, ts)
            z = backbone.schedule.ddim(x0, eps, torch.full_like(ts, after))
        yield backbone.decode(z)
