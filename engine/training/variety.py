"""More faces than there are pictures: mixtures, reshaped heads, bad footage and things in the way.

A teacher labels whatever comes out, so the results need not be people, only as varied as people are.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F


def mix(a: Tensor, b: Tensor, generator: torch.Generator) -> Tensor:
    """Between two `(N, 3, S, S)` batches of aligned faces: anything from an even fade to a patchwork of both."""
    n = len(a)
    field = torch.randn(n, 1, 4, 4, generator=generator)
    contrast = torch.exp(torch.empty(n, 1, 1, 1).uniform_(-2.5, 2.5, generator=generator))
    balance = torch.empty(n, 1, 1, 1).uniform_(-1, 1, generator=generator)
    smooth = F.interpolate(field, size=a.shape[-2:], mode="bicubic", align_corners=False)
    mask = torch.sigmoid(contrast * smooth + balance)
    return torch.lerp(a, b, mask)


def reshape_heads(crops: Tensor, theta: Tensor, size: int, generator: torch.Generator, most: float = 0.05) -> Tensor:
    """Sample another window of `(N, 3, S, S)` crops, with a smooth random displacement: wider jaws, longer noses.

    Args:
        crops: faces.
        theta: `(2, 3)` affine matrix of the window, as in `torch.nn.functional.affine_grid`.
        size: side of the window in pixels.
        generator: source of every random number.
        most: largest standard deviation of the displacement, in half sides of the window.

    Returns:
        `(N, 3, size, size)`.
    """
    n = len(crops)
    grid = F.affine_grid(theta.expand(n, 2, 3), [n, 3, size, size], align_corners=False)
    amount = torch.empty(n, 1, 1, 1).uniform_(0, most, generator=generator)
    coarse = torch.randn(n, 2, 5, 5, generator=generator) * amount
    bend = F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)
    return F.grid_sample(crops, grid + bend.permute(0, 2, 3, 1), padding_mode="border", align_corners=False)


def degrade(picture: NDArray[np.uint8], rng: np.random.Generator, other: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What cameras and codecs do to a face: few pixels, a shake, JPEG, grey pictures; and what stands before it.

    Args:
        picture: `(S, S, 3)` uint8 RGB.
        rng: source of every random number.
        other: `(S, S, 3)` uint8 RGB, of which a part may stand in the way.
    """
    side = picture.shape[0]
    if rng.random() < 0.15:
        height, width = (rng.uniform(0.12, 0.5, 2) * side).astype(int)
        top, left = rng.integers(0, side - height), rng.integers(0, side - width)
        source = other[:height, :width] if rng.random() < 0.5 else rng.integers(0, 256, 3, dtype=np.uint8)
        picture = picture.copy()
        picture[top : top + height, left : left + width] = source
    if rng.random() < 0.1:
        picture = np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None], 3, 2).astype(np.uint8)
    kind = rng.random()
    if kind < 0.35:
        small = int(np.exp(rng.uniform(np.log(0.22), 0.0)) * side)
        tiny = cv2.resize(picture, (small, small), interpolation=cv2.INTER_AREA)
        picture = np.asarray(cv2.resize(tiny, (side, side), interpolation=cv2.INTER_LINEAR), np.uint8)
    elif kind < 0.5:
        length = int(rng.integers(3, 10))
        kernel = np.zeros((length, length), np.float32)
        kernel[length // 2] = 1 / length
        turn = cv2.getRotationMatrix2D(((length - 1) / 2, (length - 1) / 2), rng.uniform(0, 180), 1.0)
        kernel = np.asarray(cv2.warpAffine(kernel, turn, (length, length)), np.float32)
        picture = np.asarray(cv2.filter2D(picture, -1, kernel / max(float(kernel.sum()), 1e-3)), np.uint8)
    elif kind < 0.75:
        soft = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.8, 2.0))
        amount = rng.uniform(0.2, 1.2)
        picture = np.asarray(cv2.addWeighted(picture, 1 + amount, soft, -amount, 0), np.uint8)
    if rng.random() < 0.4:
        coded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 90))])[1]
        picture = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    return picture
