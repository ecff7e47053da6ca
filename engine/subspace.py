"""Coordinates of directions: principal components of h over many faces, or h itself.

A step along the components that faces really span stays near the manifold (GANSpace, 2004.02546, found the same in
GANs); free displacements of h suppress identity just as well and look like make-up.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fluidvid.errors import ModelError


class DirectionSpace(Protocol):
    """Maps coordinates, which the optimiser moves, to displacements of h."""

    def zero(self) -> Tensor:
        """Coordinates of no displacement, float32."""

    def directions(self, coordinates: Tensor) -> Tensor:
        """`(L, C, h, w)` displacement per level."""

    def prior(self, coordinates: Tensor) -> Tensor:
        """Scalar penalty: squared length in standard deviations, mean over levels."""


@dataclass(frozen=True, eq=False)
class FreeSpace:
    """Every entry of h on its own, in units of its standard deviation; for backbones without components.

    Attributes:
        shape: `(L, C, h, w)`.
        scale: `(L,)` standard deviation of h per level.
    """

    shape: tuple[int, int, int, int]
    scale: Tensor

    def zero(self) -> Tensor:
        return torch.zeros(self.shape)

    def directions(self, coordinates: Tensor) -> Tensor:
        return coordinates * self.scale.to(coordinates.device).reshape(-1, 1, 1, 1)

    def prior(self, coordinates: Tensor) -> Tensor:
        return coordinates.pow(2).mean()


@dataclass(frozen=True, eq=False)
class ComponentSpace:
    """Principal components of h per level, scaled to one standard deviation.

    Attributes:
        timesteps: level of each basis.
        basis: `(L, K, C * h * w)` float32, each row a component times its standard deviation.
        shape: `(C, h, w)`.
    """

    timesteps: tuple[int, ...]
    basis: Tensor
    shape: tuple[int, int, int]

    def zero(self) -> Tensor:
        return torch.zeros(self.basis.shape[:2])

    def directions(self, coordinates: Tensor) -> Tensor:
        basis = self.basis.to(coordinates.device)
        return torch.einsum("lk,lkd->ld", coordinates, basis).reshape(-1, *self.shape)

    def prior(self, coordinates: Tensor) -> Tensor:
        return coordinates.pow(2).sum(1).mean()

    def coordinates_of(self, h: Tensor) -> Tensor:
        """Coordinates `(N, L, K)` of displacements `(N, L, C * h * w)`: the least-squares inverse of `directions`."""
        return torch.einsum("nld,lkd->nlk", h, self.basis) / self.basis.pow(2).sum(2)

    def select(self, timesteps: tuple[int, ...]) -> ComponentSpace:
        """The same space for some of its levels.

        Raises:
            ModelError: a level has no components.
        """
        missing = set(timesteps) - set(self.timesteps)
        if missing:
            raise ModelError(f"no h-space components for timesteps {sorted(missing)}: use some of {self.timesteps}")
        rows = [self.timesteps.index(t) for t in timesteps]
        return ComponentSpace(timesteps, self.basis[rows], self.shape)

    def save(self, path: Path) -> None:
        """Write as float16 safetensors."""
        save_file(
            {"basis": self.basis.half().contiguous(), "timesteps": torch.tensor(self.timesteps)},
            path,
            metadata={"shape": ",".join(map(str, self.shape))},
        )

    @staticmethod
    def levels(path: Path) -> tuple[int, ...]:
        """The timesteps of a file of `save`."""
        return tuple(int(t) for t in load_file(path)["timesteps"])

    @classmethod
    def load(cls, path: Path, shape: tuple[int, int, int]) -> ComponentSpace:
        """Read a file of `save`; `shape` is that of the U-Net's h and is checked.

        Raises:
            ModelError: it is damaged, another file, or of another U-Net.
        """
        try:
            tensors = load_file(path)
            basis, timesteps = tensors["basis"].float(), tensors["timesteps"]
            if basis.ndim != 3 or timesteps.shape != basis.shape[:1] or not basis.isfinite().all():
                raise ValueError(f"a basis of {tuple(basis.shape)} for timesteps of {tuple(timesteps.shape)}")
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise ModelError(
                f"{path} holds no components of h ({error}): get the backbone anew, or take the file away to search in "
                "all of h"
            ) from error
        if basis.shape[2] != shape[0] * shape[1] * shape[2]:
            raise ModelError(f"{path} does not fit this U-Net: {basis.shape[2]} values per component, h has {shape}")
        return cls(tuple(int(t) for t in timesteps), basis, shape)


def principal_components(h: Tensor, count: int) -> Tensor:
    """Components `(count, D)` of samples `(N, D)`, each scaled to its standard deviation, by the N x N Gram matrix."""
    centred = h - h.mean(0)
    values, vectors = torch.linalg.eigh((centred @ centred.T).double())
    values, vectors = values.flip(0)[:count].clamp_min(1e-12), vectors.flip(1)[:, :count]
    components = (centred.T.double() @ vectors) / values.sqrt()
    scaled: Tensor = components * (values / len(h)).sqrt()
    return scaled.T.float().contiguous()
