"""How an edit is made: the levels, the geometry, and the small objects that the editors share."""

from __future__ import annotations

from collections.abc import Callable
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
        boost: multiple of the strength with which it is applied.
    """

    values: Tensor
    noise: Tensor
    boost: float = 1.0


CropEdits = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""A `CropEditor` at some latents: from values and strengths."""


class CropEditor(Protocol):
    """Difference and inversion editing share this shape.

    `z` `(N, c, s, s)` latents, `values` `(N, L, C, h, w)`, `noise` `(N, c, s, s)`, `strength` `(N,)` in [0, 1]; returns
    the latents before and after the edit, of the same path, whose decoded difference is the residual.
    """

    def __call__(self, z: Tensor, values: Tensor, noise: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]: ...

    def at(self, z: Tensor, noise: Tensor) -> CropEdits:
        """The same for several directions tried on the same latents; what they share is computed once."""


def extrapolated(before: Tensor, after: Tensor, strength: Tensor) -> Tensor:
    """Latents beyond an edit, on the line from before it, as classifier-free guidance goes beyond a prediction.

    Args:
        before: `(N, c, s, s)`.
        after: the same, edited.
        strength: `(N,)`; up to 1 the edit stays as it is: so much of the arc it has gone itself.
    """
    return before + strength.clamp_min(1).reshape(-1, 1, 1, 1).to(before.dtype) * (after - before)


def without_skips(bottleneck: Bottleneck) -> Bottleneck:
    """The same bottleneck with every skip tensor at zero."""
    zeros = tuple(torch.zeros_like(s) for s in bottleneck.skips)
    return Bottleneck(bottleneck.h, zeros, bottleneck.embedding, bottleneck.timesteps)


@dataclass(frozen=True, eq=False)
class Unmoved:
    """What a U-Net predicts of noisy latents while h stays where it is: what a displaced h is compared with.

    Attributes:
        backbone: the model.
        z_t: `(N, c, s, s)` noisy latents.
        bottleneck: of them, as it is decoded.
        x0: `(N, c, s, s)` prediction.
        geometry: of displacements.
    """

    backbone: Backbone
    z_t: Tensor
    bottleneck: Bottleneck
    x0: Tensor
    geometry: Geometry

    def change(self, values: Tensor, strength: Tensor) -> Tensor:
        """Change of the prediction when h moves along `(N, C, h, w)` by `(N,)` in [0, 1]; see `displacement`."""
        h, ts = self.bottleneck.h, self.bottleneck.timesteps
        moved = displace(h, values.to(h.dtype), strength.to(h.dtype), self.geometry)
        x0, _ = self.backbone.schedule.x0_and_eps(self.backbone.unet.decode(self.bottleneck, moved), self.z_t, ts)
        return x0 - self.x0


def _encoded(backbone: Backbone, z_t: Tensor, timesteps: Tensor, plan: EditPlan) -> Bottleneck:
    bottleneck = backbone.unet.encode(z_t, timesteps)
    return bottleneck if plan.skips else without_skips(bottleneck)


def unmoved(backbone: Backbone, z_t: Tensor, timesteps: Tensor, plan: EditPlan) -> Unmoved:
    """Where several directions are tried on the same latents: see `displacement` for the arguments."""
    bottleneck = _encoded(backbone, z_t, timesteps, plan)
    x0, _ = backbone.schedule.x0_and_eps(backbone.unet.decode(bottleneck), z_t, timesteps)
    return Unmoved(backbone, z_t, bottleneck, x0, plan.geometry)


def displacement(
    backbone: Backbone, z_t: Tensor, timesteps: Tensor, values: Tensor, strength: Tensor, plan: EditPlan
) -> Tensor:
    """Change of the predicted x0 when h moves, `x0(h + D) - x0(h)` at z_t, `(N, c, s, s)`.

    What `unmoved` and its `change` compute, in one batch: for one direction of one crop a sixth quicker.

    Args:
        backbone: the model.
        z_t: `(N, c, s, s)` noisy latents.
        timesteps: `(N,)`.
        values: `(N, C, h, w)` direction at this level.
        strength: `(N,)` in [0, 1].
        plan: geometry and whether skips are used.
    """
    bottleneck = _encoded(backbone, z_t, timesteps, plan)
    h, n = bottleneck.h, len(z_t)
    moved = displace(h, values.to(h.dtype), strength.to(h.dtype), plan.geometry)
    output = backbone.unet.decode(bottleneck.repeat(2), torch.cat([h, moved]))
    x0, _ = backbone.schedule.x0_and_eps(output, z_t.repeat(2, 1, 1, 1), timesteps.repeat(2))
    return x0[n:] - x0[:n]
