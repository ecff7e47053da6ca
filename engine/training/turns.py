"""Heads turned further than portraits show them: every place moves as the face mesh does when it turns in depth.

What lies behind the cheeks moves as they do, so that nothing folds over: up to some 45 degrees that looks like a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fluidvid.engine.training.swaps import bend

TURNED = 0.4
"""Share of the pictures that are turned."""
FURTHEST, MOST = 45.0, 35.0
"""Degrees of yaw that heads are turned to at most, and by at most."""
CHEEKS = 0.10
"""Depth in sides of the crop, from the plane of the mesh's origin, behind which everything counts as lying there."""
EARS = (234, 454)
MIDDLE = (33, 133, 362, 263, 4, 61, 291)
"""Of the mesh's points those that stay in place on average: eyes, nose and the corners of the mouth."""
EVERY = 3
"""Of the mesh's points one in so many steers the bending."""


def turns(crops: Tensor, mesh: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Some of `(N, 3, S, S)` crops with their heads turned, and all meshes `(N, 468, 2)`.

    Args:
        crops: faces.
        mesh: `(N, 468, 3)` of them in sides of the crop, the third coordinate away from the camera.
        generator: source of every random number.
    """
    n = len(crops)
    chance, goal = (torch.rand(n, generator=generator).to(mesh) for _ in range(2))
    left, right = mesh[:, EARS[0]], mesh[:, EARS[1]]
    yaw = torch.rad2deg(torch.atan2((left - right)[:, 2], (right - left)[:, 0]))
    by = (FURTHEST * (2 * goal - 1) - yaw).clamp(-MOST, MOST)
    chosen = torch.nonzero(chance < TURNED).flatten()
    flat = mesh[..., :2].clone()
    if len(chosen):
        flat[chosen] = turned_mesh(mesh[chosen], by[chosen])
        crops = crops.clone()
        crops[chosen] = bend(crops[chosen], mesh[chosen, ::EVERY, :2], flat[chosen, ::EVERY])
    return crops, flat


def turned_mesh(mesh: Tensor, degrees: Tensor) -> Tensor:
    """`(N, 468, 2)` where the points of `(N, 468, 3)` meshes lie when heads are turned by `(N,)` degrees of yaw."""
    angle = degrees[:, None] * (math.pi / 180)
    depth = mesh[..., 2].clamp_max(CHEEKS)
    across = mesh[..., 0] * angle.cos() + depth * angle.sin()
    shift = (mesh[:, MIDDLE, 0] - across[:, MIDDLE]).mean(1, keepdim=True)
    return torch.stack([across + shift, mesh[..., 1]], 2)
