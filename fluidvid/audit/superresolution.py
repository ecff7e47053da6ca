"""Super-resolving what a blur or a grid left of a face, with the embedded prior: a generative model makes up what fits.

The attacker needs nothing but the result and a public face model: noise is added to the crop's latents and taken away
again step by step (SDEdit, Meng et al. 2021, arXiv 2108.01073). The lower the level, the more of the crop is believed.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fluidvid.audit.attacks import Attack, deconvolved
from fluidvid.audit.look import Crops
from fluidvid.audit.measure import Measured
from fluidvid.engine.backbone import Backbone, load_backbone
from fluidvid.engine.crops import to_crops, to_pictures
from fluidvid.models import ModelStore

PLAIN, CLEANED = 600, 300
"""Timesteps up to which noise is added, of the prior's 1000: to a crop as it is, and to one that was deconvolved."""
SIGMAS = (3.0, 6.0)
"""Widths of the blurs that are deconvolved first, in crop pixels."""
STEPS = 8
"""Steps of deterministic DDIM that take it away."""
SEED = 20511700
"""The attacker's own noise, fixed so that audits agree."""


def superresolution(measured: Measured, models: ModelStore) -> Attack:
    """Regenerate the result's kept crops, as they are and deconvolved.

    Args:
        measured: the result.
        models: where the prior is.
    """
    backbone = load_backbone(models.resolve("prior"))

    def attack(rows: list[int]) -> list[Crops]:
        crops = np.stack([measured.kept[r][1] for r in rows])
        sharp = [np.stack([deconvolved(c, sigma) for c in crops]) for sigma in SIGMAS]
        return [
            regenerated(backbone, to_crops(crops), PLAIN),
            *(regenerated(backbone, to_crops(s), CLEANED) for s in sharp),
        ]

    return attack


@torch.inference_mode()
def regenerated(backbone: Backbone, crops: Tensor, level: int) -> Crops:
    """What the model makes of noised crops.

    Args:
        backbone: the face model.
        crops: `(N, 3, S, S)` in [-1, 1].
        level: timestep up to which noise is added.

    Returns:
        `(N, S, S, 3)` uint8.
    """
    z = backbone.encode(crops)
    noise = torch.randn(z.shape[1:], generator=torch.Generator().manual_seed(SEED)).to(z).expand_as(z)
    steps = [int(t) for t in torch.linspace(level, 0, STEPS + 1)[:-1].round()]
    state = backbone.schedule.add_noise(z, noise, torch.full((len(z),), level, device=z.device))
    for now, after in zip(steps, [*steps[1:], -1], strict=True):
        x0, eps = backbone.predict(state, torch.full((len(z),), now, device=z.device))
        state = backbone.schedule.ddim(x0, eps, torch.full((len(z),), after, device=z.device))
    return to_pictures(backbone.decode(state))
