"""A small critic of pictures: does a place of a face look drawn? Patches only, so that it knows texture and parts."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

WIDTHS = (32, 64, 128)


class PatchCritic(nn.Module):
    """`(N, 3, S, S)` pictures in [-1, 1] to `(N, K)` scores of overlapping patches; larger means less drawn.

    Spectral norms keep its slope bounded, so that what it says of a picture changes slowly with the picture.
    """

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(spectral_norm(nn.Conv2d(a, b, 4, 2, 1)) for a, b in pairwise((3, *WIDTHS)))
        wide = WIDTHS[-1]
        self.parts = spectral_norm(nn.Conv2d(wide, wide, 3, 1, 1))
        self.whole = spectral_norm(nn.Conv2d(wide, wide, 4, 2, 1))
        self.part_score = spectral_norm(nn.Conv2d(wide, 1, 1))
        self.whole_score = spectral_norm(nn.Conv2d(wide, 1, 3, 1, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        x = pictures
        for layer in self.down:
            x = F.leaky_relu(layer(x), 0.2)
        parts = F.leaky_relu(self.parts(x), 0.2)
        whole = F.leaky_relu(self.whole(parts), 0.2)
        few, many = self.whole_score(whole).flatten(1), self.part_score(parts).flatten(1)
        # Repeated, so that both scales count alike in a mean.
        return torch.cat([many, few.repeat(1, many.shape[1] // few.shape[1])], 1)


def hinge(real: Tensor, drawn: Tensor) -> Tensor:
    """What the critic minimises: 2 when it cannot tell, 0 when it always can."""
    return F.relu(1 - real).mean() + F.relu(1 + drawn).mean()
