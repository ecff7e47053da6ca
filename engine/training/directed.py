"""What the trainings of universal directions move: the U-Net's decoding half, the basis of h-space and a read-out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from fluidvid.engine.hspace import SplitUNet
from fluidvid.engine.subspace import ComponentSpace
from fluidvid.engine.training.runs import follow

LONGEST = 1.4
"""Angle in radians by which directions should turn h at most."""


def decoding_half(unet: UNet2DModel) -> list[nn.Module]:
    """What runs after h."""
    return [unet.up_blocks, unet.conv_norm_out, unet.conv_out]


class ReadOut(nn.Module):
    """Linear map from codes `(n, D)` to coordinates `(n, L, K)`."""

    def __init__(self, codes: int, levels: int, components: int) -> None:
        super().__init__()
        self.linear = nn.Linear(codes, levels * components)
        self.levels = levels

    @property
    def size(self) -> float:
        """Root mean square of the weights."""
        return float(self.linear.weight.detach().pow(2).mean().sqrt())

    def forward(self, codes: Tensor) -> Tensor:
        out: Tensor = self.linear(codes)
        return out.reshape(len(codes), self.levels, -1)


def too_long(h: Tensor, directions: Tensor) -> Tensor:
    """How far directions `(n, L, D)` reach beyond `LONGEST` on the sphere of h `(n, C, h, w)`: mean squared angle.

    Where they reach beyond a quarter turn `fluidvid.engine.geodesic.displace` clips them: strength and fades mean
    nothing any more, and every step only makes them longer.
    """
    angle = directions.norm(dim=2) / h.detach().flatten(1).norm(dim=1)[:, None]
    beyond: Tensor = (angle - LONGEST).relu()
    return beyond.pow(2).mean()


class DirectedHalf:
    """The trained tensors with their optimiser and averages.

    Args:
        unet: its decoding half is trained in place; h keeps its meaning.
        space: the start of the basis.
        read_out: from the targets' codes to coordinates, trained in place.
        learning_rate: of the decoding half.
        direction_rate: of the basis, as a share of its size a step; the read-out's is ten times that.
    """

    def __init__(
        self, unet: SplitUNet, space: ComponentSpace, read_out: ReadOut, learning_rate: float, direction_rate: float
    ) -> None:
        self.unet, self.space, self.read_out = unet.unet, space, read_out
        # torch 2.13 crashes in the channels-last gradient of a group norm whose input has none, as the first ones here.
        unet.unet.to(memory_format=torch.contiguous_format)
        self.half: list[Tensor] = []
        for part in decoding_half(unet.unet):
            part.requires_grad_(True)
            self.half += part.parameters()
        self.basis = nn.Parameter(space.basis.clone())
        self.directed: list[Tensor] = [self.basis, *read_out.parameters()]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": self.half, "lr": learning_rate},
                {"params": [self.basis], "lr": direction_rate * float(space.basis.abs().mean())},
                {"params": list(read_out.parameters()), "lr": 10 * direction_rate * read_out.size},
            ],
            betas=(0.8, 0.99),
            weight_decay=0.0,
        )
        self.rates = [float(group["lr"]) for group in self.optimiser.param_groups]
        self.trained = [*self.half, *self.directed]
        self.averaged = [p.detach().clone() for p in self.trained]

    def directions(self, coordinates: Tensor) -> Tensor:
        """`(n, L, C * h * w)` displacements of coordinates `(n, L, K)`, which `read_out` has of the people's codes."""
        return torch.einsum("nlk,lkd->nld", coordinates, self.basis)

    @torch.no_grad()
    def spread(self, codes: Tensor) -> Tensor:
        """`(L, K)` standard deviations of the coordinates over people of codes `(N, D)`: what a search counts in."""
        spread: Tensor = self.read_out(codes).std(0).clamp_min(1e-6)
        return spread

    def pace(self, pace: float) -> None:
        """Every learning rate at `pace` times its own."""
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = pace * rate

    def clip(self) -> float:
        """Clip the gradients; the norm of the decoding half's before."""
        norm = torch.nn.utils.clip_grad_norm_(self.half, 1.0)
        torch.nn.utils.clip_grad_norm_(self.directed, 1.0)
        return float(norm)

    def follow(self, decay: float, step: int) -> None:
        """Move the averages on by one step."""
        follow(self.averaged, self.trained, decay, step)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        trained = [p.detach() for p in self.trained]
        return {"trained": trained, "averaged": self.averaged, "optimiser": self.optimiser.state_dict()}

    @torch.no_grad()
    def load_state(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        for now, kept in zip((*self.trained, *self.averaged), (*state["trained"], *state["averaged"]), strict=True):
            now.copy_(kept)
        self.optimiser.load_state_dict(state["optimiser"])

    @torch.no_grad()
    def export(self, codes: Tensor, out: Path) -> None:
        """Write the averages as they will be used, then put the trained values back.

        Writes `unet/`, `hspace.safetensors`, and `coordinates.pt` `(N, L, K)` for codes `(N, D)`.
        """
        values = [p.detach().clone() for p in self.trained]
        for p, average in zip(self.trained, self.averaged, strict=True):
            p.copy_(average)
        coordinates = self.read_out(codes)
        # Coordinates in standard deviations over the targets, so that the search's steps mean the same everywhere.
        scale = self.spread(codes)
        space = ComponentSpace(self.space.timesteps, self.basis * scale[..., None], self.space.shape)
        space.save(out / "hspace.safetensors")
        torch.save(coordinates / scale, out / "coordinates.pt")
        self.unet.save_pretrained(out / "unet")
        for p, value in zip(self.trained, values, strict=True):
            p.copy_(value)
