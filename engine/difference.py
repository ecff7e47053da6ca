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
        if not self.plan.refine_timesteps:
            return z, z + delta
        # Both ways through the same steps: where nothing is edited they meet, and at strength 0 everywhere.
        both = self._redrawn(torch.cat([z, z + delta]), noise.repeat(2, 1, 1, 1))
        return both[: len(z)], both[len(z) :]

    def _redrawn(self, z: Tensor, noise: Tensor) -> Tensor:
        """Noise and denoise again with the whole network (DDIM): what additive edits left unlike a face is redrawn."""
        backbone, schedule = self.backbone, self.backbone.schedule
        timesteps = torch.full((len(z),), self.plan.refine_timesteps[0], device=z.device)
        z_t = schedule.add_noise(z, noise, timesteps)
        x0, eps = backbone.predict(z_t, timesteps)
        for t in self.plan.refine_timesteps[1:]:
            timesteps = torch.full((len(z),), t, device=z.device)
            x0, eps = backbone.predict(schedule.add_noise(x0, eps, timesteps), timesteps)
        return x0
