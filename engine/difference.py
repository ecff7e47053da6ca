"""Difference editing: what the edit changes in the prediction of the noised latents, without inverting them first.

The same noise and the same direction for all frames of a track make it steady by construction.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fluidvid.engine.backbone import Backbone
from fluidvid.engine.plan import CropEdits, EditPlan, displacement, unmoved


@dataclass(frozen=True, eq=False)
class DifferenceEditor:
    """See `fluidvid.engine.plan.CropEditor`; differentiable in `values`.

    The change of x0 at every level is added to the clean latents, which keep their detail where nothing changes.
    """

    backbone: Backbone
    plan: EditPlan

    def __call__(self, z: Tensor, values: Tensor, noise: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
        return z, self._further(z, values, noise, strength, 0)

    def at(self, z: Tensor, noise: Tensor) -> CropEdits:
        first = unmoved(self.backbone, *self._noisy(z, noise, 0), self.plan)

        def edit(values: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
            return z, self._further(z + first.change(values[:, 0], strength), values, noise, strength, 1)

        return edit

    def _noisy(self, z: Tensor, noise: Tensor, level: int) -> tuple[Tensor, Tensor]:
        timesteps = torch.full((len(z),), self.plan.timesteps[level], device=z.device)
        return self.backbone.schedule.add_noise(z, noise, timesteps), timesteps

    def _further(self, after: Tensor, values: Tensor, noise: Tensor, strength: Tensor, begin: int) -> Tensor:
        """The latents after the levels from `begin` on."""
        for level in range(begin, len(self.plan.timesteps)):
            noisy = self._noisy(after, noise, level)
            after = after + displacement(self.backbone, *noisy, values[:, level], strength, self.plan)
        return after
