"""Frames between two edited ones: where the picture lies on the line between theirs, so does the change.

A talking head mostly moves a little from frame to frame. What is compared are aligned crops, so that only what the
face itself does counts: a blink or a word takes a frame off the line between its neighbours, and it is edited itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

POOL = 4
"""Side of the cells in pixels in which crops are compared: a sensor's noise is not motion."""
SPANS = (4, 3, 2)
"""How far two edited frames may lie apart, the widest first."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A frame that was edited.

    Attributes:
        crop: `(3, S, S)` in [-1, 1].
        change: `(3, S, S)` what was added to it.
        mask: `(1, S, S)` in [0, 1].
        source: `(D,)` the watching guide's unit embedding of the crop.
    """

    crop: Tensor
    change: Tensor
    mask: Tensor
    source: Tensor


@dataclass(frozen=True)
class Between:
    """A frame that is not edited itself: positions of the edited ones around it, and how far on it is, in (0, 1)."""

    earlier: int
    later: int
    share: float


def windows(template: NDArray[np.float64], size: int) -> Tensor:
    """Where eyes, mouth and face are in an aligned crop: `(4, s, s)` weights of sum 1, s = size / POOL.

    Args:
        template: `(5, 2)` landmarks in fractions of the side.
        size: side of the crop in pixels.
    """
    eye = float(np.linalg.norm(template[1] - template[0]))
    mouth = template[3:].mean(0)
    centre = template.mean(0)
    boxes = [
        (*template[0], 0.4 * eye, 0.25 * eye),
        (*template[1], 0.4 * eye, 0.25 * eye),
        (*mouth, 0.7 * eye, 0.4 * eye),
        (*centre, 1.0 * eye, 1.2 * eye),
    ]
    axis = (np.arange(size // POOL) + 0.5) / (size // POOL)
    found = []
    for x, y, half_width, half_height in boxes:
        inside = (np.abs(axis[None, :] - x) < half_width) & (np.abs(axis[:, None] - y) < half_height)
        found.append(inside / max(1, inside.sum()))
    return torch.from_numpy(np.stack(found)).float()


def cells(crops: Sequence[Tensor]) -> Tensor:
    """What is compared of crops `(3, S, S)` in [-1, 1]: `(N, 3, S / POOL, S / POOL)`, on the CPU."""
    return F.avg_pool2d(torch.stack(list(crops)).float(), POOL).cpu()


def deviation(before: Tensor, here: Tensor, after: Tensor, share: float, where: Tensor) -> float:
    """By how much a frame lies beside the line between two others, in grey levels: the most over `where`.

    Args:
        before: `(3, s, s)` of `cells`.
        here: the one between.
        after: `(3, s, s)`.
        share: how far on it is, in (0, 1).
        where: of `windows`.
    """
    beside = (here - torch.lerp(before, after, share)).abs().mean(0)
    return float((where * beside).sum((1, 2)).max()) * 127.5


def choose(crops: Sequence[Tensor], limit: float, where: Tensor) -> dict[int, Between]:
    """Positions of a run of crops of one face that lie between two edited ones, on their line to within `limit`.

    From an edited frame the widest of `SPANS` is taken whose frames all do. The first and the last never lie between.

    Args:
        crops: `(3, S, S)` each, in [-1, 1], in the order of the frames.
        limit: see `deviation`, grey levels.
        where: `(4, s, s)` of `windows`.
    """
    chosen: dict[int, Between] = {}
    if len(crops) < 3:
        return chosen
    seen = cells(crops)
    at = 0
    while at < len(crops) - 1:
        for span in SPANS:
            later = at + span
            if later >= len(crops):
                continue
            shares = {at + k: k / span for k in range(1, span)}
            if all(deviation(seen[at], seen[k], seen[later], share, where) <= limit for k, share in shares.items()):
                chosen |= {k: Between(at, later, share) for k, share in shares.items()}
                at = later
                break
        else:
            at += 1
    return chosen
