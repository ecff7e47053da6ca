"""How an edit is made: the levels, the geometry, and the small objects that the editors share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fluidvid.engine.backbone import Backbone
from fluidvid.engine.geodesic import Geometry, displace
from fluidvid.engine.hspace import Bottleneck


@dataclass(frozen=True)
class EditPlan:
    """One edit, apart from the direction.

    Attributes:
        timesteps: levels at which h is displaced, descending.
        skips: False decodes displaced levels with all skip tensors at zero, so that h alone describes the face (the
            embedded prior is trained for it); True is the U-Net's ordinary forward.
        geometry: "linear" or "geodesic".
        inversion_steps: K of the inversion editor.
        inversion_start: t_max of the inversion editor.
    """

    timesteps: tuple[int, ...]
    skips: bool = True
    geometry: Geometry = "linear"
    inversion_steps: int = 12
    inversion_start: int = 600


@dataclass(frozen=True, eq=False)
class Direction:
    """An identity direction and the noise that goes with it.

    Attributes:
        values: `(L, C, h, w)` float32 displacement of h per level, in the units of h.
        noise: `(c, s, s)` float32 the track's fixed noise in crop coordinates.
    """

    values: Tensor
    noise: Tensor


class CropEditor(Protocol):
    """Difference and inversion editing share this shape.

    `z` `(N, c, s, s)` latents, `values` `(N, L, C, h, w)`, `noise` `(N, c, s, s)`, `strength` `(N,)`; returns the
    latents before and after the edit, of the same path, whose decoded difference is the residual.
    """

    def __call__(self, z: Tensor, values: Tensor, noise: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]: ...


def without_skips(bottleneck: Bottleneck) -> Bottleneck:
    """The same bottleneck with every skip tensor at zero."""
    zeros = tuple(torch.zeros_like(s) for s in bottleneck.skips)
    return Bottleneck(bottleneck.h, zeros, bottleneck.embedding, bottleneck.timesteps)


def displacement(
    backbone: Backbone, z_t: Tensor, timesteps: Tensor, values: Tensor, strength: Tensor, plan: EditPlan
) -> tuple[Tensor, Tensor, Bottleneck]:
    """Change of the predicted x0 when h moves: `(x0(h + D) - x0(h), eps(h + D) - eps(h), bottleneck)` at z_t.

    Args:
        backbone: the model.
        z_t: `(N, c, s, s)` noisy latents.
        timesteps: `(N,)`.
        values: `(N, C, h, w)` direction at this level.
        strength: `(N,)` in [0, 1].
        plan: geometry and whether skips are used.
    """
    bottleneck = backbone.unet.encode(z_t, timesteps)
    moved = displace(bottleneck.h, values.to(bottleneck.h.dtype), strength.to(bottleneck.h.dtype), plan.geometry)
    source = (bottleneck if plan.skips else without_skips(bottleneck)).repeat(2)
    output = backbone.unet.decode(source, torch.cat([bottleneck.h, moved]))
    both, times = z_t.repeat(2, 1, 1, 1), timesteps.repeat(2)
    x0, eps = backbone.schedule.x0_and_eps(output, both, times)
    n = len(z_t)
    return x0[n:] - x0[:n], eps[n:] - eps[:n], bottleneck
