"""The synthetic people that directions lead to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fluidvid.engine.face_networks import Attributes


@dataclass(frozen=True, eq=False)
class Targets:
    """Synthetic people to become.

    Attributes:
        codes: `(N, D)` float32 what the read-out sees, about unit variance.
        embeddings: unit embeddings `(N, D)` by recogniser name.
        ages: `(N,)` years.
        males: `(N,)` probabilities.
        expressions: `(N, 7)` probabilities.
        pictures: `(N, 3, S, S)` of them, in [-1, 1].
        meshes: `(N, 468, 2)`, in fractions of the side.
    """

    codes: Tensor
    embeddings: dict[str, Tensor]
    ages: Tensor
    males: Tensor
    expressions: Tensor
    pictures: Tensor
    meshes: Tensor

    def misfit(self, kept: Attributes) -> Tensor:
        """`(n, N)` how badly each of N people suits each of n faces: age, gender, expression and pose."""
        misfit = (self.ages[None] - kept.age[:, None]).abs() / 10
        misfit = misfit + 2 * (self.males[None] - kept.male[:, None]).abs()
        misfit = misfit + (self.expressions[None] - kept.expression.float()[:, None]).abs().sum(2)
        if kept.mesh is not None:
            misfit = misfit + 60 * (self.meshes[None] - kept.mesh[:, None]).norm(dim=3).mean(2)
        return misfit

    def alike(self, kept: Attributes, generator: torch.Generator) -> Tensor:
        """For each of n people a random row among those that suit them best."""
        near = self.misfit(kept).argsort(1)[:, : max(2, len(self.ages) // 12)]
        pick = torch.randint(near.shape[1], (len(near), 1), generator=generator)
        return near.gather(1, pick)[:, 0]
