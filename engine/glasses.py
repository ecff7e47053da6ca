"""Glasses stay: who wears some, and where the rims are in a crop.

A pseudonym has none, and what an edit leaves of rims looks drawn. The network was trained on synthetic faces with
glasses drawn on them (tools/train_glasses.py).
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from fluidvid.engine.face_networks import Points, View
from fluidvid.errors import ModelError
from fluidvid.geometry import FFHQ_112, invert, similarity

SIDE = 128
"""Of the network's window in pixels; faces stand there as in `FFHQ_112`."""
ROWS, COLUMNS = slice(28, 92), slice(8, 120)
"""The part of the window where glasses may be."""
FAINT, CLEAR = 0.2, 0.7
"""Probabilities of a rim from which it begins to stay, and stays whole."""
WORN = 0.5
"""Mean probability over a person's crops from which they wear glasses."""


class _Block(nn.Module):
    """`x + conv(relu(conv(relu(x))))`, the first one dilated."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(F.relu(self.first(F.relu(x))))
        return out


class RimNetwork(nn.Module):
    """Finds rims, bridge and temples of glasses: 128,000 weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fine = nn.Conv2d(12, 24, 3, padding=1), _Block(24)
        self.down = nn.Conv2d(24, 40, 3, stride=2, padding=1)
        self.deep = nn.Sequential(_Block(40), _Block(40, 2), _Block(40, 4))
        self.head = nn.Linear(80, 1)
        self.up, self.join = nn.Conv2d(40, 24, 1), _Block(24)
        self.wide = nn.Conv2d(24, 32, 3, padding=1)
        self.last = nn.Sequential(nn.Conv2d(11, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 1, 3, padding=1))

    def forward(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of rims `(N, 1, 64, 112)` in the part of `ROWS` and `COLUMNS`, and of there being any `(N,)`.

        Args:
            windows: `(N, 3, 128, 128)` in [-1, 1].
        """
        x = windows[:, :, ROWS, COLUMNS]
        fine = self.fine(self.stem(F.pixel_unshuffle(x, 2)))
        deep = self.deep(self.down(F.relu(fine)))
        worn = self.head(torch.cat([deep.mean((2, 3)), deep.amax((2, 3))], 1))[:, 0]
        wide = F.interpolate(self.up(deep), scale_factor=2.0, mode="bilinear", align_corners=False)
        wide = F.pixel_shuffle(self.wide(F.relu(self.join(fine + wide))), 2)
        return self.last(torch.cat([x, wide], 1)), worn


class Glasses(nn.Module):
    """`RimNetwork` seen from crops of any template.

    Args:
        path: its weights, safetensors.
        template: `(5, 2)` landmarks of an aligned crop in fractions of its side.
        size: side of the crops in pixels, in which rims are given.

    Raises:
        ModelError: the file is damaged or another network's.
    """

    def __init__(self, path: Path, template: Points, size: int) -> None:
        super().__init__()
        there = similarity(template, FFHQ_112)
        self.view, self.back = View(there, SIDE), View(invert(there), size)
        self.net = RimNetwork()
        try:
            self.net.load_state_dict({name: weight.float() for name, weight in load_file(path).items()})
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ModelError(f"{path} is not the glasses network: reinstall fluidvid") from error
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # two thirds of the time
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Where rims, bridge and temples are, `(N, 1, size, size)` float32 in [0, 1], if glasses are worn; and `(N,)`
        probabilities that they are.

        Args:
            crops: `(N, 3, size, size)` in [-1, 1].
        """
        rims, worn = self.net(self.view(crops))
        found = ((rims.sigmoid() - FAINT) / (CLEAR - FAINT)).clamp(0, 1)
        window = F.pad(found, (COLUMNS.start, SIDE - COLUMNS.stop, ROWS.start, SIDE - ROWS.stop))
        return self.back(window), worn.sigmoid()
