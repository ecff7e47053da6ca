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

    suppress: float = 450.0
    displace: float = 140.0
    apart: float = 40.0
    begun: float = 2500.0
    brows: float = 3000.0
    landmarks: float = 250.0
    mesh: float = 150.0
    openness: float = 150.0
    expression: float = 12.0
    parts: float = 1.5
    age_gender: float = 0.3
    skin: float = 1000.0
    residual: float = 0.5
    variation: float = 0.5
    manifold: float = 65.0
    prior: float = 0.002


def suppress(edited: Tensor, source: Tensor, margin: float) -> Tensor:
    """Mean of `relu(cos(f(y), f(x)) - margin)` over `(N, D)` unit embeddings."""
    return F.relu((edited * source).sum(1) - margin).mean()


def displace_to(edited: Tensor, target: Tensor) -> Tensor:
    """Mean of `1 - cos(f(y), e)` for a pseudonym's unit embedding `(D,)`."""
    return (1 - edited @ target).mean()


def apart_from(edited: Tensor, others: Tensor) -> Tensor:
    """Mean of `relu(cos(f(y), f(y')))` over `(N, D)` and `(M, D)` unit embeddings: not who somebody else would become.

    What all faces of one head have in common (shape, hair, the model's hand) is what makes two pseudonyms alike.
    """
    return F.relu(edited @ others.T).mean()


def darker_than(edited: Tensor, begun: Tensor, where: Tensor) -> Tensor:
    """Mean square by which `(N, 3, S, S)` pictures are darker than others where `(N, 1, S, S)`: no brows that join."""
    return change_within((begun - edited).mean(1, keepdim=True).clamp_min(0), where)


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


def change_within(change: Tensor, where: Tensor) -> Tensor:
    """Mean squared change of `(N, C, S, S)` where `(N, 1, S, S)`: no brow on foreheads, no search far from a start."""
    return (where * change.pow(2)).sum() / (change.shape[1] * where.sum()).clamp_min(1.0)


def part_windows(landmarks68: Tensor) -> Tensor:
    """Where both eyes and the mouth are: `(N, 3, 4)` centre x, y and half width, half height, in fractions of the side.

    Args:
        landmarks68: `(N, 68, 2)` in fractions of the crop's side.
    """
    windows = []
    for begin, end, across, along in ((36, 42, 0.75, 0.45), (42, 48, 0.75, 0.45), (48, 68, 0.62, 0.3)):
        part = landmarks68[:, begin:end].float()
        low, high = part.amin(1), part.amax(1)
        width = (high - low)[:, 0].clamp_min(0.02)
        height = torch.maximum(along * width, 0.75 * (high - low)[:, 1])
        windows.append(torch.cat([(low + high) / 2, (across * width)[:, None], height[:, None]], 1))
    return torch.stack(windows, 1)


def parts(crops: Tensor, windows: Tensor, size: tuple[int, int] = (12, 20)) -> Tensor:
    """Brightness of eyes and mouth, `(N, P, h * w)`, each part with zero mean and unit length.

    Args:
        crops: `(N, 3, S, S)` in [-1, 1].
        windows: of `part_windows`.
        size: rows and columns at which a part is looked at.
    """
    n, count = windows.shape[:2]
    ys, xs = torch.meshgrid(
        torch.linspace(-1, 1, size[0], device=crops.device),
        torch.linspace(-1, 1, size[1], device=crops.device),
        indexing="ij",
    )
    grid = torch.stack([xs, ys], -1)[None, None] * windows[:, :, None, None, 2:] + windows[:, :, None, None, :2]
    light = F.avg_pool2d(crops.float().mean(1, keepdim=True), 3, 1, 1)
    seen = F.grid_sample(light, 2 * grid.reshape(n, count * size[0], size[1], 2) - 1, align_corners=False)
    seen = seen.reshape(n, count, -1)
    return F.normalize(seen - seen.mean(2, keepdim=True), dim=2, eps=1e-4)


