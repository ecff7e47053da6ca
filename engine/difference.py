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

    The change of x0 at every level is added to the clean latents, which keep their detail where nothing changes.
    """

    backbone: Backbone
    plan: EditPlan

    def __call__(self, z: Tensor, values: Tensor, noise: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
        after = z
        for level, t in enumerate(self.plan.timesteps):
            timesteps = torch.full((len(z),), t, device=z.device)
            z_t = self.backbone.schedule.add_noise(after, noise, timesteps)
            change, _, _ = displacement(self.backbone, z_t, timesteps, values[:, level], strength, self.plan)
            after = after + change
        return z, after
