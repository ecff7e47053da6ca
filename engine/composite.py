"""The face region of a crop, and the residual that is added to the source's pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def soft_mask(landmarks: Tensor, size: int) -> Tensor:
    """Soft face region from five points, zero at the crop's border.

    Args:
        landmarks: `(N, 5, 2)` crop pixels.
        size: side of the crop in pixels.

    Returns:
        `(N, 1, size, size)` float32 in [0, 1]: 1 from the brows to above the chin, falling as a raised cosine.
    """
    points = landmarks.float()
    eyes, mouth = points[:, :2].mean(1), points[:, 3:].mean(1)
    down = mouth - eyes
    reach = down.norm(dim=1).clamp_min(size / 16)
    across = (points[:, 1] - points[:, 0]).norm(dim=1)
    axis = down / reach[:, None]
    centre = eyes + 0.47 * down
    # A turned head shows less width between the eyes; the region keeps at least three quarters of the frontal width.
    half_width = torch.maximum(across, 0.75 * 0.96 * reach) * 1.32
    half_height = 1.48 * reach
    ys, xs = torch.meshgrid(
        torch.arange(size, device=points.device), torch.arange(size, device=points.device), indexing="ij"
    )
    offset = torch.stack([xs, ys], -1).float()[None] + 0.5 - centre[:, None, None]
    v = (offset * axis[:, None, None]).sum(-1)
    u = offset[..., 0] * axis[:, None, None, 1] - offset[..., 1] * axis[:, None, None, 0]
    radius = ((u / half_width[:, None, None]) ** 2 + (v / half_height[:, None, None]) ** 2).sqrt()
    inside = 0.5 - 0.5 * torch.cos(math.pi * ((1.1 - radius) / 0.3).clamp(0, 1))
    edge = torch.arange(size, device=points.device).float()
    border = (torch.minimum(edge, size - 1 - edge) / (0.06 * size)).clamp(0, 1)
    return (inside * border[None, :, None] * border[None, None, :])[:, None]


def skin_region(landmarks68: Tensor, size: int, reach: float = 0.03) -> Tensor:
    """Where a face shows bare skin: away from brows, eyes, nose and mouth.

    Args:
        landmarks68: `(N, 68, 2)` in fractions of the crop's side.
        size: side of the crop in pixels.
        reach: distance from a landmark, in fractions of the side, at which features give way to skin.

    Returns:
        `(N, 1, size, size)` float32 in [0, 1]; the face's outline is not looked at: multiply with `soft_mask`.
    """
    features = landmarks68[:, 17:].float()
    axis = (torch.arange(size, device=features.device) + 0.5) / size
    dx = (features[:, :, 0, None] - axis).pow(2)
    dy = (features[:, :, 1, None] - axis).pow(2)
    nearest = (dx[:, :, None, :] + dy[:, :, :, None]).amin(1)
    return (1 - torch.exp(-nearest / (2 * reach**2)))[:, None]


def composite(crops: Tensor, before: Tensor, after: Tensor, mask: Tensor, detail: float = 1.0) -> Tensor:
    """Put the edit onto the source.

    Args:
        crops: `(N, 3, S, S)` source in [-1, 1].
        before: decoded unedited latents.
        after: decoded edited latents.
        mask: `(N, 1, S, S)` in [0, 1].
        detail: how much of the source's own fine detail, which the first stage does not carry, stays where the edit is
            strong; 1 keeps it all (pure residual), 0 none. Where nothing changes it always stays.

    Returns:
        `(N, 3, S, S)` in [-1, 1].
    """
    change = after - before
    if detail < 1.0:
        size = crops.shape[-1]
        window = 2 * (size // 32) + 1
        amount = F.avg_pool2d(change.abs().mean(1, keepdim=True), window, 1, window // 2, count_include_pad=False)
        lost = (1 - detail) * (1 - torch.exp(-((amount / 0.08) ** 2)))
        change = change - lost * (crops - before)
    return (crops + mask * change).clamp(-1, 1)
