"""Losses on the composited crop: suppress identity, move to a pseudonym, preserve everything else, look like a face.

Every term is one small function; `LossWeights` says how much each counts. FALCO (Barattin et al., CVPR 2023) is the
source of the margin on the cosine; the rest is fluidvid's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fluidvid.engine.backbone import Backbone
from fluidvid.engine.face_networks import Attributes


@dataclass(frozen=True)
class LossWeights:
    """Weight of each term; 0 turns it off."""

    suppress: float = 3.0
    displace: float = 1.0
    steady: float = 1.0
    landmarks: float = 800.0
    mesh: float = 800.0
    expression: float = 0.5
    age_gender: float = 0.3
    colour: float = 40.0
    skin: float = 60.0
    residual: float = 1.0
    variation: float = 1.0
    manifold: float = 0.0
    prior: float = 0.003


def suppress(edited: Tensor, source: Tensor, margin: float) -> Tensor:
    """Mean of `relu(cos(f(y), f(x)) - margin)` over `(N, D)` unit embeddings."""
    return F.relu((edited * source).sum(1) - margin).mean()


def displace_to(edited: Tensor, target: Tensor) -> Tensor:
    """Mean of `1 - cos(f(y), e)` for a pseudonym's unit embedding `(D,)`."""
    return (1 - edited @ target).mean()


def steady(edited: Tensor, source: Tensor) -> Tensor:
    """Mean over pairs of `relu(cos(x_i, x_j) - cos(y_i, y_j))`: the new person is as much one person as the old."""
    n = len(edited)
    if n < 2:
        return edited.new_zeros(())
    i, j = torch.triu_indices(n, n, 1, device=edited.device)
    return F.relu((source @ source.T)[i, j] - (edited @ edited.T)[i, j]).mean()


def total_variation(change: Tensor) -> Tensor:
    """Anisotropic total variation of `(N, C, H, W)`, mean over pixels."""
    return change.diff(dim=-1).abs().mean() + change.diff(dim=-2).abs().mean()


def colour_shift(change: Tensor, mask: Tensor) -> Tensor:
    """Squared change of colour in a grid of 8 x 8 cells, light and dark alike; `(N, 3, S, S)`, mask `(N, 1, S, S)`.

    Skin, light and make-up are not identity: a face may change its shapes, its cells keep their colours. Chroma counts
    four times as much as luma.
    """
    cells = F.adaptive_avg_pool2d(change, 8)
    luma = cells.mean(1, keepdim=True)
    share = F.adaptive_avg_pool2d(mask, 8).mean().clamp_min(1e-3)
    return (luma.pow(2).mean() + 4 * (cells - luma).pow(2).mean()) / share


def skin_change(change: Tensor, skin: Tensor) -> Tensor:
    """Mean squared change of `(N, 3, S, S)` over the skin `(N, 1, S, S)`: no brow grows on a forehead."""
    return (skin * change.pow(2)).sum() / (3 * skin.sum()).clamp_min(1.0)


def attribute_terms(edited: Attributes, source: Attributes) -> dict[str, Tensor]:
    """Landmarks and mesh (mean squared, unit crop), expression (squared), age (per 30 years) and gender (squared)."""
    terms = {
        "landmarks": (edited.landmarks - source.landmarks).pow(2).mean(),
        "expression": (edited.expression - source.expression).pow(2).sum(1).mean(),
        "age_gender": ((edited.age - source.age) / 30).pow(2).mean() + (edited.male - source.male).pow(2).mean(),
    }
    if edited.mesh is not None and source.mesh is not None:
        terms["mesh"] = (edited.mesh - source.mesh).pow(2).mean()
    return terms


def manifold(
    backbone: Backbone, after: Tensor, before: Tensor, noise: Tensor, timesteps: tuple[int, ...] = (200, 400)
) -> Tensor:
    """The frozen prior's own denoising error of the edited latents in excess of the source's, mean over the levels."""
    total = after.new_zeros(())
    n = len(after)
    both = torch.cat([after, before.detach()])
    for t in timesteps:
        ts = torch.full((2 * n,), t, device=after.device)
        x0, _ = backbone.predict(backbone.schedule.add_noise(both, noise.expand_as(both), ts), ts)
        error = (x0 - both).pow(2).mean((1, 2, 3))
        total = total + F.relu(error[:n] - error[n:].detach()).mean()
    return total / len(timesteps)


def weighted_sum(terms: Mapping[str, Tensor], weights: LossWeights) -> Tensor:
    """Sum of weight x term; a term without a weight of its name is a programming error."""
    return torch.stack([getattr(weights, name) * value for name, value in terms.items()]).sum()
