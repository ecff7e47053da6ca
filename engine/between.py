"""Frames between two edited ones: where the picture is the mean of its neighbours', so is the change.

A talking head mostly moves a little from frame to frame. What is compared are aligned crops, so that only what the
face itself does counts: a blink or a word makes a frame unlike the mean of its neighbours, and it is edited itself.
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


@dataclass(frozen=True, eq=False)
class Sample:
    """A frame that was edited: its crop, the change that was made of it, both `(3, S, S)` in units of [-1, 1], and the
    mask `(1, S, S)`.
    """

    crop: Tensor
    change: Tensor
    mask: Tensor


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


def deviation(before: Tensor, crop: Tensor, after: Tensor, where: Tensor) -> float:
    """By how much a crop differs from the mean of its neighbours, in grey levels: the most over `where`.

    Args:
        before: `(3, S, S)` in [-1, 1].
        crop: the one between.
        after: `(3, S, S)`.
        where: of `windows`.
    """
    cells = F.avg_pool2d((crop - (before + after) / 2)[None], POOL)[0].abs().mean(0)
    return float((where.to(cells) * cells).sum((1, 2)).max()) * 127.5


def choose(crops: Sequence[Tensor], first: bool, limit: float, where: Tensor) -> list[int]:
    """Positions of a run of crops of one face that lie between two others and are their mean to within `limit`.

    No two of them are neighbours. With `first` the first one was edited before; the last one never is between.
    """
    chosen: list[int] = []
    position = 1 if first else 2
    while position < len(crops) - 1:
        if deviation(crops[position - 1], crops[position], crops[position + 1], where) <= limit:
            chosen.append(position)
            position += 1
        position += 1
    return chosen
