"""A small critic of pictures that learns beside what it judges: does this face look drawn?"""

from __future__ import annotations

from collections import deque
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (24, 48, 96, 128, 128)
MARGIN = 1 / 8
"""What is cut away at each side, as a share of the picture: hair and background are not judged."""


class FaceCritic(nn.Module):
    """`(N, 3, S, S)` aligned faces in [-1, 1] to `(N, K)` scores; larger means less drawn.

    Every score sees most of the face. Weights start at a size that keeps activations (He et al. 2015): with the usual
    smaller start, or under spectral norms, it did not learn to tell anything in the first hundreds of steps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise((3, *WIDTHS)))
        self.score = nn.Conv2d(WIDTHS[-1], 1, 3, 1, 1)
        for layer in (*self.down, self.score):
            nn.init.kaiming_normal_(layer.weight, 0.2)
            nn.init.zeros_(layer.bias)

    def forward(self, pictures: Tensor) -> Tensor:
        cut = round(MARGIN * pictures.shape[-1])
        x = pictures[..., cut : pictures.shape[-2] - cut, cut : pictures.shape[-1] - cut]
        for layer in self.down:
            x = F.leaky_relu(layer(x), 0.2)
        scores: Tensor = self.score(x)
        return scores.flatten(1)


def hinge(real: Tensor, drawn: Tensor) -> Tensor:
    """What the critic minimises: 2 when it cannot tell, 0 when it always can."""
    return F.relu(1 - real).mean() + F.relu(1 + drawn).mean()


class CriticTraining:
    """Trains a critic on pictures as they come and on recent ones, which it must not forget.

    Args:
        critic: trained in place.
        learning_rate: of AdamW.
        batch: remembered pictures of each kind that join the new ones in a step.
        kept: pictures of each kind that are remembered.
        slope: weight of the squared gradient at real pictures (R1, Mescheder et al. 2018), every `SLOPE_STEPS` steps.
    """

    SLOPE_STEPS = 8

    def __init__(
        self, critic: nn.Module, learning_rate: float, *, batch: int = 8, kept: int = 512, slope: float = 0.05
    ) -> None:
        self.critic = critic
        self.optimiser = torch.optim.AdamW(critic.parameters(), lr=learning_rate, betas=(0.0, 0.99))
        self.batch, self.slope = batch, slope
        self._real: deque[Tensor] = deque(maxlen=kept)
        self._drawn: deque[Tensor] = deque(maxlen=kept)
        self._step = 0

    def step(self, real: Tensor, drawn: Tensor, generator: torch.Generator, times: int = 1) -> float:
        """Learn from `(n, 3, S, S)` new real and drawn pictures `times` over; returns the mean hinge loss."""
        losses = []
        for _ in range(times):
            a, b = (self._joined(new, old, generator) for new, old in ((real, self._real), (drawn, self._drawn)))
            sloped = self.slope > 0 and self._step % self.SLOPE_STEPS == 0
            a = a.detach().requires_grad_(sloped)
            scores = self.critic(torch.cat([a, b.detach()]))
            loss = hinge(scores[: len(a)], scores[len(a) :])
            losses.append(loss.item())
            if sloped:
                (slope,) = torch.autograd.grad(scores[: len(a)].mean(1).sum(), a, create_graph=True)
                loss = loss + self.SLOPE_STEPS * self.slope / 2 * slope.pow(2).sum((1, 2, 3)).mean()
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()
            self._step += 1
        self._real.extend(real.detach().half())
        self._drawn.extend(drawn.detach().half())
        return sum(losses) / len(losses)

    def _joined(self, new: Tensor, old: deque[Tensor], generator: torch.Generator) -> Tensor:
        if not old:
            return new
        picks = torch.randint(len(old), (self.batch,), generator=generator).tolist()
        joined = torch.cat([new, torch.stack([old[i] for i in picks]).to(new.dtype)])
        mirrored = torch.rand(len(joined), generator=generator) < 0.5
        return torch.where(mirrored[:, None, None, None].to(new.device), joined.flip(-1), joined)

    def state_dict(self) -> dict[str, object]:
        """What resuming needs; the remembered pictures fill up again by themselves."""
        return {"critic": self.critic.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on from `state_dict`."""
        self.critic.load_state_dict(state["critic"])  # type: ignore[arg-type]
        self.optimiser.load_state_dict(state["optimiser"])  # type: ignore[arg-type]
