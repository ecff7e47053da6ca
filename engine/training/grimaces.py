"""Open mouths, closed eyes and moved brows for training pictures, which hardly show any: portraits smile.

Every place moves as the mesh's points near it do; an opened mouth is dark inside, some with upper teeth.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

UPPER_LIDS = ((246, 161, 160, 159, 158, 157, 173), (466, 388, 387, 386, 385, 384, 398))
LOWER_LIDS = ((7, 163, 144, 145, 153, 154, 155), (249, 390, 373, 374, 380, 381, 382))
BROWS = ((70, 63, 105, 66, 107, 46, 53, 52, 65, 55), (300, 293, 334, 296, 336, 276, 283, 282, 295, 285))
LOWER_LIP = (146, 91, 181, 84, 17, 314, 405, 321, 375, 95, 88, 178, 87, 14, 317, 402, 318, 324)
UPPER_LIP = (185, 40, 39, 37, 0, 267, 269, 270, 409, 191, 80, 81, 82, 13, 312, 311, 310, 415)
INSIDE_LIPS = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191)
"""Of the mesh's points those inside the lips, in order."""
CORNERS = (61, 78, 291, 308)
CHIN = (152, 148, 176, 149, 150, 136, 377, 400, 378, 379, 365, 199, 200, 175, 18, 83, 313)
STILL = (1, 4, 6, 168, 98, 327, 50, 280, 117, 346, 10, 67, 297, 109, 338, 234, 454, 127, 356, 93, 323)
"""Nose, cheeks, forehead and the sides of the head."""
POINTS = tuple(
    dict.fromkeys(
        i for ring in (*UPPER_LIDS, *LOWER_LIDS, *BROWS, LOWER_LIP, UPPER_LIP, CORNERS, CHIN, STILL) for i in ring
    )
)
NEAR, STILLNESS = 0.03, 0.05
"""Reach of a point in fractions of the side, and the weight of staying where no point is near."""
MOUTHS, BLINKS, RAISED = 0.5, 0.25, 0.35
"""Shares of the pictures whose mouth opens, eyes close, brows move."""


def grimaces(crops: Tensor, mesh: Tensor, generator: torch.Generator) -> Tensor:
    """`(N, 3, S, S)` crops with other expressions; `(N, 468, 2)` meshes of them in fractions of the side."""
    n, size = len(crops), crops.shape[-1]
    chance = torch.rand(n, 8, generator=generator).to(mesh)
    eyes = mesh[:, (33, 133, 263, 362)].mean(1)
    down = mesh[:, (13, 14)].mean(1) - eyes  # from the eyes to the mouth
    across = mesh[:, (308,)].squeeze(1) - mesh[:, (78,)].squeeze(1)
    goals = mesh.clone()
    opened = torch.where(chance[:, 0] < MOUTHS, 0.05 + 0.33 * chance[:, 1], 0.0)[:, None, None]
    goals[:, LOWER_LIP] += opened * down[:, None]
    goals[:, CHIN] += 0.8 * opened * down[:, None]
    narrower = opened[:, 0] * 0.5 * chance[:, 2:3] * across
    for corner, sign in zip(CORNERS, (1, 1, -1, -1), strict=True):
        goals[:, corner] += sign * narrower + 0.4 * opened[:, 0] * down
    closed = torch.where(chance[:, 3] < BLINKS, 0.5 + 0.4 * chance[:, 4], 0.0)[:, None, None]
    for upper, lower in zip(UPPER_LIDS, LOWER_LIDS, strict=True):
        goals[:, upper] = torch.lerp(mesh[:, upper], mesh[:, lower], closed)
    raised = torch.where(chance[:, 5] < RAISED, 0.3 * chance[:, 6] - 0.12, 0.0)[:, None, None]
    for ring in BROWS:
        goals[:, ring] -= raised * down[:, None]
    moved = _moved(crops, mesh[:, POINTS], goals[:, POINTS])
    return _open_mouths(moved, goals, opened.flatten(), size, chance[:, 7])


def _moved(crops: Tensor, points: Tensor, goals: Tensor) -> Tensor:
    """`(N, 3, S, S)` crops of which `(N, P, 2)` points come to lie about `goals` (Nadaraya-Watson regression)."""
    n, size = len(crops), crops.shape[-1]
    axis = (torch.arange(size // 2, device=crops.device) + 0.5) / (size // 2)
    ys, xs = torch.meshgrid(axis, axis, indexing="ij")
    grid = torch.stack([xs, ys], -1).reshape(1, -1, 2).expand(n, -1, 2)
    weight = torch.exp(-torch.cdist(grid, goals).pow(2) / (2 * NEAR**2))
    shift = weight @ (points - goals) / (weight.sum(2, keepdim=True) + STILLNESS)
    shift = shift.transpose(1, 2).reshape(n, 2, size // 2, size // 2)
    shift = F.interpolate(shift, size=(size, size), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
    still = torch.eye(2, 3, device=crops.device).expand(n, 2, 3)
    place = F.affine_grid(still, [n, 3, size, size], align_corners=False) + 2 * shift
    return F.grid_sample(crops, place, padding_mode="border", align_corners=False)


def _open_mouths(crops: Tensor, mesh: Tensor, opened: Tensor, size: int, teeth: Tensor) -> Tensor:
    """Dark between the lips of mouths that were opened; some show teeth at the top."""
    inside, top = [], []
    for points, how_much, shown in zip((mesh * size - 0.5).cpu().numpy(), opened.tolist(), teeth.tolist(), strict=True):
        mask, band = np.zeros((size, size), np.uint8), np.zeros((size, size), np.uint8)
        if how_much > 0:
            ring = points[list(INSIDE_LIPS)]
            cv2.fillPoly(mask, [np.round(16 * ring).astype(np.int32)], 255, cv2.LINE_AA, 4)
            if shown < 0.6:  # the upper lip's inner edge, and the same line a third of the opening lower
                edge = points[[78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308]]
                lower = points[[78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308]]
                line = np.concatenate([edge, (edge + 0.35 * (lower - edge))[::-1]])
                cv2.fillPoly(band, [np.round(16 * line).astype(np.int32)], 255, cv2.LINE_AA, 4)
        inside.append(cv2.GaussianBlur(mask, (0, 0), size / 180))
        top.append(cv2.GaussianBlur(band, (0, 0), size / 180))
    masks, bands = (torch.from_numpy(np.stack(m)).to(crops)[:, None] / 255 for m in (inside, top))
    light = (crops.mean((2, 3), keepdim=True) + 1) / 2  # dark pictures have dark teeth
    dark = light * crops.new_tensor([0.35, 0.2, 0.2]).reshape(1, 3, 1, 1)
    bright = (light.mean(1, keepdim=True) * 2.2).clamp_max(0.9) * crops.new_tensor([1.0, 0.96, 0.9]).reshape(1, 3, 1, 1)
    within = torch.lerp(dark.expand_as(crops), bright.expand_as(crops), bands)
    return torch.lerp(crops, within * 2 - 1, masks)
