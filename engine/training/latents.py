"""Latents of the training pictures, kept in memory and slowly renewed with fresh augmentations."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fluidvid.engine.backbone import FirstStage
from fluidvid.engine.crops import to_crops
from fluidvid.engine.precision import autocast
from fluidvid.engine.training.pictures import augment


@dataclass(eq=False)
class LatentCache:
    """Draws latents by weight; a few slots are encoded anew at every draw.

    Attributes:
        autoencoder: frozen first stage.
        pictures: `(N, S, S, 3)` uint8 aligned faces.
        weights: `(N,)` sampling weights, 0 for pictures that are held out.
        fresh: slots renewed at every draw.
        rng: chooses pictures.
        generator: chooses augmentations.
        kept: latents `(M, C, h, w)`, their pictures `(M,)` and the place to renew, of a checkpoint; None encodes all.
    """

    autoencoder: FirstStage
    pictures: NDArray[np.uint8]
    weights: NDArray[np.float64]
    fresh: int = 4
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    kept: tuple[Tensor, Tensor, int] | None = None

    def __post_init__(self) -> None:
        self.weights = self.weights / self.weights.sum()
        if self.kept is None:
            owner = self.rng.permutation(np.flatnonzero(self.weights))
            parts = np.array_split(owner, len(owner) // 64 + 1)
            self.kept = torch.cat([self._encode(part) for part in parts]), torch.from_numpy(owner), 0
        self.picked: NDArray[np.int64] = np.empty(0, np.int64)

    @torch.inference_mode()
    def _encode(self, indices: NDArray[np.int64]) -> Tensor:
        with autocast():
            crops = augment(to_crops(self.pictures[indices]), self.generator)
            return self.autoencoder.encode(crops).to(torch.float16)

    def draw(self, count: int) -> Tensor:
        """`(count, C, h, w)` float32; `picked` names their pictures."""
        assert self.kept is not None
        latents, pictures, cursor = self.kept
        owner = pictures.numpy()  # of the same memory
        if self.fresh:
            new = self.rng.choice(len(self.pictures), self.fresh, p=self.weights)
            slots = (cursor + np.arange(self.fresh)) % len(owner)
            latents[slots], owner[slots] = self._encode(new), new
            self.kept = latents, pictures, cursor + self.fresh
        chance = self.weights[owner]
        rows = self.rng.choice(len(owner), count, p=chance / chance.sum())
        self.picked = owner[rows]
        return latents[rows].float().clone(memory_format=torch.contiguous_format)
