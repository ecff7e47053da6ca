"""Noise schedule: every prediction type becomes (x0, eps) here and nowhere else.

Notation of DDIM (Song et al., 2010.02502): z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) eps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fluidvid.errors import ModelError

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """Cumulative signal levels and what the network predicts.

    Attributes:
        alphas_cumprod: `(T,)` float32, strictly decreasing in (0, 1].
        prediction_type: one of `PREDICTION_TYPES`.
    """

    alphas_cumprod: Tensor
    prediction_type: str

    def __post_init__(self) -> None:
        if self.prediction_type not in PREDICTION_TYPES:
            raise ModelError(
                f"prediction_type {self.prediction_type!r} is not supported: use a model with one of "
                f"{', '.join(PREDICTION_TYPES)}"
            )

    @classmethod
    def from_scheduler(cls, scheduler: Any) -> NoiseSchedule:
        """Read a diffusers scheduler (DDPM, DDIM, PNDM, ... : anything with `alphas_cumprod`).

        Raises:
            ModelError: it has none.
        """
        abar = getattr(scheduler, "alphas_cumprod", None)
        if abar is None:
            raise ModelError(
                f"{type(scheduler).__name__} has no alphas_cumprod: use a model with a DDPM or DDIM scheduler"
            )
        return cls(abar.float().cpu(), str(scheduler.config.get("prediction_type", "epsilon")))

    def to(self, device: torch.device) -> NoiseSchedule:
        """The same schedule with its levels on `device`."""
        return NoiseSchedule(self.alphas_cumprod.to(device), self.prediction_type)

    def levels(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """`(sqrt(abar_t), sqrt(1 - abar_t))`, each `(N, 1, 1, 1)`, for `(N,)` integer timesteps; t = -1 is clean."""
        abar = self.alphas_cumprod.to(like.device)
        values = torch.where(timesteps < 0, torch.ones_like(abar[0]), abar[timesteps.clamp_min(0)])
        values = values.to(torch.float32).reshape(-1, 1, 1, 1)
        return values.sqrt().to(like.dtype), (1 - values).sqrt().to(like.dtype)

    def add_noise(self, z0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """z_t from `(N, C, H, W)` clean latents and noise at `(N,)` timesteps."""
        signal, sigma = self.levels(timesteps, z0)
        return signal * z0 + sigma * noise

    def x0_and_eps(self, output: Tensor, z_t: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """The network's output at `(N,)` timesteps as the pair (x0, eps), each `(N, C, H, W)`."""
        signal, sigma = self.levels(timesteps, z_t)
        if self.prediction_type == "epsilon":
            return (z_t - sigma * output) / signal.clamp_min(1e-4), output
        if self.prediction_type == "sample":
            return output, (z_t - signal * output) / sigma.clamp_min(1e-4)
        return signal * z_t - sigma * output, sigma * z_t + signal * output

    def ddim(self, x0: Tensor, eps: Tensor, timesteps: Tensor) -> Tensor:
        """Deterministic DDIM state at `(N,)` timesteps (eta = 0); t = -1 returns x0."""
        signal, sigma = self.levels(timesteps, x0)
        return signal * x0 + sigma * eps
