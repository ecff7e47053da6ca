"""Difference editing: what the edit changes in the prediction is added to the clean latents, level by level.

No inversion; the same noise and the same direction for all frames of a track make it steady by construction.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fluidvid.engine.backbone import Backbone
from fluidvid.engine.plan import EditPlan, displacement


@dataclass(frozen=True, eq=False)
class DifferenceEditor:
    """See `fluidvid.engine.plan.CropEditor`; differentiable in `values`."""

    backbone: Backbone
    plan: EditPlan

    def __call__(self, z: Tensor, values: Tensor, noise: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
        backbone, schedule = self.backbone, self.backbone.schedule
        delta = torch.zeros_like(z)
        for level, t in enumerate(self.plan.timesteps):
            timesteps = torch.full((len(z),), t, device=z.device)
            z_t = schedule.add_noise(z + delta, noise, timesteps)
            change, _, _ = displacement(backbone, z_t, timesteps, values[:, level], strength, self.plan)
            delta = delta + change
        for t in self.plan.refine_timesteps:
            timesteps = torch.full((2 * len(z),), t, device=z.device)
            z_t = schedule.add_noise(torch.cat([z + delta, z]), noise.repeat(2, 1, 1, 1), timesteps)
            x0, _ = backbone.predict(z_t, timesteps)
            refined = x0[: len(z)] - x0[len(z) :]
            # At strength 0 the edit must vanish exactly; the difference of two equal predictions does.
            delta = refined
        return z, z + delta
