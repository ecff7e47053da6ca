"""Which crops show a face that can be read: where two landmarkers agree about its eyes and mouth.

On a face in the dark, behind a hand or turned away they do not; what is edited there is in the wrong place, and no
search of a direction changes that. Where a head turns far within a track, the edited frame itself shows whether the new
face sits where the old one was.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fluidvid.engine.face_networks import AttributeNetworks
from fluidvid.engine.losses import eye_distance

PARTS = (
    (slice(36, 42), (33, 133, 145, 159)),
    (slice(42, 48), (263, 362, 374, 386)),
    (slice(48, 68), (13, 14, 61, 291)),
)
"""Of 68 landmarks and of the mesh's 468 those whose mean is an eye's or the mouth's centre."""
MOST = 0.25
"""Disagreement up to which a crop is readable. Of 16 people whose faces are plain to see .18 is the most, of people who
could not be edited whatever was searched .28 or more the median (benchmarks/NOTES.md)."""

FAR = 0.15
"""How far from the middle between the ends of the jaw the tip of the nose lies where a head is turned far."""
ASIDE = 0.15
"""Displacement of the landmarks by an edit, in eye distances, from which the new face stands beside the head: what is
drawn on profiles is displaced by .15 to .30, on heads turned by 40 degrees that look well by .05 to .13."""


def disagreement(landmarks68: Tensor, mesh: Tensor) -> Tensor:
    """`(N,)` mean distance of the eyes' and the mouth's centres as two landmarkers place them, in eye distances.

    Args:
        landmarks68: `(N, 68, 2)`.
        mesh: `(N, 468, 2)` in the same coordinates.
    """
    apart = [(landmarks68[:, one].mean(1) - mesh[:, other].mean(1)).norm(dim=1) for one, other in PARTS]
    mean: Tensor = torch.stack(apart).mean(0) / eye_distance(landmarks68)
    return mean


@torch.no_grad()
def readable(attributes: AttributeNetworks, crops: Tensor, landmarks68: Tensor) -> Tensor:
    """`(N,)` bool for crops `(N, 3, S, S)` in [-1, 1] with their landmarks; all are if there is no other landmarker."""
    if attributes.mesh468 is None:
        return torch.ones(len(crops), dtype=torch.bool, device=crops.device)
    return disagreement(landmarks68.float(), attributes.mesh(crops).float()) <= MOST


def turned(landmarks68: Tensor) -> Tensor:
    """`(N,)` how far the tip of the nose is from the middle between the ends of the jaw, along the line of the eyes.

    In jaw widths: 0 where somebody looks ahead, .5 where the nose covers the far cheek.

    Args:
        landmarks68: `(N, 68, 2)`.
    """
    axis = landmarks68[:, 42:48].mean(1) - landmarks68[:, 36:42].mean(1)
    along = (landmarks68[:, (0, 16, 30)].float() * axis[:, None]).sum(2)
    width = along[:, 1] - along[:, 0]
    return ((along[:, 2] - along[:, 0]) / torch.where(width.abs() < 1e-6, 1e-6, width) - 0.5).abs()


@torch.no_grad()
def beside(attributes: AttributeNetworks, landmarks68: Tensor, edited: Tensor) -> Tensor:
    """`(N,)` bool: the face of edited crops `(N, 3, S, S)` stands beside the head with these landmarks `(N, 68, 2)`.

    Only heads that are turned far are looked at: on others an edit stays in its place.
    """
    found = ~(turned(landmarks68) <= FAR)
    if found.any():
        before = landmarks68[found].float()
        moved = (attributes.landmarks(edited[found]).float() - before).norm(dim=2).mean(1)
        found[found.clone()] = ~(moved / eye_distance(before) <= ASIDE)
    return found