def part_correlation(edited: Tensor, source: Tensor) -> Tensor:
    """Mean of 1 - correlation of eyes and mouth: the iris and the lips stay where they were.

    Args:
        edited: `(N, P, h * w)` of `parts`.
        source: the same of the source.
    """
    return (1 - (edited * source).sum(2)).mean()


def eye_distance(landmarks68: Tensor) -> Tensor:
    """`(N,)` distance of the eye centres of `(N, 68, 2)` landmarks."""
    between: Tensor = landmarks68[:, 36:42].mean(1) - landmarks68[:, 42:48].mean(1)
    distance: Tensor = between.norm(dim=1).clamp_min(1e-6)
    return distance


def openness(landmarks68: Tensor) -> Tensor:
    """How far both eyes and the mouth are open: `(N, 3)` from `(N, 68, 2)`, in distances of the eyes' centres."""
    rows = []
    for above, below in (((37, 38), (41, 40)), ((43, 44), (47, 46)), ((61, 62, 63), (67, 66, 65))):
        rows.append((landmarks68[:, above] - landmarks68[:, below]).norm(dim=2).mean(1))
    opening: Tensor = torch.stack(rows, 1) / eye_distance(landmarks68)[:, None]
    return opening


def expression_change(edited: Tensor, source: Tensor) -> Tensor:
    """Squared change of `(N, 7)` probabilities, mean over the faces."""
    return (edited - source).pow(2).sum(1).mean()


def age_gender_change(edited: tuple[Tensor, Tensor], source: tuple[Tensor, Tensor]) -> Tensor:
    """Mean squared change of `(N,)` years, per 30, and of `(N,)` probabilities of a man."""
    return ((edited[0] - source[0]) / 30).pow(2).mean() + (edited[1] - source[1]).pow(2).mean()


def attribute_terms(edited: Attributes, source: Attributes) -> dict[str, Tensor]:
    """What stays: landmarks and mesh (mean squared, unit crop), openness of eyes and mouth (squared, eye distances),
    expression (squared), age (per 30 years) and gender (squared).
    """
    terms = {
        "landmarks": (edited.landmarks - source.landmarks).pow(2).mean(),
        "openness": (openness(edited.landmarks) - openness(source.landmarks)).pow(2).mean(),
        "expression": expression_change(edited.expression, source.expression),
        "age_gender": age_gender_change((edited.age, edited.male), (source.age, source.male)),
    }
    if edited.mesh is not None and source.mesh is not None:
        terms["mesh"] = (edited.mesh - source.mesh).pow(2).mean()
    return terms


def manifold(
    backbone: Backbone, after: Tensor, before: Tensor, noise: Tensor, timesteps: tuple[int, ...] = (150, 350)
) -> Tensor:
    """Mean square by which the frozen prior would correct the edited latents beyond what it does to the source's.

    The gradient is the correction itself (delta denoising score, arXiv 2304.07090): nothing is differentiated through
    the U-Net.

    Args:
        backbone: the model.
        after: `(N, c, s, s)` edited latents.
        before: `(N, c, s, s)` the source's.
        noise: `(c, s, s)` or `(N, c, s, s)`, the same for both.
        timesteps: levels of noise at which is looked.
    """
    n = len(after)
    with torch.no_grad():
        both = torch.cat([after, before])
        back = torch.zeros_like(after)
        for t in timesteps:
            ts = torch.full((2 * n,), t, device=after.device)
            z_t = backbone.schedule.add_noise(both, noise.expand_as(after).repeat(2, 1, 1, 1), ts)
            x0, _ = backbone.predict(z_t, ts)
            correction = x0 - both
            back += (correction[n:] - correction[:n]) / len(timesteps)
    return (after - (after.detach() - back)).pow(2).mean()


def weighted_sum(terms: Mapping[str, Tensor], weights: LossWeights) -> Tensor:
    """Sum of weight x term; a term without a weight of its name is a programming error."""
    return torch.stack([getattr(weights, name) * value for name, value in terms.items()]).sum()
