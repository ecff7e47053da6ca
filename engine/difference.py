"""Difference editing: what the edit changes in the prediction of the noised latents, without inverting them first.

The same noise and the same direction for all frames of a track make it steady by construction.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fluidvid.engine.backbone import Backbone
from fluidvid.engine.plan import EditPlan, displacement


@dataclass(frozen=True, eq=False)
class DifferenceEditor:
    """See `fluidvid.engine.plan.CropEditor`; differentiable in `values`.

    Two ways, by the plan:

    - without refine levels the change of x0 at every level is added to the clean latents, which keep their detail;
    - with refine levels the noised latents walk down all levels (DDIM), are edited on the way and only denoised at the
      end, so that the network draws the whole face (SDEdit, arXiv 2108.01073, with Asyrp's step, 2210.10960). Unedited
      latents walk beside them: where nothing is edited both meet.
    """

    backbone: Backbone
    plan: EditPlan

    def __call__(self, z: Tensor, values: Tensor, noise: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
        walk = self._walk if self.plan.refine_timesteps else self._add
        return walk(z, values, noise, strength)

    def _add(self, z: Tensor, values: Tensor, noise: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
        backbone, schedule = self.backbone, self.backbone.schedule
        delta = torch.zeros_like(z)
        for level, t in enumerate(self.plan.timesteps):
            timesteps = torch.full((len(z),), t, device=z.device)
            z_t = schedule.add_noise(z + delta, noise, timesteps)
            delta = delta + displacement(backbone, z_t, timesteps, values[:, level], strength, self.plan)[0]
        return z, z + delta

    def _walk(self, z: Tensor, values: Tensor, noise: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
        backbone, schedule, plan, n = self.backbone, self.backbone.schedule, self.plan, len(z)
        x0, eps = z.repeat(2, 1, 1, 1), noise.repeat(2, 1, 1, 1)
        for level, t in enumerate((*plan.timesteps, *plan.refine_timesteps)):
            timesteps = torch.full((2 * n,), t, device=z.device)
            z_t = schedule.add_noise(x0, eps, timesteps)
            x0, eps = backbone.predict(z_t, timesteps)
            if level < len(plan.timesteps):
                change, _, _ = displacement(backbone, z_t[n:], timesteps[n:], values[:, level], strength, plan)
                x0 = torch.cat([x0[:n], x0[n:] + change])
        return x0[:n], x0[n:]
