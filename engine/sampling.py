"""Unconditional faces from a backbone: deterministic DDIM from noise (Song et al., arXiv 2010.02502)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fluidvid.engine.backbone import Backbone
from fluidvid.engine.hspace import SplitUNet
from fluidvid.engine.schedule import NoiseSchedule


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
    shape = backbone.encode(torch.zeros(1, 3, backbone.crop_size, backbone.crop_size)).shape[1:]
    for start in range(0, count, batch):
        noise = [torch.randn(shape, generator=generator) for _ in range(min(batch, count - start))]
        z = torch.stack(noise).to(backbone.device, backbone.dtype)
        yield backbone.decode(denoised(backbone.unet, backbone.schedule, z, steps))


def denoised(unet: SplitUNet, schedule: NoiseSchedule, noise: Tensor, steps: int) -> Tensor:
    """Latents that a model makes of `(N, C, h, w)` noise.

    Args:
        unet: the model.
        schedule: its own.
        noise: of unit variance.
        steps: see `sample`.
    """
    last = len(schedule.alphas_cumprod) - 1
    levels = torch.linspace(last, 0, min(steps, last + 1)).round().long().tolist()
    z = noise
    for t, after in zip(levels, [*levels[1:], -1], strict=True):
        ts = torch.full((len(z),), t, device=z.device)
        x0, eps = schedule.x0_and_eps(unet.decode(unet.encode(z, ts)), z, ts)
        z = schedule.ddim(x0, eps, torch.full_like(ts, after))
    return z
