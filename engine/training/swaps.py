"""What somebody would look like with another person's face: the donor's picture, bent to the face that is there.

No network draws it, so every part of it is a face's. Training shows it as what the edit to that pseudonym should look
like (`fluidvid.engine.training.swapping`); recognisers alone only say who it should be, and are content with what looks
drawn. Gaze, lids and what an open mouth shows stay the person's own.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fluidvid.engine.composite import eyes_and_mouth, light, softened

EVERY = 5
"""Of the mesh's points one in so many steers the bending."""
STIFF = 1e-4
"""Regularisation of the thin-plate spline: what the mesh gets wrong does not fold the picture."""


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """`r^2 log r^2` between `(N, P, 2)` and `(N, Q, 2)` points."""
    square = (a[:, :, None] - b[:, None]).pow(2).sum(3)
    return square * torch.log(square.clamp_min(1e-9))


def bend(pictures: Tensor, points: Tensor, goals: Tensor) -> Tensor:
    """Move `(N, 3, S, S)` pictures so that their `(N, P, 2)` points come to lie on `goals`, by a thin-plate spline.

    Points are in fractions of the side; the picture's border stays where it is.
    """
    n, size = len(pictures), pictures.shape[-1]
    edge = torch.linspace(0, 1, 4, device=points.device)
    frame = torch.stack(torch.meshgrid(edge, edge, indexing="ij"), -1).reshape(-1, 2)
    frame = frame[((frame == 0) | (frame == 1)).any(1)].expand(n, -1, 2)
    here, there = torch.cat([goals, frame], 1).double(), torch.cat([points, frame], 1).double()
    count = here.shape[1]
    affine = torch.cat([here.new_ones(n, count, 1), here], 2)
    system = here.new_zeros(n, count + 3, count + 3)
    system[:, :count, :count] = _kernel(here, here) + STIFF * torch.eye(count, device=here.device)
    system[:, :count, count:], system[:, count:, :count] = affine, affine.transpose(1, 2)
    shifts = F.pad(there - here, (0, 0, 0, 3))
    # One by one: in several threads MKL fails on batches of systems of more than some 128 unknowns (torch 2.13).
    weights = torch.stack([torch.linalg.solve(a, b) for a, b in zip(system, shifts, strict=True)]).float()
    axis = (torch.arange(size // 4, device=points.device) + 0.5) / (size // 4)
    ys, xs = torch.meshgrid(axis, axis, indexing="ij")
    grid = torch.stack([xs, ys], -1).reshape(1, -1, 2).expand(n, -1, 2)
    shift = _kernel(grid, here.float()) @ weights[:, :count]
    shift = shift + torch.cat([grid.new_ones(n, grid.shape[1], 1), grid], 2) @ weights[:, count:]
    shift = shift.transpose(1, 2).reshape(n, 2, size // 4, size // 4)
    shift = F.interpolate(shift, size=(size, size), mode="bilinear", align_corners=False)
    still = torch.eye(2, 3, device=points.device).expand(n, 2, 3)
    place = F.affine_grid(still, [n, 3, size, size], align_corners=False) + 2 * shift.permute(0, 2, 3, 1)
    return F.grid_sample(pictures, place, padding_mode="border", align_corners=False)


def swapped(
    crops: Tensor, landmarks68: Tensor, mesh: Tensor, region: Tensor, donors: Tensor, donor_mesh: Tensor
) -> Tensor:
    """`(N, 3, S, S)` crops with the donors' faces in `(N, 1, S, S)` regions, in the crops' light and no sharper.

    Args:
        crops: `(N, 3, S, S)` in [-1, 1].
        landmarks68: `(N, 68, 2)` of the crops, in fractions of the side.
        mesh: `(N, 468, 2)` of them.
        region: `(N, 1, S, S)` in [0, 1].
        donors: `(N, 3, S, S)` other people.
        donor_mesh: `(N, 468, 2)` of them.
    """
    size = crops.shape[-1]
    bent = bend(donors, donor_mesh[:, ::EVERY], mesh[:, ::EVERY])
    fine = [x - softened(x, region, size / 80) for x in (bent, crops)]
    detail = [(region * f.pow(2)).sum((1, 2, 3), keepdim=True) for f in fine]
    sharper = (1 - (detail[1] / detail[0].clamp_min(1e-6)).sqrt()).clamp(0, 1)
    lit = bent - sharper * fine[0] - light(bent, region) + light(crops, region)
    return torch.lerp(crops, lit, region * (1 - eyes_and_mouth(landmarks68, size))).clamp(-1, 1)


def likeness(edited: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """Mean absolute difference of `(N, 3, S, S)` pictures and of their slopes, under `(N, 1, S, S)` weights."""
    off = edited - wanted
    total = 3 * weight.sum().clamp_min(1.0)
    across, down = weight[..., 1:] * off.diff(dim=-1).abs(), weight[..., 1:, :] * off.diff(dim=-2).abs()
    return ((weight * off.abs()).sum() + across.sum() + down.sum()) / total
