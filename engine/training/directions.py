"""From a trained prior: the components of its h-space."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fluidvid.engine.backbone import Backbone
from fluidvid.engine.subspace import ComponentSpace, principal_components


@torch.inference_mode()
def bottlenecks(backbone: Backbone, crops: Tensor, timesteps: Sequence[int], generator: torch.Generator) -> Tensor:
    """`(N, L, C * h * w)` activations of `(N, 3, S, S)` crops, each with one fresh noise shared by its levels."""
    rows = []
    for part in crops.split(32):
        z = backbone.encode(part)
        noise = torch.randn(z.shape, generator=generator).to(z)
        levels = []
        for t in timesteps:
            ts = torch.full((len(z),), t, device=z.device)
            levels.append(
                backbone.unet.encode(backbone.schedule.add_noise(z, noise, ts), ts).h.flatten(1).float().cpu()
            )
        rows.append(torch.stack(levels, 1))
    return torch.cat(rows)


def fit_components(h: Tensor, timesteps: Sequence[int], shape: tuple[int, int, int], count: int) -> ComponentSpace:
    """Principal components of `bottlenecks` per level."""
    basis = torch.stack([principal_components(h[:, level], count) for level in range(len(timesteps))])
    return ComponentSpace(tuple(timesteps), basis, shape)
