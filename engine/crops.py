"""Aligned crops as the networks see them, and back to pictures."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_crops(pictures: NDArray[np.uint8] | Tensor) -> Tensor:
    """`(N, S, S, 3)` uint8 to `(N, 3, S, S)` float32 in [-1, 1]."""
    tensor = torch.as_tensor(np.ascontiguousarray(pictures) if isinstance(pictures, np.ndarray) else pictures)
    return tensor.permute(0, 3, 1, 2).float().div(127.5).sub(1.0)


def to_pictures(crops: Tensor) -> NDArray[np.uint8]:
    """`(N, 3, S, S)` in [-1, 1] to `(N, S, S, 3)` uint8 RGB."""
    pixels = ((crops.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy())
