"""Inversion editing (FLUID, Asyrp 2210.10960): deterministic DDIM to t_max, back with h displaced while t is high."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fluidvid.engine.backbone import Backbone
from fluidvid.engine.plan import CropEdits, EditPlan, displacement


@dataclass(frozen=True, eq=False)
class InversionEditor:
    """A `CropEditor` with Asyrp's asymmetric step: only the predicted x0 is edited, not its noise.

    The direction of a step is the one of the nearest level; its strength is divided by the number of steps that share
    the level, so that one direction means about the same displacement here and in difference editing.
    """

    backbone: Backbone
    plan: EditPlan

    def timesteps(self) -> list[int]:
        """The K ascending timesteps from near 0 to t_max."""
        return [int(t) for t in torch.linspace(0, self.plan.inversion_start, self.plan.inversion_steps + 1)[1:].round()]

    def invert(self, z: Tensor) -> Tensor:
        """Latents `(N, c, s, s)` to the noisy state at t_max by deterministic DDIM; nothing random."""
        state, now = z, -1
        for t in self.timesteps():
            x0, eps = self.backbone.predict(state, torch.full((len(z),), max(now, 0), device=z.device))
            clean = state if now < 0 else x0
            state = self.backbone.schedule.ddim(clean, eps, torch.full((len(z),), t, device=z.device))
            now = t
        return state

    def at(self, z: Tensor, noise: Tensor) -> CropEdits:
        return lambda values, strength: self(z, values, noise, strength)

    def __call__(self, z: Tensor, values: Tensor, noise: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
        plan, schedule = self.plan, self.backbone.schedule
        start = self.invert(z)
        steps = self.timesteps()[::-1]
        t_edit = min(plan.timesteps)
        nearest = {
            t: min(range(len(plan.timesteps)), key=lambda i: abs(plan.timesteps[i] - t)) for t in steps if t >= t_edit
        }
        share = {level: list(nearest.values()).count(level) for level in set(nearest.values())}
        plain, edited = start, start
        for index, t in enumerate(steps):
            timesteps = torch.full((len(z),), t, device=z.device)
            after = torch.full((len(z),), steps[index + 1] if index + 1 < len(steps) else -1, device=z.device)
            x0, eps = self.backbone.predict(plain, timesteps)
            plain = schedule.ddim(x0, eps, after)
            x0, eps = self.backbone.predict(edited, timesteps)
            if t in nearest:
                level = nearest[t]
                x0 = x0 + displacement(
                    self.backbone, edited, timesteps, values[:, level], strength / share[level], plan
                )
            edited = schedule.ddim(x0, eps, after)
        return plain, edited
